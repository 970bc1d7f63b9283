"""negatives="paired" by the kernels of `kernels_paired`: buffers, grids, launches.

The backward pass takes the anchors in panels: one kernel computes a panel of gradients of inner products, and matrix
products take them to the embeddings. A panel is M/2 times as large as the embeddings, or 64 MiB, so memory is O(B D).
No atomics.
"""

import math
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from unihpe_kernels.sv_contrastive import kernels_paired as kernels
from unihpe_kernels.sv_contrastive.triton_all import aligned
from unihpe_kernels.tuned import settings

_PANEL_BYTES = 2**26  # a panel may always be this large
_ROWS, _COLUMNS = 4, 128  # block of the kernels over rows
_SAMPLES = 32  # block of the kernels over samples


@dataclass(frozen=True)
class Tables:
    """What is known of every sample; see `kernels_paired`."""

    stack: Tensor  # [count, n, width]
    powers: Tensor  # [count, n]
    inverse_norms: Tensor  # [count, n]
    shares: Tensor  # [count, n]
    inner: Tensor  # [pairs, n]
    basis: Tensor  # flat; empty where codes are used, and for up to three modalities


@dataclass(frozen=True)
class Codes:
    """int32 [n], bit m: which anchors a sample has, and which modalities."""

    anchors: Tensor
    pool: Tensor


def saved_size(
    count: int, batch: int, width: int, dtype: torch.dtype, device: torch.device, masked: bool = False
) -> int:
    """float32 numbers that `Tables` take; masked: where they are used with codes."""
    return sum(_table_sizes(count, batch, width, dtype, device, masked))


def view_saved(saved: Tensor, count: int, batch: int, width: int, dtype: torch.dtype, masked: bool = False) -> Tables:
    """The tables in a flat float32 buffer."""
    sizes = _table_sizes(count, batch, width, dtype, saved.device, masked)
    stack, *by_modality, inner, basis = saved.split(sizes)
    stack = stack.view(_stack_dtype(dtype, saved.device))[: count * batch * width].view(count, batch, width)
    pairs = count * (count - 1) // 2
    powers, inverse_norms, shares = (table[: count * batch].view(count, batch) for table in by_modality)
    return Tables(stack, powers, inverse_norms, shares, inner[: pairs * batch].view(pairs, batch), basis)


def prepare(embeddings: list[Tensor], normalize: bool, tables: Tables, used: Tensor | None) -> None:
    """Fill the tables. used: uint8 [count, n], other rows are taken as zero: NaN in them would pass a zero factor."""
    count, n, width = tables.stack.shape
    kernels.paired_prepare[(triton.cdiv(n, _ROWS),)](
        tuple(embeddings), used, tables.stack, tables.powers, tables.inverse_norms, tables.inner, n, width,
        COUNT=count, MASKED=used is not None, NORMALIZE=normalize, ROWS=_ROWS, BLOCK=_COLUMNS, enable_fp_fusion=True,
    )  # fmt: skip
    if len(tables.basis):
        kernels.paired_basis[(triton.cdiv(n, _SAMPLES), count)](
            tables.inner, tables.basis, n,
            COUNT=count, BLOCK=_SAMPLES, num_warps=1, enable_fp_fusion=True,
        )  # fmt: skip


def normalisers(
    tables: Tables,
    temperature: Tensor,
    codes: Codes | None,
    log_sums: Tensor,
    sample_loss: Tensor,
    anchors: int | None = None,
    own: Tensor | None = None,
) -> None:
    """Write the normalisers [count, n] and losses [n] of the anchors, 0 where there is none.

    anchors: of the n samples so many come first that are anchors alone, all others being what tuples are formed from;
    then only their results are of use, and the normalisers are those of their other tuples, relative to the own one's
    exponential. own [n], int64: the places of their samples among the others, or numbers beyond. None: every sample is
    both.
    """
    count, n, width = tables.stack.shape
    options = _options("forward", tables.stack, codes)
    tile_i, tile_j = options["tile_i"], options["tile_j"]
    rows, others = (n, n) if anchors is None else (anchors, n - anchors)
    tiles_i = triton.cdiv(rows, tile_i)
    columns, splits = _split(others, tile_j, tiles_i * count, options["programs"])
    # those of samples that are no anchors are read, too
    new = temperature.new_empty if anchors is None else temperature.new_ones
    highest, sums = (new((splits, count, n)) for _ in range(2))
    anchor_codes, pool_codes = (codes.anchors, codes.pool) if codes else (None, None)
    kernels.paired_forward[(tiles_i, count, splits)](
        tables.stack, tables.inverse_norms, tables.inner, tables.basis, anchor_codes, pool_codes, own, temperature,
        highest, sums, anchors, n, width, columns,
        COUNT=count, MASKED=codes is not None, PRECISION=_precision(tables.stack.dtype),
        TILE_I=tile_i, TILE_J=tile_j, DEPTH=options["depth"], SWAP=bool(options.get("swap")),
        num_warps=options["num_warps"], num_stages=options["num_stages"], enable_fp_fusion=True,
    )  # fmt: skip
    kernels.paired_finish[(triton.cdiv(rows, _SAMPLES),)](
        tables.inner, tables.basis, anchor_codes, temperature, highest, sums, log_sums, tables.shares, sample_loss, n,
        splits,
        COUNT=count, MASKED=codes is not None, OTHERS=anchors is not None, BLOCK=_SAMPLES, num_warps=1,
        enable_fp_fusion=True,
    )  # fmt: skip


