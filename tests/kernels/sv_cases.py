"""Inputs and tolerances shared by the tests of the singular-value loss."""

from collections.abc import Callable

import torch
from torch import Tensor

# Absolute error of the loss (about 5) and of its gradients (entries below 0.3) against float64 on the same inputs.
# float32 scores are good to 5e-7, divided by a temperature of 0.1. The half types compute in float32 and differ in the
# rounding of the gradient alone: half an ulp of entries below 0.25.
LOSS_TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-5, torch.float16: 2e-5}
GRADIENT_TOLERANCE = {torch.float64: 1e-11, torch.float32: 5e-6, torch.bfloat16: 1e-3, torch.float16: 1e-4}


def random_embeddings(count: int, batch: int, width: int, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # unequal lengths, so that a missing normalisation shows
    lengths = torch.rand(count, batch, 1, generator=generator) * 3 + 0.5
    values = torch.randn(count, batch, width, generator=generator) * lengths
    return [value.to(dtype).requires_grad_() for value in values]


def value_and_gradients(
    loss: Callable[..., Tensor], embeddings: list[Tensor], **options
) -> tuple[Tensor, list[Tensor]]:
    """The loss and its gradients for the embeddings and for every tensor option that requires one, on fresh leaves."""
    leaves = [embedding.detach().requires_grad_() for embedding in embeddings]
    options = {
        name: value.detach().requires_grad_() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in options.items()
    }
    wanted = leaves + [value for value in options.values() if isinstance(value, Tensor) and value.is_floating_point()]
    result = loss(leaves, **options)
    return result.detach(), list(torch.autograd.grad(result, wanted))


def in_float64(value):
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
