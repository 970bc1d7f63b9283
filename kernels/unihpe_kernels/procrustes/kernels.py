# A Triton tuple grows by `+`, which changes its type.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,misc,index,operator"
"""The kernels of `procrustes` and `pa_mpjpe`: every pose pair is read once and stays in registers.

Letters as in `kernels_pair`; float32 arithmetic, tensors contiguous.
"""

import triton
import triton.language as tl

from unihpe_kernels.procrustes.kernels_pair import (
    TINY,
    align,
    cross,
    load_joints,
    load_pair,
    matvec,
    moments,
    over_joints,
    pose_rows,
    product_transposed,
    steps_of,
    store_joints,
    store_of_poses,
    threads_of,
    turn_of_covariance,
    weighted,
)
from unihpe_kernels.small_linalg.lanes_kernels import load_entries

_NO_DIRECTION = tl.constexpr((16 * 2.0**-23) ** 2)


@triton.jit(do_not_specialize=["block", "n"])
def pa_mpjpe_forward(
    pred,  # [N, J, 3], any floating dtype
    target,  # [N, J, 3]
    weights,  # [N, J], or None
    error,  # out, float32 [N]
    d_pred,  # out, float32 [N, J, 3], or None
    d_target,  # out, float32 [N, J, 3], or None
    block,  # the first of this launch
    n,
    WHOLE: tl.constexpr,
    SHAPE: tl.constexpr,
):
    STEPS: tl.constexpr = steps_of(SHAPE)
    first = (tl.program_id(0) + block).to(tl.int64) * SHAPE[1]
    x, y, w, x_mean, y_mean, total, inverse_total = load_pair(pred, target, weights, first, n, WHOLE, SHAPE)
    k, inverse_variance = moments(x, y, w, x_mean, total, SHAPE)
    r, maximum, s = align(k, inverse_variance)

    turned = ()  # R x
    residual = ()  # y - s R x
    squares = ()
    lengths = tl.zeros_like(s)
    variance = tl.zeros_like(s)  # of the residual
    for step in tl.static_range(STEPS):
        square = tl.zeros_like(s)
        for i in tl.static_range(3):
            point = matvec(r, 3 * i, 1, x, step)
            turned = turned + (point,)
            rest = y[3 * step + i] - s * point
            residual = residual + (rest,)
            square += rest * rest
        squares = squares + (square,)
        length = square * tl.rsqrt(tl.where(square < TINY, TINY, square))
        lengths += weighted(length, w, step)
        variance += weighted(square, w, step)
    store_of_poses(error, (over_joints(lengths, SHAPE) * inverse_total,), first, n, WHOLE, 1, SHAPE)

    if d_pred is not None or d_target is not None:
        # a residual below rounding of the coordinates has no direction
        size = (maximum * s + over_joints(variance, SHAPE)) * inverse_total
        size += y_mean[0] * y_mean[0] + y_mean[1] * y_mean[1] + y_mean[2] * y_mean[2]
        smallest = size * _NO_DIRECTION + TINY
        zero = tl.zeros_like(s)
        factors = ()  # pull = factor * residual, the gradient of the error in what is added to y
        pulls = (zero, zero, zero)
        turns = (zero, zero, zero)  # sum of pull x R x
        d_scale = zero  # minus the gradient in s
        for step in tl.static_range(STEPS):
            inverse = tl.rsqrt(tl.where(squares[step] <= smallest, float("inf"), squares[step]))
            factor = weighted(inverse, w, step) * inverse_total
            factors = factors + (factor,)
            pull = ()
            for i in tl.static_range(3):
                pull = pull + (factor * residual[3 * step + i],)
                d_scale += pull[i] * turned[3 * step + i]
            point = turned[3 * step : 3 * step + 3]
            pulls = (pulls[0] + pull[0], pulls[1] + pull[1], pulls[2] + pull[2])
            turns = (
                turns[0] + cross(pull, point, 0),
                turns[1] + cross(pull, point, 1),
                turns[2] + cross(pull, point, 2),
            )
        h = ()
        mean = ()  # of what acts through the translation
        for i in tl.static_range(3):
            h = h + (s * over_joints(turns[i], SHAPE),)
            mean = mean + (over_joints(pulls[i], SHAPE) * inverse_total,)
        z = turn_of_covariance(k, r, h)
        shrink = -over_joints(d_scale, SHAPE) * inverse_variance

        if d_pred is not None:
            gradient = ()
            for step in tl.static_range(STEPS):
                point = ()  # y; then R times the gradient
                for i in tl.static_range(3):
                    point = point + (residual[3 * step + i] + s * turned[3 * step + i],)
                whole = ()
                for i in tl.static_range(3):
                    part = (s * mean[i]) - cross(z, point, i)
                    part += shrink * (residual[3 * step + i] - s * turned[3 * step + i])
                    part = weighted(part, w, step)
                    whole = whole + (part - (s * factors[step]) * residual[3 * step + i],)
                for i in tl.static_range(3):
                    gradient = gradient + (matvec(r, i, 3, whole, 0),)
            store_joints(d_pred, gradient, first, n, WHOLE, 3, SHAPE)
        if d_target is not None:
            gradient = ()
            for step in tl.static_range(STEPS):
                point = turned[3 * step : 3 * step + 3]
                for i in tl.static_range(3):
                    part = cross(z, point, i) + (shrink * point[i] - mean[i])
                    pull = factors[step] * residual[3 * step + i]
                    gradient = gradient + (pull + weighted(part, w, step),)
            store_joints(d_target, gradient, first, n, WHOLE, 3, SHAPE)


