"""Processes on this machine that form gloo groups of their first 1, 2, .. ranks, started once and kept."""

import datetime
import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_PATIENCE = 240  # seconds; kernels in Triton's interpreter, in several processes on a busy machine, take a minute


class Ranks:
    """`run` calls a function of a module on the first ranks at once: f(group of those, rank, *args)."""

    def __init__(self, count: int, folder: Path) -> None:
        """folder: an empty one, where they find each other."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "torch.distributed"])
        self._ends, self._processes = [], []
        for rank in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, count, folder / "store", there), daemon=True)
            process.start()
            self._ends.append(here)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *args: Any, ranks: int | None = None) -> list[Any]:
        """The results in the order of ranks, of all or the first few."""
        ranks = ranks or len(self._ends)
        for end in self._ends[:ranks]:
            end.send((function, ranks, args))
        results = []
        for rank, end in enumerate(self._ends[:ranks]):
            if not end.poll(_PATIENCE):
                self.stop()
                raise TimeoutError(f"rank {rank} of {ranks} hangs in {function.__name__}{args}")
            failed, result = end.recv()
            if failed:
                raise AssertionError(f"rank {rank} of {ranks}:\n{result}")
            results.append(result)
        return results

    def stop(self) -> None:
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.join(5)
            process.kill()


def _serve(rank: int, count: int, store: Path, end: Connection) -> None:
    torch.set_num_threads(1)
    patience = datetime.timedelta(seconds=_PATIENCE)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=patience)
    groups = {ranks: dist.new_group(list(range(ranks)), timeout=patience) for ranks in range(1, count + 1)}
    while True:
        try:
            function, ranks, args = end.recv()
        except EOFError:
            return
        try:
            end.send((False, function(groups[ranks], rank, *args)))
        except Exception:
            end.send((True, traceback.format_exc()))
