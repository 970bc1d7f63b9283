"""The singular-value contrastive loss in plain torch, in tiles, with its gradient written out.

For "all" a tile is [i, j, k], a slice of the B^3 triples; for "paired" it is [i, j]. Scores are recomputed in the
backward pass, but for the "all" of small batches, so memory is O(B^2) for "all" and O(B D) for "paired". Logarithms are
to base 2 throughout: exp2 is the cheapest exponential on both CPU and GPU.

On a GPU this is the fallback for what has no kernel (float64), and it synchronises.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from unihpe_kernels.scaling import inverse_power
from unihpe_kernels.scratch import scratch
from unihpe_kernels.sv_contrastive.arguments import MIN_NORM, Arguments, modality_codes
from unihpe_kernels.sv_contrastive.closed_form import SCALE, Operand, TripleTile
from unihpe_kernels.sv_contrastive.scorers import make_scorer

# Elements of each of about eight buffers of a tile. A thread's share is large enough to hide the cost of some fifty
# calls and small enough for the cache; together they stay small next to the Gram matrices of a large batch, and 512
# samples below 64 MiB in all.
_TILE_PER_THREAD = 131072
_MOST_THREADS = 8
_GPU_TILE = 2**22
# Rows i of a tile of "all" where no whole [j, k] fits: sums over i and over j are then both short work.
_FEW_ROWS = 8
# The most triples of which the forward pass keeps two numbers each for the backward pass: 8 MiB in float32.
_MOST_KEPT = 2**20
# Twice s of closed_form.py, from which on the unbounded gradients are used: their rounding errors are divided by it.
_SAFE_GAP = 1e-3
_PAIR_ROWS = 128
LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class ModalitySet:
    """The samples that share one dense loss: the anchors have exactly these modalities, the pool at least these."""

    modalities: tuple[int, ...]
    anchors: Tensor | None  # [a] sample indices; None: every sample
    pool: Tensor | None  # [b], a superset of the anchors


class Outputs(NamedTuple):
    """The loss, and what the backward pass reads of the forward pass. float64 for float64 embeddings, else float32.

    logsumexp: of every anchor's logits, to base 2, or what else the backward pass takes in its place.
    """

    loss: Tensor  # []
    logsumexp: Tensor  # [M, B]
    sample_loss: Tensor  # [B], summed over a sample's anchors
    saved: Tensor  # flat, of `saved_size` elements


def forward(
    given: Arguments, learns_temperature: bool = True, implementation: "PairedImplementation | None" = None
) -> Outputs:
    """The logsumexp of anchors that are set against pairs is relative to the positive's logit. learns_temperature:
    False where its gradient is not wanted. implementation: None for plain torch; the same for `saved_size` and
    `backward`."""
    embeddings, present = given.embeddings, given.present
    implementation = implementation or TORCH
    units, inverse_norms = unit_rows(embeddings, present, given.normalize)
    scale = logit_scale(given.tau, units)
    num_modalities, batch, dim = units.shape
    # with `present` some of it may stay unused
    new = units.new_empty if present is None else units.new_zeros
    saved = new(saved_size(given, implementation))
    logsumexp, sample_loss, anchor_counts = units.new_zeros(num_modalities, batch), units.new_zeros(batch), None
    if present is not None:
        anchor_counts = torch.zeros_like(sample_loss)
    for part in _modality_sets(given):
        rows, columns, own = _select(units, part)
        if given.negatives == "all" and len(rows) == 3:
            triples = _TripleLoss(saved, len(rows[0]), dim, scale)
            log_sums, losses = triples.forward(rows, learns_temperature)
            if part.anchors is None:
                triples.inverse_norms.copy_(inverse_norms if inverse_norms is not None else torch.ones_like(scale))
        else:
            own_saved = saved if part.anchors is None else saved[:0]
            log_sums = implementation.pairs(rows, columns, own, scale, own_saved).forward()
            losses = log_sums.sum(0).div_(LOG2_E)
        if anchor_counts is None:
            logsumexp, sample_loss = log_sums, losses
            continue
        for modality, log_sum in zip(part.modalities, log_sums, strict=True):
            logsumexp[modality, part.anchors] = log_sum
        sample_loss[part.anchors] = losses
        anchor_counts[part.anchors] = len(part.modalities)
    loss = mean_loss(sample_loss, given.weights, anchor_counts, num_modalities)
    return Outputs(loss, logsumexp, sample_loss, saved)


def saved_shapes(given: Arguments) -> list[tuple[tuple[int, ...], torch.dtype | None]]:
    """Of `Outputs` after the loss: the shape, and the dtype where that is not the loss's."""
    return shapes_with(given, saved_size(given))


