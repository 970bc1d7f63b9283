"""The loss on a CPU with its inner loops in C++, in float32: the same functions as `torch_backend`.

With `present` that backend forms the sets of modalities, of which the pairs are done here. It does all of triples with
`present`, and of temperatures so small that float32 cannot hold the exponentials.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from unihpe_kernels.native import single
from unihpe_kernels.sv_contrastive import native_pairs, native_triples, torch_backend
from unihpe_kernels.sv_contrastive.arguments import Arguments
from unihpe_kernels.sv_contrastive.native_pairs import NativePairs
from unihpe_kernels.sv_contrastive.torch_backend import LOG2_E, Outputs, Pairs, Positives, TorchPairs

# The ways that the forward pass takes, by the temperature's value among others, and the backward pass after it.
PAIRS, TRIPLES, SETS, EXACT = range(4)


def forward(given: Arguments, learns_temperature: bool = True) -> tuple[Tensor, ...]:
    """As `torch_backend.forward`, then the way that was taken, int64 [1]; but for the logsumexp where nothing is
    missing: the sums of exponentials themselves, about a constant logit shift, as `backward` takes them. Their
    logarithms are of the size of a score over the temperature, and float32 would round them to that."""
    scale = _scale(given.tau)
    route = _find_route(given, scale)
    if route == SETS:
        outputs = torch_backend.forward(given, learns_temperature, _ADAPTED)
    elif route == EXACT:
        exact = torch_backend.forward(_doubled(given))
        loss, logsumexp, sample_loss = (output.float() for output in exact[:3])
        outputs = Outputs(loss, logsumexp, sample_loss, loss.new_zeros(saved_size(given)))
    else:
        if route == TRIPLES:
            sums, sample_loss, saved = native_triples.forward(given.embeddings, scale, given.normalize)
        else:
            rows = [single(embedding) for embedding in given.embeddings]
            saved = rows[0].new_empty(saved_size(given))
            kept, shares = native_pairs.split_saved(saved, len(rows), len(rows[0]))
            others, own_powers = NativePairs(rows, rows, None, scale, given.normalize, kept).forward()
            losses, others_shares = native_pairs.losses_and_shares(others, own_powers)
            shares.copy_(others_shares)
            sums, sample_loss = others + own_powers, losses.sum(0).float()
        loss = torch_backend.mean_loss(sample_loss, given.weights, None, given.num_modalities)
        outputs = Outputs(loss, sums, sample_loss, saved)
    return *outputs, torch.tensor([route], device="cpu")


def saved_shapes(given: Arguments) -> list[tuple[tuple[int, ...], torch.dtype | None]]:
    """As `torch_backend.saved_shapes`."""
    return [*torch_backend.shapes_with(given, saved_size(given)), ((1,), torch.int64)]


def saved_size(given: Arguments) -> int:
    """As `torch_backend.saved_size`."""
    if _is_dense(given) and given.has_triples:
        return native_triples.saved_size(*given.embeddings[0].shape)
    return torch_backend.saved_size(given, _ADAPTED)


def backward(grad: Tensor, given: Arguments, outputs: Sequence[Tensor]) -> list[Tensor]:
    """As `torch_backend.backward`."""
    loss, sums, sample_loss, saved, taken = outputs
    route, scale = int(taken), _scale(given.tau)
    sums, saved = _as_left(sums), _as_left(saved)
    if route == SETS:
        return torch_backend.backward(grad, given, (loss, sums, sample_loss, saved), _ADAPTED)
    if route == EXACT:
        return _exact_backward(grad, given)
    num_modalities = given.num_modalities
    d_score, d_weights = torch_backend.mean_gradients(
        grad, loss, sample_loss, given.weights, None, num_modalities, scale
    )
    if route == TRIPLES:
        d_rows, d_scores = native_triples.backward(given.embeddings, saved, sums, d_score, scale, given.normalize)
    else:
        rows = [single(embedding) for embedding in given.embeddings]
        kept, shares = native_pairs.split_saved(saved, num_modalities, len(rows[0]))
        _, d_rows, d_scores = NativePairs(rows, rows, None, scale, given.normalize, kept).backward(
            sums, shares, d_score
        )
    d_embeddings = [d_row.to(embedding.dtype) for d_row, embedding in zip(d_rows, given.embeddings, strict=True)]
    return [*d_embeddings, torch_backend.temperature_gradient(d_scores, scale, given.tau), d_weights]


def _find_route(given: Arguments, scale: float) -> int:
    batch = len(given.embeddings[0])
    if not _is_dense(given):
        return SETS
    if given.has_triples:
        return TRIPLES if torch_backend.float32_holds(scale, batch) else EXACT
    return PAIRS if native_pairs.fits(given.num_modalities, batch, scale) else SETS


def _is_dense(given: Arguments) -> bool:
    return given.present is None and given.embeddings[0].shape[0] > 0


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
    return _PairsAdapter(all_rows, NativePairs(all_rows, all_columns, own, number, False, saved[:0]), number)


class _PairsAdapter:
    """NativePairs as `Pairs`, with log2 of the normalisers relative to the positives."""

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


_ADAPTED = torch_backend.PairedImplementation(_make_pairs, native_pairs.saved_size)


def _doubled(given: Arguments) -> Arguments:
    return given._replace(embeddings=[embedding.double() for embedding in given.embeddings])


def _exact_backward(grad: Tensor, given: Arguments) -> list[Tensor]:
    exact = _doubled(given)
    *gradients, d_weights = torch_backend.backward(grad, exact, torch_backend.forward(exact))
    like = [*given.embeddings, given.tau]
    outs = [gradient.to(other.dtype) for gradient, other in zip(gradients, like, strict=True)]
    return [*outs, d_weights.float() if given.weights is None else d_weights]