def gradients(
    grad: Tensor,
    temperature: Tensor,
    weights: Tensor | None,
    codes: Codes | None,
    normalize: bool,
    inverse_total: Tensor,
    log_sums: Tensor,
    tables: Tables,
    outs: list[Tensor],
    anchors: int | None = None,
    own: Tensor | None = None,
) -> Tensor:
    """Write the gradients of the embeddings into `outs`; returns pieces of the sum of scores times their gradient.

    anchors, own: as for `normalisers`. With them, what the anchors' own tuples give is left out.
    """
    count, n, width = tables.stack.shape
    end_i = n if anchors is None else anchors
    new = temperature.new_empty
    options = _options("backward", tables.stack, codes)
    tile_i, tile_j = options["tile_i"], options["tile_j"]
    tiles_j = triton.cdiv(n if anchors is None else n - anchors, tile_j)
    panel_rows = min(end_i, _panel_rows(tables.stack, tile_i))
    rows, splits = _split(panel_rows, tile_i, tiles_j * count, options["programs"])
    panel = new((count, panel_rows, count, n), dtype=tables.stack.dtype)
    members = count - 1
    entries = kernels.members_entries(count, codes is not None)
    d_members = new(splits * count * entries * aligned(n))
    if anchors is not None:
        d_members.zero_()  # they are no members
    programs = tiles_j * count * splits
    d_scale = new(programs + triton.cdiv(n, _SAMPLES) * count)
    d_stack = new(tables.stack.shape) if panel_rows == n else torch.zeros_like(tables.stack, dtype=torch.float32)
    anchor_codes, pool_codes = (codes.anchors, codes.pool) if codes else (None, None)
    for begin in range(0, end_i, panel_rows):
        end = min(begin + panel_rows, end_i)
        kernels.paired_backward[(tiles_j, count, splits)](
            tables.stack, tables.inverse_norms, tables.inner, tables.basis, anchor_codes, pool_codes, own,
            temperature, grad, weights, inverse_total, log_sums, panel, d_members, d_scale, anchors, n, width, begin,
            end, rows,
            COUNT=count, MASKED=codes is not None, WEIGHTED=weights is not None, FIRST=begin == 0,
            PRECISION=_precision(tables.stack.dtype), TILE_I=tile_i, TILE_J=tile_j, DEPTH=options["depth"],
            SWAP=bool(options.get("swap")),
            num_warps=options["num_warps"], num_stages=options["num_stages"], enable_fp_fusion=True,
        )  # fmt: skip
        part = panel.view(-1)[: count * (end - begin) * count * n]
        _add_products(d_stack, part, tables.stack, begin, end, anchors or 0)
    d_own = new((count, count * members // 2, n))
    shares = tables.shares if anchors is None else torch.zeros_like(tables.shares)
    kernels.paired_own[(triton.cdiv(n, _SAMPLES), count)](
        tables.inner, tables.basis, anchor_codes, temperature, grad, weights, inverse_total, shares, d_members, d_own,
        d_scale[programs:], n, splits, COUNT=count, MASKED=codes is not None, WEIGHTED=weights is not None,
        BLOCK=_SAMPLES, num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip
    kernels.paired_embedding_gradient[(triton.cdiv(n, _ROWS),)](
        tables.stack, tables.powers, tables.inverse_norms, d_stack, d_own, tuple(outs), n, width,
        COUNT=count, NORMALIZE=normalize, ROWS=_ROWS, BLOCK=_COLUMNS, enable_fp_fusion=True,
    )  # fmt: skip
    return d_scale


def _add_products(d_stack: Tensor, panel: Tensor, stack: Tensor, begin: int, end: int, first: int) -> None:
    """Take a panel's gradients of inner products, with samples from `first` on, to the rows of both sides."""
    count, n, width = stack.shape
    panel = panel.view(count, end - begin, count, n)
    if end - begin == n:  # all anchors, which are all samples
        # one block matrix with zeros on its diagonal: half as much work again for three, but two launches
        whole, rows = panel.view(count * n, count * n), stack.view(count * n, width)
        _product(whole, rows, d_stack.view(count * n, width), add=False)
        _product(whole.T, rows, d_stack.view(count * n, width), add=True)
        return
    for m in range(count):
        for member in range(count):
            if member != m:
                part = panel[m, :, member, first:]
                _product(part, stack[member, first:], d_stack[m, begin:end], add=True)
                _product(part.T, stack[m, begin:end], d_stack[member, first:], add=True)


def _product(left: Tensor, right: Tensor, out: Tensor, add: bool) -> None:
    """out (float32) = left @ right, or added to it; of half types with float32 sums and results."""
    if left.dtype == torch.float32:
        torch.addmm(out, left, right, beta=int(add), out=out)
    else:
        torch.addmm(out, left, right, out_dtype=torch.float32, beta=int(add), out=out)


def _table_sizes(
    count: int, batch: int, width: int, dtype: torch.dtype, device: torch.device, masked: bool
) -> list[int]:
    stack = -(-count * batch * width * _stack_dtype(dtype, device).itemsize // 4)
    basis = (
        count * aligned(batch) * (1 + count * (count - 1)) if count > 3 and not masked else 0
    )  # in blocks of 32 samples
    return [aligned(stack), *[aligned(count * batch)] * 3, aligned(count * (count - 1) // 2 * batch), basis]


def _stack_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The panel has the type of the embeddings; float16 has not the range for gradients and is widened.

    Triton's interpreter, which is what runs on a CPU, cannot multiply matrices of bfloat16.
    """
    return torch.bfloat16 if dtype == torch.bfloat16 and device.type == "cuda" else torch.float32


def _options(direction: str, stack: Tensor, codes: Codes | None) -> dict[str, int]:
    kind = "float" if stack.dtype == torch.float32 else "half"
    return settings(setting_names(direction, stack.shape[0], codes is not None, kind), stack.shape[1], stack.device)


def setting_names(direction: str, count: int, masked: bool, kind: str) -> tuple[str, str]:
    """The tuned settings of so many modalities, and those of some such number; kind: "half" or "float"."""
    own = f"{count}_masked" if masked else str(count)
    return f"sv_paired_{direction}_{own}_{kind}", f"sv_paired_{direction}_{how_many(count, masked)}_{kind}"


def how_many(count: int, masked: bool) -> str:
    """Modalities as the tuned settings tell them apart: 2 and 3 have a closed form, 7 and 8 take all registers."""
    if count <= 3:
        return "few"
    return ("several" if count <= 6 else "many") + "_masked" * masked


def _panel_rows(stack: Tensor, tile: int) -> int:
    count, n, width = stack.shape
    rows = max(_PANEL_BYTES // (count * count * n * stack.element_size()), width // 2)
    return n if rows >= n else max(tile, rows // tile * tile)


def _split(length: int, tile: int, others: int, programs: int) -> tuple[int, int]:
    """(items of one program, a multiple of `tile`; programs that share `length`) for about `programs` in all."""
    tiles = -(-length // tile)
    splits = max(1, min(tiles, programs // others))
    each = math.ceil(tiles / splits)
    return each * tile, math.ceil(tiles / each)


def _precision(dtype: torch.dtype) -> str:
    """Triton's precision of products, by what torch allows its own: no TF32 unless asked for."""
    if dtype != torch.float32 or torch.backends.cuda.matmul.fp32_precision != "tf32":
        return "ieee"
    # AMD has no kernel for three TF32 products
    return "tf32" if torch.version.hip or _lowest_precision_asked() else "tf32x3"


def _lowest_precision_asked() -> bool:
    """torch.set_float32_matmul_precision("medium"); where the newer setting was used, its getter raises."""
    try:
        return torch.get_float32_matmul_precision() == "medium"
    except RuntimeError:
        return True
