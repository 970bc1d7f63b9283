"""Block functions of "paired" in C++ (block.cpp), for float32 tensors of a CPU."""

import functools

import torch
from torch import Tensor

from unihpe_kernels.contrastive.contract import Block, Centers, Factors, Forward, Options, Samples, Statistics
from unihpe_kernels.contrastive.torch_blocks import TorchBackend
from unihpe_kernels.native import call, single
from unihpe_kernels.scores import SCORES, Score

_MOST = 8


# whose functions of rows are those of all
_ROWS = SCORES["cosine"].native


class NativeBackend(TorchBackend):
    """Matrix products are torch's."""

    cpu_block = 2**19

    def units(self, embeddings: list[Tensor], normalize: bool, used: Tensor | None) -> tuple[Tensor, Tensor | None]:
        rows = [single(embedding) for embedding in embeddings]
        if used is not None:
            rows = [torch.where(own[:, None], row, 0) for own, row in zip(used, rows, strict=True)]
        sizes = len(rows), *rows[0].shape
        units = rows[0].new_empty(sizes)
        inverse_norms = rows[0].new_empty(sizes[:2]) if normalize else None
        self._call_rows("block_units", *sizes, units, inverse_norms, rows)
        return units, inverse_norms

    def through_units(
        self, units: Tensor, inverse_norms: Tensor | None, d_units: Tensor, like: list[Tensor]
    ) -> list[Tensor]:
        if inverse_norms is None:
            return super().through_units(units, inverse_norms, d_units, like)
        d_rows = [units.new_empty(units.shape[1:]) for _ in units]
        self._call_rows("block_through_units", *units.shape, units, inverse_norms, d_units.contiguous(), d_rows)
        return [d_row.to(other.dtype) for d_row, other in zip(d_rows, like, strict=True)]

    def inner(self, units: Tensor) -> Tensor:
        num_modalities, samples, dim = units.shape
        if units.stride(1) != dim or units.stride(2) != 1:
            units = units.contiguous()
        inner = units.new_empty(num_modalities * (num_modalities - 1) // 2, samples)
        sizes = num_modalities, torch.get_num_threads(), samples, dim, units.stride(0)
        call(_ROWS, "block_inner", *sizes, units, inner)
        return inner

    def members(self, inner: Tensor, options: Options) -> Tensor:  # type: ignore[override]
        size, _, lanes = _sizes(options.score, options.num_modalities)
        samples = inner.shape[1]
        members = inner.new_empty(len(options.anchors) * -(-samples // lanes) * size)
        self._call("block_members", options, _mask(options), samples, inner, members)
        return members

    def positives(self, inner: Tensor, options: Options) -> Tensor:
        scores = inner.new_empty(inner.shape[1])
        call(options.score.native, "block_positives", options.num_modalities, len(scores), inner, scores)
        return scores

    def positives_gradient(self, inner: Tensor, options: Options, weight: Tensor) -> Tensor:
        d_inner = torch.empty_like(inner)
        sizes = options.num_modalities, inner.shape[1]
        call(options.score.native, "block_positives_gradient", *sizes, inner, weight, d_inner)
        return d_inner

    def forward(self, block: Block, options: Options, centers: Centers) -> Forward:
        products, anchors = block.products, len(options.anchors)
        a, b = products.shape[2:]
        strips = -(-a // _sizes(options.score, options.num_modalities)[2])
        by_row, by_column = products.new_empty(2, 3, anchors, a), products.new_empty(strips, 2, 3, anchors, b)
        self._call(
            "block_forward", options, products, a, b, _mask(options), int(block.two_ways), int(block.diagonal),
            int(options.both), int(options.sigmoid), *_logit(options), block.rows.members, block.columns.members,
            centers.rows, centers.columns, by_row, by_column,
        )  # fmt: skip
        parts = by_column.sum(0) if strips > 1 else by_column[0]
        of_rows, of_rows_by_tuple = by_row[0], parts[0] if options.both else None
        of_columns = parts[1] if block.two_ways else None
        of_columns_by_tuple = by_row[1] if block.two_ways and options.both else None
        found = of_rows, of_rows_by_tuple, of_columns, of_columns_by_tuple
        return Forward(*(None if part is None else Statistics(*part.unbind()) for part in found))  # type: ignore[arg-type]

    def new_sums(self, samples: Samples, options: Options) -> Tensor:  # type: ignore[override]
        """[anchors, blocks, SUMS, LANES], flat."""
        _, size, lanes = _sizes(options.score, options.num_modalities)
        return samples.units.new_zeros(len(options.anchors) * -(-samples.units.shape[1] // lanes) * size)

    def backward(
        self, block: Block, options: Options, of_rows: Factors, of_columns: Factors | None, out: Tensor
    ) -> None:
        a, b = block.products.shape[2:]
        strips = -(-a // _sizes(options.score, options.num_modalities)[2])
        column_sums = out.new_empty(strips, block.columns.sums.numel())
        self._call(
            "block_backward", options, block.products, out, a, b, _mask(options), int(block.two_ways),
            int(block.diagonal), int(options.sigmoid), *_logit(options), block.rows.members, block.columns.members,
            *of_rows, *(of_columns or (None,) * 4), block.rows.sums, column_sums,
        )  # fmt: skip
        block.columns.sums.add_(column_sums.sum(0))

    def own(self, samples: Samples, options: Options) -> Tensor:
        d_inner = torch.empty_like(samples.inner)
        sizes = options.num_modalities, _mask(options), samples.inner.shape[1]
        call(options.score.native, "block_own", *sizes, samples.members, samples.sums, d_inner)
        return d_inner

    def _call(self, name: str, options: Options, *arguments: Tensor | float | None) -> None:
        call(options.score.native, name, options.num_modalities, torch.get_num_threads(), *arguments)

    def _call_rows(
        self, name: str, num_modalities: int, samples: int, dim: int, *arguments: Tensor | list[Tensor] | None
    ) -> None:
        *given, rows = arguments
        assert isinstance(rows, list)
        padded = [*rows, *[None] * (_MOST - len(rows))]
        call(_ROWS, name, num_modalities, torch.get_num_threads(), samples, dim, *given, *padded)  # type: ignore[arg-type]


@functools.cache
def _sizes(score: Score, num_modalities: int) -> tuple[int, int, int]:
    """Floats of LANES samples' members and of their sums, and LANES."""
    sizes = torch.zeros(3, dtype=torch.int64)
    call(score.native, "block_sizes", num_modalities, sizes)
    members, sums, lanes = sizes.tolist()
    return members, sums, lanes


def _mask(options: Options) -> int:
    return sum(1 << m for m in options.anchors)


def _logit(options: Options) -> tuple[float, float, float]:
    return float(options.scale), float(options.middle), float(options.shift)


BACKEND = NativeBackend()
