# A Triton tuple grows by `+`, which changes its type.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,misc,index,operator"
"""sigma_1 of n unit vectors from their inner products, without anything prepared: where samples lack modalities.

Which vectors stand in a stack then depends on the pair, and a basis of the members would, too. A vector that is missing
has inner products of 0: it adds an eigenvalue of 1 to the Gram matrix I + H, and the largest, 1 + mu, is not smaller.

H, symmetric with a diagonal of zeros, is made tridiagonal by reflections. The characteristic polynomial p and its
derivatives then follow from a recurrence without divisions, backward stable (Givens), and mu from Laguerre's steps:
from above all roots they descend to the largest one, to a simple one with the third order. The eigenvector is that of
the tridiagonal matrix by inverse iteration, reflected back.
"""

import triton
import triton.language as tl

_TINY = tl.constexpr(1e-30)
_LEAST_LENGTH = tl.constexpr(1e-15)
_LEAST = tl.constexpr(1e-37)
# relative to the bound that the steps start from
_ABOVE = tl.constexpr(1e-6)  # more than mu can be off
_PIVOT = tl.constexpr(1e-7)


@triton.constexpr_function
def pair_place(i, j, n):
    """Place of entry (i, j), i != j, in the triangle above the diagonal, row by row."""
    i, j = min(i, j), max(i, j)
    return i * n - i * (i + 1) // 2 + j - i - 1


@triton.constexpr_function
def _place(step, n):
    """Of a reflection's v: n - 1 numbers, tau among them, for the first, one fewer for each after it."""
    return step * (2 * n - 1 - step) // 2


@triton.constexpr_function
def laguerre_steps(n):
    """To a simple root far fewer do; near one that is there several times a step leaves 0.45 of the way."""
    return n + 10


@triton.jit
def _inverse(x):
    """1/x of positive numbers, to 3 ulp."""
    root = tl.rsqrt(x)
    return root * root


@triton.jit
def _reflector(column, m: tl.constexpr):
    """v, tau and b: I - tau (1, v) (1, v)^T takes the column, the first m numbers, to (b, 0, ..)."""
    first = column[0]
    tail = column[1] * column[1]
    for k in tl.static_range(2, m):
        tail += column[k] * column[k]
    # a column of zeros is reflected, too; a NaN stays
    size = tl.where(tl.abs(first) < _LEAST_LENGTH, _LEAST_LENGTH, tl.abs(first))
    square = size * size + tail
    root = tl.rsqrt(square)
    root += 0.5 * root * (1 - square * root * root)  # the reflection is as orthogonal as this is exact
    norm = square * root
    # away from `first`, so that the sum loses nothing
    head = size + norm
    inverse = _inverse(head)
    inverse += inverse * (1 - head * inverse)
    inverse = tl.where(first < 0, -inverse, inverse)
    v = ()
    for k in tl.static_range(1, m):
        v = v + (column[k] * inverse,)
    return v, 1 + size * root, tl.where(first < 0, norm, -norm)


@triton.jit
def tridiagonal(h, n: tl.constexpr):
    """The diagonal, n tensors, what stands beside it, n - 1, and for each of n - 2 reflections its v, then its tau.

    h: the entries of H above the diagonal, row by row.
    """
    diagonal = ()
    beside = ()
    reflections = ()
    own = ()  # the diagonal of what is left
    for _ in tl.static_range(n):
        own = own + (tl.zeros_like(h[0]),)
    for step in tl.static_range(n - 2):
        diagonal = diagonal + (own[0],)
        v, tau, b = _reflector(h, n - 1 - step)
        beside = beside + (b,)
        reflections = reflections + v + (tau,)
        own, h = _reflected(own, h, v, tau, n - 1 - step)
    return diagonal + own, beside + h, reflections


@triton.jit
def _reflected(own, h, v, tau, m: tl.constexpr):
    """The last m rows and columns of a matrix of m + 1, reflected: the diagonal, and the rest above it."""
    # A - u w^T - w u^T, u = (1, v), w = q - (tau/2 u.q) u, q = tau A u
    u = (tl.zeros_like(tau) + 1,) + v
    q = ()
    for r in tl.static_range(m):
        total = own[1 + r] * u[r]
        for c in tl.static_range(m):
            if c != r:
                total += h[pair_place(1 + r, 1 + c, m + 1)] * u[c]
        q = q + (total * tau,)
    along = q[0]
    for r in tl.static_range(1, m):
        along += q[r] * v[r - 1]
    along *= 0.5 * tau
    w = ()
    for r in tl.static_range(m):
        w = w + (q[r] - along * u[r],)
    next_own = ()
    for r in tl.static_range(m):
        next_own = next_own + (own[1 + r] - 2 * (u[r] * w[r]),)
    rest = ()
    for r in tl.static_range(m):
        for c in tl.static_range(r + 1, m):
            rest = rest + (h[pair_place(1 + r, 1 + c, m + 1)] - w[r] * u[c] - u[r] * w[c],)
    return next_own, rest