def shapes_with(given: Arguments, size: int) -> list[tuple[tuple[int, ...], torch.dtype | None]]:
    batch = given.embeddings[0].shape[0]
    return [((given.num_modalities, batch), None), ((batch,), None), ((size,), None)]


def saved_size(given: Arguments, implementation: "PairedImplementation | None" = None) -> int:
    """Elements that `forward` hands to `backward`: how many is a matter of the shapes alone."""
    batch, dim = given.embeddings[0].shape
    if given.has_triples:
        return _TripleLoss.saved_size(batch, dim)
    if given.present is not None:
        return 0
    return (implementation or TORCH).saved_of_pairs(given.num_modalities, batch, dim)


def backward(
    grad: Tensor, given: Arguments, outputs: Sequence[Tensor], implementation: "PairedImplementation | None" = None
) -> list[Tensor]:
    """Gradients of the M embeddings, of the temperature and of the weights ([B], also where those are None). outputs:
    `Outputs`."""
    implementation = implementation or TORCH
    embeddings, present, weights = given.embeddings, given.present, given.weights
    loss, logsumexp, sample_loss, saved = outputs
    num_modalities, (batch, dim) = given.num_modalities, embeddings[0].shape
    dense_triples = None
    scale = logit_scale(given.tau, sample_loss)
    if present is None and batch and given.has_triples:
        dense_triples = _TripleLoss(saved, batch, dim, scale)
        units, inverse_norms = dense_triples.units, dense_triples.inverse_norms if given.normalize else None
    else:
        units, inverse_norms = unit_rows(embeddings, present, given.normalize)
    parts = list(_modality_sets(given))
    anchor_counts = None
    if present is not None:
        anchor_counts = torch.zeros_like(sample_loss)
        for part in parts:
            anchor_counts[part.anchors] = len(part.modalities)
    d_score, d_weights = mean_gradients(grad, loss, sample_loss, weights, anchor_counts, num_modalities, scale)
    if dense_triples is not None:
        d_units, d_scores = dense_triples.backward(logsumexp, d_score)
    else:
        d_units = torch.zeros_like(units)
        d_scores = torch.zeros((), dtype=torch.float64, device=grad.device)  # sum of scores times their gradient
        for part in parts:
            rows, columns, own = _select(units, part)
            anchors = slice(None) if part.anchors is None else part.anchors
            pool = slice(None) if part.pool is None else part.pool
            log_sums = logsumexp[list(part.modalities)][:, anchors]
            d_rows: Sequence[Tensor] | None
            d_columns: Sequence[Tensor] | Tensor
            if given.negatives == "all" and len(rows) == 3:
                triples = _TripleLoss(saved, len(rows[0]), dim, scale)
                d_rows = None
                d_columns, d_part = triples.backward(log_sums, d_score[anchors])
            else:
                own_saved = saved if part.anchors is None else saved[:0]
                pairs = implementation.pairs(rows, columns, own, scale, own_saved)
                d_rows, d_columns, d_part = pairs.backward(log_sums, d_score[anchors])
            d_scores += d_part
            for index, gradients in ((pool, d_columns), (anchors, d_rows)):
                for modality, gradient in zip(part.modalities, () if gradients is None else gradients, strict=False):
                    d_units[modality][index] += gradient

    dtypes = [embedding.dtype for embedding in embeddings]
    if inverse_norms is None:
        d_embeddings = [d_unit.to(dtype, copy=True) for d_unit, dtype in zip(d_units, dtypes, strict=True)]
    else:
        along = (units * d_units).sum(2, keepdim=True)
        d_units = torch.addcmul(d_units, units, along, value=-1)
        factors = zip(d_units, inverse_norms, dtypes, strict=True)
        d_embeddings = [(d_unit * inverse).to(dtype) for d_unit, inverse, dtype in factors]
    return [*d_embeddings, temperature_gradient(d_scores, scale, given.tau), d_weights]


