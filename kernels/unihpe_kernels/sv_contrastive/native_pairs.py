""" "paired" negatives of float32 CPU tensors: matrix products by torch, the pairs in C++ (pairs.cpp).

Anchors of samples I against samples J, and those of J against I, take the same inner products. So samples are cut into
blocks, and two blocks are set against each other both ways at once. A small batch is one block, whose products the
forward pass keeps for the backward pass; beyond, memory is that of two blocks.
"""

import functools
import math
from collections.abc import Iterator
from ctypes import c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unihpe_kernels import native
from unihpe_kernels.sv_contrastive.scratch import scratch
from unihpe_kernels.sv_contrastive.torch_backend import Pairs, TorchPairs

SOURCE = Path(__file__).with_name("pairs.cpp")

# Inner products in a table: the most that the forward pass keeps; those of two blocks, which have two tables and two of
# gradients, for the cache to hold.
_MOST_KEPT = 2**20
_MOST_IN_TILE = 2**18
# Blocks are made of whole vectors of the CPU, of at most so many numbers.
_VECTOR = 16
# With exponents about the middle of the scores' range, exponentials and their sum are normal numbers up to this one.
_LARGEST_EXPONENT = 120

_TABLES = [c_void_p] * 2
_TILE = [c_int64, c_int64, c_float, c_float, c_void_p, c_void_p]
_ARGUMENTS = {
    "samples_size": [c_int, c_int64],
    "prepare_samples": [c_int, c_void_p, c_int64, c_int64, c_void_p, c_int],
    "paired_sums": [c_int, *_TABLES, *_TILE, c_void_p, c_void_p, c_int],
    "paired_gradients": [c_int, *_TABLES, *_TABLES, *_TILE, c_void_p, c_void_p, c_void_p, c_int],
    "finish_samples": [c_int, c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_int],
}


@functools.cache
def _function(name: str) -> Any:
    function = getattr(native.library(SOURCE), name)
    function.argtypes, function.restype = _ARGUMENTS[name], c_int64 if name == "samples_size" else None
    return function


def make_pairs(rows: Tensor, columns: Tensor, own: Tensor | None, scale: Tensor, saved: Tensor) -> Pairs:
    """In C++ where float32 holds the exponentials without a running maximum: from a temperature of 0.005 up for three
    modalities and 1024 samples, of 0.012 up for eight."""
    largest = scale.item() * (math.sqrt(len(rows)) - 1) / 2 + math.log2(columns.shape[1])
    fits = scale.dtype == torch.float32 and largest <= _LARGEST_EXPONENT and native.library(SOURCE) is not None
    return (NativePairs if fits else TorchPairs)(rows, columns, own, scale, saved)


def saved_size(count: int, batch: int) -> int:
    """Elements of `saved` for rows that are the columns."""
    size = _table_size(count, batch, batch)
    return size if size <= _MOST_KEPT else 0