@triton.jit(do_not_specialize=["block", "n"])
def procrustes_forward(
    pred,  # [N, J, 3], any floating dtype
    target,  # [N, J, 3]
    weights,  # [N, J], or None
    rotation,  # out, float32 [N, 3, 3]
    scale,  # out, float32 [N]
    translation,  # out, float32 [N, 3]
    aligned,  # out, float32 [N, J, 3], or None as the next two
    joint_errors,  # out, float32 [N, J]
    error,  # out, float32 [N]
    block,  # the first of this launch
    n,
    SCALED: tl.constexpr,
    WHOLE: tl.constexpr,
    SHAPE: tl.constexpr,
):
    first = (tl.program_id(0) + block).to(tl.int64) * SHAPE[1]
    x, y, w, x_mean, y_mean, total, inverse_total = load_pair(pred, target, weights, first, n, WHOLE, SHAPE)
    k, inverse_variance = moments(x, y, w, x_mean, total, SHAPE)
    r, _, s = align(k, inverse_variance)
    if not SCALED:
        s = tl.full([1, threads_of(SHAPE)], 1.0, tl.float32)
    t = ()
    for i in tl.static_range(3):
        t = t + (y_mean[i] - s * (r[3 * i] * x_mean[0] + r[3 * i + 1] * x_mean[1] + r[3 * i + 2] * x_mean[2]),)
    store_of_poses(rotation, r, first, n, WHOLE, 9, SHAPE)
    store_of_poses(scale, (s,), first, n, WHOLE, 1, SHAPE)
    store_of_poses(translation, t, first, n, WHOLE, 3, SHAPE)
    if aligned is not None:
        points = x
        if weights is not None:  # joints that are left out are aligned, too: they are read again
            points = ()
            raw = load_joints(pred, first, n, WHOLE, 3, SHAPE)
            for entry in tl.static_range(3 * steps_of(SHAPE)):
                points = points + (raw[entry] - x_mean[entry % 3],)
        moved = ()
        lengths = ()
        mean = tl.zeros_like(s)
        for step in tl.static_range(steps_of(SHAPE)):
            square = tl.zeros_like(s)
            for i in tl.static_range(3):
                rest = s * matvec(r, 3 * i, 1, x, step) - y[3 * step + i]
                square += rest * rest
                moved = moved + (s * matvec(r, 3 * i, 1, points, step) + y_mean[i],)
            length = square * tl.rsqrt(tl.where(square < TINY, TINY, square))
            lengths = lengths + (length,)
            mean += weighted(length, w, step)
        store_joints(aligned, moved, first, n, WHOLE, 3, SHAPE)
        store_joints(joint_errors, lengths, first, n, WHOLE, 1, SHAPE)
        store_of_poses(error, (over_joints(mean, SHAPE) * inverse_total,), first, n, WHOLE, 1, SHAPE)


