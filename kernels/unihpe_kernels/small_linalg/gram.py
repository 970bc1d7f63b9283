"""Singular values of every sample's own stack of embeddings."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unihpe_kernels.checks import check_tensor


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
    return _gram_singular_values(stack)[0]


@torch.library.custom_op("unihpe_kernels::gram_singular_values", mutates_args=())
def _gram_singular_values(stack: Tensor) -> tuple[Tensor, Tensor]:
    """[B, M, D] -> values [B, M] and left singular vectors [B, M, M] in columns, float64."""
    if stack.dtype == torch.float64:
        # the Gram matrix would square the condition number: take the triangular factor instead
        padded = torch.nn.functional.pad(stack, (0, max(0, stack.shape[1] - stack.shape[2])))
        triangle = torch.linalg.qr(padded.mT, mode="r").R  # Z = R^T Q^T
        vectors, values, _ = torch.linalg.svd(triangle.mT)
        return values, vectors.contiguous()
    wide = stack.double()
    _, vectors = torch.linalg.eigh(wide @ wide.mT)
    values, order = torch.linalg.vector_norm(vectors.mT @ wide, dim=-1).sort(descending=True)
    return values.float(), vectors.gather(2, order[:, None, :].expand_as(vectors))


@torch.library.custom_op("unihpe_kernels::gram_singular_values_backward", mutates_args=())
def _gram_singular_values_backward(grad: Tensor, stack: Tensor, vectors: Tensor) -> Tensor:
    """[B, M, D]: sum over k of grad_k u_k v_k^T, v_k = Z^T u_k / |Z^T u_k|, or 0 where that length is mere rounding."""
    projected = vectors.mT @ stack.double()
    lengths = torch.linalg.vector_norm(projected, dim=-1, keepdim=True)
    rounding = 16 * torch.finfo(torch.float64).eps * lengths.amax(1, keepdim=True)
    factors = grad.double()[..., None] * lengths.reciprocal().masked_fill_(lengths <= rounding, 0)
    return (vectors @ (factors * projected)).to(stack.dtype)


@_gram_singular_values.register_fake
def _(stack: Tensor) -> tuple[Tensor, Tensor]:
    batch, count, _ = stack.shape
    dtype = torch.float64 if stack.dtype == torch.float64 else torch.float32
    return (
        stack.new_empty((batch, count), dtype=dtype),
        stack.new_empty((batch, count, count), dtype=torch.float64),
    )


@_gram_singular_values_backward.register_fake
def _(grad: Tensor, stack: Tensor, vectors: Tensor) -> Tensor:
    return stack.new_empty(stack.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(inputs[0], output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> Tensor:
    return _gram_singular_values_backward(grad, *ctx.saved_tensors)


def _no_second_derivative(ctx: Any, *_: Any) -> None:
    raise NotImplementedError("gram_singular_values has no second derivative: call backward without create_graph")


_gram_singular_values.register_autograd(_backward, setup_context=_setup_context)
_gram_singular_values_backward.register_autograd(_no_second_derivative)

for _device in ("cpu", "cuda"):
    _gram_singular_values.register_autocast(_device, torch.float32)
    _gram_singular_values_backward.register_autocast(_device, torch.float32)
