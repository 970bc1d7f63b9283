"""A run among other people: folders that vanish, terminals that go away, processes that do not come, strange files."""

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from rich.console import Console

from tests.engine.test_faults import _before_step, _steps
from tests.engine.test_ranks import environment, free_port, torchrun
from tests.support.forked import Forked
from tests.support.people import samples
from tests.support.tiny import tiny
from unihpe_fast import evaluate
from unihpe_fast.config import to_yaml
from unihpe_fast.data.batches import LoaderError
from unihpe_fast.data.errors import StoreError
from unihpe_fast.data.store import Store, write_store
from unihpe_fast.engine.checkpoint import CONFIG, WEIGHTS, CheckpointError, checkpoints
from unihpe_fast.engine.faults import RunError
from unihpe_fast.engine.loop import train
from unihpe_fast.engine.report import write_summary
from unihpe_fast.terminal import Terminal
from unihpe_fast.train import main, parse


def _console() -> Console:
    return Console(file=io.StringIO(), width=400)


def _config(tmp_path: Path, **sections: dict) -> str:
    file = tmp_path / "tiny.yaml"
    file.write_text(to_yaml(tiny(**sections)))
    return str(file)


def test_a_folder_that_is_removed_while_training_is_made_anew_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, console = tmp_path / "run", _console()
    with monkeypatch.context() as patch:
        _before_step(patch, 6, lambda: shutil.rmtree(run) if run.exists() else None)
        _before_step(patch, 10, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(tiny(), run, console=console)
    assert isinstance(console.file, io.StringIO)
    assert "was removed while training; it is made anew" in console.file.getvalue()
    assert [path.name for path in checkpoints(run)] == ["step_00000008.pt"]
    assert main(["--resume", str(run)]) == 0
    assert [record["step"] for record in _steps(run)][-1] == 12


def test_a_checkpoint_alone_is_enough_to_go_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny(), run, console=_console())
    (run / CONFIG).unlink()
    job = parse(["--resume", str(run), "--optim.steps", "16"])
    assert job.config == tiny(optim={"steps": 16})
    assert main(["--resume", str(run), "--optim.steps", "16"]) == 0
    assert checkpoints(run)[0].name == "step_00000016.pt"


