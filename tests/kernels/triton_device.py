"""Where the Triton kernels can run here, and guards around what they write."""

import math
import os

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
# None: nowhere, the kernels need a GPU or the interpreter
DEVICE = "cuda" if torch.cuda.is_available() else "cpu" if _INTERPRETED else None

needs_triton = pytest.mark.skipif(
    DEVICE is None, reason="no CUDA device; make test runs this file again with TRITON_INTERPRET=1"
)

_GUARD = 64  # elements behind an output; none before it, where opcheck wants storage offset 0


@pytest.fixture
def guarded_outputs(monkeypatch):
    """Outputs that the kernels' launchers get from torch.empty hold NaN, and so does what lies behind them, to the end.

    The interpreter sees no write out of bounds, and fresh memory is often zero.
    """
    empty = torch.empty
    buffers = []

    def guarded(*size, dtype=None, **options):
        if len(size) != 1 or not isinstance(size[0], tuple) or dtype is None or not dtype.is_floating_point:
            return empty(*size, dtype=dtype, **options)
        count = math.prod(size[0])
        buffer = torch.full((count + _GUARD,), math.nan, dtype=dtype, **options)
        if buffer.is_meta or isinstance(buffer, FakeTensor):
            # while torch.compile traces, there is no memory to guard
            return empty(*size, dtype=dtype, **options)
        buffers.append(buffer)
        return buffer[:count].view(size[0])

    monkeypatch.setattr(torch, "empty", guarded)
    yield
    for buffer in buffers:
        assert buffer[-_GUARD:].isnan().all(), "written past the end of an output"
