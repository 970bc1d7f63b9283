"""Peak memory of a call, beyond what is held before it."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak_bytes(work: Callable[[], Any]) -> int | None:
    """What `work()` takes at its highest: device memory on a GPU, else the growth of the process's resident memory.

    None on a CPU where the system has no /proc. Free memory that the allocator keeps is given back before, so that it
    counts when it is used.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if not _CLEAR.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR.write_text("5")  # the highest mark falls to what is resident now
    before = _status("VmRSS")
    kept = work()
    peak = _status("VmHWM") - before
    del kept
    return max(peak, 0)
