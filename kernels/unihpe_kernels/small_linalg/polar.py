"""The rotation nearest to a 3x3 matrix, and how it answers to a change of the matrix, in lanes."""

import torch
from torch import Tensor

from unihpe_kernels.small_linalg.jacobi import jacobi_frame
from unihpe_kernels.small_linalg.lanes import diagonal, dot, matvec, trace, transposed

# The closed form is used where 2 (s_1 + s_2)(s_2 + c s_3)(s_1 + c s_3) is above this times |A|^3: its error there is
# the rounding to float32. Two of 1e6 Gaussian matrices lie below, and those of collinear poses.
_REGULAR = 1e-3

# Newton steps from above to the largest root: in float32, then in float64. Poses need 2 and 2. Mirrored ones need up to
# 12 and 2, but only one in 10,000 more than this; a root whose last step is larger than `_LAST_STEP`, relative to |A|,
# is left to Jacobi.
_COARSE_STEPS, _FINE_STEPS = 8, 2
_LAST_STEP = 1e-6
# Added to the slope of the steps in float32: near a double root, which is not regular, they would be rounding over 0.
_SLOPE = 1e-4


def polar(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The rotation R (det +1) that maximises trace(R^T A), and that maximum.

    With A = U S V^T and c = det(U V^T), R = U diag(1, 1, c) V^T and the maximum is s_1 + s_2 + c s_3 (Umeyama 1991).
    Where several rotations share it (s_2 + c s_3 = 0, so rank one too) R is one of them; it is I for A = 0.

    Args:
        matrix: [3, 3, n] column first, float32 or float64.

    Returns:
        R [3, 3, n] column first, and the maximum [n].
    """
    if matrix.dtype != torch.float32 or matrix.device.type != "cpu":
        return _by_jacobi(matrix)
    rotation, maximum, regular = _in_closed_form(matrix)
    if not regular.all():
        rest = (~regular).nonzero()[:, 0]
        rotation[..., rest], maximum[rest] = _by_jacobi(matrix[..., rest])
    return rotation, maximum


def _by_jacobi(matrix: Tensor) -> tuple[Tensor, Tensor]:
    frame = jacobi_frame(matrix)
    rotation = frame.v[0][:, None] * frame.u[0]
    for u, v in zip(frame.u[1:], frame.v[1:], strict=True):
        rotation.addcmul_(v[:, None], u)
    return rotation, frame.s.sum(0)


def _in_closed_form(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """float32 -> R, the maximum, and where they hold [n] bool; half the time of Jacobi, in float64.

    The maximum f is the largest root of Horn's quartic (1987), whose roots are real:

        (f^2 - |A|^2)^2 - 8 det(A) f - 4 |C|^2 = 0

    with C the cofactors of A, and R its derivative in A:

        R = ((f^2 + |A|^2) A + 2 f C - 2 A A^T A) / (f^3 - |A|^2 f - 2 det A)

    whose denominator is 2 (s_1 + s_2)(s_2 + c s_3)(s_1 + c s_3).
    """
    cyclic = matrix.new_empty((5, 5, matrix.shape[-1]), dtype=torch.float64)  # rows and columns 0 1 2 0 1
    cyclic[:3, :3] = matrix
    cyclic[:3, 3:] = cyclic[:3, :2]
    cyclic[3:] = cyclic[:2]
    a = cyclic[:3, :3]
    cofactors = cyclic[1:4, 1:4] * cyclic[2:5, 2:5]
    cofactors.addcmul_(cyclic[1:4, 2:5], cyclic[2:5, 1:4], value=-1)
    gram = matvec(transposed(a), a)  # A^T A
    square = trace(gram)

    # in units of |A|: (f^2 - 1)^2 - 8 det f - rest = 0
    inverse = (square + 1e-300).reciprocal_()
    root = inverse.sqrt()
    det = dot(a[0], cofactors[0]).mul_(inverse).mul_(root)
    rest = (cofactors * cofactors).sum((0, 1)).mul_(inverse).mul_(inverse).mul_(4)
    f, last = _largest_root(det, rest)

    denominator = torch.addcmul(det * -2, f, (f * f).sub_(1))
    unit = root / denominator  # 1 / the denominator in units of A, times |A|^2
    mixed = gram.mul_((unit * inverse).mul_(-2))
    size = torch.addcmul(unit, unit, f * f)
    for entry in diagonal(mixed):
        entry.add_(size)
    rotation = matvec(a, mixed, cofactors.mul_((f * unit).mul_(root).mul_(2)))
    return rotation.float(), f.div_(root).float(), (denominator > _REGULAR) & (last <= _LAST_STEP)


def _largest_root(det: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """Of (f^2 - 1)^2 - 8 det f - rest = 0, by Newton steps from above, which are monotone; and the size of the last.

    The first f is what the equation gives when the f beside det is replaced by a bound of it, 3^0.5 where that term is
    positive and 3^-0.5 where it is negative.
    """
    single, minus_rest = det.float(), rest.float().neg_()
    bound = torch.nn.functional.leaky_relu(single, 1 / 3).mul_(8 * 3**0.5).sub_(minus_rest)
    f = bound.clamp_min_(0).sqrt_().add_(1).sqrt_()
    single.mul_(8)
    f, _ = _newton(f, single, single - _SLOPE, minus_rest, _COARSE_STEPS)
    double = det * 8
    f, last = _newton(f.double(), double, double, -rest, _FINE_STEPS)
    return f, last.abs_()


def _newton(f: Tensor, eight_det: Tensor, minus_slope: Tensor, minus_rest: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Steps of `_largest_root`, in place, and the last of them; minus_slope is 8 det, too, or a little less."""
    minus_one, g, value = f.new_full((), -1.0), torch.empty_like(f), torch.empty_like(f)
    for _ in range(steps):
        torch.addcmul(minus_one, f, f, out=g)
        torch.addcmul(minus_rest, g, g, out=value).addcmul_(eight_det, f, value=-1)
        f.addcdiv_(value, torch.addcmul(minus_slope, f, g, value=-4, out=g))
    return f, value.div_(g)


def polar_cotangent(aligned: Tensor, cotangent: Tensor) -> Tensor:
    """Carry a gradient through `polar`: from the rotation's turn to the turn of the matrix.

    Let K' = R^T A, symmetric at the optimum, and let the loss change by h . w when R becomes R (I + [w]x). A change of
    K' turns R by w with (trace(K') I - K') w = axial(dK'), so that the loss has the gradient [z]x with respect to K',
    z = (trace(K') I - K')^-1 h. The eigenvalues of that matrix are the sums s_i + s_j of (signed) singular values,
    never their differences: it is regular at repeated singular values. Where such a sum is below 8 eps times the sum
    of all, the optimum is not unique and its computed value is noise: the rotation is held fixed about that axis.

    Args:
        aligned: K' [3, 3, n], of which the upper triangle is read.
        cotangent: h [3, n].

    Returns:
        z [3, n].
    """
    limits = torch.finfo(aligned.dtype)
    (xx, _, _), (xy, yy, _), (xz, yz, zz) = (column.unbind(0) for column in aligned.unbind(0))
    floor = (xx + yy + zz).mul_(8 * limits.eps).clamp_min_(limits.tiny)

    # L D L^T of the positive semidefinite trace(K') I - K', pivots below the floor left out
    d0 = _inverse_pivot(yy + zz, floor)
    l10, l20 = xy * -d0, xz * -d0
    rest = torch.addcmul(-yz, l10, xz)
    d1 = _inverse_pivot(torch.addcmul(xx + zz, l10, xy), floor)
    l21 = rest * d1
    d2 = _inverse_pivot(torch.addcmul(xx + yy, l20, xz).addcmul_(l21, rest, value=-1), floor)

    h0, h1, h2 = cotangent.unbind(0)
    h1 = torch.addcmul(h1, l10, h0, value=-1)
    h2 = torch.addcmul(h2, l20, h0, value=-1).addcmul_(l21, h1, value=-1)
    z2 = h2 * d2
    z1 = (h1 * d1).addcmul_(l21, z2, value=-1)
    z0 = (h0 * d0).addcmul_(l10, z1, value=-1).addcmul_(l20, z2, value=-1)
    return torch.stack([z0, z1, z2])


def _inverse_pivot(pivot: Tensor, floor: Tensor) -> Tensor:
    return torch.where(pivot > floor, pivot, torch.inf).reciprocal_()
