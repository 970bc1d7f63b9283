"""Every fault that a run has to survive, or to end with a word of sense, injected."""

import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from tests.data.test_loader import break_picture
from tests.engine.poison import poison
from tests.engine.test_ranks import environment, torchrun
from tests.support.people import samples
from tests.support.tiny import tiny
from unihpe_fast.config import Config, to_yaml
from unihpe_fast.data.store import write_store
from unihpe_fast.engine import loop
from unihpe_fast.engine.checkpoint import METRICS, WEIGHTS, SaveError, checkpoints, load_latest
from unihpe_fast.engine.faults import RunError, out_of_memory_says_what_to_do
from unihpe_fast.engine.log import RunLog
from unihpe_fast.engine.loop import train
from unihpe_fast.engine.run_folder import claimed
from unihpe_fast.train import main, parse


def _console() -> Console:
    return Console(file=io.StringIO(), width=400)


def _printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _steps(run_dir: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run_dir / METRICS).read_text().splitlines()]
    return [record for record in records if "loss" in record]


def _before_step(patch: pytest.MonkeyPatch, step: int, act: Callable[[], object]) -> None:
    advance = loop.Trainer.advance

    def acting(self: loop.Trainer, batches: Any) -> Any:
        if self.step == step:
            act()
        return advance(self, batches)

    patch.setattr(loop.Trainer, "advance", acting)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_signal_saves_and_ends_the_run(
    number: signal.Signals,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, run, whole = tmp_path / "tiny.yaml", tmp_path / "run", tmp_path / "whole"
    file.write_text(to_yaml(tiny(data={"workers": 2})))
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)}
    with monkeypatch.context() as patch:
        _before_step(patch, 5, lambda: _send_to_all(number))
        assert main(["--config", str(file), "--run.dir", str(run)]) == code
    assert f"stopped by {number.name}, saved; go on with --resume {run}" in capsys.readouterr().out.replace("\n", " ")
    # the step that was under way is the last one
    assert checkpoints(run)[0].name == "step_00000006.pt"
    assert not (run / WEIGHTS).exists()
    assert {n: signal.getsignal(n) for n in before} == before
    if number != signal.SIGTERM:
        # what is saved is the same by whichever signal
        return
    # torchrun would start it again if it did not say 0
    assert main(["--resume", str(run)]) == 0
    assert main(["--config", str(file), "--run.dir", str(whole)]) == 0
    ended, never_stopped = load_file(run / WEIGHTS), load_file(whole / WEIGHTS)
    assert all(torch.equal(ended[name], never_stopped[name]) for name in never_stopped)


def _send_to_all(number: signal.Signals) -> None:
    """As a scheduler does: to the loader processes too."""
    children = [process.pid for process in multiprocessing.active_children()]
    assert len(children) == 2
    for pid in (*children, os.getpid()):
        os.kill(pid, number)


def test_a_signal_while_scoring_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, run = tmp_path / "tiny.yaml", tmp_path / "run"
    file.write_text(to_yaml(tiny(run={"eval_every": 6})))
    val_batches = loop.val_batches

    class Signalling:
        def __init__(self, batches: Any) -> None:
            self.batches = batches

        def __len__(self) -> int:
            return len(self.batches)

        def __iter__(self) -> Iterator[Any]:
            for batch in self.batches:
                os.kill(os.getpid(), signal.SIGTERM)
                yield batch

    with monkeypatch.context() as patch:
        patch.setattr(loop, "val_batches", lambda *args, **options: Signalling(val_batches(*args, **options)))
        assert main(["--config", str(file), "--run.dir", str(run)]) == 143
        assert checkpoints(run)[0].name == "step_00000006.pt"
        # and while the last scores are made
        assert main(["--resume", str(run), "--run.eval-every", "0"]) == 143
    assert checkpoints(run)[0].name == "step_00000012.pt"
    assert main(["--resume", str(run)]) == 0


