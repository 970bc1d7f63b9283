"""The singular-value contrastive loss in plain torch, in tiles, with its gradient written out.

For "all" a tile is [i, j, k], a slice of the B^3 triples; for "paired" it is [i, j]. Scores are recomputed in the
backward pass, so memory is O(B^2) for "all" and O(B D) for "paired". Logarithms are to base 2 throughout: exp2 is the
cheapest exponential on both CPU and GPU.

On a GPU this is the fallback for what has no kernel (float64): it synchronises once a call where `present` is given.
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
_TILE_PER_THREAD = 65536
_MOST_THREADS = 16
_GPU_TILE = 2**22
_PAIR_ROWS = 128
_MIN_NORM = 1e-12
_LOG2_E = math.log2(math.e)


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
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (loss, log2 of every anchor's normaliser [M, B], loss of every sample summed over its anchors [B])."""
    units, _ = _unit_rows(embeddings, present, normalize)
    scale = _scale(temperature, units[0])
    batch = units[0].shape[0]
    normalisers = units[0].new_zeros(len(units), batch)
    sample_loss, anchor_counts = units[0].new_zeros(2, batch).unbind(0)
    for group in _modality_sets(present, len(units), batch, units[0].device):
        rows, columns = _select(units, group)
        if negatives == "all" and len(rows) == 3:
            log_sums = _TripleLoss(rows, scale).normalisers()
        else:
            log_sums = _paired_normalisers(rows, columns, scale)
        positive = _Positives(rows).scores * scale
        anchors = slice(None) if group.anchors is None else group.anchors
        for modality, log_sum in zip(group.modalities, log_sums, strict=True):
            normalisers[modality, anchors] = log_sum
        sample_loss[anchors] = (log_sums - positive).sum(0) / _LOG2_E
        anchor_counts[anchors] = len(group.modalities)
    weighted = weights.to(sample_loss.dtype) if weights is not None else torch.ones_like(sample_loss)
    return _mean(weighted, sample_loss, anchor_counts)[0], normalisers, sample_loss


def backward(
    grad: Tensor,
    embeddings: list[Tensor],
    temperature: Tensor,
    weights: Tensor | None,
    present: Tensor | None,
    normalisers: Tensor,
    sample_loss: Tensor,
    negatives: str,
    normalize: bool,
) -> list[Tensor]:
    """Gradients of the M embeddings, of the temperature and of the weights ([B], also where those are None)."""
    units, inverse_norms = _unit_rows(embeddings, present, normalize)
    scale = _scale(temperature, units[0])
    batch = units[0].shape[0]
    groups = list(_modality_sets(present, len(units), batch, units[0].device))
    anchor_counts = torch.zeros_like(sample_loss)
    for group in groups:
        anchor_counts[slice(None) if group.anchors is None else group.anchors] = len(group.modalities)
    weighted = weights.to(sample_loss.dtype) if weights is not None else torch.ones_like(sample_loss)
    loss, inverse_total = _mean(weighted, sample_loss, anchor_counts)
    grad = grad.to(sample_loss.dtype)
    d_weights = grad * (sample_loss - anchor_counts * loss) * inverse_total
    d_logits = weighted * (grad * inverse_total)  # [B]: d loss / d (log normaliser) of each anchor of the sample

    d_units = [torch.zeros_like(unit) for unit in units]
    d_scores = torch.zeros((), dtype=torch.float64, device=grad.device)  # sum of scores times their gradient
    for group in groups:
        rows, columns = _select(units, group)
        anchors = slice(None) if group.anchors is None else group.anchors
        pool = slice(None) if group.pool is None else group.pool
        log_sums = normalisers[list(group.modalities)][:, anchors]
        d_score = d_logits[anchors] * (scale / _LOG2_E)  # over the temperature
        if negatives == "all" and len(rows) == 3:
            d_columns, d_group = _TripleLoss(rows, scale).backward(log_sums, d_score)
            d_rows = None
        else:
            d_rows, d_columns, d_group = _paired_backward(rows, columns, scale, log_sums, d_score)
        positives = _Positives(rows)
        d_scores += d_group - len(rows) * torch.dot(d_score, positives.scores)
        d_positives = positives.backward(d_score * -len(rows))
        for position, modality in enumerate(group.modalities):
            d_units[modality][pool] += d_columns[position]
            d_units[modality][anchors] += d_positives[position]
            if d_rows is not None:
                d_units[modality][anchors] += d_rows[position]

    d_embeddings = []
    for embedding, unit, d_unit, inverse in zip(embeddings, units, d_units, inverse_norms, strict=True):
        if inverse is not None:
            d_unit = (d_unit - unit * (unit * d_unit).sum(1, keepdim=True)) * inverse
        d_embeddings.append(d_unit.to(embedding.dtype))
    d_temperature = -d_scores.to(scale.dtype) * (scale / _LOG2_E)
    d_weights_dtype = weights.dtype if weights is not None else sample_loss.dtype
    return [*d_embeddings, d_temperature.to(temperature.dtype), d_weights.to(d_weights_dtype)]


