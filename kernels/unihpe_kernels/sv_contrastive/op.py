"""Registration of the loss and its backward with torch: operator, shapes, gradient, in that order."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unihpe_kernels.registration import define, differentiate, direct, direct_backward, refuse_gradients, register_fake
from unihpe_kernels.sv_contrastive import native_backend, torch_backend
from unihpe_kernels.sv_contrastive.arguments import TITLE, Arguments


def _sv_contrastive(
    embeddings: list[Tensor],
    temperature: Tensor,
    weights: Tensor | None,
    present: Tensor | None,
    negatives: str,
    normalize: bool,
    backend: str,
    learns_temperature: bool = False,
) -> list[Tensor]:
    """The loss [], float64 for float64 embeddings, else float32, then what the backend saves for its backward pass.
    learns_temperature: what is saved is to do for the temperature's gradient, too, which else may come out as zero;
    autograd sets it."""
    options: Any = negatives, normalize, backend
    given = Arguments(embeddings, temperature, weights, present, *options)
    if not given.is_fused:
        raise ValueError(
            f"{TITLE}: these arguments are for the operator contrastive, which has no kernels of this loss"
        )
    return list(_backend(backend).forward(given, learns_temperature))


def _sv_contrastive_backward(
    grad: Tensor,
    embeddings: list[Tensor],
    temperature: Tensor,
    weights: Tensor | None,
    present: Tensor | None,
    outputs: list[Tensor],
    negatives: str,
    normalize: bool,
    backend: str,
) -> list[Tensor]:
    """Gradients of the embeddings, the temperature and the weights ([B], also where those are None)."""
    options: Any = negatives, normalize, backend
    given = Arguments(embeddings, temperature, weights, present, *options)
    return _backend(backend).backward(grad, given, outputs)


@functools.cache
def _backend(name: str) -> Any:
    """The module with `forward`, `backward` and `saved_shapes`: of what `forward` returns after the loss."""
    if name == "triton":
        from unihpe_kernels.sv_contrastive import triton_backend  # not above: triton may be missing

        return triton_backend
    return native_backend if name == "native" else torch_backend


sv_contrastive = define(_sv_contrastive, title=TITLE)
sv_contrastive_backward = define(_sv_contrastive_backward, title=TITLE)


@register_fake(sv_contrastive)
def _(*arguments):
    given = Arguments(*arguments[: len(Arguments._fields)])
    first = given.embeddings[0]
    dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
    saved = _backend(given.backend).saved_shapes(given)
    return [first.new_empty((), dtype=dtype), *(first.new_empty(shape, dtype=of or dtype) for shape, of in saved)]


@register_fake(sv_contrastive_backward)
def _(grad, embeddings, temperature, weights, present, outputs, negatives, normalize, backend):
    d_embeddings = [embedding.new_empty(embedding.shape) for embedding in embeddings]
    d_weights = outputs[0].new_empty(embeddings[0].shape[0]) if weights is None else torch.empty_like(weights)
    return [*d_embeddings, temperature.new_empty(()), d_weights]


def _setup(ctx: Any, arguments: Sequence[Any], outputs: list[Tensor]) -> None:
    embeddings, temperature, weights, present, *ctx.options, _ = arguments
    ctx.num_modalities = len(embeddings)
    ctx.save_for_backward(temperature, weights, present, *embeddings, *outputs)


def _gradient(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    temperature, weights, present, *rest = ctx.saved_tensors
    embeddings, outputs = rest[: ctx.num_modalities], rest[ctx.num_modalities :]
    if grad is None:
        return [None] * len(embeddings), *[None] * 7  # of the embeddings; of all other arguments
    *d_embeddings, d_temperature, d_weights = _call_backward(
        ctx, grad, embeddings, temperature, weights, present, outputs, *ctx.options
    )
    return d_embeddings, d_temperature, None if weights is None else d_weights, *[None] * 5


def _for_gradient(embeddings: list[Tensor], temperature: Tensor, *others: Any) -> tuple[Any, ...]:
    return embeddings, temperature, *others[:5], temperature.requires_grad


differentiate(sv_contrastive, _setup, _gradient, _for_gradient)
refuse_gradients(sv_contrastive_backward, f"{TITLE} has no second derivative: call backward without create_graph")
call_sv_contrastive, _call_backward = direct(sv_contrastive), direct_backward(sv_contrastive_backward)
