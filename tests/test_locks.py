"""One process at a time in a run folder and at an output."""

import multiprocessing
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.support.forked import Forked
from tests.support.tiny import tiny
from unihpe_fast.config import ConfigError, to_yaml
from unihpe_fast.engine.run_folder import claimed
from unihpe_fast.locks import InUse, alone
from unihpe_fast.prepare import main as prepare
from unihpe_fast.train import main

# a process that is spawned takes seconds to import torch
CONTEXT = multiprocessing.get_context("fork")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def _hold(path: str, ready, done) -> None:
    with alone(Path(path), Path("the thing")):
        ready.set()
        done.wait(30)


def test_the_second_process_is_told_who_the_first_is_and_the_kernel_frees_what_a_kill_left(tmp_path: Path) -> None:
    ready, done = CONTEXT.Event(), CONTEXT.Event()
    holder = CONTEXT.Process(target=_hold, args=(str(tmp_path / "lock"), ready, done))
    holder.start()
    assert ready.wait(30)
    who = f"got this one beside process {holder.pid} on {socket.gethostname()}"
    with (
        pytest.raises(InUse, match=f"the thing: must be used by one process at a time, {who}"),
        alone(tmp_path / "lock", Path("the thing")),
    ):
        pass
    assert (tmp_path / "lock").is_file()
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with alone(tmp_path / "lock", Path("the thing")):
        pass
    assert list(tmp_path.iterdir()) == []


def _count(path: str, counter: str, rounds: int) -> None:
    """Add one to the number in a file, under the lock, as often as told."""
    for _ in range(rounds):
        while True:
            try:
                with alone(Path(path), Path(counter)):
                    number = int(Path(counter).read_text())
                    time.sleep(0.0005)
                    Path(counter).write_text(str(number + 1))
                break
            except InUse:
                time.sleep(0.0005)


def test_a_lock_file_that_is_removed_at_the_end_still_excludes(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    processes = [CONTEXT.Process(target=_count, args=(str(tmp_path / "lock"), str(counter), 60)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert counter.read_text() == "180"


def test_a_link_in_the_lock_s_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic"), alone(tmp_path / "lock", tmp_path):
        pass
    assert (tmp_path / "other").read_text() == "precious"


def test_new_folders_are_taken_by_making_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with claimed(None, "run", resume=False) as one, claimed(None, "run", resume=False) as two:
        assert (one, two) == (Path("runs/run"), Path("runs/run-2"))
        (two / "config.yaml").write_text("")
        with pytest.raises(ConfigError, match="one process at a time"), claimed(one, "", resume=True):
            pass
    # nothing came of the first
    assert [path.name for path in Path("runs").iterdir()] == ["run-2"]
    with pytest.raises(ConfigError, match="holds a run already"), claimed(two, "", resume=False):
        pass
    with claimed(two, "", resume=True):
        pass
    assert [path.name for path in two.iterdir()] == ["config.yaml"]


def test_a_refused_run_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--data.train", "missing.h5", "--data.val", "missing.h5"]) == 2
    assert list((tmp_path / "runs").iterdir()) == []


def test_two_commands_on_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.yaml").write_text(to_yaml(tiny()))
    run = tmp_path / "run"
    arguments = ["--config", str(tmp_path / "tiny.yaml"), "--run.dir", str(run)]
    with alone(run / ".lock", run):
        assert main(arguments) == 2
    assert "must be used by one process at a time" in " ".join(capsys.readouterr().err.split())
    assert not (run / "config.yaml").exists()
    assert main(arguments) == 0
    with alone(run / ".lock", run):
        assert main(["--resume", str(run)]) == 2
    assert "must be used by one process at a time" in " ".join(capsys.readouterr().err.split())


def test_two_preparations_of_one_file(tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    arguments = ["synthetic", str(out), "--n", "400", "--image-size", "16"]
    said = tmp_path.with_name(f"{tmp_path.name}-said")
    both = [Forked(lambda: prepare(arguments), said.with_suffix(f".{number}")) for number in range(2)]
    codes = [process.wait() for process in both]
    # one after the other is fine too, where the machine is slow to start the second
    assert 0 in codes, [process.said for process in both]
    for code, process in zip(codes, both, strict=True):
        assert code == 0 or "must be used by one process at a time" in " ".join(process.said.split()), process.said
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]
