"""Batches in chunks that fit the caches of a CPU, on as many threads as torch has.

torch splits one operation over its threads, and waits for all of them at its end. Of the hundreds of short operations
that a batch of 3x3 problems takes, most are too short to be split. So the threads take whole chunks instead. The bits
of a result do not depend on their number.
"""

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

# Samples: the working set of a pass stays in cache, yet is long enough to hide what it costs to start an operation. Not
# a power of two: rows a power of two apart fall into the same cache sets, which makes the transposition four times
# slower.
CHUNK = 8_176


def for_each_chunk(samples: int, device: torch.device, work: Callable[[slice], None]) -> None:
    """Call `work` with slices that cover the batch: everything at once on a GPU, what fits the caches on a CPU.

    Calls may come from several threads at once, without autograd and autocast.
    """
    step = CHUNK if device.type == "cpu" else max(samples, 1)
    parts = [slice(start, min(start + step, samples)) for start in range(0, samples, step)]
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) <= 1:
        for part in parts:
            work(part)
        return
    inference = torch.is_inference_mode_enabled()

    def in_worker(part: slice) -> None:
        # both are kept by thread
        with torch.inference_mode() if inference else torch.no_grad():
            work(part)

    for _ in _pool(threads).map(in_worker, parts):
        pass


_lock = threading.Lock()


def _pool(threads: int) -> ThreadPoolExecutor:
    with _lock:
        return _new_pool(threads)


@functools.cache
def _new_pool(threads: int) -> ThreadPoolExecutor:
    """Threads whose own operations are not split any further."""
    here = torch.get_num_threads()
    together = threading.Barrier(threads)

    def start(_: int) -> None:
        together.wait()  # so that each thread runs this once
        torch.get_num_threads()  # the first call in a thread sets its number, and would undo the next line
        torch.set_num_threads(1)

    pool = ThreadPoolExecutor(threads, thread_name_prefix="unihpe_kernels")
    list(pool.map(start, range(threads)))
    torch.set_num_threads(here)  # the number of a thread is its own, that of threads to come is common
    return pool


def _forget_pools() -> None:
    """In a forked process, which has none of the threads."""
    global _lock
    _lock = threading.Lock()
    _new_pool.cache_clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_pools)
