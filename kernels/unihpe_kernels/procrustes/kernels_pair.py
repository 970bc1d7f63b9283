# A Triton tuple grows by `+`, which changes its type.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,misc,index,operator"
"""A pair of poses in registers, and the sums over its joints: what the kernels of this folder call.

Letters: x, y the centred prediction and target; w the weights; K = sum w y x^T; R, s, t the similarity. A point is
three tensors [SHARE, LANES]: SHARE threads share a pose and take its joints in turn, one a step, so that x is a tuple
of 3 * steps such tensors. What belongs to a pose is a tensor [LANES], which its threads work out alike. Matrices are
tuples of nine tensors, row by row.
"""

import triton
import triton.language as tl

from unihpe_kernels.small_linalg.lanes_kernels import load_rows, store_rows
from unihpe_kernels.small_linalg.polar_kernels import polar, polar_cotangent

_EPS = tl.constexpr(2.0**-23)
TINY = tl.constexpr(2.0**-126)


@triton.constexpr_function
def steps_of(joints, share):
    return -(-joints // share)


@triton.jit
def _load(
    points, first, n,
    WIDTH: tl.constexpr, WHOLE: tl.constexpr, JOINTS: tl.constexpr, LANES: tl.constexpr, SHARE: tl.constexpr,
):  # fmt: skip
    """WIDTH numbers a joint: a tuple of WIDTH * steps tensors [SHARE, LANES], 0 beyond the last joint and pose."""
    entries = ()
    if SHARE == 1:
        rows = load_rows(points, first, n, WIDTH * JOINTS, LANES, WHOLE)
        for i in tl.static_range(WIDTH * JOINTS):
            entries = entries + (rows[i][None, :],)
    else:
        pose = first + tl.arange(0, LANES)[None, :]
        for step in tl.static_range(steps_of(JOINTS, SHARE)):
            joint = step * SHARE + tl.arange(0, SHARE)[:, None]
            places = points + (pose * JOINTS + joint) * WIDTH
            for i in tl.static_range(WIDTH):
                number = tl.load(places + i, mask=(pose < n) & (joint < JOINTS), other=0)
                entries = entries + (number.to(tl.float32),)
    return entries


@triton.jit
def store_points(
    points, entries, first, n,
    WHOLE: tl.constexpr, JOINTS: tl.constexpr, LANES: tl.constexpr, SHARE: tl.constexpr,
):  # fmt: skip
    """Write a pose [N, JOINTS, 3] in the dtype of `points`."""
    if SHARE == 1:
        rows = ()
        for i in tl.static_range(3 * JOINTS):
            rows = rows + (tl.reshape(entries[i], [LANES]),)
        store_rows(points, rows, first, n, 3 * JOINTS, LANES, WHOLE)
    else:
        pose = first + tl.arange(0, LANES)[None, :]
        for step in tl.static_range(steps_of(JOINTS, SHARE)):
            joint = step * SHARE + tl.arange(0, SHARE)[:, None]
            places = points + (pose * JOINTS + joint) * 3
            for i in tl.static_range(3):
                number = entries[3 * step + i].to(points.dtype.element_ty)
                tl.store(places + i, number, mask=(pose < n) & (joint < JOINTS))


@triton.jit
def weighted(value, w, step: tl.constexpr, WEIGHTED: tl.constexpr):
    """w times `value` of a step; w is not looked at unless WEIGHTED."""
    if WEIGHTED:
        value = value * w[step]
    return value


@triton.jit
def load_pair(
    pred, target, weights, first, n,
    WHOLE: tl.constexpr, WEIGHTED: tl.constexpr, JOINTS: tl.constexpr, LANES: tl.constexpr, SHARE: tl.constexpr,
):  # fmt: skip
    """x, y, w, the means of prediction and target, and the sum of the weights, 1 where that is 0, with its inverse."""
    x = _load(pred, first, n, 3, WHOLE, JOINTS, LANES, SHARE)
    y = _load(target, first, n, 3, WHOLE, JOINTS, LANES, SHARE)
    if WEIGHTED:
        w = ()
        loaded = _load(weights, first, n, 1, WHOLE, JOINTS, LANES, SHARE)
        total = tl.zeros([SHARE, LANES], tl.float32)
        for step in tl.static_range(steps_of(JOINTS, SHARE)):
            weight = tl.where(loaded[step] < 0, 0.0, loaded[step])
            w = w + (weight,)
            total += weight
        total = tl.sum(total, 0)
        total = tl.where(total == 0, 1.0, total)
        inverse_total = 1 / total
    else:
        w = ()
        total = tl.full([LANES], JOINTS, tl.float32)
        inverse_total = tl.full([LANES], 1 / JOINTS, tl.float32)
    x, x_mean = _centre(x, w, inverse_total, WEIGHTED, JOINTS, LANES, SHARE)
    y, y_mean = _centre(y, w, inverse_total, WEIGHTED, JOINTS, LANES, SHARE)
    return x, y, w, x_mean, y_mean, total, inverse_total


@triton.jit
def _centre(
    points, w, inverse_total, WEIGHTED: tl.constexpr, JOINTS: tl.constexpr, LANES: tl.constexpr, SHARE: tl.constexpr
):
    """Points minus their mean, and that mean; 0 instead of joints beyond the last."""
    means = ()
    for i in tl.static_range(3):
        total = tl.zeros([SHARE, LANES], tl.float32)
        for step in tl.static_range(steps_of(JOINTS, SHARE)):
            if WEIGHTED:  # a missing joint may be NaN
                total += w[step] * tl.where(w[step] == 0, 0.0, points[3 * step + i])
            else:
                total += points[3 * step + i]
        means = means + (tl.sum(total, 0) * inverse_total,)
    centred = ()
    for step in tl.static_range(steps_of(JOINTS, SHARE)):
        for i in tl.static_range(3):
            point = points[3 * step + i] - means[i][None, :]
            if WEIGHTED:
                point = tl.where(w[step] == 0, 0.0, point)
            elif (step + 1) * SHARE > JOINTS:
                point = tl.where(step * SHARE + tl.arange(0, SHARE)[:, None] < JOINTS, point, 0.0)
            centred = centred + (point,)
    return centred, means


@triton.jit
def moments(
    x, y, w, x_mean, total,
    WEIGHTED: tl.constexpr, JOINTS: tl.constexpr, LANES: tl.constexpr, SHARE: tl.constexpr,
):  # fmt: skip
    """K and 1 / sum w |x|^2; both 0 where the prediction has no variance."""
    variance = tl.zeros([SHARE, LANES], tl.float32)
    k = ()
    for _ in tl.static_range(9):
        k = k + (variance,)
    for step in tl.static_range(steps_of(JOINTS, SHARE)):
        wx = ()
        for i in tl.static_range(3):
            wx = wx + (weighted(x[3 * step + i], w, step, WEIGHTED),)
            variance += wx[i] * x[3 * step + i]
        sums = ()
        for i in tl.static_range(3):
            for j in tl.static_range(3):
                sums = sums + (k[3 * i + j] + y[3 * step + i] * wx[j],)
        k = sums
    variance = tl.sum(variance, 0)
    # coordinates of equal joints differ from their mean by its rounding
    square = x_mean[0] * x_mean[0] + x_mean[1] * x_mean[1] + x_mean[2] * x_mean[2]
    live = tl.where(variance > square * total * (8 * _EPS * 8 * _EPS), 1.0, 0.0)
    sums = ()
    for i in tl.static_range(9):
        sums = sums + (tl.sum(k[i], 0) * live,)  # a product: NaN stays
    return sums, live / (variance + (1 - live))


@triton.jit
def align(k, inverse_variance):
    """R, trace(R^T K) and s; I, 0 and 1 where the prediction has no variance."""
    r, maximum = polar(k)
    return r, maximum, maximum * inverse_variance + tl.where(inverse_variance == 0, 1.0, 0.0)


@triton.jit
def product_transposed(a, b):
    """A B^T."""
    out = ()
    for i in tl.static_range(3):
        for j in tl.static_range(3):
            out = out + (a[3 * i] * b[3 * j] + a[3 * i + 1] * b[3 * j + 1] + a[3 * i + 2] * b[3 * j + 2],)
    return out


@triton.jit
def turn_of_covariance(k, r, h):
    """z with [z]x R the gradient in K of a loss that changes by h . w when R becomes (I + [w]x) R."""
    turned = product_transposed(k, r)
    return polar_cotangent(turned[0], turned[1], turned[2], turned[4], turned[5], turned[8], h[0], h[1], h[2])


@triton.jit
def cross(a, b, i: tl.constexpr):
    """Entry i of a x b."""
    return a[(i + 1) % 3] * b[(i + 2) % 3] - a[(i + 2) % 3] * b[(i + 1) % 3]


@triton.jit
def matvec(m, base: tl.constexpr, stride: tl.constexpr, points, step: tl.constexpr):
    """Entries base, base + stride, .. of M (of a pose) times the point of a step."""
    return (
        m[base][None, :] * points[3 * step]
        + m[base + stride][None, :] * points[3 * step + 1]
        + m[base + 2 * stride][None, :] * points[3 * step + 2]
    )