class _Positives:
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


class _TripleLoss:
    """ "all" of three modalities over one dense batch [b, D]: tuples (i, j, k) with scores from three Gram matrices."""

    def __init__(self, units: list[Tensor], scale: Tensor) -> None:
        self._units = units
        x, y, z = units
        self._a, self._b, self._c = (Operand.of(gram) for gram in (x @ y.T, x @ z.T, y @ z.T))
        size = len(x)
        # Scores lie in [1, sqrt(3)]; about the middle of that range exp2 needs no running maximum.
        self._shift = scale.double() * -(1 + math.sqrt(3)) / 2
        self._sum_dtype = _sum_dtype(scale, size)
        self._shift_rounded = self._shift.to(self._sum_dtype)
        self._scale = scale
        capacity = min(_tile_elements(x.device), size**3)
        self._middle = max(1, min(size, capacity // max(1, size)))
        self._rows = max(1, min(size, capacity // max(1, size * self._middle)))
        self._capacity = self._rows * self._middle * size
        self._tile = TripleTile(self._capacity, x)
        self._exp = x.new_empty(self._capacity, dtype=self._sum_dtype)

    def _tiles(self) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
        """Slices of i and j, sigma_1 and exp2 of the shifted logits, [i, j, k] each."""
        size = len(self._units[0])
        all_i, all_j = list(_slices(size, self._rows)), list(_slices(size, self._middle))
        sizes_i, sizes_j = ([part.stop - part.start for part in parts] for parts in (all_i, all_j))
        all_b = self._b.unsqueeze(1).split(sizes_i)
        all_c = self._c.unsqueeze(0).split(sizes_j, dim=1)
        for j, of_j, c in zip(all_j, self._a.split(sizes_j, dim=1), all_c, strict=True):
            for i, a, b in zip(all_i, of_j.unsqueeze(2).split(sizes_i), all_b, strict=True):
                shape = (i.stop - i.start, j.stop - j.start, size)
                sigma = self._tile.sigma(a, b, c, shape)
                exp = self._exp[: sigma.numel()].view(shape)
                yield i, j, sigma, torch.addcmul(self._shift_rounded, sigma, self._scale, out=exp).exp2_()

    def normalisers(self) -> Tensor:
        """log2 of the sum over every anchor's tuples, [3, b]."""
        size = len(self._units[0])
        by_i = self._exp.new_zeros(size)
        by_jk = self._exp.new_zeros(size, size)
        for i, j, _, exp in self._tiles():
            flat = exp.flatten(1)
            by_i[i] += flat.sum(1)
            by_jk[j] += flat.sum(0).view(exp.shape[1:])
        sums = torch.stack([by_i, by_jk.sum(1), by_jk.sum(0)])
        return (sums.log2_() - self._shift).to(self._scale.dtype)

    def backward(self, normalisers: Tensor, d_score: Tensor) -> tuple[list[Tensor], Tensor]:
        """Gradients of the three [b, D] and the sum of scores times their gradient.

        d_score [b]: what the softmax weights of a sample's anchors are multiplied with.
        """
        x, y, z = self._units
        of_i, of_j, of_k = d_score * torch.exp2(-normalisers.to(self._sum_dtype) - self._shift)
        d_a, d_b, d_c = (torch.zeros_like(self._a.value) for _ in range(3))
        d_scores = torch.zeros((), dtype=torch.float64, device=x.device)
        factor_store, weight_store = self._exp.new_empty(self._capacity), x.new_empty(self._capacity)
        of_jk = of_j[:, None] + of_k
        for i, j, sigma, exp in self._tiles():
            factor, weight = (store[: exp.numel()].view(exp.shape) for store in (factor_store, weight_store))
            torch.add(of_jk[j], of_i[i, None, None], out=factor)
            torch.mul(exp, factor, out=weight)
            d_scores += torch.dot(weight.flatten(), sigma.flatten())
            gradients = self._tile.gradients(weight)
            d_a[i, j] = next(gradients).sum(2)
            d_b[i] += next(gradients).sum(1)
            d_c[j] += next(gradients).sum(0)
        return [d_a @ y + d_b @ z, d_a.T @ x + d_c @ z, d_b.T @ x + d_c.T @ y], d_scores


def _paired_normalisers(rows: list[Tensor], columns: list[Tensor], scale: Tensor) -> Tensor:
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


def _paired_backward(
    rows: list[Tensor], columns: list[Tensor], scale: Tensor, normalisers: Tensor, d_score: Tensor
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Gradients of the rows and of the columns, and the sum of scores times their gradient.

    d_score [a]: as for `_TripleLoss.backward`.
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


def _unit_rows(
    embeddings: list[Tensor], present: Tensor | None, normalize: bool
) -> tuple[list[Tensor], list[Tensor | None]]:
    """The embeddings [B, D] in the compute dtype with rows of length one, and 1/length [B, 1], or None if not asked.

    Rows that no anchor and no pool uses are zero: what stands there, NaN too, must not reach the gradient.
    """
    unused = None if present is None else ~(present & (present.sum(0) >= 2))
    dtype = torch.float64 if embeddings[0].dtype == torch.float64 else torch.float32
    units: list[Tensor] = []
    inverse_norms: list[Tensor | None] = []
    for m, embedding in enumerate(embeddings):
        rows = embedding.to(dtype).contiguous()
        if unused is not None:
            rows = rows.masked_fill(unused[m, :, None], 0)
        inverse = None
        if normalize:
            norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
            inverse = norm.reciprocal().masked_fill_(norm < _MIN_NORM, 0)
            rows = rows * inverse
        units.append(rows)
        inverse_norms.append(inverse)
    return units, inverse_norms


def _modality_sets(present: Tensor | None, count: int, batch: int, device: torch.device) -> Iterator[ModalitySet]:
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


def _select(units: list[Tensor], group: ModalitySet) -> tuple[list[Tensor], list[Tensor]]:
    parts = [units[m] for m in group.modalities]
    rows = parts if group.anchors is None else [part[group.anchors] for part in parts]
    columns = parts if group.pool is None else [part[group.pool] for part in parts]
    return rows, columns


def _scale(temperature: Tensor, like: Tensor) -> Tensor:
    """What turns a score into a logit to base 2."""
    return _LOG2_E / temperature.to(like.dtype)


def _sum_dtype(scale: Tensor, size: int) -> torch.dtype:
    """float32 where the exponentials of [1, sqrt(3)] about its middle, and their sum over size^2, stay normal numbers.

    That is from a temperature of 0.0055 up at size 4096; float64 then reaches down to 0.0006. A GPU is not asked.
    """
    if scale.device.type != "cpu":
        return torch.float64
    largest = scale.item() * (math.sqrt(3) - 1) / 2 + 2 * math.log2(max(size, 1))
    return scale.dtype if largest < 120 else torch.float64


def _mean(weights: Tensor, sample_loss: Tensor, anchor_counts: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted mean over anchors, and one over their total weight; both 0 where there is none."""
    total = (weights * anchor_counts).sum()
    inverse = total.reciprocal().masked_fill_(total == 0, 0)
    return (weights * sample_loss).sum() * inverse, inverse


def _tile_elements(device: torch.device) -> int:
    if device.type != "cpu":
        return _GPU_TILE
    return _TILE_PER_THREAD * min(torch.get_num_threads(), _MOST_THREADS)


def _pair_columns(device: torch.device) -> int:
    return _tile_elements(device) // _PAIR_ROWS


def _slices(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))
