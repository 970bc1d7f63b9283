"""What can stop a run from outside, and what it says then."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import TypeVar

import torch

from unihpe_fast.config import Config
from unihpe_fast.engine.distributed import Ranks
from unihpe_fast.terminal import Terminal

T = TypeVar("T")
# what schedulers send before they kill: Slurm's --signal=USR1@120, preemption and scancel
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class RunError(RuntimeError):
    """What stopped a run; the message says what happened and what can be done."""


class Stopped(Exception):
    """The run was asked to stop by a signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells report it. 0 under torchrun, which starts failed processes again."""
        return 0 if "TORCHELASTIC_RUN_ID" in os.environ else 128 + self.signum


def failed(error: Exception, ranks: Ranks, code: int) -> int:
    """Say what went wrong, and give back the exit code of a process that is alone.

    Of several, this one ends here and not with their session, which would wait for ranks that are still at work.
    """
    who = f"rank {ranks.rank}: " if ranks.size > 1 else ""
    text = f"{who}error: {error}"
    Terminal(stderr=True).print(text, style="bold red", markup=False, highlight=False, soft_wrap=True)
    _tell_torchrun(text)
    if ranks.size > 1:
        sys.exit(code)
    return code


def _tell_torchrun(text: str) -> None:
    """Put the message where torchrun's report, which is the last thing on the screen, names a cause."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        said = {"message": text, "extraInfo": {"py_callstack": text, "timestamp": str(int(time.time()))}}
        with contextlib.suppress(OSError):
            Path(file).write_text(json.dumps({"message": said}), encoding="utf-8")


class StopRequest:
    """Whether one of SIGNALS has come. The run looks at step boundaries and between batches of an evaluation."""

    def __init__(self) -> None:
        self.signum = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals meanwhile; elsewhere than in the main thread they do what they always do."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._caught) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _caught(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum

    def flags(self) -> list[int]:
        """One number for each of SIGNALS, 1 where it has come: what ranks can add up."""
        return [int(self.signum == number) for number in SIGNALS]

    def until(self, items: Iterable[T]) -> Iterator[T]:
        """The items; raises Stopped before the next one once there is a request."""
        for item in items:
            if self.signum:
                raise Stopped(self.signum)
            yield item


def requested(flags: list[int]) -> int:
    """The signal that summed `StopRequest.flags` stand for, 0 for none."""
    return next((int(number) for number, flag in zip(SIGNALS, flags, strict=True) if flag), 0)


@contextlib.contextmanager
def out_of_memory_says_what_to_do(config: Config, *, ranks: int, scoring: bool = False) -> Iterator[None]:
    """Turn an out-of-memory error, of a GPU or of the CPU, into a RunError that names the options to change."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # torch has no class of its own for the CPU's
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"out of memory: {reason}\n{_knobs(config, ranks, scoring)}") from error


def _knobs(config: Config, ranks: int, scoring: bool) -> str:
    data, optim = config.data, config.optim
    if scoring:
        lines = [f"--data.val-batch-size {max(data.val_batch_size // 2, 1)} scores fewer samples at once"]
    else:
        lines = [
            f"--data.batch-size {max(data.batch_size // 2, 1)} --optim.accumulate {2 * optim.accumulate}: as many "
            "samples a step, in smaller batches; the contrastive terms see one batch at a time"
        ]
        if config.loss.negatives == "all" and config.loss.singular_value:
            lines.append('--loss.negatives paired: memory of O(B D) instead of the O(B^2) of "all"')
        lines.append(f"torchrun --nproc-per-node {2 * ranks}: the batch is divided among that many processes")
        if ranks > 1 and config.run.shard == "ddp":
            lines.append("--run.shard fsdp: so are weights, their gradients and the optimiser's moments")
    if "image" in config.model.modalities:
        lines.append(f"--data.image-size {max(data.image_size // 64 * 32, 32)}: smaller pictures")
    if config.run.dtype == "float32":
        lines.append("--run.dtype bfloat16: half the memory of activations")
    return "any of these helps:\n" + "\n".join(f"  {line}" for line in lines)
