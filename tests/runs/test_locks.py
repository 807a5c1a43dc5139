"""One process at a time in a folder; who is gone is followed by one other."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lipbench.runs import lock as locks
from lipbench.runs.lock import LOCK, STALE, Running, duration, held, leftovers, locked, owner_of

HOLD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])  # the file alone, which imports nothing large
from lock import locked
with locked(Path(sys.argv[1]), methods=["fgm"]):
    print("held", flush=True)
    time.sleep(60)
"""


def left(folder: Path, silent: float = 0.0, **changes: object) -> Path:
    """A lock of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    path = folder / LOCK
    owner = {**locks._me(), "pid": process.pid, "token": "0" * 12, "about": {}, **changes}
    path.write_text(json.dumps(owner))
    os.utime(path, (time.time() - silent,) * 2)
    return path


def test_held_by_one_and_given_back(tmp_path):
    folder = tmp_path / "a" / "run"
    with locked(folder, methods=["fgm"]):
        owner = owner_of(folder / LOCK)
        assert owner.pid == os.getpid()
        assert owner.about == {"methods": ["fgm"]}
        with pytest.raises(Running, match=rf"process {os.getpid()} on "), locked(folder):
            pass
        assert owner_of(folder / LOCK).token == owner.token, "who was refused changes nothing"
    assert list(folder.iterdir()) == []


def test_a_killed_process_is_followed_at_once(tmp_path):
    command = [sys.executable, "-c", HOLD, tmp_path, Path(locks.__file__).parent]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(Running) as caught, locked(tmp_path):
        pass
    assert caught.value.owner.pid == process.pid
    process.kill()  # not waited for yet: its exit code is left, and it counts as ended
    while locks._started(process.pid) is not None:
        time.sleep(0.01)
    with locked(tmp_path):
        assert owner_of(tmp_path / LOCK).pid == os.getpid()
    process.communicate()


def test_the_number_of_a_process_comes_back(tmp_path):
    left(tmp_path, pid=os.getpid(), started="1")
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("machine", ["another boot", ""])
def test_elsewhere_the_signs_of_life_decide(tmp_path, machine):
    left(tmp_path, machine=machine, silent=STALE - 30)
    with pytest.raises(Running), locked(tmp_path):
        pass
    left(tmp_path, machine=machine, silent=STALE + 30)
    with locked(tmp_path):
        pass


def test_a_live_process_here_needs_no_sign(tmp_path):
    left(tmp_path, pid=os.getpid(), silent=10 * STALE)
    with pytest.raises(Running), locked(tmp_path):
        pass


def test_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.01)
    with locked(tmp_path):
        os.utime(tmp_path / LOCK, (0, 0))
        deadline = time.time() + 10
        while (tmp_path / LOCK).stat().st_mtime < 1 and time.time() < deadline:
            time.sleep(0.01)
        assert owner_of(tmp_path / LOCK).silent < STALE


def test_a_lock_that_was_taken_over_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.01)
    with locked(tmp_path):
        path = left(tmp_path, silent=1000)
        time.sleep(0.1)
        assert owner_of(path).silent > 900, "no sign of life for another's"
    assert path.exists()


def test_of_many_that_take_over_at_once_one_wins(tmp_path):
    """With a switch between the threads at every file operation."""
    for repeat in range(15):
        folder = tmp_path / f"{repeat}"
        folder.mkdir()
        left(folder)
        start, winners, refused = threading.Barrier(6), [], []

        def take(folder=folder, start=start, winners=winners, refused=refused):
            start.wait()
            try:
                locks._take(folder / LOCK, {**locks._me(), "token": f"{threading.get_ident():x}", "about": {}})
                winners.append(threading.get_ident())
            except Running:
                refused.append(threading.get_ident())

        threads = [threading.Thread(target=take) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1
        assert len(refused) == 5
        assert owner_of(folder / LOCK).token == f"{winners[0]:x}"
        assert [path.name for path in folder.iterdir()] == [LOCK]


def test_who_was_late_does_not_replace_the_next_owner(tmp_path, monkeypatch):
    """A process sees a dead owner, sleeps while another takes over, and wakes."""
    left(tmp_path)
    real, done = locks._link, []

    def slow(temporary: Path, path: Path) -> None:
        if path.name.endswith(".over") and not done:
            done.append(path)
            locks._take(tmp_path / LOCK, {**locks._me(), "token": "b" * 12, "about": {}})
        real(temporary, path)

    monkeypatch.setattr(locks, "_link", slow)
    with pytest.raises(Running), locked(tmp_path):
        pass
    assert done
    assert owner_of(tmp_path / LOCK).token == "b" * 12


def test_killed_while_it_took_over(tmp_path):
    left(tmp_path)
    left(tmp_path, token="1" * 12).rename(tmp_path / f".{LOCK}.{'0' * 12}.over")
    left(tmp_path)
    with locked(tmp_path):
        pass


def test_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with locked(tmp_path), pytest.raises(Running), locked(tmp_path):
        pass
    left(tmp_path)
    with locked(tmp_path):
        pass


def test_a_lock_that_cannot_be_read_has_an_owner_until_it_is_old(tmp_path):
    (tmp_path / LOCK).write_text("")
    with pytest.raises(Running, match="unknown"), locked(tmp_path):
        pass
    os.utime(tmp_path / LOCK, (0, 0))
    with locked(tmp_path):
        pass


def test_left_overs_are_old(tmp_path):
    for name, age in ((f".{LOCK}.a", 0), (f".{LOCK}.b", 2 * STALE), (f"..{LOCK}.c.over.d", 2 * STALE)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    assert sorted(path.name for path in leftovers(tmp_path)) == [f"..{LOCK}.c.over.d", f".{LOCK}.b"]


def test_durations():
    assert [duration(s) for s in (5, 61, 7500, 100_000)] == ["5 s", "1 min", "2 h 5 min", "1 d 3 h"]


def test_a_process_that_proc_hides_is_gone_by_its_silence_alone(tmp_path, monkeypatch):
    left(tmp_path, silent=1, pid=os.getpid())
    monkeypatch.setattr(locks, "_started", lambda pid: None)
    monkeypatch.setattr(locks, "_is_over", lambda pid: False)
    assert not owner_of(tmp_path / LOCK).gone
    left(tmp_path, silent=STALE + 1, pid=os.getpid())
    assert owner_of(tmp_path / LOCK).gone


def test_a_copy_of_this_machine_is_another_one(tmp_path):
    left(tmp_path, silent=1, host="copy")
    assert not owner_of(tmp_path / LOCK).gone, "its process is not here to be asked"
    left(tmp_path, silent=STALE + 1, host="copy")
    assert owner_of(tmp_path / LOCK).gone


def test_a_lock_file_that_vanishes_while_it_is_looked_at_is_no_leftover(tmp_path):
    (tmp_path / f".{LOCK}.abc").symlink_to(tmp_path / "gone")
    assert leftovers(tmp_path) == []


def test_held_until_it_is_given_back(tmp_path):
    assert not held(tmp_path)
    with locked(tmp_path):
        assert held(tmp_path)
    left(tmp_path)
    assert not held(tmp_path), "its process has ended"
