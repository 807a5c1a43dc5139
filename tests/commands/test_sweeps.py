"""Which runs a sweep has, how they end, what the command and `lipbench.commands.status` say of them."""

import errno
import os
import signal
import time
from pathlib import Path

import pytest
from helpers.runs_on_disk import make

from lipbench.commands import run, status
from lipbench.commands.main import main
from lipbench.commands.mistakes import CommandError
from lipbench.commands.options import check_overrides, check_results
from lipbench.commands.suites import expand_suites
from lipbench.commands.sweeps import planned
from lipbench.files import read_json
from lipbench.results import MANIFEST
from lipbench.runs import outcome as jobs
from lipbench.runs import state as states
from lipbench.runs.claim import OtherNetwork
from lipbench.runs.codes import ELSEWHERE, FAILED, FINISHED, INTERRUPTED
from lipbench.runs.errors import ERROR, clear_error, read_error, write_error
from lipbench.runs.lock import LOCK, locked
from lipbench.runs.outcome import Outcome, attempt, exit_code, summary_lines
from lipbench.runs.state import state_of

TINY = ["images=2", "training.epochs=1", "progress=false", "device=cpu", "attack=[fgm]", "measure=[]"]


def test_the_runs_of_a_sweep_are_those_of_hydra(tmp_path):
    arguments = expand_suites(
        ["suite=digits08/hkr_mlp,digits08/ce_mlp", "loss.margin=3,2", "seed=range(2)", "images=9"]
    )
    plan = planned([*arguments, f"results={tmp_path}", "hydra/launcher=joblib"])
    folders = {run.folder.relative_to(tmp_path).as_posix() for run in plan}
    names = ("digits08/hkr_mlp", "digits08/ce_mlp")
    assert folders == {f"{name}/loss.margin={m}/{seed}" for name in names for m in (3, 2) for seed in (0, 1)}
    assert plan[0].command == (
        f"lipbench run experiment=digits08/hkr_mlp loss.margin=3 seed=0 images=9 results={tmp_path}"
    )
    swept = planned(expand_suites(["suite=two_moons/hkr_mlp"]))
    assert len(swept) > 2, "what an experiment sweeps by itself"
    assert len({run.folder for run in swept}) == len(swept)
    (alone,) = planned([])
    assert alone.folder == Path("results/runs/digits08/hkr_mlp/default/0")


def fails(error: Exception):
    def work(*_: object) -> None:
        raise error

    return work


def test_a_failed_run_says_why_and_the_next_success_takes_it_back(tmp_path, capsys):
    outcome = attempt("data/a", tmp_path, "python again", fails(ValueError("no such thing")))
    assert (outcome.code, outcome.why) == (FAILED, "no such thing")
    error = read_json(tmp_path / ERROR)
    assert (error["type"], error["message"], error["command"]) == ("ValueError", "no such thing", "python again")
    assert "raise error" in error["traceback"]
    assert {"time", "host", "pid"} <= error.keys()
    assert "Traceback" not in capsys.readouterr().err, "the message says all"
    assert attempt("data/a", tmp_path, "", fails(RuntimeError("a bug"))).why == "RuntimeError: a bug"
    assert "Traceback" in capsys.readouterr().err
    assert attempt("data/a", tmp_path, "", lambda: clear_error(tmp_path)) == Outcome("data/a", str(tmp_path))
    assert read_error(tmp_path) is None
    (tmp_path / ERROR).write_text("{")
    assert "damaged" in read_error(tmp_path)["message"]


def test_who_fails_beside_another_process_leaves_its_folder_alone(tmp_path):
    with locked(tmp_path):
        assert attempt("data/a", tmp_path, "python again", fails(ValueError("no such thing"))).code == FAILED
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_network_gets_no_error(tmp_path):
    assert attempt("data/a", tmp_path, "", fails(OtherNetwork("differs"))).code == FAILED
    assert not (tmp_path / ERROR).exists()


