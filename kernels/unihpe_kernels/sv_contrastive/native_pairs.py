""" "paired" negatives of float32 CPU tensors: matrix products by torch, the rest in C++ (pairs.cpp).

Anchors of samples I against samples J, and those of J against I, take the same inner products. So samples are cut into
blocks, and two blocks are set against each other both ways at once. A small batch is one block, and the forward pass
keeps all of it for the backward pass; beyond, memory is that of two blocks.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from ctypes import c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unihpe_kernels import native
from unihpe_kernels.sv_contrastive.scratch import scratch

SOURCE = Path(__file__).with_name("pairs.cpp")

# Inner products in a table: the most that the forward pass keeps; those of two blocks, which have two tables and two of
# gradients, for the cache to hold.
_MOST_KEPT = 2**20
_MOST_IN_TILE = 2**18
# Blocks are made of whole vectors of the CPU, of at most so many numbers.
_VECTOR = 16
# With exponents about the middle of the scores' range, exponentials and their sum are normal numbers up to this one.
_LARGEST_EXPONENT = 120

_TABLES, _PART, _OWN = [c_void_p] * 2, [c_int64, c_int64, c_float, c_float, c_void_p], [c_void_p, c_int64]
_ARGUMENTS = {
    "prepare_block": [c_int, c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_void_p, c_int],
    "paired_sums": [c_int, *_TABLES, *_PART, *_OWN, c_void_p, c_void_p, c_int],
    "paired_gradients": [c_int, *_TABLES, *_TABLES, *_PART, *_OWN, *[c_void_p] * 4, c_int],
    "finish_block": [c_int, c_void_p, c_void_p, c_int64, c_int64, *[c_void_p] * 4, c_int],
}


def suits(count: int, batch: int, scale: Tensor) -> bool:
    """Whether C++ can do it: float32 must hold the exponentials without a running maximum, as it does from a
    temperature of 0.005 up for three modalities and 1024 samples, of 0.012 up for eight."""
    largest = scale.item() * (math.sqrt(count) - 1) / 2 + math.log2(max(batch, 1))
    return scale.dtype == torch.float32 and largest <= _LARGEST_EXPONENT and native.library(SOURCE) is not None


def saved_size(count: int, batch: int, width: int) -> int:
    """Elements of `saved` for rows that are the columns."""
    table = _table_size(count, batch, batch)
    return table + sum(_block_sizes(count, batch, width)) if table <= _MOST_KEPT else 0


class NativePairs:
    """Anchors against samples.

    rows: M tensors [a, D], float32, of the anchors. columns: M tensors [b, D], of the samples of their tuples; the same
    sequence where those are the same samples. own [a], int64: places of the anchors' samples among the columns; None
    where they are the same. normalize: False for rows of unit length. saved: what `forward` leaves for `backward`, of
    `saved_size`, or of nothing.
    """

    def __init__(
        self,
        rows: Sequence[Tensor],
        columns: Sequence[Tensor],
        own: Tensor | None,
        scale: Tensor,
        normalize: bool,
        saved: Tensor,
    ) -> None:
        self._count, self._same, self._own, self._scale = len(rows), rows is columns, own, scale
        self._normalize = normalize
        self._middle = (1 + math.sqrt(self._count)) / 2
        self._logit = scale.item(), self._middle
        self._threads = torch.get_num_threads()
        batch = len(columns[0])
        kept = _table_size(self._count, batch, batch)
        self._store, self._kept = saved.split([saved.numel() - kept, kept]) if saved.numel() else (None, None)
        self._edge = _edge(self._count, batch) if self._kept is None else batch
        self._column_rows = self._cut(columns)
        self._row_rows = self._column_rows if self._same else self._cut(rows)

    def forward(self) -> tuple[Tensor, Tensor]:
        """log2 of the sum over every anchor's tuples [M, a] and the scores of the anchors' own tuples [a]."""
        self._make_blocks(new=True)
        sums = [block.units.new_zeros(block.units.shape[:2]) for block in self._rows]
        positives = [block.units.new_zeros(block.units.shape[1]) for block in self._rows]
        for i, j in self._pairs_of_blocks():
            tables = self._products(i, j, new=True)
            for row, column, turn in self._ways(i, j):
                part = self._part(row, column)
                self._call("paired_sums", *_turned(tables, turn), *part, sums[row], positives[row])
        log_sums = torch.cat(sums, 1).log2_().add_(self._scale * self._middle)
        return log_sums, torch.cat(positives)

    def backward(self, log_sums: Tensor, d_score: Tensor) -> tuple[list[Tensor] | None, list[Tensor], Tensor]:
        """Gradients of the rows, None where they are the columns, and of the columns; the sum of scores times their
        gradient []. Those of the own tuples are among them.

        d_score [a]: what the softmax weights of a sample's anchors are multiplied with.
        """
        new = self._kept is None
        self._make_blocks(new)
        factors = (self._scale * self._middle - log_sums).exp2_().mul_(d_score)
        of_rows = zip(factors.split(self._edge, 1), d_score.split(self._edge), strict=True)
        factors_of_rows = [(factor.contiguous(), d.contiguous()) for factor, d in of_rows]
        d_columns = [torch.zeros_like(block.units) for block in self._columns]
        d_rows = d_columns if self._same else [torch.zeros_like(block.units) for block in self._rows]
        # by samples, and added up in one order whoever computed them
        totals = [log_sums.new_zeros(self._count, d.shape[1], dtype=torch.float64) for d in d_columns]
        own_sums = [d.new_zeros(self._count * _SUMS[self._count] * _whole(d.shape[1])) for d in d_columns]
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
                    *factors_of_rows[row],
                    totals[column],
                )
            units_i, units_j = self._rows[i].units, self._columns[j].units
            _add_gradients(d_tables[0], units_i, units_j, d_rows[i], d_columns[j])
            if len(d_tables) > 1:
                _add_gradients(d_tables[1], units_j, units_i, d_columns[j], d_rows[i])
        return (
            None if self._same else self._finish(self._rows, d_rows, None),
            self._finish(self._columns, d_columns, own_sums),
            torch.cat(totals, 1).sum(),
        )

    def _cut(self, rows: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        return list(zip(*(row.contiguous().split(self._edge) for row in rows), strict=True))

    def _make_blocks(self, new: bool) -> None:
        self._columns = [self._block(rows, new, as_members=True) for rows in self._column_rows]
        if self._same:
            self._rows = self._columns
        else:
            self._rows = [self._block(rows, new, as_members=False) for rows in self._row_rows]

    def _block(self, rows: tuple[Tensor, ...], new: bool, as_members: bool) -> "_Block":
        sizes = _block_sizes(self._count, *rows[0].shape)
        store = rows[0].new_empty(sum(sizes)) if self._store is None else self._store
        members, units, inverse_norms = store.split(sizes)
        block = _Block(
            units.view(self._count, *rows[0].shape),
            inverse_norms if self._normalize else None,
            members if as_members else None,
        )
        if new:
            self._call("prepare_block", _pointers(rows), *rows[0].shape, *block)
        return block

    def _finish(self, blocks: "list[_Block]", d_blocks: list[Tensor], own_sums: list[Tensor] | None) -> list[Tensor]:
        """Gradients of the rows from those of the units of all blocks."""
        size, width = sum(d.shape[1] for d in d_blocks), d_blocks[0].shape[2]
        d_rows = [d_blocks[0].new_empty(size, width) for _ in range(self._count)]
        cut = self._cut(d_rows)
        for n, (block, d_block) in enumerate(zip(blocks, d_blocks, strict=True)):
            sums = None if own_sums is None else own_sums[n]
            shape = block.units.shape[1:]
            self._call(
                "finish_block",
                block.units,
                block.inverse_norms,
                *shape,
                block.members,
                sums,
                d_block,
                _pointers(cut[n]),
            )
        return d_rows

    def _pairs_of_blocks(self) -> Iterator[tuple[int, int]]:
        for j in range(len(self._columns)):
            for i in range(j + 1 if self._same else len(self._rows)):
                yield i, j

    def _ways(self, i: int, j: int) -> list[tuple[int, int, bool]]:
        """Blocks of anchors and of samples, and whether the tables change places, for what a pair of blocks is for."""
        return [(i, j, False), (j, i, True)] if self._same and i != j else [(i, j, False)]

    def _part(self, row: int, column: int) -> tuple:
        """What the functions of pairs.cpp want to know of a block of anchors against one of samples."""
        first = row * self._edge
        own, shift = (None, first) if self._own is None else (self._own[first:], 0)
        sizes = self._rows[row].units.shape[1], self._columns[column].units.shape[1]
        return *sizes, *self._logit, self._columns[column].members, own, shift - column * self._edge

    def _tables(self, name: str, i: int, j: int) -> list[Tensor]:
        """Work memory for the table of rows i by columns j and, unless it is the same one, of columns j by rows i."""
        size = _table_size(self._count, self._rows[i].units.shape[1], self._columns[j].units.shape[1])
        number = 1 if self._same and i == j else 2
        return list(scratch(name, (number, size), self._scale.dtype, self._scale.device))

    def _products(self, i: int, j: int, new: bool) -> list[Tensor]:
        tables = self._tables("products", i, j) if self._kept is None else [self._kept]
        if new:
            sides = self._rows[i].units, self._columns[j].units
            for table, (rows, columns) in zip(tables, (sides, sides[::-1]), strict=False):
                for m, part in enumerate(_parts(table, rows, columns)):
                    torch.mm(rows[m], columns[m + 1 :].flatten(0, 1).T, out=part)
        return tables

    def _call(self, name: str, *arguments: object) -> None:
        """Tensors are given by their addresses."""
        given = [value.data_ptr() if isinstance(value, Tensor) else value for value in arguments]
        _function(name)(self._count, *given, self._threads)


class _Block(NamedTuple):
    """Consecutive samples."""

    units: Tensor  # [M, n, D]
    inverse_norms: Tensor | None  # [M n]; None where rows are taken to be of unit length
    members: Tensor | None  # what pairs.cpp holds of them as members of tuples; None of those that are anchors alone


# Numbers that pairs.cpp holds of a sample and an anchor's modality: of the members, and for the gradients of their own
# products.
_MEMBERS = {m: 1 if m <= 3 else (m - 1) * m + 1 for m in range(2, 9)}
_SUMS = {m: 1 if m <= 3 else (m - 1) * m // 2 for m in range(2, 9)}


def _block_sizes(count: int, size: int, width: int) -> list[int]:
    """First what must lie at the beginning of vectors."""
    return [count * _MEMBERS[count] * _whole(size), count * size * width, count * size]


def _whole(size: int) -> int:
    return -(-size // _VECTOR) * _VECTOR


def _edge(count: int, batch: int) -> int:
    """Of blocks as equal as can be."""
    most = max(_VECTOR, math.isqrt(_MOST_IN_TILE // _table_size(count, 1, 1)))
    return _whole(math.ceil(batch / math.ceil(batch / most)))


def _table_size(count: int, rows: int, columns: int) -> int:
    return count * (count - 1) // 2 * rows * columns


def _parts(table: Tensor, rows: Tensor, columns: Tensor) -> Iterator[Tensor]:
    """For each modality m of the rows but the last, its products [rows, (later modalities) columns]."""
    (count, size, _), width = rows.shape, columns.shape[1]
    sizes = [size * later * width for later in range(count - 1, 0, -1)]
    return (part.view(size, -1) for part in table.split(sizes))


def _turned(tables: list[Tensor], turn: bool) -> tuple[Tensor, Tensor]:
    """The upper and the lower table, as pairs.cpp calls them."""
    return (tables[-1], tables[0]) if turn else (tables[0], tables[-1])


def _add_gradients(d_table: Tensor, rows: Tensor, columns: Tensor, d_rows: Tensor, d_columns: Tensor) -> None:
    for m, part in enumerate(_parts(d_table, rows, columns)):
        d_rows[m].addmm_(part, columns[m + 1 :].flatten(0, 1))
        d_columns[m + 1 :].flatten(0, 1).addmm_(part.T, rows[m])


def _pointers(rows: Sequence[Tensor]) -> Any:
    return (c_void_p * len(rows))(*(row.data_ptr() for row in rows))


@functools.cache
def _function(name: str) -> Any:
    function = getattr(native.library(SOURCE), name)
    function.argtypes, function.restype = _ARGUMENTS[name], None
    return function
