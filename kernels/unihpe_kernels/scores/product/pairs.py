"""log sum exp of the logits of anchors against the keys of other samples, for rows of any length, a block at a time.

l[i, j] = scale * x[i] . keys[j], without j = begin + i, the anchor's own. Each row is taken about its own largest
logit, so that no bound of the rows is needed: the engine of the other scores wants one. Plain torch on any device;
equal bits in two runs.
"""

import torch
from torch import Tensor

from unihpe_kernels.registration import define, differentiate, refuse_gradients, register_fake

# Numbers of a block of logits: 4 MB in float32. One row at least.
_BLOCK = 2**20


def _other_logsumexps(x: Tensor, keys: Tensor, scale: Tensor, begin: int) -> Tensor:
    """x, keys: [a, D] and [b, D] of one dtype, float32 or float64; scale: []. [a], -inf where there is no other."""
    sums = x.new_empty(len(x))
    for block in _blocks(x, keys):
        sums[block] = _logits(x, keys, scale, block, begin).logsumexp(1)
    return sums


def _other_logsumexps_backward(
    grad: Tensor, x: Tensor, keys: Tensor, scale: Tensor, begin: int, sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, keys and scale."""
    d_x, d_keys, d_scale = torch.zeros_like(x), torch.zeros_like(keys), scale.new_zeros(())
    for block in _blocks(x, keys):
        logits = _logits(x, keys, scale, block, begin)
        weight = (logits - sums[block, None]).nan_to_num_(nan=-torch.inf).exp_().mul_(grad[block, None])
        d_scale += torch.dot(weight.flatten(), logits.nan_to_num_(neginf=0).flatten()) / scale
        weight *= scale
        d_x[block] = weight @ keys
        d_keys.addmm_(weight.T, x[block])
    return d_x, d_keys, d_scale


def _blocks(x: Tensor, keys: Tensor) -> list[slice]:
    step = max(1, _BLOCK // max(len(keys), 1))
    return [slice(first, first + step) for first in range(0, len(x), step)]


def _logits(x: Tensor, keys: Tensor, scale: Tensor, block: slice, begin: int) -> Tensor:
    logits = (x[block] * scale) @ keys.T
    logits.diagonal(begin + block.start).fill_(-torch.inf)
    return logits


other_logsumexps = define(_other_logsumexps, title="the loss of products")
other_logsumexps_backward = define(_other_logsumexps_backward, title="the loss of products")


@register_fake(other_logsumexps)
def _(x, keys, scale, begin):
    return x.new_empty(x.shape[:1])


@register_fake(other_logsumexps_backward)
def _(grad, x, keys, scale, begin, sums):
    return torch.empty_like(x), torch.empty_like(keys), torch.empty_like(scale)


def _setup(ctx, arguments, output):
    *tensors, ctx.begin = arguments
    ctx.save_for_backward(*tensors, output)


def _gradient(ctx, grad):
    if grad is None:
        return None, None, None, None
    x, keys, scale, sums = ctx.saved_tensors
    return *other_logsumexps_backward(grad, x, keys, scale, ctx.begin, sums), None


differentiate(other_logsumexps, _setup, _gradient)
refuse_gradients(
    other_logsumexps_backward, "the loss of products has no second derivative: call backward without create_graph"
)
