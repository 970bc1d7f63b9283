""" "all" of three modalities in plain torch, in tiles, with its gradient written out.

A tile is [i, j, k], a slice of the B^3 triples. Scores are recomputed in the backward pass, but for those of small
batches, so memory is O(B^2). Logarithms are to base 2 throughout: exp2 is the cheapest exponential on both CPU and GPU.
Samples that have two of the modalities form pairs, which are the engine's (unihpe_kernels.contrastive).

On a GPU this is the fallback for what has no kernel (float64), and it synchronises.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unihpe_kernels.contrastive.contract import Options
from unihpe_kernels.contrastive.loss import PartsOfBatch, backend_of, find_route, mean, mean_gradients
from unihpe_kernels.contrastive.paired import add_own
from unihpe_kernels.contrastive.torch_blocks import BACKEND as TORCH
from unihpe_kernels.scores import LOG2_E, SCORES
from unihpe_kernels.scratch import scratch
from unihpe_kernels.sv_contrastive.arguments import Arguments
from unihpe_kernels.sv_contrastive.closed_form import SCALE, Operand, TripleTile

# Elements of each of about eight buffers of a tile. A thread's share is large enough to hide the cost of some fifty
# calls and small enough for the cache; together they stay small next to the Gram matrices of a large batch, and 512
# samples below 64 MiB in all.
_TILE_PER_THREAD = 131072
_MOST_THREADS = 8
_GPU_TILE = 2**22
# Rows i of a tile where no whole [j, k] fits: sums over i and over j are then both short work.
_FEW_ROWS = 8
# The most triples of which the forward pass keeps two numbers each for the backward pass: 8 MiB in float32.
_MOST_KEPT = 2**20
# Twice s of closed_form.py, from which on the unbounded gradients are used: their rounding errors are divided by it.
_SAFE_GAP = 1e-3
SETS_OF_TWO = (0b011, 0b101, 0b110)  # of three modalities, a bit each
_OF_TRIPLES = Options(SCORES["singular_value"], 3, (0, 1, 2), scale=1.0, shift=0.0, middle=0.0)


class Outputs(NamedTuple):
    """The loss, and what the backward pass reads of the forward pass. float64 for float64 embeddings, else float32.

    logsumexp: of every anchor's logits, to base 2, or what else the backward pass takes in its place.
    """

    loss: Tensor  # []
    logsumexp: Tensor  # [M, B]
    sample_loss: Tensor  # [B], summed over a sample's anchors
    saved: Tensor  # flat, of `saved_size` elements


def forward(given: Arguments, learns_temperature: bool = True) -> Outputs:
    """learns_temperature: False where its gradient is not wanted."""
    embeddings, present = given.embeddings, given.present
    units, inverse_norms = TORCH.units(embeddings, given.normalize, given.spec.used(present))
    _, batch, dim = units.shape
    # with `present` some of it may stay unused
    saved = (units.new_empty if present is None else units.new_zeros)(saved_size(given))
    logsumexp, sample_loss = units.new_zeros(3, batch), units.new_zeros(batch)
    complete = _complete(given)
    if size := batch if complete is None else len(complete):
        triples = _TripleLoss(saved, size, dim, logit_scale(given.tau, units))
        where = slice(None) if complete is None else complete
        logsumexp[:, where], sample_loss[where] = triples.forward(units[:, where], learns_temperature)
        if complete is None:
            triples.keep_norms(inverse_norms)
    if present is not None:
        samples, shares = _of_pairs(saved, batch)
        _pairs(given, units, learns_temperature).forward(samples, shares)
        sample_loss += samples[0]
    loss = mean(sample_loss, given.weights, given.spec.anchor_counts(present), 3)
    return Outputs(loss, logsumexp, sample_loss, saved)


def saved_shapes(given: Arguments) -> list[tuple[tuple[int, ...], torch.dtype | None]]:
    """Of `Outputs` after the loss: the shape, and the dtype where that is not the loss's."""
    return shapes_with(given, saved_size(given))


def shapes_with(given: Arguments, size: int) -> list[tuple[tuple[int, ...], torch.dtype | None]]:
    """The same with so many elements of `saved`."""
    batch = given.embeddings[0].shape[0]
    return [((given.num_modalities, batch), None), ((batch,), None), ((size,), None)]


def saved_size(given: Arguments) -> int:
    """Elements that `forward` hands to `backward`: how many is a matter of the shapes alone."""
    batch, dim = given.embeddings[0].shape
    return _TripleLoss.saved_size(batch, dim) + (0 if given.present is None else _OF_PAIRS * batch)


