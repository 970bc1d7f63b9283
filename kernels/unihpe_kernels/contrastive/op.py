"""Registration of the losses and their backward with torch: operator, shapes, gradient, autocast, in that order."""

from typing import Any

import torch
from torch import Tensor

from unihpe_kernels.contrastive import loss
from unihpe_kernels.contrastive.options import Spec
from unihpe_kernels.registration import below_autograd, define, library, register_autocast

_NUM_OUTPUTS = 5


def _contrastive(
    embeddings: list[Tensor],
    temperature: Tensor,
    bias: Tensor | None,
    weights: Tensor | None,
    present: Tensor | None,
    spec: str,
    learns: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`loss.Outputs`: float64 for float64 embeddings, else float32. spec: `Spec.text`. learns: what is saved is to do for
    the gradients of the temperature and the bias, too, which else may come out as zero; autograd sets it."""
    return loss.forward(embeddings, temperature, bias, weights, present, Spec.of(spec), learns)


def _contrastive_backward(
    grad: Tensor,
    embeddings: list[Tensor],
    temperature: Tensor,
    bias: Tensor | None,
    weights: Tensor | None,
    present: Tensor | None,
    outputs: list[Tensor],
    spec: str,
) -> list[Tensor]:
    """Gradients of the embeddings, the temperature, the bias (also where it is None) and the weights ([B], likewise)."""
    arguments = embeddings, temperature, bias, weights, present
    return loss.backward(grad, *arguments, loss.Outputs(*outputs), Spec.of(spec))


contrastive = define(_contrastive)
contrastive_backward = define(_contrastive_backward)


@torch.library.register_fake("unihpe_kernels::contrastive", lib=library)
def _(embeddings, temperature, bias, weights, present, spec, learns=False):
    shapes = loss.shapes(embeddings, present, Spec.of(spec))
    new, dtype = embeddings[0].new_empty, loss.sums_dtype(embeddings[0])
    return (*(new(shape, dtype=dtype) for shape in shapes), new((), dtype=torch.int64))


@torch.library.register_fake("unihpe_kernels::contrastive_backward", lib=library)
def _(grad, embeddings, temperature, bias, weights, present, outputs, spec):
    total, _, samples, *_ = outputs
    d_bias = total if bias is None else bias
    d_weights = samples.new_empty(samples.shape[1], dtype=samples.dtype if weights is None else weights.dtype)
    d_embeddings = [embedding.new_empty(embedding.shape) for embedding in embeddings]
    return [*d_embeddings, temperature.new_empty(()), d_bias.new_empty(()), d_weights]


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keyset: Any, spec: str, *arguments: Any) -> Any:
        temperature, bias, weights, present, *embeddings = arguments
        learns = temperature.requires_grad or bias is not None and bias.requires_grad
        given = list(embeddings), temperature, bias, weights, present
        outputs = below_autograd(contrastive, keyset, *given, spec, learns)
        ctx.spec = spec
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.set_materialize_grads(False)  # zeros of the size of `saved` would cost as much as the backward itself
        ctx.save_for_backward(*arguments, *outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, grad: Any, *_: Any) -> Any:
        temperature, bias, weights, present, *rest = ctx.saved_tensors
        if grad is None:
            return (None,) * (6 + len(rest) - _NUM_OUTPUTS)
        embeddings, outputs = rest[:-_NUM_OUTPUTS], rest[-_NUM_OUTPUTS:]
        gradients = contrastive_backward(grad, embeddings, temperature, bias, weights, present, outputs, ctx.spec)
        *d_embeddings, d_temperature, d_bias, d_weights = gradients
        d_bias, d_weights = None if bias is None else d_bias, None if weights is None else d_weights
        return None, None, d_temperature, d_bias, d_weights, None, *d_embeddings


class _Gradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keyset: Any, count: int, spec: str, grad: Any, *arguments: Any) -> Any:
        temperature, bias, weights, present, *rest = arguments
        given = rest[:count], temperature, bias, weights, present, rest[count:], spec
        return tuple(below_autograd(contrastive_backward, keyset, grad, *given))

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError("the contrastive losses have no second derivative: call backward without create_graph")


def _autograd(
    keyset: Any, embeddings: Any, temperature: Any, bias: Any, weights: Any, present: Any, spec: str, *learns: Any
) -> Any:
    given = embeddings, temperature, bias, weights, present
    if not (torch.is_grad_enabled() and torch._C._any_requires_grad(*given)):
        return below_autograd(contrastive, keyset, *given, spec, *learns)
    return _Loss.apply(keyset, spec, temperature, bias, weights, present, *embeddings)


def _autograd_of_backward(
    keyset: Any, grad: Any, embeddings: Any, temperature: Any, bias: Any, weights: Any, present: Any, outputs: Any, spec: str
) -> Any:
    given = embeddings, temperature, bias, weights, present, outputs
    if not (torch.is_grad_enabled() and torch._C._any_requires_grad(grad, *given)):
        return below_autograd(contrastive_backward, keyset, grad, *given, spec)
    tensors = temperature, bias, weights, present, *embeddings, *outputs
    return list(_Gradients.apply(keyset, len(embeddings), spec, grad, *tensors))


library.impl("contrastive", _autograd, "Autograd", with_keyset=True)
library.impl("contrastive_backward", _autograd_of_backward, "Autograd", with_keyset=True)

for _operator in (contrastive, contrastive_backward):
    register_autocast(_operator)
