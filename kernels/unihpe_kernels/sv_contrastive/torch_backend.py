"""The singular-value contrastive loss in plain torch, in tiles, with its gradient written out.

For "all" a tile is [i, j, k], a slice of the B^3 triples; for "paired" it is [i, j]. Scores are recomputed in the
backward pass, but for the "all" of small batches, so memory is O(B^2) for "all" and O(B D) for "paired". Logarithms are
to base 2 throughout: exp2 is the cheapest exponential on both CPU and GPU.

On a GPU this is the fallback for what has no kernel (float64), and it synchronises.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unihpe_kernels.sv_contrastive.closed_form import Operand, TripleTile
from unihpe_kernels.sv_contrastive.scorers import make_scorer

# Elements of each of about eight buffers of a tile. A thread's share is large enough to hide the cost of some fifty
# calls and small enough for the cache; together they stay small next to the Gram matrices of a large batch.
_TILE_PER_THREAD = 131072
_MOST_THREADS = 16
_GPU_TILE = 2**22
# Rows i of a tile of "all" where no whole [j, k] fits: sums over i and over j are then both short work.
_FEW_ROWS = 8
# The most triples of which the forward pass keeps two numbers each for the backward pass: 8 MiB in float32.
_MOST_KEPT = 2**20
# Twice s of closed_form.py, from which on the unbounded gradients are used: their rounding errors are divided by it.
_SAFE_GAP = 1e-3
_PAIR_ROWS = 128
_MIN_NORM = 1e-12
LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class ModalitySet:
    """The samples that share one dense loss: the anchors have exactly these modalities, the pool at least these."""

    modalities: tuple[int, ...]
    anchors: Tensor | None  # [a] sample indices; None: every sample
    pool: Tensor | None  # [b], a superset of the anchors


def forward(
    embeddings: list[Tensor],
    temperature: Tensor,
    weights: Tensor | None,
    present: Tensor | None,
    negatives: str,
    normalize: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the loss [], log2 of every anchor's normaliser [M, B], the loss of every sample summed over its anchors
    [B], and what `backward` takes over, [saved_size]."""
    units, _ = unit_rows(embeddings, present, normalize)
    scale = logit_scale(temperature, units)
    batch = units.shape[1]
    normalisers = units.new_zeros(len(units), batch)
    sample_loss, anchor_counts = units.new_zeros(2, batch).unbind(0)
    # with `present` some of it may stay unused
    new = units.new_empty if present is None else units.new_zeros
    saved = new(saved_size(embeddings, present, negatives))
    for group in modality_sets(present, len(units), batch, units.device):
        rows, columns = _select(units, group)
        if negatives == "all" and len(rows) == 3:
            x, y, z = rows
            triples = TripleSlab(x, y, z, 0, scale, saved)
            log_sums, positives = triples.finish(*triples.sums())
        else:
            log_sums, positives = paired_normalisers(rows, columns, scale), Positives(rows).scores
        anchors = slice(None) if group.anchors is None else group.anchors
        for modality, log_sum in zip(group.modalities, log_sums, strict=True):
            normalisers[modality, anchors] = log_sum
        sample_loss[anchors] = (log_sums - positives * scale).sum(0) / LOG2_E
        anchor_counts[anchors] = len(group.modalities)
    weighted = weights.to(sample_loss.dtype) if weights is not None else torch.ones_like(sample_loss)
    loss = (weighted * sample_loss).sum() * inverse_of_total(weighted, anchor_counts)
    return loss, normalisers, sample_loss, saved


def saved_size(embeddings: list[Tensor], present: Tensor | None, negatives: str) -> int:
    """Elements that `forward` hands to `backward`: how many is a matter of the shapes alone."""
    count, batch = len(embeddings), embeddings[0].shape[0]
    return saved_of_slab(batch, batch) if negatives == "all" and count == 3 else 0