@pytest.mark.slow  # torch starts five times; what it does in one process is tested below and in test_ranks.py
def test_torchrun_goes_on_after_a_killed_worker_and_stops_when_told_to(tmp_path: Path) -> None:
    """A real SIGKILL of one of two workers, a restart, SIGTERM to torchrun, and the end in one process."""
    (tmp_path / "tiny.yaml").write_text(
        to_yaml(tiny(data={"workers": 1}, loss={"singular_value": 0.0}, optim={"steps": 10**6}, run={"keep": 3}))
    )
    run = tmp_path / "runs" / "run"
    command = torchrun("--max-restarts=1", "-m", "unihpe_fast.train", "--config", "tiny.yaml")
    with open(tmp_path / "out", "wb") as out:
        agent = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=out, stderr=subprocess.STDOUT)
    try:
        _wait(lambda: checkpoints(run), agent, tmp_path / "out")
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        workers = {int(_variable(pid, "RANK")): int(pid) for pid in children if _variable(pid, "RANK")}
        assert sorted(workers) == [0, 1]
        os.kill(workers[1], signal.SIGKILL)
        killed_at = _newest(run)
        _wait(lambda: b"resumed at step" in (tmp_path / "out").read_bytes(), agent, tmp_path / "out")
        _wait(lambda: _newest(run) > killed_at, agent, tmp_path / "out")
        agent.send_signal(signal.SIGTERM)
        agent.wait(timeout=10)
    finally:
        agent.kill()
        agent.wait()
    printed = (tmp_path / "out").read_text()
    # no folder beside it: without --run.dir the restarted command has found its own
    assert [path.name for path in run.parent.iterdir()] == ["run"]
    assert printed.count("resumed at step") == 1
    assert "stopped by SIGTERM, saved" in printed
    logged = [step["step"] for step in _steps(run)]
    assert logged == list(range(3, logged[-1] + 1, 3))
    last = _newest(run)
    assert logged[-1] == last // 3 * 3
    # off the rhythm of checkpoints, so that it was written for the signal; one process can go on with it
    console = _console()
    train(tiny(loss={"singular_value": 0.0}, optim={"steps": last + 2}), run, resume=True, console=console)
    assert f"resumed at step {last}" in _printed(console)


def _variable(pid: str, name: str) -> str | None:
    variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return next((line.split("=", 1)[1] for line in variables if line.startswith(f"{name}=")), None)


def _newest(run_dir: Path) -> int:
    return int(checkpoints(run_dir)[0].stem.split("_")[1])


def _wait(until: Callable[[], object], process: subprocess.Popen, said: Path) -> None:
    give_up = time.monotonic() + 90
    while not until():
        if process.poll() is not None or time.monotonic() > give_up:
            raise AssertionError(f"ended with {process.returncode}, or hangs: {said.read_text()[-4000:]}")
        time.sleep(0.02)


