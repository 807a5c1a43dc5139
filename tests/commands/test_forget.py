"""`lipbench forget` removes runs and nothing else."""

from pathlib import Path

from helpers.runs_on_disk import make

from lipbench.commands.main import main
from lipbench.files import write_json
from lipbench.results import MANIFEST
from lipbench.runs.errors import write_error
from lipbench.runs.lock import locked


def files(root: Path) -> list[Path]:
    return sorted(root.rglob("*"))


def test_a_run_is_removed_and_others_stay(tmp_path, capsys):
    one, two = make(tmp_path, "a"), make(tmp_path, "b")
    kept = files(two)
    assert main(["forget", str(one)]) == 0
    assert str(one) in capsys.readouterr().out
    assert not (tmp_path / "data/a").exists(), "nor the folders that held this run alone"
    assert files(two) == kept
    assert main(["forget", str(two)]) == 0
    assert tmp_path.is_dir()
    assert files(tmp_path) == []


def test_an_unfinished_or_failed_run_is_removed(tmp_path):
    stopped, failed = make(tmp_path, "a"), tmp_path / "data/b/default/abc"
    (stopped / MANIFEST).unlink()
    (stopped / "config.yaml").write_text("dataset: {}\nmodel: {}\n")
    failed.mkdir(parents=True)
    write_error(failed, ValueError("no"), "again")
    assert main(["forget", str(stopped), f"run={failed}"]) == 0
    assert files(tmp_path) == []


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    run = make(tmp_path, "a")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "config.yaml").write_text("name: my project\n")
    write_json(mine / MANIFEST, {"name": "my web page"})
    link = tmp_path / "link"
    link.symlink_to(run)
    before = files(tmp_path)
    for folder in (mine, tmp_path, run.parent, tmp_path / "none", link, run / "bounds", run / MANIFEST):
        assert main(["forget", str(folder)]) == 1
        assert str(folder) in capsys.readouterr().err
    assert main(["forget"]) == 1
    assert files(tmp_path) == before


def test_a_run_that_is_running_is_refused(tmp_path, capsys):
    run = make(tmp_path, "a")
    before = files(run)
    with locked(run):
        assert main(["forget", str(run)]) == 1
        assert set(before) <= set(files(run))
    said = capsys.readouterr().err
    assert "process" in said
    assert "Traceback" not in said
    assert files(run) == before


def test_files_of_the_user_above_a_run_stay(tmp_path):
    run = make(tmp_path, "a")
    (run.parent / "notes.txt").write_text("mine")
    assert main(["forget", str(run)]) == 0
    assert (run.parent / "notes.txt").read_text() == "mine"
