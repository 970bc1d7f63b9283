"""How far a long job has come: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_A_LINE = 30.0
T = TypeVar("T")


class Counting:
    """Counts samples; use as a context manager. total: how many there will be, None: unknown."""

    def __init__(self, name: str, total: int | None, console: Console) -> None:
        self.name, self.total, self.console = name, total, console
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)

    def __enter__(self) -> "Counting":
        self._task = self._progress.add_task(self.name, total=self.total)
        self._done, self._start = 0, time.monotonic()
        self._last = self._start
        if self.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        # one that never started would print an empty line
        if self.console.is_terminal:
            self._progress.stop()

    def over(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            yield item
            self.advance(1)

    def advance(self, count: int) -> None:
        """That many more are done."""
        self._done += count
        self._progress.advance(self._task, count)
        now = time.monotonic()
        if not self.console.is_terminal and now - self._last >= SECONDS_A_LINE:
            self._last = now
            of = "" if self.total is None else f"/{self.total}"
            rate = f"{self._done / (now - self._start):.0f}/s"
            self.console.print(f"{self.name}: {self._done}{of} samples, {rate}", markup=False, highlight=False)