def saved_of_slab(rows: int, batch: int) -> int:
    """Elements that the forward pass of a `TripleSlab` hands to its backward pass."""
    return 3 * rows + (2 * rows * batch**2 if rows * batch**2 <= _MOST_KEPT else 0)


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
    """Gradients of the M embeddings, of the temperature and of the weights ([B], also where those are None)."""
    units, inverse_norms = unit_rows(embeddings, present, normalize)
    scale = logit_scale(temperature, units)
    groups = list(modality_sets(present, len(units), units.shape[1], units.device))
    anchor_counts = torch.zeros_like(sample_loss)
    for group in groups:
        anchor_counts[slice(None) if group.anchors is None else group.anchors] = len(group.modalities)
    weighted = weights.to(sample_loss.dtype) if weights is not None else torch.ones_like(sample_loss)
    inverse_total = inverse_of_total(weighted, anchor_counts)
    grad = grad.to(sample_loss.dtype)
    d_weights = grad * (sample_loss - anchor_counts * loss) * inverse_total
    d_logits = weighted * (grad * inverse_total)  # [B]: d loss / d (log normaliser) of each anchor of the sample

    d_units = torch.zeros_like(units)
    d_scores = torch.zeros((), dtype=torch.float64, device=grad.device)  # sum of scores times their gradient
    for group in groups:
        rows, columns = _select(units, group)
        anchors = slice(None) if group.anchors is None else group.anchors
        pool = slice(None) if group.pool is None else group.pool
        log_sums = normalisers[list(group.modalities)][:, anchors]
        d_score = d_logits[anchors] * (scale / LOG2_E)  # over the temperature
        if negatives == "all" and len(rows) == 3:
            x, y, z = rows
            triples = TripleSlab(x, y, z, 0, scale, saved)
            of_i, of_j, of_k = triples.factors(log_sums, d_score)
            d_columns = triples.backward(of_i, of_j, of_k, d_score)
            d_group = torch.dot(d_score, triples.excess)
            d_rows: list[Tensor] = []
        else:
            d_rows, d_columns, d_group = paired_backward(rows, columns, scale, log_sums, d_score)
            positives = Positives(rows)
            d_group -= len(rows) * torch.dot(d_score, positives.scores)
            for d_row, d_positive in zip(d_rows, positives.backward(d_score * -len(rows)), strict=True):
                d_row += d_positive
        d_scores += d_group
        for index, parts in ((pool, d_columns), (anchors, d_rows)):
            for modality, part in zip(group.modalities, parts, strict=False):
                d_units[modality][index] += part

    d_units = through_lengths(units, inverse_norms, d_units)
    d_embeddings = [
        d_unit.to(embedding.dtype, copy=True) for embedding, d_unit in zip(embeddings, d_units, strict=True)
    ]
    d_temperature = -d_scores.to(scale.dtype) * (scale / LOG2_E)
    d_weights_dtype = weights.dtype if weights is not None else sample_loss.dtype
    return [*d_embeddings, d_temperature.to(temperature.dtype), d_weights.to(d_weights_dtype)]


class Positives:
    """sigma_1 of each sample's own stack."""

    def __init__(self, units: list[Tensor]) -> None:
        self._anchor = units[0]
        self._scorer = make_scorer(units[1:], units[0].shape[0])
        products = [(self._anchor * direction).sum(1)[None, :] for direction in self._scorer.directions]
        self.scores = self._scorer.scores(products, slice(None))[0]  # [b]

    def backward(self, weight: Tensor) -> list[Tensor]:
        d_products = [d.T for d in self._scorer.backward(weight[None, :])]  # [b, 1]
        d_anchor = torch.zeros_like(self._anchor)
        for d_product, direction in zip(d_products, self._scorer.directions, strict=True):
            d_anchor.addcmul_(d_product, direction)
        return [d_anchor, *self._scorer.member_gradients([d * self._anchor for d in d_products])]


