""" "paired" negatives of float32 CPU tensors: matrix products by torch, the rest in C++ (pairs.cpp).

Anchors of samples I against samples J, and those of J against I, take the same inner products. So samples are cut into
blocks, and two blocks are set against each other both ways at once. A small batch is one block, and the forward pass
keeps all of it for the backward pass; beyond, memory is that of two blocks.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from unihpe_kernels.native import call
from unihpe_kernels.scratch import scratch

SOURCE = "sv_contrastive/pairs.cpp"

# Inner products in a table: the most that the forward pass keeps; those of two blocks, which have two tables and two of
# gradients, for the cache to hold.
_MOST_KEPT = 2**20
_MOST_IN_TILE = 2**18
# Blocks are made of whole vectors of the CPU, of at most so many numbers.
_VECTOR = 16
# With exponents about the middle of the scores' range, exponentials and their sum are normal numbers up to this one.
_LARGEST_EXPONENT = 120


def fits(num_modalities: int, batch: int, scale: float) -> bool:
    """Whether float32 holds the exponentials without a running maximum: from a temperature of 0.005 up for three
    modalities and 1024 samples, of 0.012 up for eight."""
    return abs(scale) * (math.sqrt(num_modalities) - 1) / 2 + math.log2(max(batch, 1)) <= _LARGEST_EXPONENT


def saved_size(num_modalities: int, batch: int, dim: int) -> int:
    """Elements of `saved`: what `NativePairs` takes, then the shares [M, B]."""
    table = _table_size(num_modalities, batch, batch)
    kept = table + sum(_block_sizes(num_modalities, batch, dim)) if table <= _MOST_KEPT else 0
    return kept + num_modalities * batch


def split_saved(saved: Tensor, num_modalities: int, batch: int) -> tuple[Tensor, Tensor]:
    """What `NativePairs` takes, and the shares [M, B]."""
    kept, shares = saved.split([len(saved) - num_modalities * batch, num_modalities * batch])
    return kept, shares.view(num_modalities, batch)


def losses_and_shares(sums: Tensor, own_powers: Tensor) -> tuple[Tensor, Tensor]:
    """Of `NativePairs.forward`: every anchor's loss [M, a], float64, and what the softmax weights of all its tuples but
    the own one come to [M, a]: both good to rounding of themselves."""
    others = sums.double() / own_powers
    return others.log1p(), (others / (1 + others)).float()


class NativePairs:
    """Samples against each other.

    rows: M tensors [B, D], float32. normalize: False for rows of unit length. saved: what `forward` leaves for
    `backward`, of `split_saved`, or of nothing.
    """

    def __init__(self, rows: Sequence[Tensor], scale: float, normalize: bool, saved: Tensor) -> None:
        self._num_modalities, self._batch = len(rows), len(rows[0])
        self._normalize, self._threads = normalize, torch.get_num_threads()
        self.middle = (1 + math.sqrt(self._num_modalities)) / 2  # of the scores' range
        self._logit = scale, self.middle
        self._kept = saved if saved.numel() else None
        self._edge = _edge(self._num_modalities, self._batch) if self._kept is None else self._batch
        self._cut_rows = self._cut([row.contiguous() for row in rows])

    def forward(self) -> tuple[Tensor, Tensor]:
        """Sums of the exponentials of every anchor's tuples but its own [M, B], and the exponentials of the positives
        [M, B], about the middle of the scores' range."""
        self._make_blocks(new=True)
        sums, own_powers = self._cut_rows[0][0].new_zeros(2, self._num_modalities, self._batch).unbind()
        for i, j in self._pairs_of_blocks():
            tables = self._products(i, j, new=True)
            for row, column, turn in self._ways(i, j):
                part = self._part(row, column)
                self._call("paired_sums", *_turned(tables, turn), *part, sums, own_powers)
        return sums, own_powers

    def backward(self, sums: Tensor, shares: Tensor, d_score: Tensor) -> tuple[list[Tensor], Tensor]:
        """Gradients of the rows; the sum of scores times their gradient []. Those of the positives are among them.

        sums [M, B]: of the exponentials of all tuples. shares [M, B]: what all but the positives have in them.
        d_score [B]: what the softmax weights of a sample's anchors are multiplied with.
        """
        new = self._kept is None
        self._make_blocks(new)
        factors, own_weights = d_score / sums, shares * -d_score
        for block in self._blocks:
            block.d_units = torch.zeros_like(block.units)
        # by samples, and added up in one order whoever computed them
        totals = [
            sums.new_zeros(self._num_modalities, block.size, _TOTALS, dtype=torch.float64) for block in self._blocks
        ]
        own_sums = [
            sums.new_zeros(self._num_modalities * _whole(block.size) * _SUMS[self._num_modalities])
            for block in self._blocks
        ]
        for i, j in self._pairs_of_blocks():
            tables, d_tables = self._products(i, j, new), self._tables("d_products", i, j)
            for d_table in d_tables:
                d_table.zero_()
            for row, column, turn in self._ways(i, j):
                self._call(
                    "paired_gradients",
                    *_turned(tables, turn),
                    *_turned(d_tables, turn),
                    *self._part(row, column),
                    own_sums[column],
                    factors,
                    own_weights,
                    totals[column],
                )
            sides = (self._blocks[i], self._blocks[j]), (self._blocks[j], self._blocks[i])
            for d_table, side in zip(d_tables, sides, strict=False):
                _add_gradients(d_table, *side)
        return self._finish(own_sums), _about_own_scores(totals)

    def _cut(self, rows: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        if len(rows[0]) <= self._edge:
            return [rows]
        return list(zip(*(row.split(self._edge) for row in rows), strict=True))

    def _make_blocks(self, new: bool) -> None:
        self._blocks = [self._block(rows, new) for rows in self._cut_rows]

    def _block(self, rows: Sequence[Tensor], new: bool) -> "_Block":
        (size, dim), sizes = rows[0].shape, _block_sizes(self._num_modalities, *rows[0].shape)
        store = rows[0].new_empty(sum(sizes)) if self._kept is None else self._kept[: sum(sizes)]
        members, units, inverse_norms = store.split_with_sizes(sizes)
        if new and self._kept is not None:  # an output must be the same every time, also where nothing is written
            if size % _VECTOR:
                members.zero_()
            if not self._normalize:
                inverse_norms.zero_()
        norms = inverse_norms if self._normalize else None
        block = _Block(size, units.view(self._num_modalities * size, dim), norms, members)
        if new:
            self._call("prepare_block", size, dim, block.units, norms, block.members, *self._all(rows))
        return block

    def _finish(self, own_sums: Sequence[Tensor]) -> list[Tensor]:
        """Gradients of the rows from those of the units of all blocks."""
        units = self._blocks[0].units
        d_rows = [units.new_empty(self._batch, units.shape[1]) for _ in range(self._num_modalities)]
        for block, rows, sums in zip(self._blocks, self._cut(d_rows), own_sums, strict=True):
            self._call(
                "finish_block",
                *rows[0].shape,
                block.units,
                block.inverse_norms,
                block.members,
                sums,
                block.d_units,
                *self._all(rows),
            )
        return d_rows

    def _all(self, rows: Sequence[Tensor]) -> list[Tensor | None]:
        """Eight, as C++ takes them."""
        return [*rows, *[None] * (8 - len(rows))]

    def _pairs_of_blocks(self) -> Iterator[tuple[int, int]]:
        for j in range(len(self._blocks)):
            for i in range(j + 1):
                yield i, j

    def _ways(self, i: int, j: int) -> list[tuple[int, int, bool]]:
        """Blocks of anchors and of samples, and whether the tables change places, for what a pair of blocks is for."""
        return [(i, j, False), (j, i, True)] if i != j else [(i, j, False)]

    def _part(self, row: int, column: int) -> tuple:
        """What the functions of pairs.cpp want to know of a block of anchors against one of samples."""
        anchors, samples = self._blocks[row], self._blocks[column]
        first = row * self._edge
        sizes = anchors.size, samples.size, first, self._batch
        return *sizes, *self._logit, samples.members, first - column * self._edge

    def _tables(self, name: str, i: int, j: int) -> Sequence[Tensor]:
        """Work memory for the table of rows i by columns j and, unless it is the same one, of columns j by rows i."""
        size = _table_size(self._num_modalities, self._blocks[i].size, self._blocks[j].size)
        number = 1 if i == j else 2
        units = self._blocks[j].units
        return scratch(name, (number, size), units.dtype, units.device).unbind()

    def _products(self, i: int, j: int, new: bool) -> Sequence[Tensor]:
        rows, columns = self._blocks[i], self._blocks[j]
        if self._kept is None:
            tables = self._tables("products", i, j)
        else:
            tables = [self._kept[-_table_size(self._num_modalities, rows.size, columns.size) :]]
        if new:
            for table, (left, right) in zip(tables, ((rows, columns), (columns, rows)), strict=False):
                for part, of_left, later in zip(
                    _parts(table, left, right), left.by_modality, right.later, strict=False
                ):
                    torch.mm(of_left, later.t(), out=part)
        return tables

    def _call(self, name: str, *arguments: Tensor | float | None) -> None:
        call(SOURCE, name, self._num_modalities, self._threads, *arguments)


class _Block:
    """Consecutive samples."""

    def __init__(self, size: int, units: Tensor, inverse_norms: Tensor | None, members: Tensor) -> None:
        """units: [M n, D]. inverse_norms: [M n]; None where rows are taken to be of unit length. members: what
        pairs.cpp holds of the samples as members of tuples."""
        self.size, self.units, self.inverse_norms, self.members = size, units, inverse_norms, members
        self.by_modality, self.later = self._split(units)
        self.d_units: Tensor

    def _split(self, units: Tensor) -> tuple[Sequence[Tensor], list[Tensor]]:
        """Rows of each modality, and of all that come after it."""
        by_modality = units.view(len(units) // self.size, self.size, units.shape[1]).unbind()
        later = [units[n * self.size :] for n in range(1, len(by_modality) - 1)]
        return by_modality, [*later, by_modality[-1]]

    def d_split(self) -> tuple[Sequence[Tensor], list[Tensor]]:
        return self._split(self.d_units)


# Numbers that pairs.cpp holds of a sample and an anchor's modality: of the members, and for the gradients of their own
# products.
_MEMBERS = {m: 1 if m <= 3 else (m - 1) * m + 1 for m in range(2, 9)}
_SUMS = {m: 1 if m <= 3 else (m - 1) * m // 2 for m in range(2, 9)}
_TOTALS = 4  # numbers of its `Totals`


def _block_sizes(num_modalities: int, size: int, dim: int) -> list[int]:
    """First what must lie at the beginning of vectors."""
    return [
        num_modalities * _MEMBERS[num_modalities] * _whole(size),
        num_modalities * size * dim,
        num_modalities * size,
    ]


def _whole(size: int) -> int:
    return -(-size // _VECTOR) * _VECTOR


def _edge(num_modalities: int, batch: int) -> int:
    """Of blocks as equal as can be."""
    most = max(_VECTOR, math.isqrt(_MOST_IN_TILE // _table_size(num_modalities, 1, 1)))
    return _whole(math.ceil(batch / math.ceil(batch / most)))


def _table_size(num_modalities: int, rows: int, columns: int) -> int:
    return num_modalities * (num_modalities - 1) // 2 * rows * columns


def _parts(table: Tensor, rows: "_Block", columns: "_Block") -> list[Tensor]:
    """For each modality m of the rows but the last, its products [rows, (later modalities) columns]."""
    if len(rows.by_modality) == 2:
        return [table.view(rows.size, columns.size)]
    sizes = [rows.size * len(later) for later in columns.later]
    return [part.view(rows.size, -1) for part in table.split_with_sizes(sizes)]


def _turned(tables: Sequence[Tensor], turn: bool) -> tuple[Tensor, Tensor]:
    """The upper and the lower table, as pairs.cpp calls them."""
    return (tables[-1], tables[0]) if turn else (tables[0], tables[-1])


def _add_gradients(d_table: Tensor, rows: "_Block", columns: "_Block") -> None:
    d_rows, d_later = rows.d_split()[0], columns.d_split()[1]
    for m, part in enumerate(_parts(d_table, rows, columns)):
        d_rows[m].addmm_(part, columns.later[m])
        d_later[m].addmm_(part.t(), rows.by_modality[m])


def _about_own_scores(totals: Sequence[Tensor]) -> Tensor:
    """The sum of scores times their gradient [], from the `Totals` of pairs.cpp."""
    of_modalities = torch.stack([total.sum(1) for total in totals]).sum(0).tolist()
    return totals[0].new_tensor(
        sum(
            scores - (own_scores / own_weights if own_weights else 0) * weights
            for scores, weights, own_scores, own_weights in of_modalities
        )
    )
