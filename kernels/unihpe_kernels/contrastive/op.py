"""Registration of the losses and their backward with torch: operator, shapes, gradient, in that order."""

from typing import Any

import torch
from torch import Tensor

from unihpe_kernels.contrastive import loss
from unihpe_kernels.contrastive.spec import Spec
from unihpe_kernels.registration import define, differentiate, direct, direct_backward, refuse_gradients, register_fake

_TITLE = "one of singular_value_contrastive_loss, tuple_contrastive_loss and pairwise_contrastive_loss"
_NUM_OUTPUTS = len(loss.Outputs._fields)


def _contrastive(
    embeddings: list[Tensor],
    temperature: Tensor,
    bias: Tensor | None,
    weights: Tensor | None,
    present: Tensor | None,
    spec: str,
    learns: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`loss.Outputs`: float64 for float64 embeddings, else float32. spec: `Spec.text`. learns: what is saved is to do
    for the gradients of the temperature and the bias, too, which else may come out as zero; autograd sets it."""
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
    """Gradients of the embeddings, the temperature, the bias (also where it is None) and the weights ([B],
    likewise)."""
    arguments = embeddings, temperature, bias, weights, present
    return loss.backward(grad, *arguments, loss.Outputs(*outputs), Spec.of(spec))


contrastive = define(_contrastive, title=_TITLE)
contrastive_backward = define(_contrastive_backward, title=_TITLE)


@register_fake(contrastive)
def _(embeddings, temperature, bias, weights, present, spec, learns=False):
    shapes = loss.shapes(embeddings, present, Spec.of(spec))
    new, dtype = embeddings[0].new_empty, loss.sums_dtype(embeddings[0])
    return (*(new(shape, dtype=dtype) for shape in shapes), new((), dtype=torch.int64))


@register_fake(contrastive_backward)
def _(grad, embeddings, temperature, bias, weights, present, outputs, spec):
    total, _, samples, *_ = outputs
    d_bias = total if bias is None else bias
    d_weights = samples.new_empty(samples.shape[1], dtype=samples.dtype if weights is None else weights.dtype)
    d_embeddings = [embedding.new_empty(embedding.shape) for embedding in embeddings]
    return [*d_embeddings, temperature.new_empty(()), d_bias.new_empty(()), d_weights]


def _setup(ctx: Any, arguments: list[Any], outputs: tuple[Tensor, ...]) -> None:
    embeddings, *tensors, ctx.spec, _ = arguments
    ctx.mark_non_differentiable(*outputs[1:])
    ctx.save_for_backward(*tensors, *embeddings, *outputs)


def _gradient(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    temperature, bias, weights, present, *rest = ctx.saved_tensors
    embeddings, outputs = rest[:-_NUM_OUTPUTS], rest[-_NUM_OUTPUTS:]
    if grad is None:
        return [None] * len(embeddings), *[None] * 6  # of the embeddings; of all other arguments
    *d_embeddings, d_temperature, d_bias, d_weights = _call_backward(
        ctx, grad, embeddings, temperature, bias, weights, present, outputs, ctx.spec
    )
    d_bias, d_weights = None if bias is None else d_bias, None if weights is None else d_weights
    return d_embeddings, d_temperature, d_bias, d_weights, None, None, None


def _for_gradient(embeddings: list[Tensor], temperature: Tensor, bias: Tensor | None, *others: Any) -> tuple[Any, ...]:
    learns = temperature.requires_grad or (bias is not None and bias.requires_grad)
    return embeddings, temperature, bias, *others[:3], learns


differentiate(contrastive, _setup, _gradient, _for_gradient)
refuse_gradients(
    contrastive_backward,
    "the contrastive losses have no second derivative: call backward without create_graph",
)
call_contrastive, _call_backward = direct(contrastive), direct_backward(contrastive_backward)
