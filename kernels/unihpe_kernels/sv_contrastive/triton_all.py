"""negatives="all" of three modalities by the kernels of `kernels_all`: buffers, grids, launches.

Up to some 700 samples four launches forward and five backward, beside those of `triton_backend`. Beyond, the backward
pass takes i in several chunks, so that the partial sums of its Gram gradients stay within twice the size of a Gram
matrix or 64 MiB, whichever is more. No atomics: equal bits every time.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from unihpe_kernels.sv_contrastive import kernels_all, kernels_rows
from unihpe_kernels.tuned import settings

_LEAST_ROWS = 8  # of i for one program: fewer would not pay for reading its tile
_CHUNK_NUMBERS = 2**24  # float32 numbers, 64 MiB
_ROWS, _COLUMNS = 4, 256  # block of the kernels over rows


@dataclass(frozen=True)
class Saved:
    """What the backward pass takes over, as views of one flat buffer."""

    units: Tensor  # [5, ld, dim]
    inverse_norms: Tensor  # [3, ld]
    grams: Tensor  # [3, ld, ld]
    factors: Tensor  # [4, ld]


def aligned(size: int) -> int:
    """float32 numbers rounded up to 128 bytes: kernels are compiled for aligned pointers, and slow without."""
    return -(-size // 32) * 32


def padded(batch: int) -> int:
    """The batch rounded up to whole tiles of every setting."""
    return -(-batch // 32) * 32 if batch <= 512 else -(-batch // 64) * 64


def saved_size(batch: int, dim: int) -> int:
    return sum(_sizes(batch, dim))


def view_saved(saved: Tensor, batch: int, dim: int) -> Saved:
    ld = padded(batch)
    units, inverse_norms, grams, factors = saved[: saved_size(batch, dim)].split(_sizes(batch, dim))
    units = units[: 5 * ld * dim].view(5, ld, dim)
    return Saved(units, inverse_norms.view(3, ld), grams.view(3, ld, ld), factors.view(4, ld))


def _sizes(batch: int, dim: int) -> list[int]:
    ld = padded(batch)
    return [aligned(5 * ld * dim), 3 * ld, 3 * ld * ld, 4 * ld]  # ld is a multiple of 32


def forward(
    embeddings: list[Tensor],
    temperature: Tensor,
    weights: Tensor | None,
    complete: Tensor | None,
    normalize: bool,
    saved: Saved,
    logsumexp: Tensor,
    sample_loss: Tensor,
) -> None:
    """Write the logsumexp [3, n] and losses [n] of the complete samples, and fill `saved`."""
    x, y, z = embeddings
    n, dim = x.shape
    ld = saved.grams.shape[1]
    kernels_rows.unit_rows_of_three[(triton.cdiv(ld, _ROWS),)](
        x, y, z, complete, saved.units, saved.inverse_norms, n, ld, dim,
        MASKED=complete is not None, NORMALIZE=normalize, ROWS=_ROWS, BLOCK=_COLUMNS, enable_fp_fusion=True,
    )  # fmt: skip
    torch.bmm(saved.units[:3], saved.units[2:].mT, out=saved.grams)

    sums_i, sums_j, sums_k = sums(saved.grams, complete, temperature, n, ld, None)
    kernels_all.sv_all_finish[(triton.cdiv(ld, 32),)](
        saved.grams, complete, temperature, weights, sums_i, sums_j, sums_k, logsumexp, sample_loss, saved.factors,
        n, ld, len(sums_i), len(sums_j), len(sums_k),
        MASKED=complete is not None, WEIGHTED=weights is not None, PARTS=32, BLOCK=32, enable_fp_fusion=True,
    )  # fmt: skip


def sums(
    grams: Tensor,
    complete: Tensor | None,
    temperature: Tensor,
    n: int,
    ld: int,
    shard: int | None,
    first_own: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Partial sums of exponentials over the triples of every i [.., n or shard], j [.., ld] and k [.., ld] but
    the own ones.

    grams: x.y, x.z and y.z one after the other, [ld, ld] each; with a shard, the first two have `shard` rows, and n
    samples are j and k, those of the shard from `first_own` on.
    """
    options = settings("sv_all_forward", n, grams.device)
    tile_j, tile_k = options["tile_j"], options["tile_k"]
    tiles_j, tiles_k = _tiles(ld, tile_j), _tiles(ld, tile_k)
    end = n if shard is None else shard
    rows, splits = _split(end, tiles_j * tiles_k, options["programs"])
    sums_i = grams.new_empty((tiles_j * tiles_k, end))
    sums_j = grams.new_empty((tiles_k * splits, ld))
    sums_k = grams.new_empty((tiles_j * splits, ld))
    kernels_all.sv_all_forward[(tiles_j, tiles_k, splits)](
        grams, complete, temperature, sums_i, sums_j, sums_k, shard, first_own, n, ld, rows,
        MASKED=complete is not None, TILE_J=tile_j, TILE_K=tile_k,
        num_warps=options["num_warps"], enable_fp_fusion=True,
    )  # fmt: skip
    return sums_i, sums_j, sums_k


