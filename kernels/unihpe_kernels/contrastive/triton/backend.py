"""The blocks of "paired" by Triton kernels: buffers, grids, launches. contract.py says what each function is to do.

No atomics: what several programs add to is kept in parts, one for each, and added up in a fixed order.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from unihpe_kernels.checks import on_device
from unihpe_kernels.contrastive.contract import Block, Centers, Factors, Forward, Options, Samples, Statistics
from unihpe_kernels.contrastive.triton import kernels_both_ways, kernels_one_way, kernels_samples
from unihpe_kernels.tuned import settings

_ROWS, _COLUMNS = 4, 256  # block of the kernels over rows of embeddings
_FEW_COLUMNS = 128  # where every two modalities have a sum
_SAMPLES = 32  # block of the kernels over samples
_MOST_SLOTS = 16  # parts of the sums of four modalities and more


class TritonBackend:
    masks = True
    cpu_block = 2**19  # of the interpreter

    def in_place(self, options: Options) -> bool:
        """Beyond three modalities a product is read twice, once for either way."""
        return options.num_modalities <= 3

    def units(self, embeddings: list[Tensor], normalize: bool, used: Tensor | None) -> tuple[Tensor, Tensor | None]:
        first = embeddings[0]
        n, dim = first.shape
        # the interpreter, which is what runs on a CPU, cannot multiply matrices of bfloat16; float16 has not the range
        half = first.dtype == torch.bfloat16 and first.device.type == "cuda"
        units = torch.empty(
            (len(embeddings), n, dim), dtype=torch.bfloat16 if half else torch.float32, device=first.device
        )
        inverse_norms = torch.empty(units.shape[:2], dtype=torch.float32, device=first.device) if normalize else None
        if n:
            with on_device(first):
                kernels_samples.unit_rows[(triton.cdiv(n, _ROWS),)](
                    tuple(embedding.contiguous() for embedding in embeddings),
                    None if used is None else used.contiguous().view(torch.uint8), units, inverse_norms, n, dim,
                    M=len(embeddings), MASKED=used is not None, NORMALIZE=normalize, ROWS=_ROWS, BLOCK=_COLUMNS,
                    enable_fp_fusion=True,
                )  # fmt: skip
        return units, inverse_norms

    def through_units(
        self, units: Tensor, inverse_norms: Tensor | None, d_units: Tensor, like: list[Tensor]
    ) -> list[Tensor]:
        n, dim = units.shape[1:]
        outs = [torch.empty(other.shape, dtype=other.dtype, device=other.device) for other in like]
        if n:
            with on_device(units):
                kernels_samples.through_unit_rows[(triton.cdiv(n, _ROWS),)](
                    units, inverse_norms, d_units, tuple(outs), n, dim,
                    M=len(units), NORMALIZE=inverse_norms is not None, ROWS=_ROWS, BLOCK=_COLUMNS,
                    enable_fp_fusion=True,
                )  # fmt: skip
        return outs

    def inner(self, units: Tensor) -> Tensor:
        count, n, dim = units.shape
        inner = units.new_empty((count * (count - 1) // 2, n), dtype=torch.float32)
        if n:
            with on_device(units):
                kernels_samples.own_products[(triton.cdiv(n, _ROWS),)](
                    units, inner, n, dim, M=count, ROWS=_ROWS, BLOCK=_FEW_COLUMNS, enable_fp_fusion=True
                )
        return inner

    def members(self, inner: Tensor, options: Options) -> Tensor | None:
        """Of four modalities and more, tables [A, blocks of 32 samples, entries, 32]."""
        if options.num_modalities <= 3:
            return None
        return self._tables(inner, options, options.anchors)

    def positives(self, inner: Tensor, options: Options) -> Tensor:
        scores = torch.empty_like(inner[0])
        if n := inner.shape[1]:
            score, tables = options.score.triton, self._tables_of_positives(inner, options)
            with on_device(inner):
                kernels_samples.positive_scores[(triton.cdiv(n, _SAMPLES),)](
                    inner, tables, scores, n,
                    M=options.num_modalities, MEMBERS=score.members, SCORE=score.score, COUNT=_entries(options),
                    BLOCK=_SAMPLES, num_warps=1, enable_fp_fusion=True,
                )  # fmt: skip
        return scores

    def positives_gradient(self, inner: Tensor, options: Options, weight: Tensor) -> Tensor:
        d_inner = torch.empty_like(inner)
        if n := inner.shape[1]:
            score, tables = options.score.triton, self._tables_of_positives(inner, options)
            with on_device(inner):
                kernels_samples.positive_gradients[(triton.cdiv(n, _SAMPLES),)](
                    inner, tables, weight.float().contiguous(), d_inner, n,
                    M=options.num_modalities, MEMBERS=score.members, SCORE=score.score, GRADIENT=score.gradient,
                    OWN=score.own, COUNT=_entries(options), BLOCK=_SAMPLES, num_warps=1, enable_fp_fusion=True,
                )  # fmt: skip
        return d_inner

    def products(self, out: Tensor, left: Tensor, rights: Tensor) -> None:
        left = left.expand(len(rights), *left.shape)
        if left.dtype == out.dtype:
            torch.bmm(left, rights.mT, out=out)
        else:
            torch.bmm(left, rights.mT, out_dtype=out.dtype, out=out)

    def add_to_left(self, d_left: Tensor, d_products: Tensor, rights: Tensor) -> None:
        for d_product, right in zip(d_products, rights, strict=True):
            _add_product(d_left, d_product, right)

    def add_to_rights(self, d_rights: Tensor, d_products: Tensor, left: Tensor) -> None:
        for d_right, d_product in zip(d_rights, d_products, strict=True):
            _add_product(d_right, d_product.mT, left)

    def forward(self, block: Block, options: Options, centers: Centers) -> Forward:
        if options.num_modalities <= 3:
            return self._forward_both_ways(block, options, centers)
        of_rows, of_rows_by_tuple = self._forward_one_way(block, options, centers, of_rows=True)
        of_columns = of_columns_by_tuple = None
        if block.two_ways:
            of_columns, of_columns_by_tuple = self._forward_one_way(block, options, centers, of_rows=False)
        return Forward(of_rows, of_rows_by_tuple, of_columns, of_columns_by_tuple)

    def new_sums(self, samples: Samples, options: Options) -> Tensor | None:
        """[slots, A, blocks of 32 samples, numbers to be added up, 32]."""
        n = samples.units.shape[1]
        blocks, count = triton.cdiv(n, 32), _sums(options, samples.codes is not None)
        if not count:
            return None
        a, slots = len(options.anchors), 1
        if options.num_modalities > 3:
            option = _settings("one_way_backward", options, n, samples.units.device)
            slots = min(_MOST_SLOTS, max(1, option["programs"] // max(1, a * blocks)))
        return samples.inner.new_zeros((slots, a, blocks, count, 32))

    def backward(
        self, block: Block, options: Options, of_rows: Factors, of_columns: Factors | None, out: Tensor
    ) -> None:
        if options.num_modalities <= 3:
            self._backward_both_ways(block, options, of_rows, of_columns, out)
            return
        self._backward_one_way(block, options, of_rows, out, of_rows=True)
        if of_columns is not None:
            self._backward_one_way(block, options, of_columns, out, of_rows=False)

    def own(self, samples: Samples, options: Options) -> Tensor:
        inner, n = samples.inner, samples.inner.shape[1]
        if samples.sums is None or n == 0:
            return torch.zeros_like(inner)
        score, masked = options.score.triton, samples.codes is not None
        d_inner = inner.new_empty((len(options.anchors), *inner.shape))
        with on_device(inner):
            kernels_samples.members_gradients[(triton.cdiv(n, _SAMPLES), len(options.anchors))](
                samples.sums.sum(0), samples.members, inner, d_inner, n, _packed(options.anchors),
                M=options.num_modalities, MEMBERS=score.members, OWN=score.own, COUNT=_entries(options),
                SUMS=_sums(options, masked), MASKED=masked, BLOCK=_SAMPLES, num_warps=1, enable_fp_fusion=True,
            )  # fmt: skip
        return d_inner.sum(0)

    def _tables(self, inner: Tensor, options: Options, modalities: tuple[int, ...]) -> Tensor:
        score, n = options.score.triton, inner.shape[1]
        blocks, count = triton.cdiv(n, 32), _entries(options)
        tables = inner.new_empty((len(modalities), blocks, count, 32))
        if n:
            with on_device(inner):
                kernels_samples.members_tables[(blocks, len(modalities))](
                    inner, tables, n, _packed(modalities),
                    M=options.num_modalities, MEMBERS=score.members, COUNT=count, BLOCK=_SAMPLES, num_warps=1,
                    enable_fp_fusion=True,
                )  # fmt: skip
        return tables

    def _tables_of_positives(self, inner: Tensor, options: Options) -> Tensor | None:
        return self._tables(inner, options, (0,)) if options.num_modalities > 3 else None

    def _forward_both_ways(self, block: Block, options: Options, centers: Centers) -> Forward:
        a, b = block.products.shape[2:]
        count, statistics = len(options.anchors), _statistics(options)
        # of more statistics registers hold fewer scores
        more = "_more" if options.both or options.sigmoid else ""
        option = _settings("both_ways_forward", options, max(a, b), block.products.device, more)
        tiles, length, splits = _grid(a, b, option)
        new, both = block.products.new_empty, options.both
        by_row = new((tiles, statistics * (1 + (both and block.two_ways)), count, a))
        by_column = new((splits, statistics * (both + block.two_ways), count, b))
        score, (row_codes, column_codes) = options.score.triton, _codes(block)
        scale, shift = _scalars(options, block)
        with on_device(block.products):
            kernels_both_ways.both_ways_forward[(tiles, splits)](
                block.products, block.rows.inner, block.columns.inner, row_codes, column_codes,
                centers.rows, centers.columns, scale, shift, by_row, by_column, a, b, length, options.middle,
                M=options.num_modalities, ANCHORS=_bits(options.anchors), MEMBERS=score.members, SCORE=score.score,
                TWO_WAYS=block.two_ways, DIAGONAL=block.diagonal, BOTH=both, SIGMOID=options.sigmoid,
                MOMENTS=options.with_scores, TOTALS=options.with_totals, MASKED=row_codes is not None,
                SOUGHT=options.sought, TILE_I=option["tile_i"], TILE_J=option["tile_j"],
                num_warps=option["num_warps"], num_stages=1, enable_fp_fusion=True,
            )  # fmt: skip
        return Forward(
            _kept(by_row, 0, options),
            _kept(by_column, statistics * block.two_ways, options) if both else None,
            _kept(by_column, 0, options) if block.two_ways else None,
            _kept(by_row, statistics, options) if both and block.two_ways else None,
        )

    def _backward_both_ways(
        self, block: Block, options: Options, of_rows: Factors, of_columns: Factors | None, out: Tensor
    ) -> None:
        a, b = block.products.shape[2:]
        count, masked = len(options.anchors), block.rows.codes is not None
        sums = _sums(options, masked)
        option = _settings("both_ways_backward", options, max(a, b), block.products.device)
        tiles, length, splits = _grid(a, b, option)
        new = block.products.new_empty
        sums_rows = new((tiles, count, sums, a)) if sums and of_columns else None
        sums_columns = new((splits, count, sums, b)) if sums else None
        score, (row_codes, column_codes) = options.score.triton, _codes(block)
        scale, shift = _scalars(options, block)
        ways = of_columns or Factors(None)  # type: ignore[arg-type]
        with on_device(block.products):
            kernels_both_ways.both_ways_backward[(tiles, splits)](
                block.products, block.rows.inner, block.columns.inner, row_codes, column_codes, scale, shift,
                of_rows.anchor, of_rows.tuple, of_rows.anchor_level, of_rows.tuple_level,
                ways.anchor, ways.tuple, ways.anchor_level, ways.tuple_level,
                out, sums_rows, sums_columns, a, b, length,
                M=options.num_modalities, ANCHORS=_bits(options.anchors), MEMBERS=score.members, SCORE=score.score,
                GRADIENT=score.gradient, OWN=score.own, SUMS=sums, TWO_WAYS=of_columns is not None,
                DIAGONAL=block.diagonal, SIGMOID=options.sigmoid, MASKED=masked, SOUGHT=options.sought,
                TILE_I=option["tile_i"], TILE_J=option["tile_j"],
                num_warps=option["num_warps"], num_stages=1, enable_fp_fusion=True,
            )  # fmt: skip
        for samples, parts in ((block.columns, sums_columns), (block.rows, sums_rows)):
            if parts is not None:  # [slots = 1, A, blocks, SUMS, 32] holds the samples in order
                _add_in_blocks(samples.sums[0], parts.sum(0))

    def _forward_one_way(
        self, block: Block, options: Options, centers: Centers, of_rows: bool
    ) -> tuple[Statistics, Statistics | None]:
        way = _Way(block, of_rows)
        count, statistics = len(options.anchors), _statistics(options)
        option = _settings("one_way_forward", options, max(way.a, way.b), block.products.device)
        tile_a, tile_t = _tiles(option, of_rows)
        tiles = triton.cdiv(way.b, tile_t)
        length, splits = _split(way.a, tile_a, option["programs"] // max(1, tiles * count))
        new, score = block.products.new_empty, options.score.triton
        by_anchor = new((tiles, statistics, count, way.a))
        by_tuple = new((splits, statistics, count, way.b)) if options.both else None
        center_anchors, center_tuples = centers if of_rows else centers[::-1]
        scale, shift = _scalars(options, block)
        with on_device(block.products):
            kernels_one_way.one_way_forward[(tiles, count, splits)](
                block.products, way.tuples.members, way.tuples.inner, way.anchors.codes, way.tuples.codes,
                center_anchors, center_tuples, scale, shift, by_anchor, by_tuple, way.a, way.b, 1, length,
                _packed(options.anchors), options.middle,
                M=options.num_modalities, MEMBERS=score.members, SCORE=score.score,
                WHOLE_SCORE=getattr(score, "whole_score", None), COUNT=_entries(options), OF_ROWS=of_rows,
                DIAGONAL=block.diagonal, BOTH=options.both, SIGMOID=options.sigmoid, MOMENTS=options.with_scores,
                TOTALS=options.with_totals, MASKED=way.anchors.codes is not None, SOUGHT=options.sought,
                TILE_A=tile_a, TILE_T=tile_t, num_warps=option["num_warps"], num_stages=1, enable_fp_fusion=True,
            )  # fmt: skip
        return _kept(by_anchor, 0, options), None if by_tuple is None else _kept(by_tuple, 0, options)

    def _backward_one_way(self, block: Block, options: Options, factors: Factors, out: Tensor, of_rows: bool) -> None:
        way = _Way(block, of_rows)
        masked, score = way.anchors.codes is not None, options.score.triton
        option = _settings("one_way_backward", options, max(way.a, way.b), block.products.device)
        tile_a, tile_t = _tiles(option, of_rows)
        slots = len(way.tuples.sums)
        length = triton.cdiv(triton.cdiv(way.a, slots), tile_a) * tile_a
        scale, shift = _scalars(options, block)
        with on_device(block.products):
            kernels_one_way.one_way_backward[(triton.cdiv(way.b, tile_t), len(options.anchors), slots)](
                block.products, way.tuples.members, way.tuples.inner, way.anchors.codes, way.tuples.codes, scale, shift,
                factors.anchor, factors.tuple, factors.anchor_level, factors.tuple_level, out, way.tuples.sums,
                way.a, way.b, 1, length, _packed(options.anchors), _bits(options.anchors),
                M=options.num_modalities, MEMBERS=score.members, SCORE=score.score, GRADIENT=score.gradient,
                OWN=score.own, WHOLE_GRADIENT=getattr(score, "whole_gradient", None), COUNT=_entries(options),
                SUMS=_sums(options, masked), OF_ROWS=of_rows, DIAGONAL=block.diagonal, SIGMOID=options.sigmoid,
                MASKED=masked, SOUGHT=options.sought, TILE_A=tile_a, TILE_T=tile_t,
                num_warps=option["num_warps"], num_stages=1, enable_fp_fusion=True,
            )  # fmt: skip


class _Way:
    """Which samples of a block are anchors, a of them, and which give the tuples, b."""

    def __init__(self, block: Block, of_rows: bool) -> None:
        self.anchors, self.tuples = (block.rows, block.columns) if of_rows else (block.columns, block.rows)
        self.a, self.b = block.products.shape[2:] if of_rows else block.products.shape[:1:-1]


def _entries(options: Options) -> int:
    return options.score.triton.num_members_entries(options.num_modalities - 1)


def _sums(options: Options, masked: bool) -> int:
    """Numbers that are added up for a sample's members; with masks these are the gradients of their products."""
    members = options.num_modalities - 1
    return members * (members - 1) // 2 if masked else options.score.triton.num_sums(members)