def test_refused_options_do_not_mark_what_is_finished(tmp_path):
    folder = make(tmp_path, "hkr_mlp")
    refused = fails(ValueError("images=0"))
    assert attempt("data/a", folder, "", lambda: None, prepare=refused).code == FAILED
    assert not (folder / ERROR).exists()
    assert attempt("data/a", tmp_path / "fresh", "", lambda: None, prepare=refused).code == FAILED
    assert not (tmp_path / "fresh").exists(), "what is refused leaves no trace"
    assert attempt("data/a", folder, "", refused).code == FAILED
    assert not (folder / ERROR).exists()
    for begun in (refused, lambda: None):
        assert attempt("data/a", tmp_path / "fresh", "", refused, prepare=begun).code == FAILED
        assert not (tmp_path / "fresh").exists(), "a refused command makes no folder"
    (folder / MANIFEST).unlink()
    assert attempt("data/a", folder, "", refused).code == FAILED
    assert (folder / ERROR).exists(), "the run has begun and is not finished"


def test_results_that_cannot_be_written_are_refused_before_hydra_writes(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for place in ("file", "file/inside"):
        with pytest.raises(CommandError, match="is a file"):
            check_results([f"results={tmp_path / place}"])
    check_results(["--multirun", f"results={tmp_path}/new/one"])
    check_results(["--multirun", "results=${oc.env:HOME}/runs"])
    with pytest.raises(CommandError, match="cannot be used"):
        check_results([f"results={tmp_path}/{'x' * 300}"])
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(CommandError, match="cannot be written"):
        check_results(["--multirun", f"results={tmp_path}/new/one"])


def test_a_folder_that_cannot_be_made_is_answered_with_what_to_do():
    folder = Path("/proc/x/digits08/a/default/0")
    error = FileNotFoundError(errno.ENOENT, "No such file or directory", "/proc/x")
    assert "give another results=" in jobs.explained(error, folder)
    elsewhere = FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/mnist")
    assert "results=" not in jobs.explained(elsewhere, folder)
    data = IsADirectoryError(errno.EISDIR, "Is a directory", "/proc")
    assert "results=" not in jobs.explained(data, folder), "dataset.path=/proc"
    assert "results=" not in jobs.explained(error, folder, begun=False), "the data were read, nothing was written"


def test_sigterm_is_an_interruption(monkeypatch, capsys):
    def killed() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(run, "task", killed)
    try:
        assert main(["run"]) == INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr()
    assert "Interrupted" in said.err
    assert said.out == (
        "This runs digits08/hkr_mlp. Choose by experiment=DATASET/NAME or suite=DATASET: lipbench run --help.\n"
    )
    monkeypatch.setattr(run, "task", lambda: None)
    for word in ("experiment=digits08/hkr_mlp", "suite=digits08/hkr_mlp"):
        main(["run", word])
        assert capsys.readouterr().out == ""


def test_threads_that_are_none_are_refused(tmp_path, capsys):
    assert sweep("suite=digits08/hkr_mlp", f"results={tmp_path}", "threads=0") == FAILED
    assert "threads=0: threads is a whole number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "answer"),
    [("experiment=digits08", "suite=digits08"), ("lose.margin=2", "Did you mean loss"), ("loss.margn=2", "margin")],
)
def test_wrong_words_are_answered(override, answer):
    with pytest.raises(CommandError, match=answer):
        check_overrides([override], "config")


def test_a_run_that_is_running_is_left_alone(tmp_path, capsys):
    def work() -> None:
        with locked(tmp_path):
            raise AssertionError

    with locked(tmp_path):
        outcome = attempt("data/a", tmp_path, "", work)
    assert outcome.code == ELSEWHERE
    assert f"being made by process {os.getpid()}" in capsys.readouterr().err
    assert not (tmp_path / ERROR).exists()


def test_an_interruption_is_no_failure(tmp_path):
    def work() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt("data/a", tmp_path, "", work)
    assert not (tmp_path / ERROR).exists()


def test_a_failure_counts_more_than_what_others_make():
    good, bad, other = (Outcome("a", f"f{code}", code, "why\nmore") for code in (FINISHED, FAILED, ELSEWHERE))
    assert [exit_code(o) for o in ([], [good], [good, other], [other, bad, good])] == [0, 0, 75, 1]
    text = summary_lines([good, bad, good, other])
    assert text.splitlines()[0] == "4 runs: 2 finished, 1 left to other processes, 1 failed."
    assert "  failed: f1: why" in text.splitlines()


