"""The torch backend of `procrustes` and `pa_mpjpe`, in lanes (see small_linalg/lanes.py).

Letters: J joints, n lanes; x, y the centred prediction and target [J, 3, n]; w the weights [J, 1, n]; K = sum w y x^T;
rotation R, scale s = trace(R^T K) / sum w |x|^2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unihpe_kernels.small_linalg.lanes import (
    axial,
    compute_dtype,
    dot,
    for_each_chunk,
    from_lanes,
    matvec,
    outer_sum,
    skew_plus,
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
    inverse_variance: Tensor  # [n], 1 / sum w |x|^2; 0 where the prediction has no variance
    k: Tensor  # [3, 3, n] column first; 0 where the prediction has no variance

    def weighted(self, vectors: Tensor) -> Tensor:
        """w times [J, 3, n] or [J, n]; the same tensor where there are no weights."""
        if self.w is None:
            return vectors
        return vectors * (self.w if vectors.dim() == 3 else self.w[:, 0])


def pa_mpjpe_forward(
    pred: Tensor, target: Tensor, weights: Tensor | None, needs: tuple[bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """[N, J, 3] twice, [N, J] -> error [N] and its gradients in pred and target, [N, J, 3]; [0] where not needed."""
    error = pred.new_empty(pred.shape[0], dtype=compute_dtype(pred, target, weights))
    d_pred, d_target = empty_gradients(pred, target, needs, error.dtype)

    def work(part: slice) -> None:
        pair = _pair(pred, target, weights, part)
        r, maximum, s = _align(pair, scaled=True)
        turned = matvec(transposed(r), pair.y)  # all that follows is seen in the prediction's frame
        residual = torch.addcmul(turned, pair.x, s, value=-1)
        squares = _squared_lengths(residual)
        lengths = squares.sqrt()
        error[part] = pair.weighted(lengths).sum(0).div_(pair.total)
        if not any(needs):
            return
        pull = residual.mul_(pair.weighted(_inverse_lengths(squares, lengths, maximum * s, pair))[:, None])
        mean = pull.sum(0).div_(pair.total)  # of what acts through the translation
        moment = outer_sum(pull, pair.x)
        change, shrink = _through_alignment(pair, r, s, axial(moment).mul_(-s), -trace(moment))
        if needs[0]:
            d_x = matvec(transposed(change), turned, mean * s).addcmul_(pair.x, shrink, value=-1)
            d_pred[part] = _from_pose_lanes(pair.weighted(d_x).addcmul_(pull, s, value=-1))
        if needs[1]:
            d_y = pair.weighted(matvec(change, pair.x, -mean)).add_(pull)
            d_target[part] = _from_pose_lanes(matvec(r, d_y))

    for_each_chunk(pred.shape[0], pred.device, work)
    return error, d_pred, d_target


def pa_mpjpe_backward(grad: Tensor, gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """Gradient of the errors [N] times their saved gradient [N, J, 3], in `dtype`."""
    return (gradient * grad[:, None, None]).to(dtype)


def procrustes_forward(
    pred: Tensor, target: Tensor, weights: Tensor | None, scaled: bool, whole: bool
) -> tuple[Tensor, ...]:
    """[N, J, 3] twice, [N, J] -> rotation [N, 3, 3], scale [N], translation [N, 3]; if `whole`, also the aligned
    predictions [N, J, 3], the distances of their joints [N, J], 0 where the weight is, and the mean of those [N]."""
    outputs = empty_alignment(pred, whole, compute_dtype(pred, target, weights))
    rotation, scale, translation, *others = outputs

    def work(part: slice) -> None:
        pair = _pair(pred, target, weights, part)
        r, _, s = _align(pair, scaled)
        rotation[part] = from_lanes(transposed(r).flatten(0, 1)).view(-1, 3, 3)
        scale[part] = s
        translation[part] = from_lanes(matvec(r * -s, pair.x_mean, pair.y_mean))
        if not others:
            return
        aligned, joint_errors, error = others
        x = pair.x
        if weights is not None:  # those that are left out are aligned, too
            x = to_lanes(pred[part].flatten(1), s.dtype).view_as(x) - pair.x_mean
        aligned[part] = _from_pose_lanes(matvec(r, x * s, pair.y_mean))
        lengths = _squared_lengths(matvec(r, pair.x * s) - pair.y).sqrt_()
        if pair.w is not None:
            lengths.masked_fill_(pair.w[:, 0] == 0, 0)
        joint_errors[part] = from_lanes(lengths)
        error[part] = pair.weighted(lengths).sum(0).div_(pair.total)

    for_each_chunk(len(pred), pred.device, work)
    return outputs


def procrustes_backward(
    d_rotation: Tensor,
    d_scale: Tensor,
    d_translation: Tensor,
    pred: Tensor,
    target: Tensor,
    weights: Tensor | None,
    rotation: Tensor,
    scale: Tensor,
    scaled: bool,
    needs: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """Gradients of the similarities -> gradients in pred and target, [N, J, 3]; [0] where not needed."""
    d_pred, d_target = empty_gradients(pred, target, needs)

    def work(part: slice) -> None:
        pair = _pair(pred, target, weights, part)
        r, s = _matrix_lanes(rotation[part], pair.x.dtype), scale[part]
        back = transposed(r)  # to the prediction's frame
        d_t = matvec(back, to_lanes(d_translation[part], s.dtype))  # t = mean(Y) - s R mean(X)
        moment = matvec(back, _matrix_lanes(d_rotation[part], s.dtype))
        moment.addcmul_(pair.x_mean[:, None], d_t * s, value=-1)
        d_s = d_scale[part] - dot(d_t, pair.x_mean) if scaled else torch.zeros_like(s)
        change, shrink = _through_alignment(pair, r, s, axial(moment), d_s)
        d_mean = d_t / pair.total
        if needs[0]:
            d_x = matvec(transposed(change), matvec(back, pair.y), d_mean * -s)
            d_pred[part] = _from_pose_lanes(pair.weighted(d_x.addcmul_(pair.x, shrink, value=-1)))
        if needs[1]:
            d_target[part] = _from_pose_lanes(matvec(r, pair.weighted(matvec(change, pair.x, d_mean))))

    for_each_chunk(pred.shape[0], pred.device, work)
    return d_pred, d_target


def _pair(pred: Tensor, target: Tensor, weights: Tensor | None, part: slice) -> _Pair:
    dtype, joints = compute_dtype(pred, target, weights), pred.shape[1]
    x = to_lanes(pred[part].flatten(1), dtype).view(joints, 3, -1)
    y = to_lanes(target[part].flatten(1), dtype).view(joints, 3, -1)
    w = None
    total = x.new_full((), joints)
    if weights is not None:
        w = to_lanes(weights[part], dtype)[:, None]
        missing = w == 0
        x.masked_fill_(missing, 0)
        y.masked_fill_(missing, 0)
        total = w.sum((0, 1))
        total += total == 0
    x_mean, y_mean = ((points if w is None else points * w).sum(0).div_(total) for points in (x, y))
    x.sub_(x_mean)
    y.sub_(y_mean)
    wx = x if w is None else x * w
    squares = _squared_lengths(x)
    variance = (squares if w is None else squares.mul_(w[:, 0])).sum(0)
    # coordinates of equal joints differ from their mean by its rounding
    rounding = dot(x_mean, x_mean).mul_(total).mul_((8 * torch.finfo(dtype).eps) ** 2)
    live = (variance > rounding).to(dtype)
    return _Pair(x, y, x_mean, y_mean, w, total, live / (variance + (1 - live)), outer_sum(y, wx).mul_(live).add_(0))


def _align(pair: _Pair, scaled: bool) -> tuple[Tensor, Tensor, Tensor]:
    """R [3, 3, n] column first, trace(R^T K) [n] and s [n]; I, 0 and 1 where the prediction has no variance."""
    r, maximum = polar(pair.k)
    if not scaled:
        return r, maximum, torch.ones_like(maximum)
    return r, maximum, (maximum * pair.inverse_variance).add_(pair.inverse_variance == 0)


def _through_alignment(pair: _Pair, r: Tensor, s: Tensor, d_turn: Tensor, d_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients in a turn of R [3, n] and in s [n] -> gradients in R^T K [3, 3, n] and in -sum w |x|^2 / 2 [n]."""
    shrink = d_scale * pair.inverse_variance
    change = skew_plus(polar_cotangent(matvec(transposed(r), pair.k), d_turn), shrink)
    return change, (shrink * s).mul_(2)


