"""negatives="all" of three modalities by C++ (triples.cpp), for float32 on a CPU: matrix products by torch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unihpe_kernels.native import call, single

SOURCE = "sv_contrastive/triples.cpp"
_VECTOR = 16  # float32 numbers: whole vectors of every CPU


@dataclass(frozen=True)
class Saved:
    """What the backward pass takes over, as views of one flat buffer. ld: the batch, rounded up to whole vectors."""

    units: Tensor  # [5, ld, D], x, x, y, z, z: the first three by the last three are all pairs
    grams: Tensor  # [3, ld, ld], x.y, x.z, y.z
    inverse_norms: Tensor  # [3, B]
    other_weights: Tensor  # [B], of all triples but the own one, summed over the sample's anchors

    @classmethod
    def of(cls, flat: Tensor, batch: int, dim: int) -> "Saved":
        ld = _padded(batch)
        units, grams, inverse_norms, other_weights = flat.split(_sizes(batch, dim))
        return cls(units.view(5, ld, dim), grams.view(3, ld, ld), inverse_norms.view(3, batch), other_weights)


def saved_size(batch: int, dim: int) -> int:
    return sum(_sizes(batch, dim))


def forward(embeddings: list[Tensor], scale: float, normalize: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Every anchor's normaliser [3, B], of exponentials about the middle of the scores' range, the loss of every sample
    summed over its anchors [B], and what `backward` takes over, [saved_size]. scale: log2(e) over the temperature."""
    rows = [single(embedding) for embedding in embeddings]
    batch, dim = rows[0].shape
    flat = rows[0].new_empty(saved_size(batch, dim))
    saved = Saved.of(flat, batch, dim)
    norms: Tensor | None = saved.inverse_norms
    if not normalize:
        saved.inverse_norms.zero_()  # an output must be the same every time
        norms = None
    call(SOURCE, "triple_units", *rows, batch, _padded(batch), dim, saved.units, norms)
    torch.bmm(saved.units[:3], saved.units[2:].mT, out=saved.grams)
    sums, sample_loss = flat.new_empty(3, batch), flat.new_empty(batch)
    sizes = batch, _padded(batch), scale, torch.get_num_threads()
    call(SOURCE, "triple_sums", saved.grams, *sizes, sums, saved.other_weights, sample_loss)
    return sums, sample_loss, flat


def backward(
    embeddings: list[Tensor], flat: Tensor, sums: Tensor, d_score: Tensor, scale: float, normalize: bool
) -> tuple[list[Tensor], Tensor]:
    """Gradients of the embeddings in float32, and the sum of scores times their gradient [], float64.

    d_score [B]: what the softmax weights of a sample's anchors are multiplied with.
    """
    batch, dim = embeddings[0].shape
    ld = _padded(batch)
    saved = Saved.of(flat, batch, dim)
    d_grams = torch.zeros_like(saved.grams)
    d_scores = flat.new_empty((), dtype=torch.float64)
    sizes = batch, ld, scale, torch.get_num_threads()
    call(SOURCE, "triple_gradients", saved.grams, *sizes, sums, saved.other_weights, d_score, d_grams, d_scores)
    left, right = torch.bmm(d_grams, saved.units[2:]), torch.bmm(d_grams.mT, saved.units[:3])
    gradients = [flat.new_empty(batch, dim) for _ in embeddings]
    norms = saved.inverse_norms if normalize else None
    call(SOURCE, "triple_rows_gradient", saved.units, norms, left, right, batch, ld, dim, *gradients)
    return gradients, d_scores


def _padded(batch: int) -> int:
    return -(-batch // _VECTOR) * _VECTOR


def _sizes(batch: int, dim: int) -> list[int]:
    ld = _padded(batch)
    return [5 * ld * dim, 3 * ld * ld, 3 * batch, batch]
