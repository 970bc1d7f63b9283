"""The cosine of two unit vectors, in registers."""

import triton
import triton.language as tl


@triton.constexpr_function
def num_members_entries(N):
    """Numbers that `members` makes."""
    return 0


@triton.constexpr_function
def num_sums(N):
    """Numbers of `gradient` to be added up."""
    return 0


@triton.jit
def members(gram, N: tl.constexpr):
    """One member has no inner products."""
    return ()


@triton.jit
def score(products, members, N: tl.constexpr):
    """The anchor's product with its one member, and nothing that `gradient` takes over."""
    return products[0], ()


@triton.jit
def gradient(products, members, value, state, weight, N: tl.constexpr):
    """weight d score/d products."""
    return (weight,), ()


@triton.jit
def own(sums, members, N: tl.constexpr):
    """One member has no inner products."""
    return ()
