"""Registration of the loss and its backward with torch: operator, shapes, gradient, autocast, in that order."""

from typing import Any

import torch
from torch import Tensor

from unihpe_kernels.registration import below_autograd, define, library, register_autocast
from unihpe_kernels.contrastive import native_backend, torch_backend


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
        from unihpe_kernels.contrastive import triton_backend  # not above: triton may be missing

        return triton_backend
    return native_backend if name == "native" else torch_backend


sv_contrastive = define(_sv_contrastive)
sv_contrastive_backward = define(_sv_contrastive_backward)


@torch.library.register_fake("unihpe_kernels::sv_contrastive", lib=library)
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


@torch.library.register_fake("unihpe_kernels::sv_contrastive_backward", lib=library)
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


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, keyset: Any, temperature: Any, weights: Any, present: Any, options: Any, *embeddings: Any
    ) -> Any:
        arguments = (list(embeddings), temperature, weights, present, *options)
        outputs = below_autograd(sv_contrastive, keyset, *arguments, temperature.requires_grad)
        ctx.options = options
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.set_materialize_grads(False)  # zeros of the size of `saved` would cost as much as the backward itself
        ctx.save_for_backward(*embeddings, temperature, weights, present, *outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, grad: Any, *_: Any) -> Any:
        *embeddings, temperature, weights, present, loss, normalisers, sample_loss, saved = ctx.saved_tensors
        if grad is None:
            return (None,) * (5 + len(embeddings))
        gradients = sv_contrastive_backward(
            grad, embeddings, temperature, weights, present, loss, normalisers, sample_loss, saved, *ctx.options
        )
        *d_embeddings, d_temperature, d_weights = gradients
        return None, d_temperature, None if weights is None else d_weights, None, None, *d_embeddings


class _Gradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keyset: Any, grad: Any, count: int, *arguments: Any) -> Any:
        embeddings, others = arguments[:count], arguments[count:]
        return tuple(below_autograd(sv_contrastive_backward, keyset, grad, list(embeddings), *others))

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError(
            "singular_value_contrastive_loss has no second derivative: call backward without create_graph"
        )


def _autograd(keyset: Any, embeddings: Any, temperature: Any, weights: Any, present: Any, *options: Any) -> Any:
    arguments = (embeddings, temperature, weights, present, *options)
    if not (torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)):
        return below_autograd(sv_contrastive, keyset, *arguments)
    return _Loss.apply(keyset, temperature, weights, present, options[:3], *embeddings)


def _autograd_of_backward(keyset: Any, grad: Any, embeddings: Any, *others: Any) -> Any:
    if not (torch.is_grad_enabled() and torch._C._any_requires_grad(grad, embeddings, *others)):
        return below_autograd(sv_contrastive_backward, keyset, grad, embeddings, *others)
    return list(_Gradients.apply(keyset, grad, len(embeddings), *embeddings, *others))


library.impl("sv_contrastive", _autograd, "Autograd", with_keyset=True)
library.impl("sv_contrastive_backward", _autograd_of_backward, "Autograd", with_keyset=True)

for _operator in (sv_contrastive, sv_contrastive_backward):
    register_autocast(_operator)
