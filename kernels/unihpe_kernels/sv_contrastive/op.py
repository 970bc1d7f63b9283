"""Registration of the loss and its backward with torch: operator, shapes, gradient, in that order."""

from typing import Any

import torch
from torch import Tensor

from unihpe_kernels.registration import define, differentiate, refuse_gradients, register_fake
from unihpe_kernels.sv_contrastive import native_backend, torch_backend


def _sv_contrastive(
    embeddings: list[Tensor],
    temperature: Tensor,
    weights: Tensor | None,
    present: Tensor | None,
    negatives: str,
    normalize: bool,
    backend: str,
    learns_temperature: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """loss [], the normalisers [M, B] (their log2, or what else the backend's backward takes), sample losses [B] and
    what the backend saves for its backward, flat.

    float64 for float64 embeddings, else float32. learns_temperature: what is saved is to do for the temperature's
    gradient, too, which else may come out as zero; autograd sets it.
    """
    module, arguments = _backend(backend), (embeddings, temperature, weights, present, negatives, normalize)
    if backend == "triton":
        return module.forward(*arguments)  # its backward pass computes that gradient
    return module.forward(*arguments, learns_temperature)


def _sv_contrastive_backward(
    grad: Tensor,
    embeddings: list[Tensor],
    temperature: Tensor,
    weights: Tensor | None,
    present: Tensor | None,
    loss: Tensor,
    normalisers: Tensor,
    sample_loss: Tensor,
    saved: Tensor,
    negatives: str,
    normalize: bool,
    backend: str,
) -> list[Tensor]:
    """Gradients of the embeddings, the temperature and the weights ([B], also where those are None)."""
    return _backend(backend).backward(
        grad, embeddings, temperature, weights, present, loss, normalisers, sample_loss, saved, negatives, normalize
    )


def _backend(name: str) -> Any:
    """The module with `forward`, `backward` and `saved_size`."""
    if name == "triton":
        from unihpe_kernels.sv_contrastive import triton_backend  # not above: triton may be missing

        return triton_backend
    return native_backend if name == "native" else torch_backend


sv_contrastive = define(_sv_contrastive, title="singular_value_contrastive_loss")
sv_contrastive_backward = define(_sv_contrastive_backward, title="singular_value_contrastive_loss")


@register_fake(sv_contrastive)
def _(embeddings, temperature, weights, present, negatives, normalize, backend, learns_temperature=False):
    first = embeddings[0]
    dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
    batch = first.shape[0]
    return (
        first.new_empty((), dtype=dtype),
        first.new_empty((len(embeddings), batch), dtype=dtype),
        first.new_empty((batch,), dtype=dtype),
        first.new_empty((_backend(backend).saved_size(embeddings, present, negatives),), dtype=dtype),
    )


@register_fake(sv_contrastive_backward)
def _(
    grad,
    embeddings,
    temperature,
    weights,
    present,
    loss,
    normalisers,
    sample_loss,
    saved,
    negatives,
    normalize,
    backend,
):
    d_embeddings = [embedding.new_empty(embedding.shape) for embedding in embeddings]
    d_weights = torch.empty_like(sample_loss, dtype=sample_loss.dtype if weights is None else weights.dtype)
    return [*d_embeddings, temperature.new_empty(()), d_weights]


def _setup(ctx: Any, arguments: list[Any], outputs: tuple[Tensor, ...]) -> None:
    embeddings, temperature, weights, present, *options, _ = arguments
    ctx.options = options
    ctx.mark_non_differentiable(*outputs[1:])
    ctx.save_for_backward(*embeddings, temperature, weights, present, *outputs)


def _gradient(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    *embeddings, temperature, weights, present, loss, normalisers, sample_loss, saved = ctx.saved_tensors
    if grad is None:
        return [None] * len(embeddings), *[None] * 7  # of the embeddings; of all other arguments
    *d_embeddings, d_temperature, d_weights = sv_contrastive_backward(
        grad, embeddings, temperature, weights, present, loss, normalisers, sample_loss, saved, *ctx.options
    )
    return d_embeddings, d_temperature, None if weights is None else d_weights, *[None] * 5


def _for_gradient(embeddings: list[Tensor], temperature: Tensor, *others: Any) -> tuple[Any, ...]:
    return embeddings, temperature, *others[:5], temperature.requires_grad


differentiate(sv_contrastive, _setup, _gradient, _for_gradient)
refuse_gradients(
    sv_contrastive_backward,
    "singular_value_contrastive_loss has no second derivative: call backward without create_graph",
)
