"""log sum exp of Symile's logits over every tuple of three modalities, without keeping a logit.

l[i, j, k] = scale * sum_d x[i, d] y[j, d] z[k, d]. For some k at a time the logits are one matrix product, of the rows
x[i] * z[k] with y, which is added to the sums of all three anchors and dropped; 2 B^3 D operations, and six more in the
backward pass. Plain torch on any device; equal bits in two runs.
"""

import torch
from torch import Tensor

from unihpe_kernels.registration import define, differentiate, refuse_gradients, register_fake

# Numbers of a block of logits, and of the rows that it is made of: some 4 MB each in float32. One k at least.
_BLOCK = 2**20


def _triple_logsumexps(x: Tensor, y: Tensor, z: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x, y, z: [a, D], [b, D], [c, D] of one dtype, float32 or float64. Over the other two: [a], [b], [c]."""
    of_x, of_y, of_z = (rows.new_full((len(rows),), -torch.inf) for rows in (x, y, z))
    for block in _blocks(x, y, z):
        logits = _logits(x, y, z[block], scale)
        rows = logits.logsumexp(2)  # [k, a]
        of_x = torch.logaddexp(of_x, rows.logsumexp(0))
        of_y = torch.logaddexp(of_y, logits.logsumexp((0, 1)))
        of_z[block] = rows.logsumexp(1)
    return of_x, of_y, of_z


def _triple_logsumexps_backward(
    grads: list[Tensor], x: Tensor, y: Tensor, z: Tensor, scale: Tensor, sums: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """grads, sums: gradients of the three results, and those. Gradients of x, y, z and scale."""
    d_x, d_y, d_z = (torch.zeros_like(rows) for rows in (x, y, z))
    d_scale = scale.new_zeros(())
    for block in _blocks(x, y, z):
        logits = _logits(x, y, z[block], scale)
        weight = torch.zeros_like(logits)
        along = ((1, -1, 1), (1, 1, -1), (-1, 1, 1))  # where x, y and z lie in [k, a, b]
        for grad, total, shape, part in zip(grads, sums, along, (slice(None), slice(None), block), strict=True):
            weight += (logits - total[part].view(shape)).exp_().mul_(grad[part].view(shape))
        d_scale += torch.dot(weight.flatten(), logits.flatten()) / scale
        weight *= scale
        left = z[block][:, None] * x  # [k, a, D]
        d_left = weight @ y
        d_y.addmm_(weight.flatten(0, 1).T, left.flatten(0, 1))
        d_x += (d_left * z[block][:, None]).sum(0)
        d_z[block] = (d_left * x).sum(1)
    return d_x, d_y, d_z, d_scale


def _blocks(x: Tensor, y: Tensor, z: Tensor) -> list[slice]:
    """Of the rows of z."""
    step = max(1, _BLOCK // max(len(x) * max(len(y), x.shape[1]), 1))
    return [slice(begin, begin + step) for begin in range(0, len(z), step)]


def _logits(x: Tensor, y: Tensor, z: Tensor, scale: Tensor) -> Tensor:
    """[k, a, b]."""
    return (((z * scale)[:, None] * x).flatten(0, 1) @ y.T).view(len(z), len(x), len(y))


triple_logsumexps = define(_triple_logsumexps, title="the loss of products")
triple_logsumexps_backward = define(_triple_logsumexps_backward, title="the loss of products")


@register_fake(triple_logsumexps)
def _(x, y, z, scale):
    return x.new_empty(x.shape[:1]), y.new_empty(y.shape[:1]), z.new_empty(z.shape[:1])


@register_fake(triple_logsumexps_backward)
def _(grads, x, y, z, scale, sums):
    return torch.empty_like(x), torch.empty_like(y), torch.empty_like(z), torch.empty_like(scale)


def _setup(ctx, arguments, outputs):
    ctx.save_for_backward(*arguments, *outputs)


def _gradient(ctx, *grads):
    x, y, z, scale, *sums = ctx.saved_tensors
    given = [torch.zeros_like(s) if g is None else g for g, s in zip(grads, sums, strict=True)]
    return triple_logsumexps_backward(given, x, y, z, scale, sums)


differentiate(triple_logsumexps, _setup, _gradient)
refuse_gradients(
    triple_logsumexps_backward, "the loss of products has no second derivative: call backward without create_graph"
)