class NativePairs:
    """As `TorchPairs`, of float32 on a CPU."""

    def __init__(self, rows: Tensor, columns: Tensor, own: Tensor | None, scale: Tensor, saved: Tensor) -> None:
        self._same = rows is columns
        self._count = len(rows)
        self._kept = saved if saved.numel() else None
        self._edge = columns.shape[1] if self._kept is not None else _edge(self._count, columns.shape[1])
        self._columns = self._blocks(columns)
        self._rows = self._columns if self._same else self._blocks(rows)
        self._own = torch.arange(rows.shape[1]) if own is None else own
        self._scale, self._middle = scale, (1 + math.sqrt(self._count)) / 2
        self._logit = scale.item(), self._middle
        self._threads = torch.get_num_threads()
        self._samples = [self._prepared(block) for block in self._columns]

    def forward(self) -> tuple[Tensor, Tensor]:
        sums = [block.new_zeros(block.shape[:2]) for block in self._rows]
        positives = [block.new_zeros(block.shape[1]) for block in self._rows]
        for i, j in self._pairs_of_blocks():
            tables = self._products(i, j, new=True)
            for row, column, turn in self._ways(i, j):
                self._call(
                    "paired_sums", *_addresses(tables, turn), *self._tile(row, column), sums[row], positives[row]
                )
        log_sums = torch.cat(sums, 1).log2_().add_(self._scale * self._middle)
        return log_sums, torch.cat(positives)

    def backward(self, log_sums: Tensor, d_score: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        factors = self._blocks((self._scale * self._middle - log_sums).exp2_().mul_(d_score))
        d_scores = self._blocks(d_score[None])
        d_columns = [torch.zeros_like(block) for block in self._columns]
        d_rows = d_columns if self._same else [torch.zeros_like(block) for block in self._rows]
        # by samples, and added up in one order whoever computed them
        totals = [log_sums.new_zeros(self._count, block.shape[1], dtype=torch.float64) for block in self._columns]
        for i, j in self._pairs_of_blocks():
            tables, d_tables = self._products(i, j, new=self._kept is None), self._tables("d_products", i, j)
            for d_table in d_tables:
                d_table.zero_()
            for row, column, turn in self._ways(i, j):
                self._call(
                    "paired_gradients",
                    *_addresses(tables, turn),
                    *_addresses(d_tables, turn),
                    *self._tile(row, column),
                    factors[row],
                    d_scores[row],
                    totals[column],
                )
            upper, lower = d_tables[0], d_tables[-1]
            _add_gradients(upper, self._rows[i], self._columns[j], d_rows[i], d_columns[j])
            if lower is not upper:
                _add_gradients(lower, self._columns[j], self._rows[i], d_columns[j], d_rows[i])
        if self._count > 2:
            for block, samples, d_block in zip(self._columns, self._samples, d_columns, strict=True):
                self._call("finish_samples", block, *block.shape[1:], samples, d_block)
        total = torch.cat(totals, 1).sum()
        return None if self._same else torch.cat(d_rows, 1), torch.cat(d_columns, 1), total

    def _blocks(self, rows: Tensor) -> list[Tensor]:
        """[.., a, ..], cut along the samples, contiguous."""
        return [block.contiguous() for block in rows.split(self._edge, 1)]

    def _prepared(self, block: Tensor) -> Tensor:
        """A block's samples as members of tuples."""
        size = _function("samples_size")(self._count, block.shape[1])
        samples = block.new_empty(size)
        self._call("prepare_samples", block, *block.shape[1:], samples)
        return samples

    def _pairs_of_blocks(self) -> Iterator[tuple[int, int]]:
        for j in range(len(self._columns)):
            for i in range(j + 1 if self._same else len(self._rows)):
                yield i, j

    def _ways(self, i: int, j: int) -> list[tuple[int, int, bool]]:
        """Blocks of anchors and of samples, and whether the tables change places, for what a pair of blocks is for."""
        return [(i, j, False), (j, i, True)] if self._same and i != j else [(i, j, False)]

    def _tile(self, row: int, column: int) -> tuple:
        own = self._own[row * self._edge :][: self._rows[row].shape[1]] - column * self._edge
        sizes = self._rows[row].shape[1], self._columns[column].shape[1]
        return *sizes, *self._logit, self._samples[column], own

    def _tables(self, name: str, i: int, j: int) -> list[Tensor]:
        """Work memory for the table of rows i by columns j and, unless it is the same one, of columns j by rows i."""
        sizes = self._rows[i].shape[1], self._columns[j].shape[1]
        size = _table_size(self._count, *sizes)
        number = 1 if self._same and i == j else 2
        return list(scratch(name, (number, size), self._scale.dtype, self._scale.device))

    def _products(self, i: int, j: int, new: bool) -> list[Tensor]:
        tables = self._tables("products", i, j) if self._kept is None else [self._kept]
        if new:
            sides = self._rows[i], self._columns[j]
            for table, (rows, columns) in zip(tables, (sides, sides[::-1]), strict=False):
                for m, part in enumerate(_parts(table, rows, columns)):
                    torch.mm(rows[m], columns[m + 1 :].flatten(0, 1).T, out=part)
        return tables

    def _call(self, name: str, *arguments: object) -> None:
        """Tensors are given by their addresses."""
        given = [value.data_ptr() if isinstance(value, Tensor) else value for value in arguments]
        _function(name)(self._count, *given, self._threads)


def _edge(count: int, batch: int) -> int:
    """Of blocks as equal as can be."""
    most = max(_VECTOR, math.isqrt(_MOST_IN_TILE // _table_size(count, 1, 1)))
    even = math.ceil(batch / math.ceil(batch / most))
    return -(-even // _VECTOR) * _VECTOR


def _table_size(count: int, rows: int, columns: int) -> int:
    return count * (count - 1) // 2 * rows * columns


def _parts(table: Tensor, rows: Tensor, columns: Tensor) -> Iterator[Tensor]:
    """For each modality m of the rows but the last, its products [rows, (later modalities) columns]."""
    (count, size, _), width = rows.shape, columns.shape[1]
    sizes = [size * later * width for later in range(count - 1, 0, -1)]
    return (part.view(size, -1) for part in table.split(sizes))


def _addresses(tables: list[Tensor], turn: bool) -> tuple[Tensor, Tensor]:
    """The upper and the lower table, as pairs.cpp calls them."""
    return (tables[-1], tables[0]) if turn else (tables[0], tables[-1])


def _add_gradients(d_table: Tensor, rows: Tensor, columns: Tensor, d_rows: Tensor, d_columns: Tensor) -> None:
    for m, part in enumerate(_parts(d_table, rows, columns)):
        d_rows[m].addmm_(part, columns[m + 1 :].flatten(0, 1))
        d_columns[m + 1 :].flatten(0, 1).addmm_(part.T, rows[m])
