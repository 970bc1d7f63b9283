"""Torch backend of `gram_singular_values`, for any device: works in float64."""

import torch
from torch import Tensor


def forward(stack: Tensor) -> tuple[Tensor, Tensor]:
    """[B, M, D] -> values [B, M], float64 for a float64 stack, else float32, and left singular vectors [B, M, M] in
    columns, float64. Both are NaN for a sample with a NaN or an infinity in it."""
    # LAPACK would raise for the whole batch, or never end
    bad = ~stack.isfinite().flatten(1).all(1)
    values, vectors = _decompose(stack.masked_fill(bad[:, None, None], 0))
    return values.masked_fill_(bad[:, None], torch.nan), vectors.masked_fill_(bad[:, None, None], torch.nan)


def _decompose(stack: Tensor) -> tuple[Tensor, Tensor]:
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


def backward(grad: Tensor, stack: Tensor, values: Tensor, vectors: Tensor) -> Tensor:
    """[B, M, D]: sum over k of grad_k u_k v_k^T, v_k = Z^T u_k / |Z^T u_k|, or 0 where that length is mere rounding."""
    projected = vectors.mT @ stack.double()
    lengths = torch.linalg.vector_norm(projected, dim=-1, keepdim=True)
    rounding = 16 * torch.finfo(torch.float64).eps * values[:, :1, None].double()
    factors = grad.double()[..., None] * lengths.reciprocal().masked_fill_(lengths <= rounding, 0)
    return (vectors @ (factors * projected)).to(stack.dtype)