def _inverse_lengths(squares: Tensor, lengths: Tensor, explained: Tensor, pair: _Pair) -> Tensor:
    """1 / |residual| over the total weight [J, n], or 0 where that length is below rounding of the coordinates: such a
    residual has no direction.

    explained: s trace(R^T K) [n]; the target's variance is this and the residual's.
    """
    size = (explained / pair.total).add_(squares.mean(0)).add_(dot(pair.y_mean, pair.y_mean))
    limits = torch.finfo(size.dtype)
    smallest = size.mul_((16 * limits.eps) ** 2).add_(limits.tiny)
    return pair.total.reciprocal() / torch.where(squares > smallest, lengths, torch.inf)


def _squared_lengths(vectors: Tensor) -> Tensor:
    """[J, 3, n] -> [J, n]."""
    x, y, z = vectors.unbind(1)
    return (x * x).addcmul_(y, y).addcmul_(z, z)


def empty_alignment(pred: Tensor, whole: bool, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Room for what `procrustes_forward` returns."""
    return tuple(pred.new_empty(shape, dtype=dtype) for shape in alignment_shapes(pred, whole))


def alignment_shapes(pred: Tensor, whole: bool) -> list[tuple[int, ...]]:
    samples, joints, _ = pred.shape
    return [(samples, 3, 3), (samples,), (samples, 3), *[(samples, joints, 3), (samples, joints), (samples,)] * whole]


def empty_gradients(
    pred: Tensor, target: Tensor, needs: tuple[bool, bool], dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    d_pred, d_target = (
        points.new_empty(points.shape if needed else (0,), dtype=dtype)
        for points, needed in zip((pred, target), needs, strict=True)
    )
    return d_pred, d_target


def _matrix_lanes(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """[n, 3, 3] -> [3, 3, n] column first."""
    return transposed(to_lanes(matrices.flatten(1), dtype).view(3, 3, -1))


def _from_pose_lanes(lanes: Tensor) -> Tensor:
    """[J, 3, n] -> [n, J, 3]."""
    return from_lanes(lanes.flatten(0, 1)).view(-1, lanes.shape[0], 3)
