"""The torch backend of `procrustes` and `pa_mpjpe`, in lanes (see small_linalg/lanes.py).

Letters: J joints, n lanes; x, y the centred prediction and target [J, 3, n]; w the weights [J, 1, n]; K = sum w y x^T;
rotation R, scale s. The backward passes work in the target's frame, on x' = R x and K' = K R^T, which is symmetric.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unihpe_kernels.small_linalg.lanes import (
    axial,
    chunks,
    compute_dtype,
    dot,
    from_lanes,
    matvec,
    outer_sum,
    skew,
    to_lanes,
    trace,
    transposed,
)
from unihpe_kernels.small_linalg.polar import polar, polar_cotangent


@dataclass
class _Pair:
    """One chunk of poses, centred."""

    x: Tensor  # [J, 3, n]
    y: Tensor  # [J, 3, n]
    x_mean: Tensor  # [3, n]
    y_mean: Tensor  # [3, n]
    w: Tensor | None  # [J, 1, n]; None: all 1
    total: Tensor  # [n] or [], the sum of the weights; 1 where that is 0

    def weighted(self, vectors: Tensor) -> Tensor:
        """w times [J, 3, n], the same tensor where there are no weights."""
        return vectors if self.w is None else vectors * self.w


@dataclass
class _Aligned:
    """The saved similarity put to one chunk of poses, for the backward passes."""

    pair: _Pair
    r: Tensor  # [3, 3, n] column first
    s: Tensor  # [n]
    x: Tensor  # x' [J, 3, n]
    k: Tensor  # K' [3, 3, n]; 0 where the prediction has no variance
    inverse_variance: Tensor  # [n]; 0 where the prediction has no variance


def pa_mpjpe_forward(pred: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[N, J, 3] twice, [N, J] -> error [N], rotation [N, 3, 3], scale [N], inverse variance [N]."""
    samples, dtype = pred.shape[0], compute_dtype(pred, target, weights)
    error = pred.new_empty((samples,), dtype=dtype)
    rotation = pred.new_empty((samples, 3, 3), dtype=dtype)
    scale = pred.new_empty((samples,), dtype=dtype)
    inverse_variance = torch.empty_like(scale)
    for part in chunks(samples, pred.device):
        pair = _pair(pred, target, weights, part)
        r, s, inverse_variance[part] = _align(pair, scaled=True)
        length = _squared_lengths(matvec(r * -s, pair.x, pair.y)).sqrt_()
        if pair.w is not None:
            length.mul_(pair.w[:, 0])
        error[part] = length.sum(0).div_(pair.total)
        rotation[part] = _from_matrix_lanes(r)
        scale[part] = s
    return error, rotation, scale, inverse_variance