def test_a_restarted_command_looks_for_what_it_had_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "tiny.yaml"
    file.write_text(to_yaml(tiny()))
    for number, job in enumerate(["other", "mine", "other"], start=1):
        folder = tmp_path / "runs" / ("run" if number == 1 else f"run-{number}")
        folder.mkdir(parents=True)
        (folder / ".torchrun").write_text(job)
        (folder / "config.yaml").write_text(to_yaml(tiny()))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    job = parse(["--config", str(file)])
    with claimed(job.run_dir, job.name, resume=job.resume) as folder:
        assert folder == Path("runs/run-4")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    job = parse(["--config", str(file)])
    assert (job.run_dir, job.resume) == (Path("runs/run-2"), True)
    job = parse(["--config", str(file), "--run.dir", "runs/run-3"])
    assert (job.run_dir, job.resume) == (Path("runs/run-3"), True)
    # killed before it had begun anything
    job = parse(["--config", str(file), "--run.dir", "new"])
    assert (job.run_dir, job.resume) == (Path("new"), False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        # lazily: the traceback of a failed test may hold a file open
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(folder: Path) -> None:
    with open(folder / "ballast", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(512))
        except OSError:
            pass


def test_a_full_disk_leaves_the_checkpoint_before(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console, run = _console(), small_disk / "run"
    with monkeypatch.context() as patch:
        _before_step(patch, 5, lambda: _fill(small_disk))
        with pytest.raises(SaveError, match=r"step_00000012\.pt: could not be written .*step_00000004\.pt") as caught:
            train(tiny(), run, console=console)
    assert "MiB are free on its disk" in str(caught.value)
    printed = _printed(console)
    assert "step_00000008.pt: could not be written" in printed
    assert "the newest checkpoint there is: step_00000004.pt; the training goes on" in printed
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_00000004.pt"]
    state = load_latest(run, pytest.fail)
    assert state is not None
    assert state["step"] == 4
    # every line that is there is whole, and the run goes on once there is room
    assert [step["step"] for step in _steps(run)][:1] == [3]
    (small_disk / "ballast").unlink()
    train(tiny(run={"keep": 1}), run, resume=True, console=console)
    assert [step["step"] for step in _steps(run)] == [3, 6, 9, 12]


def test_a_line_that_a_full_disk_cuts_is_taken_back(tmp_path: Path) -> None:
    console = _console()
    log = RunLog(tmp_path, 3, 0, offset=0, tensorboard=False, console=console)
    file = log._file

    class Full:
        def write(self, line: bytes) -> None:
            file.write(line[:20])
            raise OSError(28, "No space left on device")

        def __getattr__(self, name: str) -> Any:
            return getattr(file, name)

    log.validation(1, {})
    log._file = Full()
    log.validation(2, {})
    log._file = file
    log.validation(3, {})
    log.close()
    assert [json.loads(line)["step"] for line in (tmp_path / METRICS).read_text().splitlines()] == [1, 3]
    assert "metrics.jsonl: a line is lost: [Errno 28] No space left on device" in _printed(console)


def test_a_full_disk_by_torchs_own_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine without the right to mount can test: the writer fails half-way."""
    save = torch.save

    def failing(state: Any, target: Any) -> None:
        if state["step"] == 8:
            Path(target).write_bytes(bytes(1000))
            raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file")
        save(state, target)

    monkeypatch.setattr(torch, "save", failing)
    console = _console()
    train(tiny(), tmp_path, console=console)
    assert "step_00000008.pt: could not be written ([enforce fail" in _printed(console)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000012.pt", "step_00000004.pt"]


def test_a_corrupt_newest_checkpoint_is_said_and_passed_over(tmp_path: Path) -> None:
    train(tiny(), tmp_path, console=_console())
    newest = checkpoints(tmp_path)[0]
    newest.write_bytes(newest.read_bytes()[:-100])
    console = _console()
    train(tiny(), tmp_path, resume=True, console=console)
    assert f"{newest}: damaged, going back to the one before" in _printed(console)
    assert "resumed at step 8" in _printed(console)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("broken") / "a.h5"
    write_store(path, samples(16, picture=True), dataset="a", split="train")
    break_picture(path, 5)
    return path


def _with_pictures(path: Path, **data: Any) -> Config:
    return tiny(data={"train": (str(path),), "val": (str(path),), "image_size": 16, "workers": 1} | data)


def test_samples_that_do_not_decode_are_counted_and_named(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = _console()
    train(_with_pictures(pictures), tmp_path / "run", console=console)
    # 12 steps of 8: six epochs of 16
    assert [step["broken"] for step in _steps(tmp_path / "run")][-1] == 6
    assert _printed(console).count(f"{pictures}: image: row 5: found") == 1
    # too many: more than the share that is allowed, of what was seen or of a fair number
    monkeypatch.setattr(loop, "FEWEST_SEEN", 16)
    with pytest.raises(RunError, match=r"step 2: 1 of 16 samples .* more than --data\.max-broken 0\.05"):
        train(_with_pictures(pictures, max_broken=0.05), tmp_path / "few", console=console)
    train(_with_pictures(pictures, max_broken=0.1), tmp_path / "enough", console=console)
    # a resumed run counts on
    broken = [step["broken"] for step in _steps(tmp_path / "enough")]
    shutil.copytree(tmp_path / "enough", tmp_path / "again")
    checkpoints(tmp_path / "again")[0].unlink()
    train(_with_pictures(pictures, max_broken=0.1), tmp_path / "again", resume=True, console=console)
    assert [step["broken"] for step in _steps(tmp_path / "again")] == broken


def test_a_step_that_is_not_finite_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(optim={"ema": 0.9})
    trainer = loop.Trainer(config, loop.choose_runtime(config.run))
    poison(monkeypatch, 2, int(_batch_rows(config, 2)[0]))
    batches = iter(loop.train_batches(config.data, seed=0, start_step=0, steps=4))

    def weights() -> list[torch.Tensor]:
        states = [state for p in trainer.parameters for state in trainer.optimizer.state[p].values()]
        return [x.detach().clone() for x in (*trainer.parameters, *states)]

    for _ in range(2):
        trainer.advance(batches)
    before = weights()
    terms, _ = trainer.advance(batches)
    assert not terms["loss"].isfinite()
    for after, was in zip(weights(), before, strict=True):
        assert torch.equal(after, was)
    assert trainer.step == 3
    assert trainer.bad_steps.counts.tolist() == [1, 1, 1]
    trainer.advance(batches)
    assert any(not torch.equal(after, was) for after, was in zip(weights(), before, strict=True))
    assert trainer.bad_steps.counts.tolist() == [0, 1, 1]


def _batch_rows(config: Config, number: int) -> np.ndarray:
    return next(iter(loop.train_batches(config.data, seed=0, start_step=number, steps=number + 1))).info.index


def test_running_statistics_go_back_after_a_step_that_is_not_finite() -> None:
    config = tiny()
    trainer = loop.Trainer(config, loop.choose_runtime(config.run))
    batches = list(loop.train_batches(config.data, seed=0, start_step=0, steps=2))
    buffer = trainer.model.mean_pose
    trainer.advance(iter(batches[:1]))
    buffer.fill_(3.0)
    assert trainer.settle() == 0
    batches[1].joints_3d[0, :, :3] = torch.nan
    trainer.advance(iter(batches[1:]))
    buffer.fill_(torch.nan)
    assert trainer.settle() == 1
    assert (buffer == 3).all()
    assert trainer.settle() == 0


def test_too_many_steps_in_a_row_end_the_run_with_a_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(run={"max_bad_steps": 2, "log_every": 5})
    for number in (1, 3, 4):
        poison(monkeypatch, number, int(_batch_rows(config, number)[0]))
    console = _console()
    with pytest.raises(RunError, match=r"2 steps in a row whose loss .* --run\.max-bad-steps allows; .*bad_step_0+5 "):
        train(config, tmp_path, console=console)
    assert "step 4: 2 steps skipped so far" in _printed(console)
    folder = tmp_path / "bad_step_00000005"
    report = json.loads((folder / "report.json").read_text())
    assert report["config"]["run"]["max_bad_steps"] == 2
    assert [step["step"] for step in report["steps"] if step["bad"]] == [2, 4, 5]
    step = report["steps"][3]
    assert step["indices"] == [[_batch_rows(config, 3).tolist()]]
    assert step["terms"]["loss"] == step["terms"]["loss/joints_3d"] == "nan"
    assert isinstance(report["steps"][0]["terms"]["loss/pairwise"], float)
    assert "model.decoder.mlp.input.weight" in report["parameters"]
    assert "model.decoder.mlp.input.weight" in step["gradients_not_finite"]
    norms = load_file(folder / "gradient_norms.safetensors")
    assert norms["step_00000001"].shape == (len(report["parameters"]),)
    assert norms["step_00000001"].isfinite().all()
    inputs = load_file(folder / "inputs_rank0.safetensors")
    assert inputs["index"].tolist() == _batch_rows(config, 1).tolist()
    assert inputs["joints_3d"].isnan().any()
    # nothing of it is lost: the checkpoint before is sound, and the steps so far are logged
    state = load_latest(tmp_path, pytest.fail)
    assert state is not None
    assert all(x.isfinite().all() for x in state["model"].values())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_out_of_memory_says_which_knob_to_turn(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exhausted(*arguments: object) -> None:
        raise error

    file = tmp_path / "tiny.yaml"
    file.write_text(to_yaml(tiny(run={"eval_every": 3})))
    with monkeypatch.context() as patch:
        _before_step(patch, 2, exhausted)
        assert main(["--config", str(file), "--run.dir", str(tmp_path / "step")]) == 1
    printed = capsys.readouterr().err
    assert "out of memory" in printed
    assert "--data.batch-size 4 --optim.accumulate 2" in printed
    with monkeypatch.context() as patch:
        patch.setattr(loop, "predict", lambda *a, **k: exhausted())
        assert main(["--config", str(file), "--run.dir", str(tmp_path / "score")]) == 1
    printed = capsys.readouterr().err
    assert "--data.val-batch-size 8" in printed
    assert "--data.batch-size" not in printed


@pytest.mark.parametrize(("shard", "named"), [("ddp", True), ("fsdp", False)])
def test_out_of_memory_among_ranks_names_what_divides_the_model(shard: str, named: bool) -> None:
    with pytest.raises(RunError) as caught, out_of_memory_says_what_to_do(tiny(run={"shard": shard}), ranks=2):
        raise MemoryError
    assert ("--run.shard fsdp" in str(caught.value)) == named
    assert "torchrun --nproc-per-node 4" in str(caught.value)
