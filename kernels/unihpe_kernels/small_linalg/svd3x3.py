"""`svd3x3`: batched singular value decomposition of 3x3 matrices, and its registration with torch."""

import math
from typing import Any

import torch
from torch import Tensor

from unihpe_kernels.autocast import without_autocast
from unihpe_kernels.checks import Backend, check_backend, check_tensor
from unihpe_kernels.registration import define, differentiate, refuse_gradients, register_fake
from unihpe_kernels.small_linalg import svd3x3_native, svd3x3_torch


@without_autocast
def svd3x3(a: Tensor, *, backend: Backend = "auto") -> tuple[Tensor, Tensor, Tensor]:
    """Singular value decomposition of 3x3 matrices, A = U diag(S) Vh, as `torch.linalg.svd` gives it.

    By one-sided Jacobi (Hestenes 1958), accurate to rounding of the largest singular value for matrices of any finite
    size and rank; U and Vh are orthogonal even where A is zero. As with any decomposition, the signs of the pairs of
    vectors and the basis inside a repeated singular value are arbitrary, so a loss should not depend on them.

    The gradient divides by differences of singular values where the loss tells U and V apart, by sums where it sees
    them together (as in U Vh), so that a function of the polar factor is differentiated safely at repeated values. Only
    true degeneracies are damped: a difference or sum of at most 32 eps (of the dtype) times the largest singular value
    is rounding, and what would be divided by it is left out: vectors inside a repeated value are held fixed. So the
    gradient is bounded by that of the outputs over 32 eps times the largest singular value.

    At repeated values it is right for functions of the singular values that are symmetric in the repeated ones, and of
    the polar factor U Vh. It is finite but wrong for other functions, smooth ones too, that pair the vectors with
    their values: that of ((u * s[..., None, :]) @ vh * w).sum(), which is (a * w).sum(), is w, but at a = I comes out
    as w's diagonal and its antisymmetric part: how a symmetric change turns the vectors is left out there. Write
    such a function in terms of `a` itself. There is no second derivative.

    Args:
        a: [..., 3, 3], any strides; float32, float64, bfloat16 or float16.
        backend: "auto", "triton", "native" or "torch".

    Returns:
        U [..., 3, 3], S [..., 3] descending and not negative, Vh [..., 3, 3]; float64 for float64 input, else float32.
        A matrix with a NaN or an infinity in it is spoiled alone.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.
    """
    check_tensor("a", a, (..., 3, 3))
    resolved = check_backend(backend, a, "svd3x3")
    batch = a.shape[:-2]
    u, s, vh = _operator(a.reshape(math.prod(batch), 3, 3), resolved)
    return u.reshape(*batch, 3, 3), s.reshape(*batch, 3), vh.reshape(*batch, 3, 3)


def _svd3x3(a: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """[N, 3, 3] -> U [N, 3, 3], S [N, 3], Vh [N, 3, 3]."""
    return _backend(backend).forward(a)


def _svd3x3_backward(
    d_u: Tensor, d_s: Tensor, d_vh: Tensor, u: Tensor, s: Tensor, vh: Tensor, dtype: torch.dtype, backend: str
) -> Tensor:
    """[N, 3, 3], the gradient of the matrices, in `dtype`."""
    return _backend(backend).backward(d_u, d_s, d_vh, u, s, vh).to(dtype)


def _backend(name: str) -> Any:
    """The module with `forward` and `backward`."""
    if name == "triton":
        from unihpe_kernels.small_linalg import svd3x3_kernels  # not above: triton may be missing

        return svd3x3_kernels
    return svd3x3_native if name == "native" else svd3x3_torch


_operator = define(_svd3x3, by_sample=True)
_operator_backward = define(_svd3x3_backward, by_sample=True)


@register_fake(_operator)
def _(a: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.float64 if a.dtype == torch.float64 else torch.float32
    square = a.new_empty((a.shape[0], 3, 3), dtype=dtype)
    return square, a.new_empty((a.shape[0], 3), dtype=dtype), torch.empty_like(square)


@register_fake(_operator_backward)
def _(
    d_u: Tensor, d_s: Tensor, d_vh: Tensor, u: Tensor, s: Tensor, vh: Tensor, dtype: torch.dtype, backend: str
) -> Tensor:
    return u.new_empty(u.shape, dtype=dtype)


def _setup(ctx: Any, arguments: list[Any], outputs: tuple[Tensor, Tensor, Tensor]) -> None:
    a, ctx.backend = arguments
    ctx.dtype = a.dtype
    ctx.save_for_backward(*outputs)


def _gradient(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, None]:
    outputs = ctx.saved_tensors
    given = [torch.zeros_like(x) if grad is None else grad for grad, x in zip(grads, outputs, strict=True)]
    return _operator_backward(*given, *outputs, ctx.dtype, ctx.backend), None


differentiate(_operator, _setup, _gradient)
refuse_gradients(_operator_backward, "svd3x3 has no second derivative: call backward without create_graph")
