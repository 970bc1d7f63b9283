# A Triton tuple grows by `+`, which changes its type.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,misc,index,operator"
"""What a score adds to the statistics of its anchor and its tuple, and its weight in the backward pass, in registers;
and which tuples are an anchor's candidates. contract.py defines all of it."""

import triton
import triton.language as tl

from unihpe_kernels.sv_contrastive.kernels_rows import log2_1p

OFF = tl.constexpr(-1e30)  # a logit without weight; finite, so that 0 x it is 0


@triton.constexpr_function
def num_statistics(moments, totals):
    """How many numbers are kept of an anchor or a tuple: sums, moments if wanted, totals if wanted."""
    return 1 + moments + totals


@triton.constexpr_function
def rank(anchors, m):
    """The place of modality m among the anchors, a set of bits."""
    return (anchors & ((1 << m) - 1)).bit_count()


@triton.jit
def candidates(code, pool, m, SOUGHT: tl.constexpr):
    """Whether tuples of samples that have `pool` are set against the anchor m of samples that have `code`."""
    # no anchor stands alone: some other bit is set
    anchor = ((code >> m) & 1 != 0) & ((code & (code - 1)) != 0)
    needed = code
    if SOUGHT:
        needed = code & ~(1 << m)
    return anchor & ((needed & ~pool) == 0)


@triton.jit
def exponential(value, scale, shift, SIGMOID: tl.constexpr):
    """E of the softmax, or sigma(z). shift: what the logit, to base 2, has besides value * scale."""
    power = tl.exp2(value * scale + shift)
    if SIGMOID:
        inverse = tl.rsqrt(1 + power)  # 1/x = rsqrt(x)^2: a division costs more
        # an infinite power would be multiplied by 0
        power = tl.where(power < 1e30, power * (inverse * inverse), 1.0)
    return power


@triton.jit
def softplus(value, scale, shift):
    """log2(1 + exp2(z)) with all digits of a small one."""
    z = value * scale + shift
    return tl.where(z > 0, z, 0.0) + log2_1p(tl.exp2(-tl.abs(z)), True)


@triton.jit
def statistics(value, weight, valid, center, scale, shift, middle, MOMENTS: tl.constexpr, TOTALS: tl.constexpr,
               SIGMOID: tl.constexpr):  # fmt: skip
    """A tuple of the score's parts: of sums, moments, totals. weight: `exponential`, 0 where not valid."""
    if SIGMOID:
        parts = (tl.where(valid, softplus(value, scale, shift), 0.0),)
        if MOMENTS:
            parts = parts + (weight * value,)
        if TOTALS:
            parts = parts + (weight,)
    else:
        parts = (weight,)
        if MOMENTS:
            parts = parts + (weight * (value - center),)
        if TOTALS:
            parts = parts + (tl.where(valid, value - middle, 0.0),)
    return parts
