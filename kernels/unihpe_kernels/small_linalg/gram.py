"""Singular values of every sample's own stack of embeddings."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unihpe_kernels.checks import check_backend, check_tensor
from unihpe_kernels.small_linalg import gram_torch


def gram_singular_values(embeddings: Sequence[Tensor]) -> Tensor:
    """Singular values of each sample's M x D stack of embeddings, descending.

    The gradient, d sigma_k = u_k^T dZ v_k, stays bounded at repeated and at zero singular values: where the values are
    not differentiable it is one of the subgradients. There is no second derivative.

    Args:
        embeddings: 2 to 8 tensors [B, D], as they are (they are not normalised), any strides; float32, float64,
            bfloat16 or float16, unlike ones are promoted.

    Returns:
        [B, M], float64 for float64 embeddings, else float32; the last M - D are 0 where D < M. Accurate to rounding of
        the largest singular value.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.
    """
    if isinstance(embeddings, Tensor) or not isinstance(embeddings, Sequence):
        raise TypeError(f"embeddings must be a sequence of tensors [B, D], got {type(embeddings).__name__}")
    if not 2 <= len(embeddings) <= 8:
        raise ValueError(f"embeddings must hold 2 to 8 tensors, got {len(embeddings)}")
    check_tensor("embeddings[0]", embeddings[0], ("B", "D"))
    dtype = embeddings[0].dtype
    for m, embedding in enumerate(embeddings[1:], start=1):
        check_tensor(f"embeddings[{m}]", embedding, tuple(embeddings[0].shape), like=embeddings[0])
        dtype = torch.promote_types(dtype, embedding.dtype)
    stack = torch.stack([embedding.to(dtype) for embedding in embeddings], dim=1)
    return _gram_singular_values(stack, check_backend("auto", stack, "gram_singular_values"))[0]


@torch.library.custom_op("unihpe_kernels::gram_singular_values", mutates_args=())
def _gram_singular_values(stack: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """[B, M, D] -> values [B, M] and left singular vectors [B, M, M] in columns, float32 from Triton, else float64."""
    return _backend(backend).forward(stack)


@torch.library.custom_op("unihpe_kernels::gram_singular_values_backward", mutates_args=())
def _gram_singular_values_backward(
    grad: Tensor, stack: Tensor, values: Tensor, vectors: Tensor, backend: str
) -> Tensor:
    """[B, M, D]: sum over k of grad_k u_k v_k^T, v_k = Z^T u_k / |Z^T u_k|, or 0 where that length is mere rounding."""
    return _backend(backend).backward(grad, stack, values, vectors)


def _backend(name: str) -> Any:
    """The module with `forward` and `backward`."""
    if name == "triton":
        from unihpe_kernels.small_linalg import gram_kernels  # not above: triton may be missing

        return gram_kernels
    return gram_torch


@_gram_singular_values.register_fake
def _(stack: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    batch, count, _ = stack.shape
    dtype = torch.float64 if stack.dtype == torch.float64 else torch.float32
    return (
        stack.new_empty((batch, count), dtype=dtype),
        stack.new_empty((batch, count, count), dtype=torch.float32 if backend == "triton" else torch.float64),
    )


@_gram_singular_values_backward.register_fake
def _(grad: Tensor, stack: Tensor, values: Tensor, vectors: Tensor, backend: str) -> Tensor:
    return stack.new_empty(stack.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, str], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(inputs[0], *output)
    ctx.backend = inputs[1]


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor, None]:
    return _gram_singular_values_backward(grad, *ctx.saved_tensors, ctx.backend), None


def _no_second_derivative(ctx: Any, *_: Any) -> None:
    raise NotImplementedError("gram_singular_values has no second derivative: call backward without create_graph")


_gram_singular_values.register_autograd(_backward, setup_context=_setup_context)
_gram_singular_values_backward.register_autograd(_no_second_derivative)

for _device in ("cpu", "cuda"):
    _gram_singular_values.register_autocast(_device, torch.float32)
    _gram_singular_values_backward.register_autocast(_device, torch.float32)
