"""negatives="all" of three modalities by the kernels of `kernels_all`: buffers, grids, launches.

Up to some 700 samples four launches forward and five backward, beside those of `triton_backend`. Beyond, the backward
pass takes i in several turns, so that the pieces of its Gram gradients stay within twice the size of a Gram matrix or
64 MiB, whichever is more. No atomics: equal bits every time.
"""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from unihpe_kernels.sv_contrastive import kernels_all, kernels_rows
from unihpe_kernels.tuned import settings

_LEAST_ROWS = 8  # of i for one program: fewer would not pay for reading its tile
_PIECES = 2**24  # float32 numbers, 64 MiB
_ROWS, _COLUMNS = 4, 256  # block of the kernels over rows


@dataclass(frozen=True)
class Saved:
    """What the backward pass takes over, as views of one flat buffer."""

    units: Tensor  # [5, ld, width]
    inverse_norms: Tensor  # [3, ld]
    grams: Tensor  # [3, ld, ld]
    factors: Tensor  # [4, ld]


def aligned(size: int) -> int:
    """float32 numbers rounded up to 128 bytes: kernels are compiled for aligned pointers, and slow without."""
    return -(-size // 32) * 32


def padded(batch: int) -> int:
    """The batch rounded up to whole tiles of every setting."""
    return -(-batch // 32) * 32 if batch <= 512 else -(-batch // 64) * 64


def saved_size(batch: int, width: int) -> int:
    return sum(_sizes(batch, width))


def view_saved(saved: Tensor, batch: int, width: int) -> Saved:
    ld = padded(batch)
    units, inverse_norms, grams, factors = saved[: saved_size(batch, width)].split(_sizes(batch, width))
    units = units[: 5 * ld * width].view(5, ld, width)
    return Saved(units, inverse_norms.view(3, ld), grams.view(3, ld, ld), factors.view(4, ld))


def _sizes(batch: int, width: int) -> list[int]:
    ld = padded(batch)
    return [aligned(5 * ld * width), 3 * ld, 3 * ld * ld, 4 * ld]  # ld is a multiple of 32


def normalisers(
    embeddings: list[Tensor],
    temperature: Tensor,
    weights: Tensor | None,
    complete: Tensor | None,
    normalize: bool,
    saved: Saved,
    log_sums: Tensor,
    sample_loss: Tensor,
) -> None:
    """Write the normalisers [3, n] and losses [n] of the complete samples, and fill `saved`."""
    x, y, z = embeddings
    n, width = x.shape
    ld = saved.grams.shape[1]
    kernels_rows.unit_rows_of_three[(triton.cdiv(ld, _ROWS),)](
        x, y, z, complete, saved.units, saved.inverse_norms, n, ld, width,
        MASKED=complete is not None, NORMALIZE=normalize, ROWS=_ROWS, BLOCK=_COLUMNS, enable_fp_fusion=True,
    )  # fmt: skip
    torch.bmm(saved.units[:3], saved.units[2:].mT, out=saved.grams)

    options = settings("sv_all_forward", n, x.device)
    tile_j, tile_k = options["tile_j"], options["tile_k"]
    tiles_j, tiles_k = _tiles(ld, tile_j), _tiles(ld, tile_k)
    rows, splits = _split(n, tiles_j * tiles_k, options["programs"])
    sums_i = x.new_empty((tiles_j * tiles_k, n), dtype=torch.float32)
    sums_j = x.new_empty((tiles_k * splits, ld), dtype=torch.float32)
    sums_k = x.new_empty((tiles_j * splits, ld), dtype=torch.float32)
    kernels_all.sv_all_forward[(tiles_j, tiles_k, splits)](
        saved.grams, complete, temperature, sums_i, sums_j, sums_k, n, ld, rows,
        MASKED=complete is not None, TILE_J=tile_j, TILE_K=tile_k,
        num_warps=options["num_warps"], enable_fp_fusion=True,
    )  # fmt: skip
    kernels_all.sv_all_finish[(triton.cdiv(ld, 32),)](
        saved.grams, complete, temperature, weights, sums_i, sums_j, sums_k, log_sums, sample_loss, saved.factors,
        n, ld, len(sums_i), len(sums_j), len(sums_k),
        MASKED=complete is not None, WEIGHTED=weights is not None, PARTS=32, BLOCK=32, enable_fp_fusion=True,
    )  # fmt: skip


def gradients(
    grad: Tensor,
    temperature: Tensor,
    complete: Tensor | None,
    normalize: bool,
    inverse_total: Tensor,
    saved: Saved,
    outs: list[Tensor],
) -> Tensor:
    """Write the gradients of the embeddings into `outs`.

    Returns pieces of the sum of scores times their gradient, which still lack the mean over anchors.
    """
    n, width = outs[0].shape
    ld = saved.grams.shape[1]
    new = saved.grams.new_empty
    options = settings("sv_all_backward", n, grad.device)
    tile_j, tile_k = options["tile_j"], options["tile_k"]
    tiles_j, tiles_k = _tiles(ld, tile_j), _tiles(ld, tile_k)
    turn = min(n, max(16, max(_PIECES, 2 * ld * ld) // ((tiles_j + tiles_k) * ld) // 16 * 16))
    rows, splits = _split(turn, tiles_j * tiles_k, options["programs"])
    parts_a, parts_b, parts_c = new((tiles_k, turn, ld)), new((tiles_j, turn, ld)), new((splits, ld, ld))
    programs = tiles_j * tiles_k * splits
    d_scale = new(triton.cdiv(n, turn) * programs + ld)
    d_grams = new((3, ld, ld))
    for begin in range(0, n, turn):
        end = min(begin + turn, n)
        kernels_all.sv_all_backward[(tiles_j, tiles_k, splits)](
            saved.grams, complete, temperature, saved.factors, parts_a, parts_b, parts_c,
            d_scale[ld + begin // turn * programs :], n, ld, begin, end, rows,
            MASKED=complete is not None, FIRST=begin == 0, TILE_J=tile_j, TILE_K=tile_k,
            num_warps=options["num_warps"], enable_fp_fusion=True,
        )  # fmt: skip
        kernels_all.sv_all_reduce[(ld, triton.cdiv(ld, _COLUMNS))](
            saved.grams, grad, inverse_total, saved.factors, parts_a, parts_b, parts_c, d_grams, d_scale,
            ld, begin, end, tiles_k, tiles_j, splits, LAST=end == n, BLOCK=_COLUMNS, enable_fp_fusion=True,
        )  # fmt: skip
    left = torch.bmm(d_grams, saved.units[2:])
    right = torch.bmm(d_grams.mT, saved.units[:3])
    kernels_rows.embedding_gradients_of_three[(triton.cdiv(n, _ROWS),)](
        saved.units, saved.inverse_norms, left, right, *outs, n, ld, width,
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
