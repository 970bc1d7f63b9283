"""Work memory that a call leaves to the next one of its thread.

On a CPU the first touch of a fresh page costs as much as a dozen passes over it; what a step allocates and frees comes
back as fresh pages again.
"""

import math
import threading

import torch
from torch import Tensor

_held = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialised; valid until the thread asks for the same name and dtype again."""
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    size = math.prod(shape)
    buffers, key = vars(_held), f"{name} {dtype}"
    buffer = buffers.get(key)
    if buffer is None or buffer.numel() < size:
        with torch.inference_mode(False):  # an inference tensor could not be written outside of that mode
            buffer = torch.empty(size, dtype=dtype)
        buffers[key] = buffer
    return buffer[:size].view(shape)
