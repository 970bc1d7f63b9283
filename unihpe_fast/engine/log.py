"""What a run says while it goes: a progress bar or plain lines, metrics.jsonl, TensorBoard by option."""

import io
import json
import os
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from unihpe_fast.engine.checkpoint import METRICS
from unihpe_fast.engine.report import scores_line
from unihpe_fast.fileio import without_nan


class RunLog:
    """Progress on the console and one JSON line a logging step in the run's metrics.jsonl.

    offset: bytes of metrics.jsonl that belong to the steps before this one (0 for a new run); a resumed run drops what
    the interrupted one had written after its last checkpoint, so that no step stands there twice.
    """

    def __init__(
        self, run_dir: Path, steps: int, step: int, *, offset: int, tensorboard: bool, console: Console
    ) -> None:
        self.console, self._path = console, run_dir / METRICS
        self._file = self._open()
        # the file may hold less than the checkpoint knew of: only the checkpoint was flushed to the disk
        self._file.truncate(min(offset, self._file.tell()))
        self._file.seek(0, 2)
        self._steps = steps
        self._progress: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("step {task.completed}/{task.total}"), BarColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, TextColumn("{task.description}"), console=console)
            self._task = self._progress.add_task("", total=steps, completed=step)
            self._progress.start()
        self._board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=step)
        self._line_due = time.monotonic()

    def _open(self) -> io.FileIO:
        return open(self._path, "ab", buffering=0)

    def still_there(self) -> bool:
        """Whether the file that is written to is the one that the run folder has."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno()))
        except OSError:
            return False

    def reopen(self) -> None:
        """Go on in a new file of that name."""
        self._file.close()
        self._file = self._open()

    @property
    def offset(self) -> int:
        """Bytes written to metrics.jsonl so far."""
        return self._file.tell()

    def step(self, step: int, values: dict[str, float]) -> None:
        """One logging step: values are scalars by name."""
        self._write({"step": step, **values})
        terms = " ".join(f"{k.removeprefix('loss/')} {v:.3f}" for k, v in values.items() if k.startswith("loss/"))
        text = f"loss {values['loss']:.3f} ({terms}) {values['images_per_s']:.0f}/s wait {values['data_wait']:.0%}"
        if self._progress is not None:
            self._progress.update(self._task, completed=step, description=text)
        elif time.monotonic() >= self._line_due or step >= self._steps:
            # a log file wants a line now and then, not one every logging step
            self.console.print(f"step {step}/{self._steps} {text}", highlight=False, soft_wrap=True)
            self._line_due = time.monotonic() + 10
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def validation(self, step: int, scores: dict[str, Any]) -> None:
        """Scores of `engine.evaluation.score`; those of the last step are printed by whoever trains."""
        self._write({"step": step, "val": scores})
        if step < self._steps:
            self.console.print(f"step {step}/{self._steps} {scores_line(scores)}", highlight=False, soft_wrap=True)
        for name in ("image", "pose2d", "pose3d"):
            if self._board is not None and scores.get(name):
                for metric, value in scores[name].items():
                    self._board.add_scalar(f"val/{name}/{metric}", value, step)

    def _write(self, record: dict[str, Any]) -> None:
        line = json.dumps(without_nan(record)[0], allow_nan=False).encode() + b"\n"
        whole = self._file.tell()
        try:
            # unbuffered: what a full disk did not take must not come back with the next line
            self._file.write(line)
        except OSError as error:
            self.console.print(f"{METRICS}: a line is lost: {error}", style="bold red", markup=False, soft_wrap=True)
            self._file.truncate(whole)
            self._file.seek(whole)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._board is not None:
            self._board.close()
        self._file.close()
