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
    load_pair,
    matvec,
    moments,
    product_transposed,
    steps_of,
    store_points,
    turn_of_covariance,
    weighted,
)
from unihpe_kernels.small_linalg.lanes_kernels import load_entries, store_rows

_NO_DIRECTION = tl.constexpr((16 * 2.0**-23) ** 2)


@triton.jit(do_not_specialize=["block", "n"])
def pa_mpjpe_forward(
    pred,  # [N, J, 3], any floating dtype
    target,  # [N, J, 3]
    weights,  # [N, J], read only if WEIGHTED
    error,  # out, float32 [N]
    d_pred,  # out, float32 [N, J, 3], written only if FOR_PRED
    d_target,  # out, float32 [N, J, 3], written only if FOR_TARGET
    block,  # the first of this launch
    n,
    WHOLE: tl.constexpr,
    WEIGHTED: tl.constexpr,
    FOR_PRED: tl.constexpr,
    FOR_TARGET: tl.constexpr,
    JOINTS: tl.constexpr,
    LANES: tl.constexpr,
    SHARE: tl.constexpr,
):
    STEPS: tl.constexpr = steps_of(JOINTS, SHARE)
    first = (tl.program_id(0) + block).to(tl.int64) * LANES
    x, y, w, x_mean, y_mean, total, inverse_total = load_pair(
        pred, target, weights, first, n, WHOLE, WEIGHTED, JOINTS, LANES, SHARE
    )
    k, inverse_variance = moments(x, y, w, x_mean, total, WEIGHTED, JOINTS, LANES, SHARE)
    r, maximum, s = align(k, inverse_variance)

    turned = ()  # R x
    residual = ()  # y - s R x
    squares = ()
    lengths = tl.zeros([SHARE, LANES], tl.float32)
    variance = tl.zeros([SHARE, LANES], tl.float32)  # of the residual
    for step in tl.static_range(STEPS):
        square = tl.zeros([SHARE, LANES], tl.float32)
        for i in tl.static_range(3):
            point = matvec(r, 3 * i, 1, x, step)
            turned = turned + (point,)
            rest = y[3 * step + i] - s[None, :] * point
            residual = residual + (rest,)
            square += rest * rest
        squares = squares + (square,)
        length = square * tl.rsqrt(tl.where(square < TINY, TINY, square))
        lengths += weighted(length, w, step, WEIGHTED)
        variance += weighted(square, w, step, WEIGHTED)
    lane = tl.arange(0, LANES)
    tl.store(error + first + lane, tl.sum(lengths, 0) * inverse_total, mask=lane < n - first)

    if FOR_PRED or FOR_TARGET:
        # a residual below rounding of the coordinates has no direction
        size = (maximum * s + tl.sum(variance, 0)) * inverse_total
        size += y_mean[0] * y_mean[0] + y_mean[1] * y_mean[1] + y_mean[2] * y_mean[2]
        smallest = (size * _NO_DIRECTION + TINY)[None, :]
        zero = tl.zeros([SHARE, LANES], tl.float32)
        factors = ()  # pull = factor * residual, the gradient of the error in what is added to y
        pulls = (zero, zero, zero)
        turns = (zero, zero, zero)  # sum of pull x R x
        d_scale = zero  # minus the gradient in s
        for step in tl.static_range(STEPS):
            inverse = tl.rsqrt(tl.where(squares[step] <= smallest, float("inf"), squares[step]))
            factor = weighted(inverse, w, step, WEIGHTED) * inverse_total[None, :]
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
            h = h + (s * tl.sum(turns[i], 0),)
            mean = mean + (tl.sum(pulls[i], 0) * inverse_total,)
        z0, z1, z2 = turn_of_covariance(k, r, h)
        z = (z0[None, :], z1[None, :], z2[None, :])
        shrink = (-tl.sum(d_scale, 0) * inverse_variance)[None, :]

        if FOR_PRED:
            gradient = ()
            for step in tl.static_range(STEPS):
                point = ()  # y; then R times the gradient
                for i in tl.static_range(3):
                    point = point + (residual[3 * step + i] + s[None, :] * turned[3 * step + i],)
                whole = ()
                for i in tl.static_range(3):
                    part = (s * mean[i])[None, :] - cross(z, point, i)
                    part += shrink * (residual[3 * step + i] - s[None, :] * turned[3 * step + i])
                    part = weighted(part, w, step, WEIGHTED)
                    whole = whole + (part - (s[None, :] * factors[step]) * residual[3 * step + i],)
                for i in tl.static_range(3):
                    gradient = gradient + (matvec(r, i, 3, whole, 0),)
            store_points(d_pred, gradient, first, n, WHOLE, JOINTS, LANES, SHARE)
        if FOR_TARGET:
            gradient = ()
            for step in tl.static_range(STEPS):
                point = turned[3 * step : 3 * step + 3]
                for i in tl.static_range(3):
                    part = cross(z, point, i) + (shrink * point[i] - mean[i][None, :])
                    pull = factors[step] * residual[3 * step + i]
                    gradient = gradient + (pull + weighted(part, w, step, WEIGHTED),)
            store_points(d_target, gradient, first, n, WHOLE, JOINTS, LANES, SHARE)