def test_states(tmp_path):
    finished, failed, stopped, training = (make(tmp_path, name) for name in ("a", "b", "c", "d"))
    write_error(failed, ValueError("no good\nat all"), "again")
    for folder in (failed, stopped):
        (folder / MANIFEST).unlink()
    for path in [training / MANIFEST, *(training / "bounds").iterdir()]:
        path.unlink()
    (training / "config.yaml").write_text("training:\n  epochs: 7\n")
    assert state_of(finished) == states.State("finished")
    assert state_of(failed).kind == "failed"
    assert state_of(failed).detail.startswith("ValueError: no good (")
    assert state_of(stopped) == states.State("stopped", "3 tables")
    assert state_of(tmp_path / "data/none/default/0") == states.State("missing")
    with locked(training, methods=["certificate", "fgm"]):
        assert state_of(training).kind == "running"
        assert state_of(training).detail.endswith("0 of 7 epochs")
    with locked(stopped, methods=["certificate", "fgm", "deepfool"], measures=["plane"]):
        assert state_of(stopped).detail.endswith("2 of 4 tables, now deepfool")
        text = status.text(status.states([f"results={tmp_path}"]))
    assert text.splitlines()[0] == "4 runs: 1 finished, 1 running, 1 failed, 1 stopped."
    assert f"running  {stopped}: process {os.getpid()} on " in text
    assert not (stopped / LOCK).exists()
    with pytest.raises(CommandError, match="no results folder"):
        status.states([f"results={tmp_path}/none"])


def test_the_status_of_a_sweep_names_what_is_missing(tmp_path):
    make(tmp_path, "hkr_mlp/loss.margin=2", dataset="digits08")
    found = status.states([f"results={tmp_path}", "experiment=digits08/hkr_mlp", "loss.margin=3,2"])
    kinds = {folder.relative_to(tmp_path).as_posix(): state.kind for folder, state in found.items()}
    assert kinds == {
        "digits08/hkr_mlp/loss.margin=3/0": "missing",
        "digits08/hkr_mlp/loss.margin=2/0": "finished",
    }
    with pytest.raises(CommandError, match="Did you mean digits08/hkr_mlp"):
        status.states([f"results={tmp_path}", "experiment=digits08/hkr_mpl"])


def sweep(*arguments: str) -> int:
    """The exit code of the command in this process."""
    return main(["run", *arguments])


def test_in_a_sweep_the_others_go_on(tmp_path, capsys, monkeypatch):
    """In batches of one, after the first of which Hydra would stop; and the second time, only what failed is made."""
    arguments = [
        "-m",
        *TINY,
        "experiment=mnist08/kr_mlp,digits08/kr_mlp",
        f"results={tmp_path}",
        f"data_root={tmp_path}",
    ]
    assert sweep(*arguments, "hydra.sweeper.max_batch_size=1") == FAILED
    assert "2 runs: 1 finished, 1 failed." in capsys.readouterr().err
    assert not (tmp_path / "mnist08").exists(), "without its data a run leaves no trace"
    (finished,) = tmp_path.glob("digits08/*/*/0")
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    again = [a.replace("mnist08/kr_mlp,", "") for a in arguments]
    middle = [*again[1:3], "-m", *again[3:]]
    assert sweep(*middle) == FINISHED, "options on both sides of -m"
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}, "nothing was written"
    assert sweep(*arguments) == FAILED
    monkeypatch.setattr(run.Experiment, "run", fails(ValueError("refused")))
    assert sweep(*again) == FAILED, "a failure counts, although the folder is finished"
    monkeypatch.undo()
    (finished / "summary.json").unlink()
    with locked(finished):
        assert sweep(*again) == ELSEWHERE
        assert sweep(*again[1:]) == ELSEWHERE, "one run alone"
    assert jobs.INTERRUPTED == 130


def test_the_command_shows_the_states(tmp_path, capsys):
    make(tmp_path, "a")
    assert main(["status", f"results={tmp_path}"]) == 0
    assert capsys.readouterr().out == "1 run: 1 finished.\n"
    assert main(["status", "sed=1"]) == 1
    assert "Did you mean seed?" in capsys.readouterr().err


def test_a_sweep_that_is_stopped_names_the_run_that_it_stopped(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run.Experiment, "run", fails(KeyboardInterrupt()))
    assert sweep("-m", *TINY, "experiment=digits08/kr_mlp", "seed=0,1", f"results={tmp_path}") == jobs.INTERRUPTED
    said = capsys.readouterr().err
    assert "1 run: 0 finished, 1 stopped." in said
    assert f"stopped: {tmp_path / 'digits08/kr_mlp'}" in said