def _statistics(options: Options) -> int:
    return 1 + options.with_scores + options.with_totals


def _kept(parts: Tensor, first: int, options: Options) -> Statistics:
    """Of parts [.., statistics, A, n] those from `first` on."""
    moments = parts[:, first + 1] if options.with_scores else None
    totals = parts[:, first + 1 + options.with_scores] if options.with_totals else None
    return Statistics(parts[:, first], moments, totals)


def _bits(modalities: tuple[int, ...]) -> int:
    return sum(1 << m for m in modalities)


def _packed(modalities: tuple[int, ...]) -> int:
    return sum(m << 4 * k for k, m in enumerate(modalities))


def _codes(block: Block) -> tuple[Tensor | None, Tensor | None]:
    return block.rows.codes, block.columns.codes


def _scalars(options: Options, block: Block) -> tuple[Tensor, Tensor]:
    """Scale and shift on the device."""
    scale, shift = (
        x if isinstance(x, Tensor) else torch.full((), x, dtype=torch.float32, device=block.products.device)
        for x in (options.scale, options.shift)
    )
    return scale, shift


def _settings(kernel: str, options: Options, size: int, device: torch.device, more: str = "") -> dict[str, int]:
    return settings(f"{kernel}_{how_many(options.num_modalities)}{more}", size, device)


