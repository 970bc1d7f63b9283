"""The loss through its Triton kernels, called like the public function with tensors of the CPU; poisoned memory."""

import math

import pytest
import torch
from torch import Tensor

from tests.kernels.triton_device import DEVICE
from unihpe_kernels import singular_value_contrastive_loss

_GUARD = 64  # elements behind a buffer


def to_device(value):
    return value.to(DEVICE) if isinstance(value, Tensor) else value


def triton_loss(embeddings: list[Tensor], **options) -> Tensor:
    """The loss on the CPU again; gradients arrive there, too."""
    embeddings = [to_device(embedding) for embedding in embeddings]
    options = {name: to_device(option) for name, option in options.items()}
    return singular_value_contrastive_loss(embeddings, **options, backend="triton").cpu()


@pytest.fixture
def poisoned_buffers(monkeypatch):
    """All memory that the launchers allocate holds NaN, and what lies behind it must hold NaN to the end.

    The interpreter sees no write out of bounds, and fresh memory is often zero.
    """
    buffers = []

    def guarded(shape, dtype, device):
        count = math.prod(shape)
        buffer = torch.full((count + _GUARD,), math.nan, dtype=dtype, device=device)
        buffers.append(buffer)
        return buffer[:count].view(shape)

    new_empty, empty_like, empty = torch.Tensor.new_empty, torch.empty_like, torch.empty

    def poisoned_new_empty(self, *size, dtype=None, **options):
        shape = size[0] if len(size) == 1 and isinstance(size[0], tuple) else size
        dtype = dtype or self.dtype
        if type(self) is not Tensor or options or not dtype.is_floating_point:  # not what the launchers call
            return new_empty(self, *size, dtype=dtype, **options)
        return guarded(shape, dtype, self.device)

    def poisoned_empty_like(like, **options):
        dtype = options.get("dtype", like.dtype)
        if type(like) is not Tensor or options.keys() - {"dtype"} or not dtype.is_floating_point:
            return empty_like(like, **options)
        return guarded(like.shape, dtype, like.device)

    def poisoned_empty(*size, dtype=None, **options):
        plain = len(size) == 1 and isinstance(size[0], tuple) and options.keys() == {"device"}
        if not plain or dtype is None or not dtype.is_floating_point:  # not what the launchers call
            return empty(*size, dtype=dtype, **options)
        return guarded(size[0], dtype, **options)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned_new_empty)
    monkeypatch.setattr(torch, "empty_like", poisoned_empty_like)
    monkeypatch.setattr(torch, "empty", poisoned_empty)
    yield
    assert buffers, "nothing was poisoned"
    for buffer in buffers:
        assert buffer[-_GUARD:].isnan().all(), "written past the end of a buffer"
