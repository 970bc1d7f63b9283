"""TRIANGLE's area of three unit vectors, in registers.

With p = 1 - a, q = 1 - b, r = 1 - c, a and b the anchor's products and c that of its members, the score is
(p^2 + q^2 + r^2)/2 - (p q + p r + q r), a quadratic form: it can be squared in p - q - r, -(4 q r - (p - q - r)^2)/2.
"""

import triton
import triton.language as tl


@triton.constexpr_function
def num_members_entries(N):
    """Numbers that `members` makes: c."""
    return 1


@triton.constexpr_function
def num_sums(N):
    """Numbers of `gradient` to be added up: d c."""
    return 1


@triton.jit
def members(gram, N: tl.constexpr):
    """The two members' inner product."""
    return gram


@triton.jit
def score(products, members, N: tl.constexpr):
    """The score and, for `gradient`, p, q and r."""
    p = 1 - products[0]
    q = 1 - products[1]
    r = 1 - members[0]
    difference = (p - q) - r
    return 0.5 * (difference * difference) - 2 * (q * r), (p, q, r)


@triton.jit
def gradient(products, members, value, state, weight, N: tl.constexpr):
    """weight d score/d products, and weight d score/d c."""
    p, q, r = state
    return (weight * (q + r - p), weight * (p + r - q)), (weight * (p + q - r),)


@triton.jit
def own(sums, members, N: tl.constexpr):
    """The gradient of c."""
    return sums
