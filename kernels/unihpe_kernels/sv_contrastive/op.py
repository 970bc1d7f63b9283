"""Registration of the loss and its backward with torch: operator, shapes, gradient, in that order."""

from typing import Any

import torch
from torch import Tensor

from unihpe_kernels.registration import define, differentiate, direct, direct_backward, refuse_gradients, register_fake
from unihpe_kernels.sv_contrastive import native_backend, torch_backend
from unihpe_kernels.sv_contrastive.arguments import TITLE, Arguments, Outputs


def _sv_contrastive(
    embeddings: list[Tensor],
    temperature: Tensor,
    weights: Tensor | None,
    present: Tensor | None,
    negatives: str,
    normalize: bool,
    backend: str,
    learns_temperature: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`Outputs`. learns_temperature: what is saved is to do for the temperature's gradient, too, which else may come
    out as zero; autograd sets it."""
    options: Any = negatives, normalize, backend
    return _backend(backend).forward(Arguments(embeddings, temperature, weights, present, *options), learns_temperature)


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
    return _backend(backend).backward(grad, given, Outputs(*outputs))


def _backend(name: str) -> Any:
    """The module with `forward`, `backward` and `saved_size`."""
    if name == "triton":
        from unihpe_kernels.sv_contrastive import triton_backend  # not above: triton may be missing

        return triton_backend
    return native_backend if name == "native" else torch_backend


sv_contrastive = define(_sv_contrastive, title=TITLE)
sv_contrastive_backward = define(_sv_contrastive_backward, title=TITLE)


@register_fake(sv_contrastive)
def _(*arguments):
    given = Arguments(*arguments[: len(Arguments._fields)])
    first, batch, backend = given.embeddings[0], given.embeddings[0].shape[0], _backend(given.backend)
    dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
    shapes = (), (given.num_modalities, batch), (batch,), (backend.saved_size(given),)
    route = first.new_empty((int(given.backend == "native"),), dtype=torch.int64)
    return (*(first.new_empty(shape, dtype=dtype) for shape in shapes), route)


@register_fake(sv_contrastive_backward)
def _(grad, embeddings, temperature, weights, present, outputs, negatives, normalize, backend):
    d_embeddings = [embedding.new_empty(embedding.shape) for embedding in embeddings]
    sample_loss = outputs[2]
    d_weights = torch.empty_like(sample_loss, dtype=sample_loss.dtype if weights is None else weights.dtype)
    return [*d_embeddings, temperature.new_empty(()), d_weights]


def _setup(ctx: Any, arguments: list[Any], outputs: tuple[Tensor, ...]) -> None:
    embeddings, temperature, weights, present, *ctx.options, _ = arguments
    ctx.mark_non_differentiable(*outputs[1:])
    ctx.save_for_backward(temperature, weights, present, *outputs, *embeddings)


def _gradient(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    temperature, weights, present, *rest = ctx.saved_tensors
    outputs, embeddings = rest[: len(Outputs._fields)], rest[len(Outputs._fields) :]
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