class _BackwardChunks:
    """The backward kernel's work over i, several times for large batches, and the partial sums that it leaves."""

    def __init__(self, grams: Tensor, n: int, ld: int, shard: int | None, first_own: int | None) -> None:
        self._options = settings("sv_all_backward", n, grams.device)
        tile_j, tile_k = self._options["tile_j"], self._options["tile_k"]
        self._tiles_j, self._tiles_k = _tiles(ld, tile_j), _tiles(ld, tile_k)
        self._grams, self._n, self._ld, self._shard, self._first_own = grams, n, ld, shard, first_own
        self._end = n if shard is None else shard
        rows = max(_CHUNK_NUMBERS, 2 * ld * ld) // ((self._tiles_j + self._tiles_k) * ld)
        self._chunk = chunk = min(self._end, max(16, rows // 16 * 16))
        self._rows, self._splits = _split(chunk, self._tiles_j * self._tiles_k, self._options["programs"])
        new = grams.new_empty
        self.parts_a, self.parts_b = new((self._tiles_k, chunk, ld)), new((self._tiles_j, chunk, ld))
        self.parts_c = new((self._splits, ld, ld))
        self._programs = self._tiles_j * self._tiles_k * self._splits
        self.programs = triton.cdiv(self._end, chunk) * self._programs

    def __call__(
        self, complete: Tensor | None, temperature: Tensor, factors: Tensor, d_scale: Tensor
    ) -> Iterator[tuple[int, int]]:
        """Yields the i of each chunk, whose sums of A and B are complete, and of C at the end. d_scale: [programs]."""
        for begin in range(0, self._end, self._chunk):
            end = min(begin + self._chunk, self._end)
            kernels_all.sv_all_backward[(self._tiles_j, self._tiles_k, self._splits)](
                self._grams, complete, temperature, factors, self.parts_a, self.parts_b, self.parts_c,
                d_scale[begin // self._chunk * self._programs :], self._shard, self._first_own, self._n, self._ld,
                begin, end, self._rows,
                MASKED=complete is not None, FIRST=begin == 0,
                TILE_J=self._options["tile_j"], TILE_K=self._options["tile_k"],
                num_warps=self._options["num_warps"], enable_fp_fusion=True,
            )  # fmt: skip
            yield begin, end


def shard_gradients(
    grams: Tensor, temperature: Tensor, factors: Tensor, n: int, ld: int, shard: int, first_own: int
) -> tuple[Tensor, Tensor]:
    """Gradients of the Gram matrices of a shard, as `sums` takes them, and the sum of scores times their gradient [].

    Without that of the positives. factors [3, ld]: what the exponentials of anchors' tuples are multiplied with.
    """
    chunks = _BackwardChunks(grams, n, ld, shard, first_own)
    d_scale = grams.new_empty(chunks.programs)
    d_grams = torch.empty_like(grams)
    d_a, d_b, d_c = d_grams.split([shard, shard, ld])
    for begin, end in chunks(None, temperature, factors, d_scale):
        for parts, d_gram in ((chunks.parts_a, d_a), (chunks.parts_b, d_b)):
            written = parts.view(-1)[: len(parts) * (end - begin) * ld]
            torch.sum(written.view(-1, end - begin, ld), 0, out=d_gram[begin:end])
    torch.sum(chunks.parts_c, 0, out=d_c)
    return d_grams, d_scale.sum(dtype=torch.float64)


def backward(
    grad: Tensor,
    temperature: Tensor,
    complete: Tensor | None,
    normalize: bool,
    inverse_total: Tensor,
    saved: Saved,
    outs: list[Tensor],
) -> Tensor:
    """Write the gradients of the embeddings into `outs`.

    Returns partial sums of scores times their gradient, which still lack the mean over anchors.
    """
    n, dim = outs[0].shape
    ld = saved.grams.shape[1]
    new = saved.grams.new_empty
    chunks = _BackwardChunks(saved.grams, n, ld, None, None)
    d_scale = new(chunks.programs + ld)
    d_grams = new((3, ld, ld))
    parts = (chunks.parts_a, chunks.parts_b, chunks.parts_c)
    for begin, end in chunks(complete, temperature, saved.factors, d_scale[ld:]):
        rows = ld if end == n else end - begin
        kernels_all.sv_all_reduce[(rows, triton.cdiv(ld, _COLUMNS))](
            saved.grams, grad, inverse_total, saved.factors, *parts, d_grams, d_scale,
            ld, begin, end, *(len(part) for part in parts), LAST=end == n, BLOCK=_COLUMNS, enable_fp_fusion=True,
        )  # fmt: skip
    left = torch.bmm(d_grams, saved.units[2:])
    right = torch.bmm(d_grams.mT, saved.units[:3])
    kernels_rows.embedding_gradients_of_three[(triton.cdiv(n, _ROWS),)](
        saved.units, saved.inverse_norms, left, right, *outs, n, ld, dim,
        NORMALIZE=normalize, ROWS=_ROWS, BLOCK=_COLUMNS, enable_fp_fusion=True,
    )  # fmt: skip
    return d_scale


def _split(length: int, tiles: int, programs: int) -> tuple[int, int]:
    """(rows of i for one program, programs that share a tile) for about `programs` programs in all."""
    splits = max(1, min(programs // tiles, length // _LEAST_ROWS))
    rows = -(-length // splits)
    return rows, -(-length // rows)


def _tiles(ld: int, tile: int) -> int:
    if ld % tile:
        raise ValueError(f"tuned: tile must divide the padded batch {ld}, got {tile}")
    return ld // tile
