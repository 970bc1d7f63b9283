"""Singular values of every sample's own stack of embeddings."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unihpe_kernels.autocast import without_autocast
from unihpe_kernels.checks import check_backend, check_tensor
from unihpe_kernels.registration import define, differentiate, refuse_gradients, register_fake
from unihpe_kernels.small_linalg import gram_torch


@without_autocast
def gram_singular_values(embeddings: Sequence[Tensor]) -> Tensor:
    """Singular values of each sample's M x D stack of embeddings, descending.

    The gradient, d sigma_k = u_k^T dZ v_k, stays bounded at repeated and at zero singular values: where the values are
    not differentiable it is one of the subgradients. There is no second derivative.

    Args:
        embeddings: 2 to 8 tensors [B, D], as they are (they are not normalised), any strides; float32, float64,
            bfloat16 or float16, unlike ones are promoted.

    Returns:
        [B, M], float64 for float64 embeddings, else float32; the last M - D are 0 where D < M. Accurate to rounding of
        the largest singular value. A sample with a NaN or an infinity in it is NaN, and the others are not touched.

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
    return _operator(stack, check_backend("auto", stack, "gram_singular_values"))[0]


def _gram_singular_values(stack: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """[B, M, D] -> values [B, M] and left singular vectors [B, M, M] in columns, float32 from Triton, else float64."""
    return _backend(backend).forward(stack)


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


_operator = define(_gram_singular_values, by_sample=True)
_operator_backward = define(_gram_singular_values_backward, by_sample=True)


@register_fake(_operator)
def _(stack: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    batch, count, _ = stack.shape
    dtype = torch.float64 if stack.dtype == torch.float64 else torch.float32
    return (
        stack.new_empty((batch, count), dtype=dtype),
        stack.new_empty((batch, count, count), dtype=torch.float32 if backend == "triton" else torch.float64),
    )


@register_fake(_operator_backward)
def _(grad: Tensor, stack: Tensor, values: Tensor, vectors: Tensor, backend: str) -> Tensor:
    return stack.new_empty(stack.shape)


def _setup(ctx: Any, arguments: list[Any], outputs: tuple[Tensor, Tensor]) -> None:
    stack, ctx.backend = arguments
    ctx.mark_non_differentiable(outputs[1])
    ctx.save_for_backward(stack, *outputs)


def _gradient(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, None]:
    return None if grad is None else _operator_backward(grad, *ctx.saved_tensors, ctx.backend), None


differentiate(_operator, _setup, _gradient)
refuse_gradients(
    _operator_backward, "gram_singular_values has no second derivative: call backward without create_graph"
)