@triton.jit
def largest_root(diagonal, beside, n: tl.constexpr):
    """The largest eigenvalue, and the bound that the steps start from."""
    total = beside[0] * beside[0]
    for k in tl.static_range(1, n - 1):
        total += beside[k] * beside[k]
    total *= 2
    for k in tl.static_range(1, n):
        total += diagonal[k] * diagonal[k]
    # of numbers with the sum 0 and these squares none is larger
    bound = tl.sqrt(total * ((n - 1) / n * (1 + 4e-6)) + _TINY)
    inverse = _inverse(bound)
    shifts = ()
    squares = ()
    for k in tl.static_range(1, n):
        shifts = shifts + (diagonal[k] * inverse,)
        scaled = beside[k - 1] * inverse
        squares = squares + (scaled * scaled,)
    x = tl.full(bound.shape, 1.0, tl.float32)
    for _ in range(laguerre_steps(n)):
        # p, p' and p''/2 of the leading blocks
        last_p = tl.full(bound.shape, 1.0, tl.float32)
        last_d = tl.zeros(bound.shape, tl.float32)
        last_c = tl.zeros(bound.shape, tl.float32)
        p = x
        d = last_p
        c = last_c
        for k in tl.static_range(n - 1):
            t = x - shifts[k]
            next_p = t * p - squares[k] * last_p
            next_d = t * d + (p - squares[k] * last_d)
            next_c = t * c + (d - squares[k] * last_c)
            last_p = p
            last_d = d
            last_c = c
            p = next_p
            d = next_d
            c = next_c
        inverse_d = _inverse(tl.maximum(d, _LEAST))
        newton = tl.maximum(p * inverse_d, 0.0)
        curved = tl.maximum((n - 1) * (n - 1) - (2 * n * (n - 1)) * (c * inverse_d * newton), 0.0)
        x -= newton * n * _inverse(1 + tl.sqrt(curved))
    return tl.maximum(x, 0.0) * bound, bound


@triton.jit
def zero_diagonal_root(h, n: tl.constexpr):
    """mu >= 0; h as for `tridiagonal`."""
    diagonal, beside, _ = tridiagonal(h, n)
    return largest_root(diagonal, beside, n)[0]


@triton.jit
def zero_diagonal_vector(h, n: tl.constexpr):
    """mu, n components of an eigenvector and one over its squared length. Of a repeated mu, any eigenvector."""
    diagonal, beside, reflections = tridiagonal(h, n)
    mu, bound = largest_root(diagonal, beside, n)
    inverse_bound = _inverse(bound)
    x = mu * inverse_bound + _ABOVE
    inverses = ()  # of the pivots of x - T
    ratios = ()  # of what stands beside the diagonal to the pivot before it
    for k in tl.static_range(n):
        pivot = x - diagonal[k] * inverse_bound
        if k > 0:
            scaled = beside[k - 1] * inverse_bound
            ratios = ratios + (scaled * inverses[k - 1],)
            pivot -= scaled * ratios[k - 1]
        # not one is negative, but by rounding
        inverse = _inverse(tl.maximum(tl.abs(pivot), _PIVOT))
        inverses = inverses + (tl.where(pivot < -_PIVOT, -inverse, inverse),)
    # A start that no eigenvector of small whole numbers is orthogonal to, so short that three steps, of a factor
    # 1/_PIVOT at most, leave its square finite.
    z = ()
    for k in tl.static_range(n):
        z = z + (tl.full(mu.shape, 1e-6 * (1 + 0.6180339 * k - (k * 34) // 55), tl.float32),)
    for _ in tl.static_range(3):
        y = (z[0],)
        for k in tl.static_range(1, n):
            y = y + (z[k] + ratios[k - 1] * y[k - 1],)
        z = (y[n - 1] * inverses[n - 1],)
        for k in tl.static_range(n - 2, -1, -1):
            z = (y[k] * inverses[k] + ratios[k] * z[0],) + z
    for step in tl.static_range(n - 3, -1, -1):
        z = _reflect(z, reflections, step, n)
    square = z[0] * z[0]
    for k in tl.static_range(1, n):
        square += z[k] * z[k]
    return mu, z, _inverse(square)


@triton.jit
def _reflect(z, reflections, step: tl.constexpr, n: tl.constexpr):
    """The reflection of that step, of the components from step + 1 on."""
    along = z[step + 1]
    for k in tl.static_range(step + 2, n):
        along += reflections[_place(step, n) + k - step - 2] * z[k]
    along *= reflections[_place(step + 1, n) - 1]
    turned = ()
    for k in tl.static_range(n):
        if k <= step:
            turned = turned + (z[k],)
        elif k == step + 1:
            turned = turned + (z[k] - along,)
        else:
            turned = turned + (z[k] - along * reflections[_place(step, n) + k - step - 2],)
    return turned
