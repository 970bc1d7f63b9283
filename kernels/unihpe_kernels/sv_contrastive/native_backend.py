"""The loss on a CPU with its inner loops in C++, in float32: the same functions as `torch_backend`.

With `present` that backend forms the sets of modalities, of which the pairs are done here. It does all of triples with
`present`, and of temperatures so small that float32 cannot hold the exponentials.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from unihpe_kernels.native import single
from unihpe_kernels.sv_contrastive import native_pairs, native_triples, torch_backend
from unihpe_kernels.sv_contrastive.native_pairs import NativePairs
from unihpe_kernels.sv_contrastive.torch_backend import LOG2_E, Pairs, Positives, TorchPairs, has_triples


def forward(
    embeddings: list[Tensor],
    temperature: Tensor,
    weights: Tensor | None,
    present: Tensor | None,
    negatives: str,
    normalize: bool,
    learns_temperature: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `torch_backend.forward`, but for the second result where nothing is missing: in place of their logarithms the
    normalisers themselves, of exponentials about the middle of the scores' range, as `backward` takes them. Those
    logarithms are of the size of a score over the temperature, and float32 would round them to that."""
    count, triples, scale = len(embeddings), has_triples(len(embeddings), negatives), _scale(temperature)
    if not _is_dense(embeddings, present) or not (triples or _pairs_fit(embeddings, scale)):
        return torch_backend.forward(
            embeddings, temperature, weights, present, negatives, normalize, learns_temperature, _ENGINE
        )
    if triples and not torch_backend.float32_holds(scale, len(embeddings[0])):
        loss, log_sums, sample_loss, _ = _exact_forward(embeddings, temperature, weights, normalize)
        saved = log_sums.new_zeros(saved_size(embeddings, present, negatives), dtype=torch.float32)
        return loss.float(), log_sums.float(), sample_loss.float(), saved
    if triples:
        sums, sample_loss, saved = native_triples.forward(embeddings, scale, normalize)
    else:
        rows = [single(embedding) for embedding in embeddings]
        saved = rows[0].new_empty(saved_size(embeddings, present, negatives))
        kept, shares = native_pairs.split_saved(saved, count, len(rows[0]))
        others, own_powers = NativePairs(rows, rows, None, scale, normalize, kept).forward()
        losses, others_shares = native_pairs.losses_and_shares(others, own_powers)
        shares.copy_(others_shares)
        sums, sample_loss = others + own_powers, losses.sum(0).float()
    return torch_backend.mean_loss(sample_loss, weights, None, count), sums, sample_loss, saved


def saved_size(embeddings: list[Tensor], present: Tensor | None, negatives: str) -> int:
    """As `torch_backend.saved_size`."""
    if _is_dense(embeddings, present) and has_triples(len(embeddings), negatives):
        return native_triples.saved_size(*embeddings[0].shape)
    return torch_backend.saved_size(embeddings, present, negatives, _ENGINE)


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
    """As `torch_backend.backward`."""
    count, triples, scale = len(embeddings), has_triples(len(embeddings), negatives), _scale(temperature)
    saved, normalisers = _as_left(saved), _as_left(normalisers)
    if not _is_dense(embeddings, present) or not (triples or _pairs_fit(embeddings, scale)):
        given = (grad, embeddings, temperature, weights, present, loss, normalisers, sample_loss, saved)
        return torch_backend.backward(*given, negatives, normalize, _ENGINE)
    if triples and not torch_backend.float32_holds(scale, len(embeddings[0])):
        return _exact_backward(grad, embeddings, temperature, weights, normalize)
    d_score, d_weights = torch_backend.mean_gradients(grad, loss, sample_loss, weights, None, count, scale)
    if triples:
        d_rows, d_scores = native_triples.backward(embeddings, saved, normalisers, d_score, scale, normalize)
    else:
        rows = [single(embedding) for embedding in embeddings]
        kept, shares = native_pairs.split_saved(saved, count, len(rows[0]))
        pairs = NativePairs(rows, rows, None, scale, normalize, kept)
        _, d_rows, d_scores = pairs.backward(normalisers, shares, d_score)
    d_embeddings = [d_row.to(embedding.dtype) for d_row, embedding in zip(d_rows, embeddings, strict=True)]
    return [*d_embeddings, torch_backend.temperature_gradient(d_scores, scale, temperature), d_weights]


def _is_dense(embeddings: list[Tensor], present: Tensor | None) -> bool:
    return present is None and embeddings[0].shape[0] > 0


def _pairs_fit(embeddings: list[Tensor], scale: float) -> bool:
    return native_pairs.fits(len(embeddings), embeddings[0].shape[0], scale)


def _as_left(saved: Tensor) -> Tensor:
    """At an address for vectors: a hook on saved tensors may hand out another one than the forward pass left."""
    saved = saved.contiguous()
    return saved.clone() if saved.data_ptr() % 64 else saved


def _scale(temperature: Tensor) -> float:
    return (LOG2_E / temperature.double()).item()


def _make_pairs(rows: Tensor, columns: Tensor, own: Tensor | None, scale: Tensor, saved: Tensor) -> Pairs:
    """Of unit rows, for a set of modalities."""
    number = scale.item()
    if not native_pairs.fits(len(rows), columns.shape[1], number):
        return TorchPairs(rows, columns, own, scale, saved)
    all_columns = columns.unbind()
    all_rows = all_columns if rows is columns else rows.unbind()
    return _LogarithmicPairs(all_rows, NativePairs(all_rows, all_columns, own, number, False, saved[:0]), number)


class _LogarithmicPairs:
    """NativePairs as `Pairs`, with log2 of the normalisers relative to the own tuples."""

    def __init__(self, rows: Sequence[Tensor], pairs: NativePairs, scale: float) -> None:
        self._rows, self._pairs, self._scale = rows, pairs, scale

    def forward(self) -> Tensor:
        losses, _ = native_pairs.losses_and_shares(*self._pairs.forward())
        return losses.mul_(LOG2_E).float()

    def backward(self, losses: Tensor, d_score: Tensor) -> tuple[list[Tensor] | None, list[Tensor], Tensor]:
        positives, losses = Positives(self._rows).scores.double(), losses.double()
        sums = (losses + self._scale * (positives - self._pairs.middle)).exp2_().float()
        shares = torch.expm1(losses / -LOG2_E).neg_().float()
        return self._pairs.backward(sums, shares, d_score)


_ENGINE = torch_backend.Engine(_make_pairs, native_pairs.saved_size)


def _exact_forward(
    embeddings: list[Tensor], temperature: Tensor, weights: Tensor | None, normalize: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    doubles = [embedding.double() for embedding in embeddings]
    return torch_backend.forward(doubles, temperature, weights, None, "all", normalize)


def _exact_backward(
    grad: Tensor, embeddings: list[Tensor], temperature: Tensor, weights: Tensor | None, normalize: bool
) -> list[Tensor]:
    outputs = _exact_forward(embeddings, temperature, weights, normalize)
    doubles = [embedding.double() for embedding in embeddings]
    *gradients, d_temperature, d_weights = torch_backend.backward(
        grad, doubles, temperature, weights, None, *outputs, "all", normalize
    )
    like = [*embeddings, temperature]
    outs = [gradient.to(other.dtype) for gradient, other in zip([*gradients, d_temperature], like, strict=True)]
    return [*outs, d_weights.float() if weights is None else d_weights]