def backward(grad: Tensor, given: Arguments, outputs: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of the three embeddings, of the temperature and of the weights ([B], also where those are None).
    outputs: `Outputs`."""
    embeddings, present = given.embeddings, given.present
    loss, logsumexp, sample_loss, saved = outputs
    batch, dim = embeddings[0].shape
    complete = _complete(given)
    d_loss, d_weights = mean_gradients(grad, loss, sample_loss, given.weights, given.spec.anchor_counts(present), 3)
    d_score = d_loss / given.tau.to(d_loss.dtype)
    d_scores = torch.zeros((), dtype=torch.float64, device=grad.device)  # sum of scores times their gradient
    size = batch if complete is None else len(complete)
    triples = _TripleLoss(saved, size, dim, logit_scale(given.tau, sample_loss)) if size else None
    if triples is not None and complete is None:
        units, inverse_norms = triples.units, triples.inverse_norms if given.normalize else None
    else:
        units, inverse_norms = TORCH.units(embeddings, given.normalize, given.spec.used(present))
    d_units = torch.zeros_like(units)
    if triples is not None:
        where = slice(None) if complete is None else complete
        d_units[:, where], d_part = triples.backward(logsumexp[:, where], d_score[where])
        d_scores += d_part
    if present is not None:
        samples, shares = _of_pairs(saved, batch)
        d_units += _pairs(given, units).backward(d_score, shares)
        d_scores += torch.dot(d_score, samples[1])
    d_temperature = (d_scores / -given.tau.double()).to(given.tau.dtype)
    return [*TORCH.through_units(units, inverse_norms, d_units, embeddings), d_temperature, d_weights]


def positives(units: Tensor) -> Tensor:
    """sigma_1 of each sample's own triple, [b], from unit rows [3, b, D]."""
    return TORCH.positives(TORCH.inner(units), _OF_TRIPLES)


def positive_gradients(units: Tensor, weight: Tensor) -> Tensor:
    """weight [b] times the gradients of `positives`, [3, b, D]."""
    d_units = torch.zeros_like(units)
    add_own(d_units, units, TORCH.positives_gradient(TORCH.inner(units), _OF_TRIPLES, weight))
    return d_units


def _complete(given: Arguments) -> Tensor | None:
    """Indices of the samples that have all three; None: every one."""
    return None if given.present is None else given.present.all(0).nonzero()[:, 0]


# numbers of a sample that `_of_pairs` are made of
_OF_PAIRS = 3 + 2 * 3


def _of_pairs(saved: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """What the engine leaves of the pairs: samples [3, B] and shares [2, 3, B]."""
    samples, shares = saved[len(saved) - _OF_PAIRS * batch :].split([3 * batch, 6 * batch])
    return samples.view(3, batch), shares.view(2, 3, batch)


def _pairs(given: Arguments, units: Tensor, learns: bool = False) -> PartsOfBatch:
    """Of the samples that have two of the modalities."""
    route = find_route(given.tau, given.spec, 2, units.shape[1])
    backend = backend_of(given.backend, route)
    return PartsOfBatch(
        backend, units, given.present, given.spec, given.tau, None, route, learns=learns, sets=SETS_OF_TWO
    )


class _TripleLoss:
    """ "all" of three modalities over one dense batch [b, D]: tuples (i, j, k) with scores from three Gram matrices."""

    def __init__(self, saved: Tensor, size: int, width: int, scale: Tensor) -> None:
        """saved: what `forward` leaves for `backward`, of at least `saved_size` elements."""
        parts = saved[: self.saved_size(size, width)].split(self._sizes(size, width))
        # x, x, y, z, z: the first three by the last three are all pairs
        self._rows_of_pairs = parts[0].view(5, size, width)
        self.units = self._rows_of_pairs[1:4]
        self._grams = parts[1].view(3, size, size)  # x.y, x.z, y.z, as `Operand.value`
        self.inverse_norms = parts[2].view(3, size)  # for the caller
        self._shard = TripleShard(self._grams, 0, scale, parts[3])

    @classmethod
    def saved_size(cls, size: int, width: int) -> int:
        return sum(cls._sizes(size, width))

    @staticmethod
    def _sizes(size: int, width: int) -> list[int]:
        return [5 * size * width, 3 * size**2, 3 * size, TripleShard.saved_size(size, size)]

    def keep_norms(self, inverse_norms: Tensor | None) -> None:
        if inverse_norms is None:
            self.inverse_norms.fill_(1)  # an output must be the same every time
        else:
            self.inverse_norms.copy_(inverse_norms)

    def forward(self, units: Tensor, learns_temperature: bool) -> tuple[Tensor, Tensor]:
        """log2 of the sum over every anchor's tuples [3, b], and the samples' losses [b]. units: three [b, D]."""
        x, y, z = units
        torch.stack([x, x, y, z, z], out=self._rows_of_pairs)
        lefts, rights = self._rows_of_pairs[:3], self._rows_of_pairs[2:].mT
        torch.baddbmm(self._grams, lefts, rights, beta=0, alpha=SCALE, out=self._grams)
        return self._shard.finish(*self._shard.sums(with_scores=learns_temperature))

    def backward(self, normalisers: Tensor, d_score: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the unit rows [3, b, D] and the sum of scores times their gradient.

        d_score [b]: what the softmax weights of a sample's anchors are multiplied with.
        """
        d_grams = torch.zeros_like(self._grams)
        of_i, of_j, of_k = self._shard.factors(normalisers, d_score)
        self._shard.add_gradients((of_i, of_j, of_k), d_score, d_grams)
        (x_y, x_z, y_z), (y_x, z_x, z_y) = d_grams @ self._rows_of_pairs[2:], d_grams.mT @ self._rows_of_pairs[:3]
        return torch.stack([x_y.add_(x_z), y_x.add_(y_z), z_x.add_(z_y)]), torch.dot(d_score, self._shard.excess)


class TripleShard:
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


def _tile_elements(device: torch.device) -> int:
    if device.type != "cpu":
        return _GPU_TILE
    return _TILE_PER_THREAD * min(torch.get_num_threads(), _MOST_THREADS)


def _slices(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))