@triton.jit(do_not_specialize=["block", "n"])
def procrustes_backward(
    d_rotation,  # float32 [N, 3, 3]
    d_scale,  # float32 [N]
    d_translation,  # float32 [N, 3]
    pred,  # [N, J, 3], any floating dtype
    target,  # [N, J, 3]
    weights,  # [N, J], or None
    rotation,  # float32 [N, 3, 3]
    scale,  # float32 [N]
    d_pred,  # out, [N, J, 3], or None
    d_target,  # out, [N, J, 3], or None
    block,  # the first of this launch
    n,
    SCALED: tl.constexpr,
    WHOLE: tl.constexpr,
    SHAPE: tl.constexpr,
):
    STEPS: tl.constexpr = steps_of(SHAPE)
    first = (tl.program_id(0) + block).to(tl.int64) * SHAPE[1]
    x, y, w, x_mean, _, total, inverse_total = load_pair(pred, target, weights, first, n, WHOLE, SHAPE)
    k, inverse_variance = moments(x, y, w, x_mean, total, SHAPE)
    row = pose_rows(first, SHAPE)
    inside = row < n
    r = load_entries(rotation, row, inside, 9)
    s = tl.load(scale + row, mask=inside, other=0)
    d_t = load_entries(d_translation, row, inside, 3)  # t = mean(Y) - s R mean(X)
    turned = ()  # R mean(X)
    for i in tl.static_range(3):
        turned = turned + (r[3 * i] * x_mean[0] + r[3 * i + 1] * x_mean[1] + r[3 * i + 2] * x_mean[2],)
    of_r = product_transposed(load_entries(d_rotation, row, inside, 9), r)
    moment = ()
    for i in tl.static_range(3):
        for j in tl.static_range(3):
            moment = moment + (of_r[3 * i + j] - s * d_t[i] * turned[j],)
    d_s = tl.zeros_like(s)
    if SCALED:
        d_s = tl.load(d_scale + row, mask=inside, other=0)
        d_s -= d_t[0] * turned[0] + d_t[1] * turned[1] + d_t[2] * turned[2]
    h = (moment[7] - moment[5], moment[2] - moment[6], moment[3] - moment[1])
    z0, z1, z2 = turn_of_covariance(k, r, h)
    shrink = d_s * inverse_variance
    c = ()  # ([z]x + shrink I) R, the gradient in K
    for j in tl.static_range(3):
        c = c + (shrink * r[j] - z2 * r[3 + j] + z1 * r[6 + j],)
    for j in tl.static_range(3):
        c = c + (z2 * r[j] + shrink * r[3 + j] - z0 * r[6 + j],)
    for j in tl.static_range(3):
        c = c + (z0 * r[3 + j] - z1 * r[j] + shrink * r[6 + j],)
    if d_pred is not None:
        gradient = ()
        for step in tl.static_range(STEPS):
            for i in tl.static_range(3):
                shift = -s * inverse_total * (r[i] * d_t[0] + r[3 + i] * d_t[1] + r[6 + i] * d_t[2])
                d_x = shift + matvec(c, i, 3, y, step) - (2 * shrink * s) * x[3 * step + i]
                gradient = gradient + (weighted(d_x, w, step),)
        store_joints(d_pred, gradient, first, n, WHOLE, 3, SHAPE)
    if d_target is not None:
        gradient = ()
        for step in tl.static_range(STEPS):
            for i in tl.static_range(3):
                d_y = matvec(c, 3 * i, 1, x, step) + (d_t[i] * inverse_total)
                gradient = gradient + (weighted(d_y, w, step),)
        store_joints(d_target, gradient, first, n, WHOLE, 3, SHAPE)
