"""The loss of float32 CPU tensors, and of those that are computed in float32, with its inner loops in C++."""

import torch
from torch import Tensor

from unihpe_kernels.sv_contrastive import native_pairs, torch_backend
from unihpe_kernels.sv_contrastive.native_pairs import NativePairs
from unihpe_kernels.sv_contrastive.torch_backend import LOG2_E, Pairs, TorchPairs, has_triples


def forward(
    embeddings: list[Tensor],
    temperature: Tensor,
    weights: Tensor | None,
    present: Tensor | None,
    negatives: str,
    normalize: bool,
    learns_temperature: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As torch_backend's."""
    scale = _scale_of_pairs(embeddings, temperature, present, negatives)
    if scale is None:
        return torch_backend.forward(
            embeddings, temperature, weights, present, negatives, normalize, learns_temperature, _ENGINE
        )
    rows = [embedding.float() for embedding in embeddings]
    saved = rows[0].new_empty(saved_size(embeddings, present, negatives))
    log_sums, positives = NativePairs(rows, rows, None, scale, normalize, saved).forward()
    sample_loss = torch_backend.sample_losses(log_sums, positives, scale)
    return torch_backend.mean_loss(sample_loss, weights, None, len(embeddings)), log_sums, sample_loss, saved


def backward(
    grad: Tensor,
    embeddings: list[Tensor],
    temperature: Tensor,
    weights: Tensor | None,
    present: Tensor | None,
    loss: Tensor,
    normalisers: Tensor,
    sample_loss: Tensor,
    saved: Tensor,
    negatives: str,
    normalize: bool,
) -> list[Tensor]:
    """As torch_backend's."""
    scale = _scale_of_pairs(embeddings, temperature, present, negatives)
    if scale is None:
        given = (grad, embeddings, temperature, weights, present, loss, normalisers, sample_loss, saved)
        return torch_backend.backward(*given, negatives, normalize, _ENGINE)
    d_score, d_weights = torch_backend.mean_gradients(grad, loss, sample_loss, weights, None, len(embeddings), scale)
    rows = [embedding.float() for embedding in embeddings]
    _, d_rows, d_scores = NativePairs(rows, rows, None, scale, normalize, saved).backward(normalisers, d_score)
    d_embeddings = [d_row.to(embedding.dtype) for d_row, embedding in zip(d_rows, embeddings, strict=True)]
    return [*d_embeddings, torch_backend.temperature_gradient(d_scores, scale, temperature), d_weights]


def saved_size(embeddings: list[Tensor], present: Tensor | None, negatives: str) -> int:
    """As torch_backend's."""
    return torch_backend.saved_size(embeddings, present, negatives, _ENGINE)


def _scale_of_pairs(
    embeddings: list[Tensor], temperature: Tensor, present: Tensor | None, negatives: str
) -> float | None:
    """The scale of the logits if all is done in C++, from the embeddings to their gradients."""
    count, batch = len(embeddings), len(embeddings[0])
    if present is not None or has_triples(count, negatives) or batch == 0:
        return None
    scale = (LOG2_E / temperature.double()).item()
    dtype = torch.promote_types(embeddings[0].dtype, torch.float32)
    return scale if native_pairs.suits(count, batch, scale, dtype) else None


def _make_pairs(rows: Tensor, columns: Tensor, own: Tensor | None, scale: Tensor, saved: Tensor) -> Pairs:
    """Of unit rows, for a set of modalities."""
    scale_number = scale.item()
    if not native_pairs.suits(len(rows), columns.shape[1], scale_number, scale.dtype):
        return TorchPairs(rows, columns, own, scale, saved)
    all_columns = columns.unbind()
    all_rows = all_columns if rows is columns else rows.unbind()
    return NativePairs(all_rows, all_columns, own, scale_number, False, saved[:0])


_ENGINE = torch_backend.Engine(_make_pairs, native_pairs.saved_size)
