"""`svd3x3`: batched singular value decomposition of 3x3 matrices, and its registration with torch."""

import math
from typing import Any

import torch
from torch import Tensor

from unihpe_kernels.checks import Backend, check_backend, check_tensor
from unihpe_kernels.small_linalg import svd3x3_native, svd3x3_torch


def svd3x3(a: Tensor, *, backend: Backend = "auto") -> tuple[Tensor, Tensor, Tensor]:
    """Singular value decomposition of 3x3 matrices, A = U diag(S) Vh, as `torch.linalg.svd` gives it.

    By one-sided Jacobi (Hestenes 1958), accurate to rounding of the largest singular value for matrices of any finite
    size and rank; U and Vh are orthogonal even where A is zero. As with any decomposition, the signs of the pairs of
    vectors and the basis inside a repeated singular value are arbitrary, so a loss should not depend on them.

    The gradient divides by differences of singular values where the loss tells U and V apart, by sums where it sees
    them together (as in U Vh), so that a function of the polar factor is differentiated safely at repeated values. Only
    true degeneracies are damped: a difference or sum of at most 32 eps (of the dtype) times the largest singular value
    is rounding, and what would be divided by it is left out: vectors inside a repeated value are held fixed. So the
    gradient is bounded by that of the outputs over 32 eps times the largest singular value. There is no second
    derivative.

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
    u, s, vh = _svd3x3(a.reshape(math.prod(batch), 3, 3), resolved)
    return u.reshape(*batch, 3, 3), s.reshape(*batch, 3), vh.reshape(*batch, 3, 3)


@torch.library.custom_op("unihpe_kernels::svd3x3", mutates_args=())
def _svd3x3(a: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """[N, 3, 3] -> U [N, 3, 3], S [N, 3], Vh [N, 3, 3]."""
    return _backend(backend).forward(a)


@torch.library.custom_op("unihpe_kernels::svd3x3_backward", mutates_args=())
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


@_svd3x3.register_fake
def _(a: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.float64 if a.dtype == torch.float64 else torch.float32
    square = a.new_empty((a.shape[0], 3, 3), dtype=dtype)
    return square, a.new_empty((a.shape[0], 3), dtype=dtype), torch.empty_like(square)


@_svd3x3_backward.register_fake
def _(
    d_u: Tensor, d_s: Tensor, d_vh: Tensor, u: Tensor, s: Tensor, vh: Tensor, dtype: torch.dtype, backend: str
) -> Tensor:
    return u.new_empty(u.shape, dtype=dtype)


def _setup_context(ctx: Any, inputs: tuple[Tensor, str], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.dtype, ctx.backend = inputs[0].dtype, inputs[1]
    ctx.save_for_backward(*output)


def _backward(ctx: Any, d_u: Tensor, d_s: Tensor, d_vh: Tensor) -> tuple[Tensor, None]:
    return _svd3x3_backward(d_u, d_s, d_vh, *ctx.saved_tensors, ctx.dtype, ctx.backend), None


def _no_second_derivative(ctx: Any, *_: Any) -> None:
    raise NotImplementedError("svd3x3 has no second derivative: call backward without create_graph")


_svd3x3.register_autograd(_backward, setup_context=_setup_context)
_svd3x3_backward.register_autograd(_no_second_derivative)

for _device in ("cpu", "cuda"):
    _svd3x3.register_autocast(_device, torch.float32)
    _svd3x3_backward.register_autocast(_device, torch.float32)