def test_another_run_s_checkpoint_is_not_taken_for_the_newest(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    train(tiny(), run, console=_console())
    train(tiny(optim={"lr": 0.5}), other, console=_console())
    foreign = run / "checkpoints" / "step_99999999.pt"
    shutil.copy(checkpoints(other)[0], foreign)
    with pytest.raises(CheckpointError, match=rf"{foreign.name}: is another run's: --optim.lr") as error:
        train(tiny(optim={"steps": 20}), run, resume=True, console=_console())
    assert "move it away" in str(error.value)
    foreign.unlink()
    train(tiny(optim={"steps": 14}), run, resume=True, console=_console())
    assert checkpoints(run)[0].name == "step_00000014.pt"


def test_loader_processes_that_die_twice_end_the_run_with_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:

        def die() -> None:
            raise LoaderError(
                "batch 6: DataLoader worker (pid 7) is killed, after the loader processes were started anew"
            )

        _before_step(patch, 6, die)
        with pytest.raises(RunError, match=r"step 6: batch 6: .*saved; go on with --resume"):
            train(tiny(), run, console=_console())
    assert checkpoints(run)[0].name == "step_00000006.pt"
    whole = tmp_path / "whole"
    train(tiny(), run, resume=True, console=_console())
    train(tiny(), whole, console=_console())
    assert (run / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_a_broken_file_is_one_line_with_loader_processes_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = [replace(sample, image=None, crop=None) for sample in samples(24)]
    write_store(tmp_path / "a.h5", people, dataset="a", split="train")
    read = Store.read

    def gone(self: Store, indices: np.ndarray, **options: bool):
        if os.getpid() != mine:
            raise StoreError(f"{self.path}: found another file than the one read before, wanted it left alone")
        return read(self, indices, **options)

    mine = os.getpid()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "read", gone)
        file = _config(tmp_path, data={"train": (str(tmp_path / "a.h5"),), "workers": 1})
        assert main(["--config", file, "--run.dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.splitlines() == [
        f"error: {tmp_path / 'a.h5'}: found another file than the one read before, wanted it left alone"
    ]


@pytest.mark.parametrize(("column", "value"), [("joints_3d", 1e30), ("keypoints_2d", -1e9), ("bbox", 1e8)])
def test_numbers_that_no_camera_sees_are_refused_when_a_file_is_opened(
    tmp_path: Path, column: str, value: float
) -> None:
    path = tmp_path / "a.h5"
    write_store(path, samples(8), dataset="a", split="train")
    assert len(Store(path)) == 8
    with h5py.File(path, "r+") as file:
        file[column][(3, 2, 0) if column != "bbox" else (3, 1)] = value
    with pytest.raises(StoreError, match=rf"a.h5: {column}: row 3: found .*, wanted .*1e\+06"):
        len(Store(path))
    broken = list(samples(2))
    broken[1] = replace(broken[1], bbox=np.array([1e8, 1, 1]))
    with pytest.raises(ValueError, match=r"bbox: found .*, wanted .*1e\+06"):
        write_store(tmp_path / "b.h5", broken, dataset="a", split="train")


def test_scores_that_are_not_finite_are_null_and_the_rest_is_kept(tmp_path: Path) -> None:
    scores = {"n": 3, "image": {"mpjpe": float("inf"), "auc": 1.5}, "per_action": [{"x": float("nan")}], "z": None}
    with pytest.warns(UserWarning, match=r"null in place of what is not finite: image.mpjpe, per_action\[0\].x"):
        write_summary(tmp_path / "summary.json", scores)
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found == {"n": 3, "image": {"mpjpe": None, "auc": 1.5}, "per_action": [{"x": None}], "z": None}


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"WORLD_SIZE": "x"}, "error: environment: WORLD_SIZE must be a whole number, got 'x'"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "error: environment: RANK must be from 0 to WORLD_SIZE - 1, got 2 of 2"),
        ({"WORLD_SIZE": "3"}, "must come within --run.timeout 0.05 minutes, got no word of rank 1, 2"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "rank 1: rank 0 must answer at 127.0.0.1:"),
    ],
)
def test_processes_that_cannot_meet_say_so_on_one_line(tmp_path: Path, variables: dict[str, str], words: str) -> None:
    where = {"RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    run = Forked(lambda: main(["--run.timeout", "0.05"]), tmp_path / "said", **{**where, **variables})
    assert run.wait(90) == 2, run.said
    errors = [line for line in run.said.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert words in errors[0]
    assert "Traceback" not in run.said


def test_what_torchrun_says_last_is_left_for_it_where_it_looks(tmp_path: Path) -> None:
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    runs = [
        Forked(
            lambda: main(["--optim.stepz", "3"]),
            tmp_path / f"said{rank}",
            RANK=str(rank),
            TORCHELASTIC_ERROR_FILE=str(tmp_path / f"error{rank}"),
            **where,
        )
        for rank in range(2)
    ]
    for rank, run in enumerate(runs):
        assert run.wait(90) == 2, run.said
        message = json.loads((tmp_path / f"error{rank}").read_text())["message"]["message"]
        assert message.startswith(f"rank {rank}: error: ")
        assert "--optim.stepz" in message


@pytest.mark.slow  # torch starts three times; that the words are where torchrun looks is tested above
def test_torchrun_s_last_words_name_the_cause(tmp_path: Path) -> None:
    command = torchrun("-m", "unihpe_fast.train", "--data.batch-size", "1")
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 1
    # torchrun's report is what stands last on the screen: its root cause has the line that matters
    report = done.stderr[done.stderr.rindex("Root Cause") :]
    assert "error: --data.batch-size 1: wanted a sample for each of 2 ranks" in report


# --- terminals --------------------------------------------------------------------------------------------------------


def test_a_terminal_that_knows_no_unicode_shows_what_it_can(tmp_path: Path) -> None:
    arguments = ["--config", _config(tmp_path), "--run.dir", str(tmp_path / "rün")]
    run = Forked(lambda: main(arguments), tmp_path / "said", PYTHONIOENCODING="ascii")
    assert run.wait() == 0, run.said
    assert "r?n" in run.said
    assert (tmp_path / "rün" / "summary.json").is_file()
    scored = [str(tmp_path / "rün"), "--data", "synthetic", "--json", str(tmp_path / "scores.json"), "--no-plots"]
    run = Forked(lambda: evaluate.main(scored), tmp_path / "scored", PYTHONIOENCODING="ascii")
    assert run.wait() == 0, run.said
    assert "r?n" in run.said
    assert (tmp_path / "scores.json").is_file()


def test_a_reader_that_goes_away_does_not_end_the_training(tmp_path: Path) -> None:
    arguments = ["--config", _config(tmp_path), "--run.dir", str(tmp_path / "run")]
    read, write = os.pipe()

    def start() -> int:
        os.close(read)
        sys.stdout = os.fdopen(write, "w", buffering=1)
        return main(arguments)

    run = Forked(start, tmp_path / "said")
    os.close(write)
    begun = os.read(read, 1)
    os.close(read)
    assert run.wait() == 0, run.said
    assert begun
    assert "Broken" not in run.said
    assert (tmp_path / "run" / "summary.json").is_file()


def test_a_terminal_goes_on_unseen() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        terminal = Terminal(file=stream)
        for _ in range(3):
            terminal.print("word\n" * 20_000, highlight=False, markup=False)
        assert terminal.quiet


def test_a_limit_on_open_files_is_said_on_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("unihpe_fast.data.batches.resource.getrlimit", lambda _: (24, 24))
    assert main(["synthetic", "--data.workers", "2", "--run.dir", str(tmp_path / "run")]) == 2
    assert "--data.workers 2: must be allowed" in capfd.readouterr().err


def test_loader_processes_that_die_while_scoring_end_it_on_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def dead(*_: object, **__: object) -> None:
        raise LoaderError("batch 3: a loader process was killed, after the loader processes were started anew")

    monkeypatch.setattr("unihpe_fast.engine.loop.predict", dead)
    run = tmp_path / "run"
    assert main(["--config", _config(tmp_path, optim={"steps": 1}), "--run.dir", str(run)]) == 1
    said = capfd.readouterr().err
    assert "batch 3: a loader process was killed" in said
    assert "Traceback" not in said
    # what was trained is there to be scored again
    assert (run / WEIGHTS).exists()
    monkeypatch.setattr("unihpe_fast.evaluate.predict_together", dead)
    assert evaluate.main([str(run), "--data", "synthetic"]) == 1
    assert "batch 3: a loader process was killed" in capfd.readouterr().err