def mean_loss(sample_loss: Tensor, weights: Tensor | None, anchor_counts: Tensor | None, count: int) -> Tensor:
    """[]. anchor_counts: as for `inverse_total`."""
    weighted = sample_loss if weights is None else weights.to(sample_loss.dtype) * sample_loss
    return weighted.sum() * inverse_total(weights, anchor_counts, count, sample_loss)


def mean_gradients(
    grad: Tensor,
    loss: Tensor,
    sample_loss: Tensor,
    weights: Tensor | None,
    anchor_counts: Tensor | None,
    count: int,
    scale: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """What the softmax weights of every sample's anchors are multiplied with [B], and the gradient of the weights."""
    grad = grad.to(sample_loss.dtype) * inverse_total(weights, anchor_counts, count, sample_loss)
    d_weights = (sample_loss - (count if anchor_counts is None else anchor_counts) * loss).mul_(grad)
    # [B]: d loss / d (log normaliser) of each anchor of the sample
    d_logits = grad.expand_as(sample_loss) if weights is None else weights.to(sample_loss.dtype) * grad
    d_score = d_logits * (scale / LOG2_E)  # over the temperature
    return d_score, d_weights if weights is None else d_weights.to(weights.dtype)


def temperature_gradient(d_scores: Tensor, scale: Tensor | float, temperature: Tensor) -> Tensor:
    """[], from the sum of scores times their gradient."""
    return (d_scores * (-scale / LOG2_E)).to(temperature.dtype)


class Pairs(Protocol):
    """ "paired" over anchors' rows [M, a, D] and samples' columns [M, b, D], of unit length."""

    def forward(self) -> Tensor:
        """log2 of the sum over every anchor's tuples, relative to its own one: its loss to base 2, [M, a]."""

    def backward(self, losses: Tensor, d_score: Tensor) -> tuple[Sequence[Tensor] | None, Sequence[Tensor], Tensor]:
        """Gradients of the rows, or None where they are the columns and so are their gradients, and of the columns; and
        the sum of scores times their gradient. d_score [a]: as for `TripleSlab.factors`."""


class TorchPairs:
    def __init__(self, rows: Tensor, columns: Tensor, own: Tensor | None, scale: Tensor, saved: Tensor) -> None:
        """own [a]: the places of the rows' samples among the columns, or None where rows and columns are the same.
        saved: what `forward` may leave for `backward`."""
        self._rows, self._columns, self._scale, self._saved = rows.unbind(), columns.unbind(), scale, saved
        self._own = torch.arange(rows.shape[1], device=rows.device) if own is None else own
        self._positives = Positives(self._rows)

    def forward(self) -> Tensor:
        self._saved.zero_()  # an output must be the same every time
        return torch.logaddexp2(paired_sums(*self._given()), self._scale.new_zeros(()))  # its positive's logit is 0

    def backward(self, losses: Tensor, d_score: Tensor) -> tuple[list[Tensor] | None, list[Tensor], Tensor]:
        d_rows, d_columns, total, d_own = paired_backward(*self._given(), losses, d_score)
        for d_row, d_positive in zip(d_rows, self._positives.backward(d_own), strict=True):
            d_row += d_positive
        return d_rows, d_columns, total

    def _given(self) -> tuple[Sequence[Tensor], Sequence[Tensor], Tensor, Tensor, Tensor]:
        return self._rows, self._columns, self._scale, self._positives.scores, self._own


class Positives:
    """sigma_1 of each sample's own stack."""

    def __init__(self, units: Sequence[Tensor]) -> None:
        self._anchor = units[0]
        self._scorer = make_scorer(list(units[1:]), units[0].shape[0])
        products = [(self._anchor * direction).sum(1)[None, :] for direction in self._scorer.directions]
        self.scores = self._scorer.scores(products, slice(None))[0]  # [b]

    def backward(self, weight: Tensor) -> list[Tensor]:
        d_products = [d.T for d in self._scorer.backward(weight[None, :])]  # [b, 1]
        d_anchor = torch.zeros_like(self._anchor)
        for d_product, direction in zip(d_products, self._scorer.directions, strict=True):
            d_anchor.addcmul_(d_product, direction)
        return [d_anchor, *self._scorer.member_gradients([d * self._anchor for d in d_products])]


class _TripleLoss:
    """ "all" of three modalities over one dense batch [b, D]: tuples (i, j, k) with scores from three Gram matrices."""

    def __init__(self, saved: Tensor, size: int, width: int, scale: Tensor) -> None:
        """saved: what `forward` leaves for `backward`, of at least `saved_size` elements."""
        parts = saved[: self.saved_size(size, width)].split(self._sizes(size, width))
        # x, x, y, z, z: the first three by the last three are all pairs
        self._rows_of_pairs = parts[0].view(5, size, width)
        self.units = self._rows_of_pairs[1:4]
        self._grams = parts[1].view(3, size, size)  # x.y, x.z, y.z, as `Operand.value`
        self.inverse_norms = parts[2].view(3, size, 1)  # for the caller
        self._slab = TripleSlab(self._grams, 0, scale, parts[3])

    @classmethod
    def saved_size(cls, size: int, width: int) -> int:
        return sum(cls._sizes(size, width))

    @staticmethod
    def _sizes(size: int, width: int) -> list[int]:
        return [5 * size * width, 3 * size**2, 3 * size, TripleSlab.saved_size(size, size)]

    def forward(self, units: Tensor, learns_temperature: bool) -> tuple[Tensor, Tensor]:
        """log2 of the sum over every anchor's tuples [3, b], and the samples' losses [b]. units: three [b, D]."""
        x, y, z = units
        torch.stack([x, x, y, z, z], out=self._rows_of_pairs)
        lefts, rights = self._rows_of_pairs[:3], self._rows_of_pairs[2:].mT
        torch.baddbmm(self._grams, lefts, rights, beta=0, alpha=SCALE, out=self._grams)
        return self._slab.finish(*self._slab.sums(with_scores=learns_temperature))

    def backward(self, normalisers: Tensor, d_score: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the unit rows [3, b, D] and the sum of scores times their gradient.

        d_score [b]: what the softmax weights of a sample's anchors are multiplied with.
        """
        d_grams = torch.zeros_like(self._grams)
        of_i, of_j, of_k = self._slab.factors(normalisers, d_score)
        self._slab.add_gradients((of_i, of_j, of_k), d_score, d_grams)
        (x_y, x_z, y_z), (y_x, z_x, z_y) = d_grams @ self._rows_of_pairs[2:], d_grams.mT @ self._rows_of_pairs[:3]
        return torch.stack([x_y.add_(x_z), y_x.add_(y_z), z_x.add_(z_y)]), torch.dot(d_score, self._slab.excess)


class TripleSlab:
    """Tuples (i, j, k) of consecutive samples i of a dense batch with all of its j and k.

    Letters: a samples i, b samples j and k.
    """

    def __init__(self, grams: Sequence[Tensor] | Tensor, first: int, scale: Tensor, saved: Tensor) -> None:
        """grams: x.y [a, b], x.z [a, b] and y.z [b, b], as `Operand.value`, which may be filled later on.
        first: the place of the first i among the b samples.
        saved: what `sums` and `finish` leave for `add_gradients`, of `saved_size` elements."""
        self._grams, self._first = grams, first
        rows, size = grams[0].shape
        # Of every sample i: the sum of its anchors' mean scores less its own, the sum of the softmax weights of all
        # tuples of its anchors but its own, its positive's slope, and the least gap of its tuples. Of every triple:
        # what `recall` takes, and its exponential times its slope.
        self.excess, self._other_weights, self._own_slopes, self._least_gaps = saved[: 4 * rows].view(4, rows).unbind()
        kept = saved[4 * rows :]
        # Scores lie in [1, sqrt(3)]; about the middle of that range exp2 needs no running maximum.
        self._shift = scale.double() * -(1 + math.sqrt(3)) / 2
        self._scale = scale
        self._scale_number = scale.item()
        self._sum_dtype = _sum_dtype(scale, size)
        self._shift_rounded = self._shift.to(self._sum_dtype)
        keeps = kept.numel() > 0 and self._sum_dtype == saved.dtype
        self._kept = kept.view(2, rows, size, size) if keeps else None
        self._unused = [] if keeps else [self._own_slopes, kept]
        capacity = _tile_elements(saved.device)
        self._rows = min(rows, capacity // size**2)
        if self._rows < 3:
            self._rows = min(rows, _FEW_ROWS)
        self._middle = max(1, min(size, capacity // (size * self._rows)))
        self._capacity = self._rows * self._middle * size
        self._tile = TripleTile(self._capacity, saved, self._scratch("tile", saved.dtype, 5))

    @staticmethod
    def saved_size(rows: int, size: int) -> int:
        return 4 * rows + (2 * rows * size**2 if rows * size**2 <= _MOST_KEPT else 0)

    def _scratch(self, name: str, dtype: torch.dtype, count: int = 1) -> Tensor:
        return scratch(name, (count, self._capacity), dtype, self._scale.device)

    def _tiles(self) -> Iterator[tuple[slice, slice, tuple[Operand, Operand, Operand], tuple[int, int, int]]]:
        """Slices of i and j, their inner products and the shape [i, j, k] of the tile."""
        rows, size = self._grams[0].shape
        of_a, of_b, of_c = (Operand.scaled(gram) for gram in self._grams)
        all_i, all_j = list(_slices(rows, self._rows)), list(_slices(size, self._middle))
        sizes_i, sizes_j = ([part.stop - part.start for part in parts] for parts in (all_i, all_j))
        all_b = of_b.unsqueeze(1).split(sizes_i)
        all_c = of_c.unsqueeze(0).split(sizes_j, dim=1)
        for j, of_j, c in zip(all_j, of_a.split(sizes_j, dim=1), all_c, strict=True):
            for i, a, b in zip(all_i, of_j.unsqueeze(2).split(sizes_i), all_b, strict=True):
                yield i, j, (a, b, c), (i.stop - i.start, j.stop - j.start, size)

    def _exponentials(self, sigma: Tensor, out: Tensor) -> Tensor:
        """exp2 of the shifted logits, in the flat `out`."""
        out = out[: sigma.numel()].view(sigma.shape)
        return torch.add(self._shift_rounded, sigma, alpha=self._scale_number, out=out).exp2_()

    def sums(self, with_scores: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Over the tuples of every i [2, a], j [2, b] and k [2, b] but the own ones: the sums of exponentials and of
        those times score, which the temperature's gradient wants; without them [1, a], [1, b] and [1, b].
        And the scores [a] of the positives of the samples i."""
        for part in self._unused:  # an output must be the same every time
            part.zero_()
        store = self._scratch("exponentials", self._sum_dtype)[0]
        rows, size = self._grams[0].shape
        kinds = 2 if with_scores else 1
        by_i, by_jk = store.new_zeros(kinds, rows), store.new_zeros(kinds, size, size)
        kinds_of_i, kinds_of_jk = by_i.unbind(), by_jk.unbind()
        positives = torch.empty_like(self.excess)
        self._least_gaps.fill_(math.inf)
        for i, j, products, shape in self._tiles():
            keep = None if self._kept is None else self._kept[:, i, j].unbind()
            sigma = self._tile.sigma(*products, shape, keep)
            own, samples = self._positives_in(sigma, i, j)
            positives[samples] = own
            exp = self._exponentials(sigma, out=store)
            self._positives_in(exp, i, j)[0].zero_()
            kinds_of_i[0][i].add_(exp.sum((1, 2)))
            kinds_of_jk[0][j].add_(exp.sum(0))
            if keep is not None:
                self._least_gaps[i].clamp_(max=self._tile.least_gap())
                slopes = self._tile.slopes()
                self._own_slopes[samples] = self._positives_in(slopes, i, j)[0]
                slopes.mul_(exp)
            if with_scores:
                exp.mul_(sigma)
                kinds_of_i[1][i].add_(exp.sum((1, 2)))
                kinds_of_jk[1][j].add_(exp.sum(0))
        return by_i, by_jk.sum(2), by_jk.sum(1), positives

    def finish(self, by_i: Tensor, by_j: Tensor, by_k: Tensor, positives: Tensor) -> tuple[Tensor, Tensor]:
        """From the complete `sums` of the samples i alone, [2, a] or [1, a] each: log2 of the sum over every anchor's
        tuples [3, a], and the losses of the samples [a]. Fills what `add_gradients` wants of the positives, and
        `excess`, with zeros where no scores were summed.

        The positive stands apart: where it dominates, nothing of the others is lost in a difference."""
        others, *score_sums = torch.stack([by_i, by_j, by_k], dim=1).unbind()
        own = self.own_exponentials(positives)
        sums = others + own
        torch.sum(others / sums, 0, out=self._other_weights)
        if score_sums:
            torch.sum((score_sums[0] - others * positives) / sums, 0, out=self.excess)
        else:
            self.excess.zero_()
        return self.log_sums(sums), torch.log1p(others / own).sum(0).to(self._scale.dtype)

    def own_exponentials(self, positives: Tensor) -> Tensor:
        """Those of positives with these scores, as `sums` has those of the others."""
        return self._exponentials(positives, torch.empty_like(positives, dtype=self._sum_dtype))

    def log_sums(self, sums: Tensor) -> Tensor:
        """log2 of sums of exponentials, without their shift."""
        return (sums.log2() - self._shift).to(self._scale.dtype)

    def factors(self, log_sums: Tensor, d_score: Tensor) -> Tensor:
        """What the exponentials of anchors' tuples are multiplied with in the backward pass; any shape.

        d_score: what the softmax weights of the tuples of a sample's anchors are multiplied with.
        """
        return d_score * torch.exp2(-log_sums.to(self._sum_dtype) - self._shift)

    def add_gradients(self, factors: tuple[Tensor, ...], d_score: Tensor, d_grams: Sequence[Tensor] | Tensor) -> None:
        """Add the gradients of the Gram matrices to d_grams. factors: of i [a], j [b] and k [b]; d_score: [a]."""
        of_i, of_j, of_k = factors
        d_a, d_b, d_c = d_grams
        exp_store = self._scratch("exponentials", self._sum_dtype)[0]
        factor_store, weight_store = (
            self._scratch("factors", self._sum_dtype)[0],
            self._scratch("weights", d_score.dtype)[0],
        )
        of_jk = of_j[:, None] + of_k
        least_gaps = [] if self._kept is None else self._least_gaps.tolist()
        for i, j, products, shape in self._tiles():
            factor, weight = (store[: math.prod(shape)].view(shape) for store in (factor_store, weight_store))
            torch.add(of_jk[j], of_i[i, None, None], out=factor)
            own, samples = self._positives_in(weight, i, j)
            if self._kept is not None and all(gap > _SAFE_GAP for gap in least_gaps[i]):
                root, exp_slope = self._kept[:, i, j].unbind()
                self._tile.recall(*products, shape, root)
                torch.mul(exp_slope, factor, out=weight)
                own.copy_(d_score[samples] * self._own_slopes[samples] * -self._other_weights[samples])
                self._tile.add_sums(weight, d_a[i, j], d_b[i], d_c[j])
                continue
            exp = self._exponentials(self._tile.sigma(*products, shape), out=exp_store)
            torch.mul(exp, factor, out=weight)
            own.copy_(d_score[samples] * -self._other_weights[samples])
            if self._tile.least_gap().item() > _SAFE_GAP:
                self._tile.add_sums(weight.mul_(self._tile.slopes()), d_a[i, j], d_b[i], d_c[j])
            else:
                gradients = self._tile.gradients(weight)
                d_a[i, j].add_(next(gradients).sum(2))
                d_b[i].add_(next(gradients).sum(1))
                d_c[j].add_(next(gradients).sum(0))

    def _positives_in(self, tile: Tensor, i: slice, j: slice) -> tuple[Tensor, slice]:
        """The positives of a tile [i, j, k] over all k, as a view, and the slice of i that they are of."""
        begin, end = i.start + self._first, i.stop + self._first
        start, stop = max(begin, j.start), max(begin, j.start, min(end, j.stop))
        block = tile[start - begin : stop - begin, start - j.start : stop - j.start, start:stop]
        return block.diagonal().diagonal(), slice(start - self._first, stop - self._first)


def paired_sums(
    rows: Sequence[Tensor], columns: Sequence[Tensor], scale: Tensor, positives: Tensor, own: Tensor
) -> Tensor:
    """log2 of the sum of exponentials over every anchor's tuples but its own, relative to that one; [M, a].

    Anchors are rows [a, D], the other members of their tuples columns [b, D]. positives [a]: scores of the anchors' own
    tuples. own [a]: the places of the anchors' samples among the columns; negative where they are not among them.
    """
    wide = _pair_columns(scale.device)
    sums = rows[0].new_full((len(rows), len(rows[0])), -math.inf)
    for m, anchor in enumerate(rows):
        scorer = make_scorer([*columns[:m], *columns[m + 1 :]], _PAIR_ROWS * wide)
        for j in _slices(len(columns[0]), wide):
            directions = [direction[j].T for direction in scorer.directions]
            for i in _slices(len(anchor), _PAIR_ROWS):
                sigma = scorer.scores([anchor[i] @ d for d in directions], j)
                logits = (sigma - positives[i, None]).mul_(scale)
                logits[_own_pairs(own[i], j)] = -math.inf
                highest = logits.amax(1, keepdim=True)
                highest.masked_fill_(highest == -math.inf, 0)
                log_sum = (logits.sub_(highest).exp2_().sum(1).log2_()).add_(highest[:, 0])
                sums[m, i] = torch.logaddexp2(sums[m, i], log_sum)
    return sums


def paired_backward(
    rows: Sequence[Tensor],
    columns: Sequence[Tensor],
    scale: Tensor,
    positives: Tensor,
    own: Tensor,
    losses: Tensor,
    d_score: Tensor,
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """Gradients of the rows and of the columns by all tuples but the anchors' own; the sum of scores, less that of the
    anchor's positive, times their gradient; and the gradients of the positives' scores [a].

    The positive's softmax weight less one is minus the sum of all other weights, and so the scores may be relative to
    its own: where it dominates, no gradient is a difference of large numbers.

    positives, own: as for `paired_sums`. losses [M, a]: of the anchors, to base 2. d_score [a]: as for
    `TripleSlab.factors`.
    """
    wide = _pair_columns(scale.device)
    d_rows, d_columns = ([torch.zeros_like(part) for part in parts] for parts in (rows, columns))
    d_scores = torch.zeros((), dtype=torch.float64, device=scale.device)
    d_own = torch.zeros_like(positives)
    for m, anchor in enumerate(rows):
        scorer = make_scorer([*columns[:m], *columns[m + 1 :]], _PAIR_ROWS * wide)
        d_directions = [torch.zeros_like(direction) for direction in scorer.directions]
        for j in _slices(len(columns[0]), wide):
            directions = [direction[j] for direction in scorer.directions]
            for i in _slices(len(anchor), _PAIR_ROWS):
                relative = scorer.scores([anchor[i] @ d.T for d in directions], j) - positives[i, None]
                weight = (relative * scale).sub_(losses[m, i, None]).exp2_().mul_(d_score[i, None])
                weight[_own_pairs(own[i], j)] = 0
                d_scores += torch.dot(weight.flatten(), relative.flatten())
                d_own[i] -= weight.sum(1)
                for d_product, direction, d_direction in zip(
                    scorer.backward(weight), directions, d_directions, strict=True
                ):
                    d_rows[m][i].addmm_(d_product, direction)
                    d_direction[j].addmm_(d_product.T, anchor[i])
        others = d_columns[:m] + d_columns[m + 1 :]
        for d_column, d_member in zip(others, scorer.member_gradients(d_directions), strict=True):
            d_column += d_member
    return d_rows, d_columns, d_scores, d_own


def _own_pairs(own: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Rows and columns of the own pairs of a tile."""
    rows = ((own >= columns.start) & (own < columns.stop)).nonzero()[:, 0]
    return rows, own[rows] - columns.start


class PairedImplementation(NamedTuple):
    """pairs: makes `Pairs`, of the arguments of TorchPairs. saved_of_pairs: of M, B, D: what it leaves in `saved`."""

    pairs: Callable[[Tensor, Tensor, Tensor | None, Tensor, Tensor], Pairs]
    saved_of_pairs: Callable[[int, int, int], int]


TORCH = PairedImplementation(TorchPairs, lambda num_modalities, batch, dim: 0)


def unit_rows(embeddings: list[Tensor], present: Tensor | None, normalize: bool) -> tuple[Tensor, Tensor | None]:
    """Unit rows of the embeddings [M, B, D] in the compute dtype, and 1/length [M, B, 1], or None if not asked.

    Rows that no anchor and no pool uses are zero: what stands there, NaN too, must not reach the gradient.
    """
    dtype = torch.float64 if embeddings[0].dtype == torch.float64 else torch.float32
    rows = torch.stack(embeddings).to(dtype)
    if present is not None:
        rows.masked_fill_(~(present & (present.sum(0) >= 2))[:, :, None], 0)
    if not normalize:
        return rows, None
    scale = inverse_power(rows, 2)
    norms = torch.linalg.vector_norm(rows.mul_(scale), dim=2, keepdim=True)
    inverse = norms.reciprocal().masked_fill_(norms < MIN_NORM * scale, 0)
    return rows.mul_(inverse), inverse.mul_(scale)


def _modality_sets(given: Arguments) -> Iterator[ModalitySet]:
    """The sets of at least two modalities that occur in the batch; none in an empty batch."""
    if len(given.embeddings[0]) == 0:
        return
    every = range(given.num_modalities)
    if given.present is None:
        yield ModalitySet(tuple(every), None, None)
        return
    codes = modality_codes(given.present)
    for code in codes.unique().tolist():
        modalities = tuple(m for m in every if code >> m & 1)
        if len(modalities) >= 2:
            yield ModalitySet(modalities, (codes == code).nonzero()[:, 0], ((codes & code) == code).nonzero()[:, 0])


def _select(units: Tensor, part: ModalitySet) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rows of the anchors [m, a, D] and of the pool [m, b, D], and the anchors' places in the pool. Where those are the
    same samples, that is one tensor, and None."""
    if part.anchors is None or part.pool is None:
        return units, units, None
    modalities = torch.tensor(part.modalities, device=units.device)[:, None]
    columns = units[modalities, part.pool]
    if len(part.anchors) == len(part.pool):
        return columns, columns, None
    return units[modalities, part.anchors], columns, torch.searchsorted(part.pool, part.anchors)


def logit_scale(temperature: Tensor, like: Tensor) -> Tensor:
    """What turns a score into a logit to base 2."""
    return LOG2_E / temperature.to(like.dtype)


def _sum_dtype(scale: Tensor, size: int) -> torch.dtype:
    """float64 reaches down to a temperature of 0.0006. A GPU is not asked."""
    return scale.dtype if scale.device.type == "cpu" and float32_holds(scale.item(), size) else torch.float64


def float32_holds(scale: float, size: int) -> bool:
    """Whether the exponentials of [1, sqrt(3)] about its middle, and their sum over size^2, stay normal numbers: from a
    temperature of 0.0055 up at size 4096."""
    return scale * (math.sqrt(3) - 1) / 2 + 2 * math.log2(max(size, 1)) < 120


def inverse_total(weights: Tensor | None, anchor_counts: Tensor | None, count: int, like: Tensor) -> Tensor | float:
    """One over the total weight of all anchors; 0 where there is none. anchor_counts: [B], or None: all `count`."""
    if weights is None and anchor_counts is None:
        return 1 / (count * len(like)) if len(like) else 0.0
    weighted = torch.ones_like(like) if weights is None else weights.to(like.dtype)
    total = (weighted * (count if anchor_counts is None else anchor_counts)).sum()
    return total.reciprocal().masked_fill_(total == 0, 0)


def _tile_elements(device: torch.device) -> int:
    if device.type != "cpu":
        return _GPU_TILE
    return _TILE_PER_THREAD * min(torch.get_num_threads(), _MOST_THREADS)


def _pair_columns(device: torch.device) -> int:
    return _tile_elements(device) // _PAIR_ROWS


def _slices(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))