def how_many(num_modalities: int) -> str:
    """Modalities as the tuned settings tell them apart."""
    return {2: "two", 3: "three", 7: "many", 8: "many"}.get(num_modalities, "several")


def _grid(a: int, b: int, option: dict[str, int]) -> tuple[int, int, int]:
    """Tiles of the columns, rows of a program and splits of the rows."""
    tiles = triton.cdiv(b, option["tile_j"])
    return tiles, *_split(a, option["tile_i"], option["programs"] // max(1, tiles))


def _split(length: int, tile: int, splits: int) -> tuple[int, int]:
    """(items of a program, a multiple of `tile`; programs that share `length`)."""
    tiles = triton.cdiv(length, tile)
    each = triton.cdiv(tiles, max(1, min(tiles, splits)))
    return each * tile, triton.cdiv(tiles, each)


def _tiles(option: dict[str, int], of_rows: bool) -> tuple[int, int]:
    """Of anchors and of tuples: neighbours in memory are tuples on the way of rows, anchors on that of columns."""
    long, short = option["tile_long"], option["tile_short"]
    return (short, long) if of_rows else (long, short)


def _add_in_blocks(sums: Tensor, parts: Tensor) -> None:
    """sums [A, blocks, SUMS, 32] += parts [A, SUMS, n]"""
    a, blocks, count, _ = sums.shape
    if count > 1:
        padded = torch.nn.functional.pad(parts, (0, blocks * 32 - parts.shape[2]))
        sums += padded.view(a, count, blocks, 32).transpose(1, 2)
    else:
        sums.view(a, 1, blocks * 32)[:, :, : parts.shape[2]] += parts


def _add_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    """out (float32) += left @ right, in the type of `right` with float32 sums and results."""
    if right.dtype == torch.float32:
        out.addmm_(left, right)
    else:
        torch.addmm(out, left.to(right.dtype), right, out_dtype=torch.float32, out=out)


BACKEND: Any = TritonBackend()
