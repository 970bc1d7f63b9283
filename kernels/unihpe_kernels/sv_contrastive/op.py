"""Registration of the loss and its backward with torch: operator, shapes, gradient, autocast, in that order."""

from typing import Any

import torch
from torch import Tensor

from unihpe_kernels.sv_contrastive import torch_backend


@torch.library.custom_op("unihpe_kernels::sv_contrastive", mutates_args=())
def sv_contrastive(
    embeddings: list[Tensor],
    temperature: Tensor,
    weights: Tensor | None,
    present: Tensor | None,
    negatives: str,
    normalize: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """loss [], log2 of the normalisers [M, B], sample losses [B] and what the backend saves for its backward, flat.

    float64 for float64 embeddings, else float32.
    """
    return _backend(backend).forward(embeddings, temperature, weights, present, negatives, normalize)


@torch.library.custom_op("unihpe_kernels::sv_contrastive_backward", mutates_args=())
def sv_contrastive_backward(
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
    return torch_backend


@sv_contrastive.register_fake
def _(embeddings, temperature, weights, present, negatives, normalize, backend):
    first = embeddings[0]
    dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
    batch = first.shape[0]
    return (
        first.new_empty((), dtype=dtype),
        first.new_empty((len(embeddings), batch), dtype=dtype),
        first.new_empty((batch,), dtype=dtype),
        first.new_empty((_backend(backend).saved_size(embeddings, present, negatives),), dtype=dtype),
    )


@sv_contrastive_backward.register_fake
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


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    embeddings, temperature, weights, present, *ctx.options = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # zeros of the size of `saved` would cost as much as the backward itself
    ctx.save_for_backward(*embeddings, temperature, weights, present, *output)


def _backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    *embeddings, temperature, weights, present, loss, normalisers, sample_loss, saved = ctx.saved_tensors
    if grad is None:
        return [None] * len(embeddings), None, None, None, None, None, None
    gradients = sv_contrastive_backward(
        grad, embeddings, temperature, weights, present, loss, normalisers, sample_loss, saved, *ctx.options
    )
    *d_embeddings, d_temperature, d_weights = gradients
    return d_embeddings, d_temperature, None if weights is None else d_weights, None, None, None, None


def _no_second_derivative(ctx: Any, *_: Any) -> None:
    raise NotImplementedError(
        "singular_value_contrastive_loss has no second derivative: call backward without create_graph"
    )


sv_contrastive.register_autograd(_backward, setup_context=_setup_context)
sv_contrastive_backward.register_autograd(_no_second_derivative)

for _device in ("cpu", "cuda"):
    sv_contrastive.register_autocast(_device, torch.float32)
    sv_contrastive_backward.register_autocast(_device, torch.float32)