@triton.jit(do_not_specialize=["block", "n"])
def procrustes_forward(
    pred,  # [N, J, 3], any floating dtype
    target,  # [N, J, 3]
    weights,  # [N, J], read only if WEIGHTED
    rotation,  # out, float32 [N, 3, 3]
    scale,  # out, float32 [N]
    translation,  # out, float32 [N, 3]
    block,  # the first of this launch
    n,
    WHOLE: tl.constexpr,
    WEIGHTED: tl.constexpr,
    SCALED: tl.constexpr,
    JOINTS: tl.constexpr,
    LANES: tl.constexpr,
    SHARE: tl.constexpr,
):
    first = (tl.program_id(0) + block).to(tl.int64) * LANES
    x, y, w, x_mean, y_mean, total, _ = load_pair(
        pred, target, weights, first, n, WHOLE, WEIGHTED, JOINTS, LANES, SHARE
    )
    k, inverse_variance = moments(x, y, w, x_mean, total, WEIGHTED, JOINTS, LANES, SHARE)
    r, _, s = align(k, inverse_variance)
    if not SCALED:
        s = tl.full([LANES], 1.0, tl.float32)
    t = ()
    for i in tl.static_range(3):
        t = t + (y_mean[i] - s * (r[3 * i] * x_mean[0] + r[3 * i + 1] * x_mean[1] + r[3 * i + 2] * x_mean[2]),)
    store_rows(rotation, r, first, n, 9, LANES, WHOLE)
    store_rows(scale, (s,), first, n, 1, LANES, WHOLE)
    store_rows(translation, t, first, n, 3, LANES, WHOLE)


@triton.jit(do_not_specialize=["block", "n"])
def procrustes_backward(
    d_rotation,  # float32 [N, 3, 3]
    d_scale,  # float32 [N]
    d_translation,  # float32 [N, 3]
    pred,  # [N, J, 3], any floating dtype
    target,  # [N, J, 3]
    weights,  # [N, J], read only if WEIGHTED
    rotation,  # float32 [N, 3, 3]
    scale,  # float32 [N]
    d_pred,  # out, [N, J, 3], written only if FOR_PRED
    d_target,  # out, [N, J, 3], written only if FOR_TARGET
    block,  # the first of this launch
    n,
    WHOLE: tl.constexpr,
    WEIGHTED: tl.constexpr,
    SCALED: tl.constexpr,
    FOR_PRED: tl.constexpr,
    FOR_TARGET: tl.constexpr,
    JOINTS: tl.constexpr,
    LANES: tl.constexpr,
    SHARE: tl.constexpr,
):
    STEPS: tl.constexpr = steps_of(JOINTS, SHARE)
    first = (tl.program_id(0) + block).to(tl.int64) * LANES
    x, y, w, x_mean, _, total, inverse_total = load_pair(
        pred, target, weights, first, n, WHOLE, WEIGHTED, JOINTS, LANES, SHARE
    )
    k, inverse_variance = moments(x, y, w, x_mean, total, WEIGHTED, JOINTS, LANES, SHARE)
    row = first + tl.arange(0, LANES)
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
    d_s = tl.zeros([LANES], tl.float32)
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
    if FOR_PRED:
        gradient = ()
        for step in tl.static_range(STEPS):
            for i in tl.static_range(3):
                shift = -s * inverse_total * (r[i] * d_t[0] + r[3 + i] * d_t[1] + r[6 + i] * d_t[2])
                d_x = shift[None, :] + matvec(c, i, 3, y, step) - (2 * shrink * s)[None, :] * x[3 * step + i]
                gradient = gradient + (weighted(d_x, w, step, WEIGHTED),)
        store_points(d_pred, gradient, first, n, WHOLE, JOINTS, LANES, SHARE)
    if FOR_TARGET:
        gradient = ()
        for step in tl.static_range(STEPS):
            for i in tl.static_range(3):
                d_y = matvec(c, 3 * i, 1, x, step) + (d_t[i] * inverse_total)[None, :]
                gradient = gradient + (weighted(d_y, w, step, WEIGHTED),)
        store_points(d_target, gradient, first, n, WHOLE, JOINTS, LANES, SHARE)
