"""Launches of the kernels of `kernels_all`.

The backward pass takes i in several turns for large batches, so that the pieces of its Gram gradients stay within twice
the size of a Gram matrix or 64 MiB, whichever is more. No atomics: equal bits every time.
"""

from collections.abc import Iterator

import torch
import triton
from torch import Tensor

from unihpe_kernels.contrastive.triton import kernels_all
from unihpe_kernels.tuned import settings

_LEAST_ROWS = 8  # of i for one program: fewer would not pay for reading its tile
_PIECES = 2**24  # float32 numbers, 64 MiB


def padded(batch: int) -> int:
    """The batch rounded up to whole tiles of every setting."""
    return -(-batch // 32) * 32 if batch <= 512 else -(-batch // 64) * 64


def sums(
    grams: Tensor, complete: Tensor | None, temperature: Tensor, n: int, ld: int, slab: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Pieces of the sums of exponentials over the tuples of every i [.., n or slab], j [.., ld] and k [.., ld].

    grams: x.y, x.z and y.z one after the other, [ld, ld] each; with a slab, the first two have `slab` rows, and n
    samples are j and k.
    """
    options = settings("sv_all_forward", n, grams.device)
    tile_j, tile_k = options["tile_j"], options["tile_k"]
    tiles_j, tiles_k = _tiles(ld, tile_j), _tiles(ld, tile_k)
    end = n if slab is None else slab
    rows, splits = _split(end, tiles_j * tiles_k, options["programs"])
    sums_i = grams.new_empty((tiles_j * tiles_k, end))
    sums_j = grams.new_empty((tiles_k * splits, ld))
    sums_k = grams.new_empty((tiles_j * splits, ld))
    kernels_all.sv_all_forward[(tiles_j, tiles_k, splits)](
        grams, complete, temperature, sums_i, sums_j, sums_k, slab, n, ld, rows,
        MASKED=complete is not None, TILE_J=tile_j, TILE_K=tile_k,
        num_warps=options["num_warps"], enable_fp_fusion=True,
    )  # fmt: skip
    return sums_i, sums_j, sums_k


class _Turns:
    """The backward kernel's work over i, several times for large batches, and the pieces that it leaves."""

    def __init__(self, grams: Tensor, n: int, ld: int, slab: int | None) -> None:
        self._options = settings("sv_all_backward", n, grams.device)
        tile_j, tile_k = self._options["tile_j"], self._options["tile_k"]
        self._tiles_j, self._tiles_k = _tiles(ld, tile_j), _tiles(ld, tile_k)
        self._grams, self._n, self._ld, self._slab = grams, n, ld, slab
        self._end = n if slab is None else slab
        pieces = max(_PIECES, 2 * ld * ld) // ((self._tiles_j + self._tiles_k) * ld)
        self._turn = turn = min(self._end, max(16, pieces // 16 * 16))
        self._rows, self._splits = _split(turn, self._tiles_j * self._tiles_k, self._options["programs"])
        new = grams.new_empty
        self.parts_a, self.parts_b = new((self._tiles_k, turn, ld)), new((self._tiles_j, turn, ld))
        self.parts_c = new((self._splits, ld, ld))
        self._programs = self._tiles_j * self._tiles_k * self._splits
        self.programs = triton.cdiv(self._end, turn) * self._programs

    def __call__(
        self, complete: Tensor | None, temperature: Tensor, factors: Tensor, d_scale: Tensor
    ) -> Iterator[tuple[int, int]]:
        """Yields the i of each turn, whose pieces of A and B are complete, and of C at the end. d_scale: [programs]."""
        for begin in range(0, self._end, self._turn):
            end = min(begin + self._turn, self._end)
            kernels_all.sv_all_backward[(self._tiles_j, self._tiles_k, self._splits)](
                self._grams, complete, temperature, factors, self.parts_a, self.parts_b, self.parts_c,
                d_scale[begin // self._turn * self._programs :], self._slab, self._n, self._ld, begin, end, self._rows,
                MASKED=complete is not None, FIRST=begin == 0,
                TILE_J=self._options["tile_j"], TILE_K=self._options["tile_k"],
                num_warps=self._options["num_warps"], enable_fp_fusion=True,
            )  # fmt: skip
            yield begin, end


def gradients(
    grams: Tensor, temperature: Tensor, factors: Tensor, n: int, ld: int, slab: int | None
) -> tuple[Tensor, Tensor]:
    """Gradients of the Gram matrices, as `sums` takes them, and the sum of scores times their gradient [].

    Own tuples are as all others. factors [3, ld]: what the exponentials of anchors' tuples are multiplied with.
    """
    turns = _Turns(grams, n, ld, slab)
    d_scale = grams.new_empty(turns.programs)
    d_grams = torch.empty_like(grams)
    rows = ld if slab is None else slab
    d_a, d_b, d_c = d_grams.view(-1, ld).split([rows, rows, ld])
    if slab is None:
        d_grams.zero_()  # of the samples that pad the batch
    for begin, end in turns(None, temperature, factors, d_scale):
        for parts, d_gram in ((turns.parts_a, d_a), (turns.parts_b, d_b)):
            written = parts.view(-1)[: len(parts) * (end - begin) * ld]
            torch.sum(written.view(-1, end - begin, ld), 0, out=d_gram[begin:end])
    torch.sum(turns.parts_c, 0, out=d_c)
    return d_grams, d_scale.sum(dtype=torch.float64)


def _split(length: int, tiles: int, programs: int) -> tuple[int, int]:
    """(rows of i for one program, programs that share a tile) for about `programs` programs in all."""
    splits = max(1, min(programs // tiles, length // _LEAST_ROWS))
    rows = -(-length // splits)
    return rows, -(-length // rows)


def _tiles(ld: int, tile: int) -> int:
    if ld % tile:
        raise ValueError(f"tuned: tile must divide the padded batch {ld}, got {tile}")
    return ld // tile
