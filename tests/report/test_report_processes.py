"""The report in several processes, interrupted, and after one that was killed."""

import os
import re

import pytest
from helpers.reports import run_report
from helpers.runs_on_disk import make
from joblib import Parallel

from lipbench.commands import report
from lipbench.commands.main import main
from lipbench.files import ResultsError
from lipbench.report import draw as report_figures
from lipbench.results import write_manifest


def test_several_processes_draw_the_same(tmp_path, capsys, monkeypatch):
    asked = []

    def parallel(n_jobs: int, **options: int) -> Parallel:
        asked.append(n_jobs)
        return Parallel(n_jobs=n_jobs, **options)

    monkeypatch.setattr(report_figures, "Parallel", parallel)
    broken = []
    for name, processes in (("one", 1), ("two", 2)):
        for dataset in ("data", "other"):
            make(tmp_path / name, "hkr_cnn", dataset=dataset)
        (tmp_path / name / "other/hkr_cnn/default/0/illustrations.npz").write_text("no archive")
        write_manifest(tmp_path / name / "other/hkr_cnn/default/0")
        run_report(f"results={tmp_path}/{name}", f"processes={processes}")
        said = capsys.readouterr().err.splitlines()
        broken.append([line for line in said if "Not drawn" in line])
        progress = [line for line in said if re.match(r"\d+ figures? of", line)]
        assert [line.partition(" of ")[2] for line in progress] == ["all data sets together", "data", "other"]
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "figures").iterdir()} for name in ("one", "two")
    )
    assert len(one) > 6
    assert one == two
    assert broken[0]
    assert broken[0] == broken[1]
    assert asked == [2]
    monkeypatch.setattr(report_figures, "MANY", 2)
    monkeypatch.setattr(report_figures, "cpu_count", lambda: 2)
    run_report(f"results={tmp_path}/two")
    assert asked == [2, 2], "of many runs without being asked"


@pytest.mark.parametrize("processes", ["0", "-1", "two", "1.5"])
def test_a_number_of_processes_that_is_none_is_refused_before_any_work(tmp_path, processes):
    make(tmp_path, "hkr_cnn")
    with pytest.raises(ResultsError, match="1 or more"):
        run_report(f"results={tmp_path}", f"processes={processes}")
    assert not (tmp_path / "leaderboard.md").exists()


def test_temporary_files_of_a_killed_report_are_removed_when_they_are_old(tmp_path):
    make(tmp_path, "hkr_cnn")
    old, new = (tmp_path / "figures" / f".{name}.pdf.0123.tmp" for name in ("old", "new"))
    old.parent.mkdir()
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (0, 0))
    run_report(f"results={tmp_path}", "processes=1")
    assert not old.exists()
    assert new.exists(), "somebody may be at it"


def test_an_interrupted_report_says_so(monkeypatch, capsys):
    def interrupted(cfg: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "_report", interrupted)
    assert main(["report"]) == 130
    assert "Interrupted" in capsys.readouterr().err