def procrustes_forward(
    pred: Tensor, target: Tensor, weights: Tensor | None, scaled: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[N, J, 3] twice, [N, J] -> rotation [N, 3, 3], scale [N], translation [N, 3], inverse variance [N]."""
    samples, dtype = pred.shape[0], compute_dtype(pred, target, weights)
    rotation = pred.new_empty((samples, 3, 3), dtype=dtype)
    scale = pred.new_empty((samples,), dtype=dtype)
    translation = pred.new_empty((samples, 3), dtype=dtype)
    inverse_variance = torch.empty_like(scale)
    for part in chunks(samples, pred.device):
        pair = _pair(pred, target, weights, part)
        r, s, inverse_variance[part] = _align(pair, scaled)
        rotation[part] = _from_matrix_lanes(r)
        scale[part] = s
        translation[part] = from_lanes(matvec(r * -s, pair.x_mean, pair.y_mean))
    return rotation, scale, translation, inverse_variance


def pa_mpjpe_backward(
    grad: Tensor,
    pred: Tensor,
    target: Tensor,
    weights: Tensor | None,
    rotation: Tensor,
    scale: Tensor,
    inverse_variance: Tensor,
    needs: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """Gradient of the errors [N] -> gradients of pred and target, [N, J, 3]; empty [0] where not needed."""
    d_pred, d_target = _empty_gradients(pred, target, needs)
    for part in chunks(pred.shape[0], pred.device):
        a = _aligned(pred, target, weights, rotation, scale, inverse_variance, part)
        pull = torch.addcmul(a.pair.y, a.x, a.s, value=-1)  # Y - s R X - t, then minus the gradient of that
        pull.mul_((_inverse_lengths(pull, a) * (grad[part].to(pull.dtype) / a.pair.total))[:, None])
        pull = a.pair.weighted(pull)
        moment = outer_sum(pull, a.x)
        change, shrink = _through_alignment(a, -a.s * axial(moment), -trace(moment))
        mean = a.pair.weighted((pull.sum(0) / a.pair.total)[None])  # through the translation
        if needs[0]:
            d_x = matvec(transposed(change), a.pair.y).addcmul_(a.x, shrink, value=-1)
            d_x = a.pair.weighted(d_x).addcmul_(mean - pull, a.s)
            d_pred[part] = _from_pose_lanes(matvec(transposed(a.r), d_x))
        if needs[1]:
            d_target[part] = _from_pose_lanes(a.pair.weighted(matvec(change, a.x)).add_(pull).sub_(mean))
    return d_pred, d_target


def procrustes_backward(
    d_rotation: Tensor,
    d_scale: Tensor,
    d_translation: Tensor,
    pred: Tensor,
    target: Tensor,
    weights: Tensor | None,
    rotation: Tensor,
    scale: Tensor,
    inverse_variance: Tensor,
    scaled: bool,
    needs: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """Gradients of the similarities -> gradients of pred and target, [N, J, 3]; empty [0] where not needed."""
    d_pred, d_target = _empty_gradients(pred, target, needs)
    for part in chunks(pred.shape[0], pred.device):
        a = _aligned(pred, target, weights, rotation, scale, inverse_variance, part)
        x_mean = matvec(a.r, a.pair.x_mean)
        d_t = to_lanes(d_translation[part], a.s.dtype)  # t = mean(y) - s R mean(x)
        moment = outer_sum(_matrix_lanes(d_rotation[part], a.s.dtype), a.r)
        moment.addcmul_(x_mean[:, None], d_t * a.s, value=-1)
        d_s = d_scale[part] - dot(d_t, x_mean) if scaled else torch.zeros_like(a.s)
        change, shrink = _through_alignment(a, axial(moment), d_s)
        d_mean = (d_t / a.pair.total).expand_as(a.x)
        if needs[0]:
            d_x = matvec(transposed(change), a.pair.y).addcmul_(a.x, shrink, value=-1).addcmul_(d_mean, a.s, value=-1)
            d_pred[part] = _from_pose_lanes(matvec(transposed(a.r), a.pair.weighted(d_x)))
        if needs[1]:
            d_target[part] = _from_pose_lanes(a.pair.weighted(matvec(change, a.x).add_(d_mean)))
    return d_pred, d_target


def _pair(pred: Tensor, target: Tensor, weights: Tensor | None, part: slice) -> _Pair:
    dtype, joints = compute_dtype(pred, target, weights), pred.shape[1]
    x = to_lanes(pred[part].flatten(1), dtype).view(joints, 3, -1)
    y = to_lanes(target[part].flatten(1), dtype).view(joints, 3, -1)
    w = None
    total = x.new_full((), joints)
    if weights is not None:
        w = to_lanes(weights[part], dtype).clamp_min_(0)[:, None]
        missing = w == 0
        x.masked_fill_(missing, 0)
        y.masked_fill_(missing, 0)
        total = w.sum((0, 1))
        total += total == 0
    x_mean, y_mean = ((points if w is None else points * w).sum(0).div_(total) for points in (x, y))
    return _Pair(x.sub_(x_mean), y.sub_(y_mean), x_mean, y_mean, w, total)


def _align(pair: _Pair, scaled: bool) -> tuple[Tensor, Tensor, Tensor]:
    """R [3, 3, n] column first, s [n] and 1 / sum w |x|^2 [n]; I, 1 and 0 where the prediction has no variance."""
    squares = _squared_lengths(pair.x)
    variance = (squares if pair.w is None else squares.mul_(pair.w[:, 0])).sum(0)
    # coordinates of equal joints differ by rounding of their mean
    rounding = dot(pair.x_mean, pair.x_mean).mul_(pair.total).mul_((8 * torch.finfo(variance.dtype).eps) ** 2)
    live = (variance > rounding).to(variance.dtype)
    inverse_variance = live / (variance + (1 - live))
    r, maximum = polar(outer_sum(pair.y, pair.weighted(pair.x)).mul_(live))
    s = (maximum * inverse_variance).add_(1 - live) if scaled else torch.ones_like(maximum)
    return r, s, inverse_variance


def _aligned(
    pred: Tensor,
    target: Tensor,
    weights: Tensor | None,
    rotation: Tensor,
    scale: Tensor,
    inverse_variance: Tensor,
    part: slice,
) -> _Aligned:
    pair = _pair(pred, target, weights, part)
    r = _matrix_lanes(rotation[part], pair.x.dtype)
    x = matvec(r, pair.x)
    k = outer_sum(pair.y, pair.weighted(x)).mul_(inverse_variance[part] > 0)
    return _Aligned(pair, r, scale[part], x, k, inverse_variance[part])


def _through_alignment(a: _Aligned, d_turn: Tensor, d_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a turn [3, n] of R and of s [n] -> what they put on K' [3, 3, n], and on -|x'|^2 w / 2 [n]."""
    change = skew(polar_cotangent(a.k, d_turn))
    shrink = d_scale * a.inverse_variance  # s = trace(K') / variance
    for i in range(3):
        change[i, i] = shrink
    return change, shrink * a.s * 2


def _inverse_lengths(residual: Tensor, a: _Aligned) -> Tensor:
    """1 / |residual| [J, n]. A residual below rounding of the coordinates has no direction: there it is 0."""
    squares = _squared_lengths(residual)
    # at the optimum the target's variance is the explained part, s trace(K'), and the residual's
    size = (a.s * trace(a.k)).div_(a.pair.total).add_(squares.mean(0)).add_(dot(a.pair.y_mean, a.pair.y_mean))
    limits = torch.finfo(size.dtype)
    smallest = size.mul_((16 * limits.eps) ** 2).add_(limits.tiny)
    relative = torch.nn.functional.threshold(squares.div_(smallest), 1.0, torch.inf)
    return relative.mul_(smallest).rsqrt_()


def _squared_lengths(vectors: Tensor) -> Tensor:
    """[J, 3, n] -> [J, n]."""
    x, y, z = vectors.unbind(1)
    return (x * x).addcmul_(y, y).addcmul_(z, z)


def _empty_gradients(pred: Tensor, target: Tensor, needs: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
    d_pred, d_target = (
        points.new_empty(points.shape if needed else (0,)) for points, needed in zip((pred, target), needs, strict=True)
    )
    return d_pred, d_target


def _matrix_lanes(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """[n, 3, 3] -> [3, 3, n] column first."""
    return transposed(to_lanes(matrices.flatten(1), dtype).view(3, 3, -1))


def _from_matrix_lanes(lanes: Tensor) -> Tensor:
    """[3, 3, n] column first -> [n, 3, 3]."""
    return from_lanes(transposed(lanes).flatten(0, 1)).view(-1, 3, 3)


def _from_pose_lanes(lanes: Tensor) -> Tensor:
    """[J, 3, n] -> [n, J, 3]."""
    return from_lanes(lanes.flatten(0, 1)).view(-1, lanes.shape[0], 3)
