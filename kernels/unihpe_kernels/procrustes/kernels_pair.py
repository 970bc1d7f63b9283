# A Triton tuple grows by `+`, which changes its type.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,misc,index,operator"
"""A pair of poses in registers, and the sums over its joints: what the kernels of this folder call.

Letters: x, y the centred prediction and target; w the weights, an empty tuple without; K = sum w y x^T; R, s, t the
similarity. SHAPE is (joints, lanes, share): a program has `lanes` poses, and `share` neighbouring threads split the
joints of one, `steps` each. Every tensor is [1, lanes * share]. x is a tuple of 3 * steps of them; of what belongs to a
pose its threads all have the same. Matrices are tuples of nine tensors, row by row.
"""

import triton
import triton.language as tl

from unihpe_kernels.small_linalg.lanes_kernels import load_rows, store_rows
from unihpe_kernels.small_linalg.polar_kernels import polar, polar_cotangent

_EPS = tl.constexpr(2.0**-23)
TINY = tl.constexpr(2.0**-126)


@triton.constexpr_function
def steps_of(shape):
    joints, _, share = shape
    steps = -(-joints // share)
    if steps % 16 == 0 and steps * share != joints:
        steps += 1  # the numbers of neighbouring threads would begin in two banks of shared memory
    return steps


@triton.constexpr_function
def threads_of(shape):
    _, lanes, share = shape
    return lanes * share


@triton.jit
def load_joints(points, first, n, WHOLE: tl.constexpr, WIDTH: tl.constexpr, SHAPE: tl.constexpr):
    """WIDTH numbers a joint, 0 beyond the last joint and pose."""
    return load_rows(points, first, n, WHOLE, SHAPE[1], WIDTH * SHAPE[0], SHAPE[2], WIDTH * steps_of(SHAPE))


@triton.jit
def store_joints(points, entries, first, n, WHOLE: tl.constexpr, WIDTH: tl.constexpr, SHAPE: tl.constexpr):
    """Write WIDTH numbers a joint, [N, joints, WIDTH], in the dtype of `points`."""
    store_rows(points, entries, first, n, WHOLE, SHAPE[1], WIDTH * SHAPE[0], SHAPE[2], WIDTH * steps_of(SHAPE))


@triton.jit
def store_of_poses(rows, entries, first, n, WHOLE: tl.constexpr, WIDTH: tl.constexpr, SHAPE: tl.constexpr):
    """Write WIDTH numbers a pose, [N, WIDTH]."""
    # of the threads that share a pose, all but the first would write beyond its row
    store_rows(rows, entries, first, n, WHOLE, SHAPE[1], WIDTH, SHAPE[2], WIDTH)


@triton.jit
def pose_rows(first, SHAPE: tl.constexpr):
    """The pose that a thread works for."""
    return first + tl.arange(0, threads_of(SHAPE))[None, :] // SHAPE[2]


@triton.jit
def over_joints(part, SHAPE: tl.constexpr):
    """The sum of what the threads of a pose have, for each of them."""
    if SHAPE[2] > 1:
        total = tl.sum(tl.reshape(part, [SHAPE[1], SHAPE[2]]), 1, keep_dims=True)
        part = tl.reshape(tl.broadcast_to(total, [SHAPE[1], SHAPE[2]]), [1, threads_of(SHAPE)])
    return part


@triton.jit
def weighted(value, w, step: tl.constexpr):
    """w times `value` of a step."""
    if len(w) > 0:
        value = value * w[step]
    return value


@triton.jit
def load_pair(pred, target, weights, first, n, WHOLE: tl.constexpr, SHAPE: tl.constexpr):
    """x, y, w, the means of prediction and target, and the sum of the weights, 1 where that is 0, with its inverse."""
    THREADS: tl.constexpr = threads_of(SHAPE)
    x = load_joints(pred, first, n, WHOLE, 3, SHAPE)
    y = load_joints(target, first, n, WHOLE, 3, SHAPE)
    w = ()
    if weights is not None:
        total = tl.zeros([1, THREADS], tl.float32)
        loaded = load_joints(weights, first, n, WHOLE, 1, SHAPE)
        for step in tl.static_range(steps_of(SHAPE)):
            weight = tl.where(loaded[step] < 0, 0.0, loaded[step])
            w = w + (weight,)
            total += weight
        total = over_joints(total, SHAPE)
        total = tl.where(total == 0, 1.0, total)
        inverse_total = 1 / total
    else:
        total = tl.full([1, THREADS], SHAPE[0], tl.float32)
        inverse_total = tl.full([1, THREADS], 1 / SHAPE[0], tl.float32)
    x, x_mean = _centre(x, w, inverse_total, SHAPE)
    y, y_mean = _centre(y, w, inverse_total, SHAPE)
    return x, y, w, x_mean, y_mean, total, inverse_total


@triton.jit
def _centre(points, w, inverse_total, SHAPE: tl.constexpr):
    """Points minus their mean, and that mean; 0 instead of joints beyond the last."""
    STEPS: tl.constexpr = steps_of(SHAPE)
    means = ()
    for i in tl.static_range(3):
        total = tl.zeros_like(inverse_total)
        for step in tl.static_range(STEPS):
            if len(w) > 0:  # a missing joint may be NaN
                total += w[step] * tl.where(w[step] == 0, 0.0, points[3 * step + i])
            else:
                total += points[3 * step + i]
        means = means + (over_joints(total, SHAPE) * inverse_total,)
    centred = ()
    part = tl.arange(0, threads_of(SHAPE))[None, :] % SHAPE[2]
    for step in tl.static_range(STEPS):
        for i in tl.static_range(3):
            point = points[3 * step + i] - means[i]
            if len(w) > 0:
                point = tl.where(w[step] == 0, 0.0, point)
            elif (SHAPE[2] - 1) * STEPS + step >= SHAPE[0]:
                point = tl.where(part * STEPS + step < SHAPE[0], point, 0.0)
            centred = centred + (point,)
    return centred, means


@triton.jit
def moments(x, y, w, x_mean, total, SHAPE: tl.constexpr):
    """K and 1 / sum w |x|^2; both 0 where the prediction has no variance."""
    variance = tl.zeros_like(total)
    k = ()
    for _ in tl.static_range(9):
        k = k + (variance,)
    for step in tl.static_range(steps_of(SHAPE)):
        wx = ()
        for i in tl.static_range(3):
            wx = wx + (weighted(x[3 * step + i], w, step),)
            variance += wx[i] * x[3 * step + i]
        sums = ()
        for i in tl.static_range(3):
            for j in tl.static_range(3):
                sums = sums + (k[3 * i + j] + y[3 * step + i] * wx[j],)
        k = sums
    variance = over_joints(variance, SHAPE)
    # coordinates of equal joints differ from their mean by its rounding
    square = x_mean[0] * x_mean[0] + x_mean[1] * x_mean[1] + x_mean[2] * x_mean[2]
    live = tl.where(variance > square * total * (8 * _EPS * 8 * _EPS), 1.0, 0.0)
    sums = ()
    for i in tl.static_range(9):
        # a product: NaN stays; a sum: no -0, of which the rotation would not be I
        sums = sums + (over_joints(k[i], SHAPE) * live + 0.0,)
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
        m[base] * points[3 * step]
        + m[base + stride] * points[3 * step + 1]
        + m[base + 2 * stride] * points[3 * step + 2]
    )
