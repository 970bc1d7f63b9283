"""Inputs and the check against the definition, shared by the tests of the singular-value loss."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.tolerances import SV_GRADIENT, SV_LOSS
from unihpe_kernels.sv_contrastive import reference


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


def check_against(
    loss: Callable[..., Tensor],
    embeddings: list[Tensor],
    exact_loss: Callable[..., Tensor] = reference.singular_value_contrastive_loss,
    given: list[Tensor] | None = None,
    **options: Any,
) -> None:
    """Value and gradients of `loss` against `exact_loss` in float64, at temperatures of about 0.1.

    given: what `loss` gets in place of the embeddings, for values that are to be of no effect.
    """
    value, gradients = value_and_gradients(loss, given or embeddings, **options)
    exact, exact_gradients = value_and_gradients(
        exact_loss,
        [in_float64(embedding) for embedding in embeddings],
        **{name: in_float64(option) for name, option in options.items()},
    )
    dtype = embeddings[0].dtype
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert abs(value.double() - exact) <= SV_LOSS[dtype]
    tensors = [*embeddings, *(option for option in options.values() if isinstance(option, Tensor))]
    tensors = [tensor for tensor in tensors if tensor.is_floating_point()]
    for gradient, wanted, tensor in zip(gradients, exact_gradients, tensors, strict=True):
        assert gradient.dtype == tensor.dtype
        assert gradient.shape == tensor.shape
        # A weight's gradient is made of losses. The temperature's is a difference of sums of sigma_1 / tau^2.
        if tensor.dim() == 1:
            tolerance = SV_LOSS[dtype]
        elif tensor.dim() == 0:
            tolerance = 8 * torch.finfo(dtype).eps * len(embeddings) ** 0.5 / tensor.item() ** 2
        else:
            tolerance = SV_GRADIENT[dtype]
        torch.testing.assert_close(gradient.double(), wanted, rtol=0, atol=tolerance)


def check_temperature(loss: Callable[..., Tensor], negatives: str, temperature: float) -> None:
    """Value and gradients of a float32 `loss` against float64, at any temperature."""
    embeddings = random_embeddings(3, 7, 32, torch.float32)
    value, gradients = value_and_gradients(loss, embeddings, negatives=negatives, temperature=temperature)
    exact, exact_gradients = value_and_gradients(
        reference.singular_value_contrastive_loss,
        [e.double() for e in embeddings],
        negatives=negatives,
        temperature=temperature,
    )
    # scores good to 5e-7 each; a softmax weight is off by as much, over tau, and the gradient by that over tau again
    assert abs(value - exact) <= 1e-6 / temperature + 1e-5
    for gradient, wanted in zip(gradients, exact_gradients, strict=True):
        torch.testing.assert_close(gradient.double(), wanted, rtol=0, atol=1e-6 / temperature**2 + 1e-6)
