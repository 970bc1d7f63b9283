"""How far a long job has come: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_A_LINE = 30.0
T = TypeVar("T")


class Counting:
    """Counts what goes through `over`; use as a context manager. total: how many there will be, None: unknown."""

    def __init__(self, name: str, total: int | None, console: Console) -> None:
        self.name, self.total, self.console = name, total, console
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)

    def __enter__(self) -> "Counting":
        if self.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        # one that never started would print an empty line
        if self.console.is_terminal:
            self._progress.stop()

    def over(self, items: Iterable[T]) -> Iterator[T]:
        task = self._progress.add_task(self.name, total=self.total)
        start = last = time.monotonic()
        for number, item in enumerate(items, 1):
            yield item
            self._progress.advance(task)
            now = time.monotonic()
            if not self.console.is_terminal and now - last >= SECONDS_A_LINE:
                last = now
                of = "" if self.total is None else f"/{self.total}"
                rate = f"{number / (now - start):.0f}/s"
                self.console.print(f"{self.name}: {number}{of} samples, {rate}", markup=False, highlight=False)