class TripleSlab:
    """ "all" of three modalities: tuples (i, j, k) of consecutive samples i of a dense batch with all of its j and k.

    Scores come from three Gram matrices, of x [a, D], y [b, D] and z [b, D]; `first` is the place of the first i among
    the b samples.
    """

    def __init__(self, x: Tensor, y: Tensor, z: Tensor, first: int, scale: Tensor, saved: Tensor) -> None:
        self._units = (x, y, z)
        self._first = first
        rows, size = len(x), len(y)
        grams = Operand.of(torch.cat([x @ y.T, x @ z.T, y @ z.T]))
        self._a, self._b, self._c = grams.split([rows, rows, size])
        # Scores lie in [1, sqrt(3)]; about the middle of that range exp2 needs no running maximum.
        self._shift = scale.double() * -(1 + math.sqrt(3)) / 2
        self._scale = scale
        self._scale_number = scale.item()
        self._sum_dtype = _sum_dtype(scale, size)
        self._shift_rounded = self._shift.to(self._sum_dtype)
        # Of every sample i: the sum of its anchors' mean scores less its own, its own tuple's slope, and the least gap
        # of its tuples. Of every triple: what `recall` takes, and its exponential times its slope.
        self.excess, self._own_slopes, self._least_gaps = saved[: 3 * rows].view(3, rows)
        self._kept = None
        if saved.numel() >= 3 * rows + 2 * rows * size**2 and self._sum_dtype == x.dtype:
            self._kept = saved[3 * rows :][: 2 * rows * size**2].view(2, rows, size, size)
        capacity = _tile_elements(x.device)
        self._rows = min(rows, capacity // size**2)
        if self._rows < 3:
            self._rows = min(rows, _FEW_ROWS)
        self._middle = max(1, min(size, capacity // (size * self._rows)))
        self._capacity = self._rows * self._middle * size
        self._tile = TripleTile(self._capacity, x)

    def _tiles(self) -> Iterator[tuple[slice, slice, tuple[Operand, Operand, Operand], tuple[int, int, int]]]:
        """Slices of i and j, their inner products and the shape [i, j, k] of the tile."""
        x, y, _ = self._units
        size = len(y)
        all_i, all_j = list(_slices(len(x), self._rows)), list(_slices(size, self._middle))
        sizes_i, sizes_j = ([part.stop - part.start for part in parts] for parts in (all_i, all_j))
        all_b = self._b.unsqueeze(1).split(sizes_i)
        all_c = self._c.unsqueeze(0).split(sizes_j, dim=1)
        for j, of_j, c in zip(all_j, self._a.split(sizes_j, dim=1), all_c, strict=True):
            for i, a, b in zip(all_i, of_j.unsqueeze(2).split(sizes_i), all_b, strict=True):
                yield i, j, (a, b, c), (i.stop - i.start, j.stop - j.start, size)

    def _exponentials(self, sigma: Tensor, out: Tensor) -> Tensor:
        """exp2 of the shifted logits, in the flat `out`."""
        out = out[: sigma.numel()].view(sigma.shape)
        return torch.add(self._shift_rounded, sigma, alpha=self._scale_number, out=out).exp2_()

    def sums(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Over the tuples of every i [2, a], j [2, b] and k [2, b]: the sums of exponentials and of those times score.
        And the scores [a] of the samples' own tuples."""
        rows, size = len(self._units[0]), len(self._units[1])
        store = self._units[0].new_empty(self._capacity, dtype=self._sum_dtype)
        by_i, by_jk = store.new_zeros(2, rows), store.new_zeros(2, size, size)
        positives = torch.empty_like(self.excess)
        self._least_gaps.fill_(math.inf)
        for i, j, products, shape in self._tiles():
            keep = None if self._kept is None else self._kept[:, i, j].unbind()
            sigma = self._tile.sigma(*products, shape, keep)
            own, samples = self._own_tuples(sigma, i, j)
            positives[samples] = own
            exp = self._exponentials(sigma, out=store)
            by_i[0, i] += exp.flatten(1).sum(1)
            by_jk[0, j] += exp.sum(0)
            if keep is not None:
                self._least_gaps[i] = torch.minimum(self._least_gaps[i], self._tile.least_gap())
                slopes = self._tile.slopes()
                self._own_slopes[samples] = self._own_tuples(slopes, i, j)[0]
                slopes.mul_(exp)
            exp.mul_(sigma)
            by_i[1, i] += exp.flatten(1).sum(1)
            by_jk[1, j] += exp.sum(0)
        return by_i, by_jk.sum(2), by_jk.sum(1), positives

    def finish(self, by_i: Tensor, by_j: Tensor, by_k: Tensor, positives: Tensor) -> tuple[Tensor, Tensor]:
        """From the complete `sums` of the samples i alone, [2, a] each: log2 of the sum over every anchor's tuples
        [3, a], and the samples' own scores [a]. Fills `excess`."""
        sums, score_sums = torch.stack([by_i, by_j, by_k], dim=1)
        torch.sub((score_sums / sums).sum(0), positives, alpha=3, out=self.excess)
        return self.log_sums(sums), positives

    def log_sums(self, sums: Tensor) -> Tensor:
        """log2 of sums of exponentials, without their shift."""
        return (sums.log2() - self._shift).to(self._scale.dtype)

    def factors(self, log_sums: Tensor, d_score: Tensor) -> Tensor:
        """What the exponentials of anchors' tuples are multiplied with in the backward pass; any shape.

        d_score: what the softmax weights of the tuples of a sample's anchors are multiplied with.
        """
        return d_score * torch.exp2(-log_sums.to(self._sum_dtype) - self._shift)

    def backward(self, of_i: Tensor, of_j: Tensor, of_k: Tensor, d_score: Tensor) -> list[Tensor]:
        """Gradients of x, y and z from these tuples. of_i [a], of_j [b], of_k [b]: `factors`; d_score: [a]."""
        x, y, z = self._units
        d_a, d_b = torch.zeros(2, len(x), len(y), dtype=x.dtype, device=x.device)
        d_c = x.new_zeros(len(y), len(y))
        exp_store, factor_store = x.new_empty(2, self._capacity, dtype=self._sum_dtype)
        weight_store = x.new_empty(self._capacity)
        of_jk = of_j[:, None] + of_k
        least_gaps = [] if self._kept is None else self._least_gaps.tolist()
        for i, j, products, shape in self._tiles():
            factor, weight = (store[: math.prod(shape)].view(shape) for store in (factor_store, weight_store))
            torch.add(of_jk[j], of_i[i, None, None], out=factor)
            own, samples = self._own_tuples(weight, i, j)
            if self._kept is not None and all(gap > _SAFE_GAP for gap in least_gaps[i]):
                root, exp_slope = self._kept[:, i, j].unbind()
                self._tile.recall(*products, shape, root)
                torch.mul(exp_slope, factor, out=weight)
                own.addcmul_(d_score[samples], self._own_slopes[samples], value=-3)
                self._tile.add_sums(weight, d_a[i, j], d_b[i], d_c[j])
                continue
            exp = self._exponentials(self._tile.sigma(*products, shape), out=exp_store)
            torch.mul(exp, factor, out=weight)
            own.sub_(d_score[samples], alpha=3)
            if self._tile.least_gap().item() > _SAFE_GAP:
                self._tile.add_sums(weight.mul_(self._tile.slopes()), d_a[i, j], d_b[i], d_c[j])
            else:
                gradients = self._tile.gradients(weight)
                d_a[i, j] += next(gradients).sum(2)
                d_b[i] += next(gradients).sum(1)
                d_c[j] += next(gradients).sum(0)
        return [torch.addmm(d_a @ y, d_b, z), torch.addmm(d_a.T @ x, d_c, z), torch.addmm(d_b.T @ x, d_c.T, y)]

    def _own_tuples(self, tile: Tensor, i: slice, j: slice) -> tuple[Tensor, slice]:
        """The own tuples of a tile [i, j, k] over all k, as a view, and the slice of i that they are of."""
        begin, end = i.start + self._first, i.stop + self._first
        start, stop = max(begin, j.start), max(begin, j.start, min(end, j.stop))
        block = tile[start - begin : stop - begin, start - j.start : stop - j.start, start:stop]
        return block.diagonal().diagonal(), slice(start - self._first, stop - self._first)


def paired_normalisers(rows: list[Tensor], columns: list[Tensor], scale: Tensor) -> Tensor:
    """log2 of the sum over every anchor's tuples: anchors are rows [a, D], the other members columns [b, D]; [M, a]."""
    wide = _pair_columns(scale.device)
    normalisers = rows[0].new_full((len(rows), len(rows[0])), -math.inf)
    for m, anchor in enumerate(rows):
        scorer = make_scorer(columns[:m] + columns[m + 1 :], _PAIR_ROWS * wide)
        for j in _slices(len(columns[0]), wide):
            directions = [direction[j].T for direction in scorer.directions]
            for i in _slices(len(anchor), _PAIR_ROWS):
                logits = scorer.scores([anchor[i] @ d for d in directions], j) * scale
                highest = logits.amax(1, keepdim=True)
                log_sum = (logits.sub_(highest).exp2_().sum(1).log2_()).add_(highest[:, 0])
                normalisers[m, i] = torch.logaddexp2(normalisers[m, i], log_sum)
    return normalisers


def paired_backward(
    rows: list[Tensor], columns: list[Tensor], scale: Tensor, normalisers: Tensor, d_score: Tensor
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Gradients of the rows and of the columns, and the sum of scores times their gradient.

    d_score [a]: as for `TripleSlab.factors`.
    """
    wide = _pair_columns(scale.device)
    d_rows, d_columns = ([torch.zeros_like(part) for part in parts] for parts in (rows, columns))
    d_scores = torch.zeros((), dtype=torch.float64, device=scale.device)
    for m, anchor in enumerate(rows):
        scorer = make_scorer(columns[:m] + columns[m + 1 :], _PAIR_ROWS * wide)
        d_directions = [torch.zeros_like(direction) for direction in scorer.directions]
        for j in _slices(len(columns[0]), wide):
            directions = [direction[j] for direction in scorer.directions]
            for i in _slices(len(anchor), _PAIR_ROWS):
                sigma = scorer.scores([anchor[i] @ d.T for d in directions], j)
                weight = (sigma * scale).sub_(normalisers[m, i, None]).exp2_().mul_(d_score[i, None])
                d_scores += torch.dot(weight.flatten(), sigma.flatten())
                for d_product, direction, d_direction in zip(
                    scorer.backward(weight), directions, d_directions, strict=True
                ):
                    d_rows[m][i].addmm_(d_product, direction)
                    d_direction[j].addmm_(d_product.T, anchor[i])
        others = d_columns[:m] + d_columns[m + 1 :]
        for d_column, d_member in zip(others, scorer.member_gradients(d_directions), strict=True):
            d_column += d_member
    return d_rows, d_columns, d_scores


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
    norms = torch.linalg.vector_norm(rows, dim=2, keepdim=True)
    inverse = norms.reciprocal().masked_fill_(norms < _MIN_NORM, 0)
    return rows.mul_(inverse), inverse


def through_lengths(units: Tensor, inverse_norms: Tensor | None, d_units: Tensor) -> Tensor:
    """Gradients of the rows that `unit_rows` took, [M, B, D]."""
    if inverse_norms is None:
        return d_units
    return (d_units - units * (units * d_units).sum(2, keepdim=True)) * inverse_norms


def modality_sets(present: Tensor | None, count: int, batch: int, device: torch.device) -> Iterator[ModalitySet]:
    """The sets of at least two modalities that occur in the batch; none in an empty batch."""
    if batch == 0:
        return
    if present is None:
        yield ModalitySet(tuple(range(count)), None, None)
        return
    codes = (present.long() << torch.arange(count, device=device)[:, None]).sum(0)
    for code in codes.unique().tolist():
        modalities = tuple(m for m in range(count) if code >> m & 1)
        if len(modalities) >= 2:
            yield ModalitySet(modalities, (codes == code).nonzero()[:, 0], ((codes & code) == code).nonzero()[:, 0])


def _select(units: Tensor, group: ModalitySet) -> tuple[list[Tensor], list[Tensor]]:
    parts = [units[m] for m in group.modalities]
    rows = parts if group.anchors is None else [part[group.anchors] for part in parts]
    columns = parts if group.pool is None else [part[group.pool] for part in parts]
    return rows, columns


def logit_scale(temperature: Tensor, like: Tensor) -> Tensor:
    """What turns a score into a logit to base 2."""
    return LOG2_E / temperature.to(like.dtype)


def _sum_dtype(scale: Tensor, size: int) -> torch.dtype:
    """float32 where the exponentials of [1, sqrt(3)] about its middle, and their sum over size^2, stay normal numbers.

    That is from a temperature of 0.0055 up at size 4096; float64 then reaches down to 0.0006. A GPU is not asked.
    """
    if scale.device.type != "cpu":
        return torch.float64
    largest = scale.item() * (math.sqrt(3) - 1) / 2 + 2 * math.log2(max(size, 1))
    return scale.dtype if largest < 120 else torch.float64


def inverse_of_total(weights: Tensor, anchor_counts: Tensor) -> Tensor:
    """One over the total weight of all anchors; 0 where there is none."""
    total = (weights * anchor_counts).sum()
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
