# A Triton tuple grows by `+`, which changes its type.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,misc,index,operator"
"""Triton backend of `svd3x3`: one launch forward, one backward, one matrix a lane, float32 arithmetic."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from unihpe_kernels.checks import on_device
from unihpe_kernels.small_linalg.jacobi_kernels import jacobi_frame
from unihpe_kernels.small_linalg.lanes_kernels import launches, load_entries, load_rows, store_rows

LANES = 64  # matrices a program, one a thread
# The rotations are sums of products: fused, or they take twice the instructions.
_OPTIONS = {"num_warps": LANES // 32, "enable_fp_fusion": True}
_ROUNDING = tl.constexpr(32 * 2.0**-23)
_SMALLEST = tl.constexpr(2.0**-126)


def forward(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[N, 3, 3] -> U [N, 3, 3], S [N, 3], Vh [N, 3, 3], float32."""
    samples = a.shape[0]
    u = torch.empty((samples, 3, 3), dtype=torch.float32, device=a.device)
    s = torch.empty((samples, 3), dtype=torch.float32, device=a.device)
    vh = torch.empty((samples, 3, 3), dtype=torch.float32, device=a.device)
    a = a.contiguous()
    with on_device(a):
        for grid, block, whole in launches(samples, LANES):
            svd3x3_forward[grid](a, u, s, vh, block, samples, whole, LANES, **_OPTIONS)
    return u, s, vh


def backward(d_u: Tensor, d_s: Tensor, d_vh: Tensor, u: Tensor, s: Tensor, vh: Tensor) -> Tensor:
    """Gradients of the outputs -> gradient of the matrices, [N, 3, 3]; `svd3x3` documents the damping."""
    gradient = torch.empty((u.shape[0], 3, 3), dtype=torch.float32, device=u.device)
    tensors = [tensor.contiguous() for tensor in (d_u, d_s, d_vh, u, s, vh)]
    with on_device(u):
        for grid, block, whole in launches(len(u), LANES):
            svd3x3_backward[grid](*tensors, gradient, block, len(u), whole, LANES, **_OPTIONS)
    return gradient


@triton.jit(do_not_specialize=["block", "n"])
def svd3x3_forward(
    a,  # [N, 3, 3], any floating dtype
    u_out,  # out, float32 [N, 3, 3]
    s_out,  # out, float32 [N, 3]
    vh_out,  # out, float32 [N, 3, 3]
    block,  # the first of this launch
    n,
    WHOLE: tl.constexpr,
    LANES: tl.constexpr,
):
    first = (tl.program_id(0) + block).to(tl.int64) * LANES
    v, u, s = jacobi_frame(load_rows(a, first, n, WHOLE, LANES, 9))
    sign = tl.where(s[2] < 0, -1.0, 1.0)
    # rounding may have left equal values out of order
    s1 = _smaller(s[0], s[1])
    s2 = _smaller(s1, s[2] * sign)
    store_rows(
        u_out,
        (u[0], u[3], u[6] * sign, u[1], u[4], u[7] * sign, u[2], u[5], u[8] * sign),
        first, n, WHOLE, LANES, 9,
    )  # fmt: skip
    store_rows(s_out, (s[0], s1, s2), first, n, WHOLE, LANES, 3)
    store_rows(vh_out, v, first, n, WHOLE, LANES, 9)


@triton.jit
def _smaller(a, b):
    """The minimum, NaN where b is."""
    return tl.where(b > a, a, b)


@triton.jit(do_not_specialize=["block", "n"])
def svd3x3_backward(
    d_u_in,  # float32, as all: [N, 3, 3]
    d_s_in,  # [N, 3]
    d_vh_in,  # [N, 3, 3]
    u_in,  # [N, 3, 3]
    s_in,  # [N, 3]
    vh_in,  # [N, 3, 3]
    gradient,  # out, [N, 3, 3]
    block,  # the first of this launch
    n,
    WHOLE: tl.constexpr,
    LANES: tl.constexpr,
):
    first = (tl.program_id(0) + block).to(tl.int64) * LANES
    row = first + tl.arange(0, LANES)[None, :]
    inside = row < n
    u = load_entries(u_in, row, inside, 9)
    d_u = load_entries(d_u_in, row, inside, 9)
    turn_u = _turn(u[0::3], u[1::3], u[2::3], d_u[0::3], d_u[1::3], d_u[2::3])
    v = load_entries(vh_in, row, inside, 9)
    d_v = load_entries(d_vh_in, row, inside, 9)
    turn_v = _turn(v[0:3], v[3:6], v[6:9], d_v[0:3], d_v[3:6], d_v[6:9])
    s = load_entries(s_in, row, inside, 3)
    d_s = load_entries(d_s_in, row, inside, 3)
    inverse = 1 / tl.maximum(s[0], _SMALLEST)
    upper01, lower10 = _inner(turn_u[0], turn_v[0], 1.0, s[1] * inverse, inverse)
    upper02, lower20 = _inner(turn_u[1], turn_v[1], 1.0, s[2] * inverse, inverse)
    upper12, lower21 = _inner(turn_u[2], turn_v[2], s[1] * inverse, s[2] * inverse, inverse)
    inner = (d_s[0], upper01, upper02, lower10, d_s[1], upper12, lower20, lower21, d_s[2])
    left = ()  # U inner
    for i in tl.static_range(3):
        for j in tl.static_range(3):
            left = left + (u[3 * i] * inner[j] + u[3 * i + 1] * inner[3 + j] + u[3 * i + 2] * inner[6 + j],)
    entries = ()
    for i in tl.static_range(3):
        for j in tl.static_range(3):
            entries = entries + (left[3 * i] * v[j] + left[3 * i + 1] * v[3 + j] + left[3 * i + 2] * v[6 + j],)
    store_rows(gradient, entries, first, n, WHOLE, LANES, 9)


@triton.jit
def _turn(p, q, r, d_p, d_q, d_r):
    """Entries 01, 02, 12 of B - B^T, B the products of three vectors with their gradients."""
    return (
        (p[0] * d_q[0] + p[1] * d_q[1] + p[2] * d_q[2]) - (q[0] * d_p[0] + q[1] * d_p[1] + q[2] * d_p[2]),
        (p[0] * d_r[0] + p[1] * d_r[1] + p[2] * d_r[2]) - (r[0] * d_p[0] + r[1] * d_p[1] + r[2] * d_p[2]),
        (q[0] * d_r[0] + q[1] * d_r[1] + q[2] * d_r[2]) - (r[0] * d_q[0] + r[1] * d_q[1] + r[2] * d_q[2]),
    )


@triton.jit
def _inner(turn_u, turn_v, larger, smaller, inverse):
    """Entries (i, j) and (j, i), i < j, of U^T dA V; larger and smaller: their singular values over the largest."""
    apart = (turn_u + turn_v) * _inverse(smaller - larger)
    together = (turn_u - turn_v) * _inverse(smaller + larger)
    half = 0.5 * inverse
    return (apart + together) * half, (apart - together) * half


@triton.jit
def _inverse(x):
    """1 / x, and 0 where x is rounding, as in `svd3x3_torch`."""
    return 1 / tl.where(tl.abs(x) > _ROUNDING, x, float("inf"))
