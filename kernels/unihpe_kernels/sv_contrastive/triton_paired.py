"""negatives="paired" by the kernels of `kernels_paired`: buffers, grids, launches.

The backward pass takes the pairs in square panels: one kernel computes a panel of gradients of inner products, and
matrix products take them to the embeddings. A panel is M/2 times as large as the embeddings, or 64 MiB, so memory is
O(B D). No atomics.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from unihpe_kernels.launching import Launch, Parts, planned
from unihpe_kernels.sv_contrastive import kernels_paired as kernels
from unihpe_kernels.sv_contrastive.triton_all import aligned
from unihpe_kernels.tuned import settings

_PANEL_BYTES = 2**26  # a panel may always be this large
_ROWS, _COLUMNS = 4, 128  # block of the kernels over rows
_SAMPLES = 32  # block of the kernels over samples


class Case(NamedTuple):
    """What the launches of a "paired" loss depend on, beside settings.

    weights: their dtype. offset: float32 numbers before the tables in their buffer. residues: `launching.residues` of
    all tensors that a plan is handed.
    """

    num_modalities: int
    n: int
    dim: int
    dtype: torch.dtype
    device: torch.device
    normalize: bool = True
    masked: bool = False
    weights: torch.dtype | None = None
    offset: int = 0
    residues: tuple[int, ...] = ()

    def plan(self) -> "Plan":
        """The same one every time, as long as settings and torch's precision of products stay."""
        return _plan(self, *surroundings(self.dtype, self.device))

    @property
    def stack_dtype(self) -> torch.dtype:
        return _stack_dtype(self.dtype, self.device)

    def table_sizes(self) -> list[int]:
        """float32 numbers of each of `Tables`."""
        m, n = self.num_modalities, self.n
        stack = -(-m * n * self.dim * self.stack_dtype.itemsize // 4)
        # in blocks of 32 samples
        basis = m * aligned(n) * (1 + m * (m - 1)) if m > 3 and not self.masked else 0
        return [aligned(stack), *[aligned(m * n)] * 3, aligned(m * (m - 1) // 2 * n), basis]

    def rows_of_stack(self, buffer: Tensor) -> Tensor:
        """[M n, dim], of the buffer that has the tables."""
        dtype, rows = self.stack_dtype, self.num_modalities * self.n
        start = self.offset * 4 // dtype.itemsize
        return buffer.view(dtype).as_strided((rows, self.dim), (self.dim, 1), start)


class Tables(NamedTuple):
    """What is known of every sample, each flat; see `kernels_paired`. Addresses where `Parts` gives those."""

    stack: Any  # [M, n, dim]
    powers: Any  # [M, n]
    inverse_norms: Any  # [M, n]
    shares: Any  # [M, n]
    inner: Any  # [pairs, n]
    basis: Any  # empty where codes are used, and for up to three modalities


class Codes(NamedTuple):
    """int32 [n], bit m: which anchors a sample has, and which modalities."""

    anchors: Tensor | None = None
    pool: Tensor | None = None


class Plan:
    """Sizes, grids and launches of one `Case`; buffers are made anew for every call.

    In what its functions take, buffer is float32 and has the tables, from the case's offset on, and codes are those of
    the case's masks; logsumexp and sample_loss are tensors or, as of `Parts`, addresses.
    """

    def __init__(
        self, case: Case, forward: dict[str, int], backward: dict[str, int], precision: str, panel_bytes: int
    ) -> None:
        self._case = case
        m, n, dim = case.num_modalities, case.n, case.dim
        blocks = triton.cdiv(n, _SAMPLES)
        of_case = {"M": m, "MASKED": case.masked}
        weighted = case.weights is not None
        by_row, by_sample = {"ROWS": _ROWS, "BLOCK": _COLUMNS}, {"BLOCK": _SAMPLES, "num_warps": 1}

        self._prepare = Launch(
            kernels.paired_prepare, (triton.cdiv(n, _ROWS),), **of_case, NORMALIZE=case.normalize, **by_row
        )
        self._basis = Launch(kernels.paired_basis, (blocks, m), M=m, **by_sample)
        self._has_basis = m > 3 and not case.masked
        self._tables = Parts(case.table_sizes(), case.offset)

        tiles_i = triton.cdiv(n, forward["tile_i"])
        self._columns, self._splits = _split(n, forward["tile_j"], tiles_i * m, forward["programs"])
        self._forward = Launch(
            kernels.paired_forward, (tiles_i, m, self._splits), **of_case, PRECISION=precision, **_tile(forward)
        )
        self._finish = Launch(kernels.paired_finish, (blocks,), **of_case, **by_sample)
        self._of_splits = Parts([aligned(self._splits * m * n)] * 2)

        # numbers of a panel for every two modalities
        most = max(panel_bytes // (m * m * case.stack_dtype.itemsize), dim // 2 * n)
        edge_i, edge_j = _edges(n, most, backward["tile_i"], backward["tile_j"])
        tiles_j = triton.cdiv(edge_j, backward["tile_j"])
        self._rows, splits = _split(edge_i, backward["tile_i"], tiles_j * m, backward["programs"])
        self._backward_splits = splits
        of_i, of_j = _ranges(n, edge_i), _ranges(n, edge_j)
        # the kernel's variant depends on the bounds of the samples, not on those of the anchors
        launches = {
            (j, first): Launch(
                kernels.paired_backward, (tiles_j, m, splits), **of_case, WEIGHTED=weighted, FIRST=first,
                PRECISION=precision, **_tile(backward),
            )
            for j in of_j
            for first in (True, False)
        }  # fmt: skip
        self._panels = [(launches[j, i[0] == 0], (*i, *j)) for i in of_i for j in of_j]
        self._at_once = len(self._panels) == 1
        self._panel_shape = (m * edge_i, m * edge_j)
        sums = splits * m * kernels.members_entries(m, case.masked) * aligned(n)
        self._of_samples = Parts([sums, m * (m - 1) // 2 * m * n], aligned(m * n * dim))
        self._of_scale = Parts([len(of_j) * tiles_j * m * splits, blocks * m])
        self.num_scales = self._of_scale.size  # of what `backward` returns
        self._own = Launch(kernels.paired_own, (blocks, m), **of_case, WEIGHTED=weighted, **by_sample)
        self._embedding_gradient = Launch(
            kernels.paired_embedding_gradient, (triton.cdiv(n, _ROWS),), M=m, NORMALIZE=case.normalize, **by_row
        )

    def prepare(self, embeddings: list[Tensor], buffer: Tensor, used: Tensor | None) -> Tables:
        """The tables, filled. used: uint8 [M, n]; other rows are zero: NaN in them would pass a zero factor."""
        n = self._case.n
        tables = self.tables(buffer, self._finish)
        stack, powers, inverse_norms, _, inner, basis = tables
        self._prepare(tuple(embeddings), used, stack, powers, inverse_norms, inner, n, self._case.dim)
        if self._has_basis:
            self._basis(inner, basis, n)
        return tables

    def forward(
        self, buffer: Tensor, tables: Tables, temperature: Tensor, codes: Codes, logsumexp: Any, sample_loss: Any
    ) -> None:
        """Write the logsumexp [M, n] and losses [n] of the anchors, 0 where there is none. tables: of `prepare`."""
        n, dim = self._case.n, self._case.dim
        stack, _, inverse_norms, shares, inner, basis = tables
        of_splits = buffer.new_empty(self._of_splits.size)  # an address keeps nothing alive
        highest, sums = self._of_splits.of(of_splits, self._finish)
        self._forward(stack, inverse_norms, inner, basis, *codes, temperature, highest, sums, n, dim, self._columns)
        self._finish(
            inner, basis, codes.anchors, temperature, highest, sums, logsumexp, shares, sample_loss, n, self._splits
        )

    def backward(
        self, buffer: Tensor, temperature: Tensor, codes: Codes, logsumexp: Any, grad: Tensor,
        weights: Tensor | None, inverse_total: Tensor, outs: list[Tensor],
    ) -> Tensor:  # fmt: skip
        """Write the gradients of the embeddings into `outs`; returns partial sums of scores times their gradient."""
        m, n, dim = self._case.num_modalities, self._case.n, self._case.dim
        stack, powers, inverse_norms, shares, inner, basis = self.tables(buffer, self._embedding_gradient)
        rows_of_stack = self._case.rows_of_stack(buffer)
        panel = rows_of_stack.new_empty(self._panel_shape)
        new = buffer.new_empty if self._at_once else buffer.new_zeros  # panels are added up
        sums, d_scale = new(self._of_samples.end), buffer.new_empty(self._of_scale.size)
        d_members, d_own = self._of_samples.of(sums, self._embedding_gradient)
        of_pairs, of_positives = self._of_scale.of(d_scale, self._embedding_gradient)
        d_stack = sums.as_strided((m * n, dim), (dim, 1))
        for launch, bounds in self._panels:
            launch(
                stack, inverse_norms, inner, basis, *codes, temperature, grad, weights, inverse_total, logsumexp,
                panel, d_members, of_pairs, n, dim, *bounds, self._rows,
            )  # fmt: skip
            if self._at_once:
                # one block matrix with zeros on its diagonal: half as much work again for three, but two launches
                _product(panel, rows_of_stack, d_stack, add=False)
                _product(panel.t(), rows_of_stack, d_stack, add=True)
            else:
                _add_products(d_stack.view(m, n, dim), panel.view(-1), rows_of_stack.view(m, n, dim), *bounds)
        self._own(
            inner, basis, codes.anchors, temperature, grad, weights, inverse_total, shares, d_members, d_own,
            of_positives, n, self._backward_splits,
        )  # fmt: skip
        self._embedding_gradient(stack, powers, inverse_norms, d_stack, d_own, tuple(outs), n, dim)
        return d_scale

    def tables(self, buffer: Tensor, last: Launch) -> Tables:
        """For launches of which this is the last, as `Parts.of`."""
        stack, *others = self._tables.of(buffer, last)
        return Tables(stack.view(self._case.stack_dtype) if isinstance(stack, Tensor) else stack, *others)


def surroundings(dtype: torch.dtype, device: torch.device) -> tuple[Callable[..., dict[str, int]], str, int]:
    """What a plan depends on beside its case: where settings come from, torch's precision of products, and the size of
    panels."""
    return settings, _precision(_stack_dtype(dtype, device)), _PANEL_BYTES


@planned
def _plan(case: Case, chosen: Callable[..., dict[str, int]], precision: str, panel_bytes: int) -> Plan:
    """chosen: `settings`."""
    kind = "float" if case.stack_dtype == torch.float32 else "half"

    def of_pass(direction: str) -> dict[str, int]:
        return chosen(setting_names(direction, case.num_modalities, case.masked, kind), case.n, case.device)

    return Plan(case, of_pass("forward"), of_pass("backward"), precision, panel_bytes)


def _tile(options: dict[str, int]) -> dict[str, int | bool]:
    return {
        "TILE_I": options["tile_i"], "TILE_J": options["tile_j"], "DEPTH": options["depth"],
        "SWAP": bool(options.get("swap")), "num_warps": options["num_warps"], "num_stages": options["num_stages"],
    }  # fmt: skip


def _edges(n: int, most: int, tile_i: int, tile_j: int) -> tuple[int, int]:
    """Of panels of about `most` numbers, in whole tiles unless all fit: squares, of whose rows and columns the products
    read and write the fewest."""
    if n * n <= most:
        return n, n
    edge = math.isqrt(most)
    of_i, of_j = (
        min(n, triton.cdiv(triton.cdiv(n, triton.cdiv(n, max(edge, tile))), tile) * tile) for tile in (tile_i, tile_j)
    )
    return of_i, of_j


def _ranges(end: int, step: int) -> list[tuple[int, int]]:
    return [(start, min(start + step, end)) for start in range(0, end, step)]


def _add_products(
    d_stack: Tensor, panel: Tensor, stack: Tensor, begin: int, end: int, begin_j: int, end_j: int
) -> None:
    """Take a panel's gradients of inner products to the rows of both sides."""
    m, rows, columns = len(stack), end - begin, end_j - begin_j
    panel = panel[: m * rows * m * columns].view(m, rows, m, columns)
    for anchor in range(m):
        for member in range(m):
            if member != anchor:
                part = panel[anchor, :, member]
                _product(part, stack[member, begin_j:end_j], d_stack[anchor, begin:end], add=True)
                _product(part.T, stack[anchor, begin:end], d_stack[member, begin_j:end_j], add=True)


def _product(left: Tensor, right: Tensor, out: Tensor, add: bool) -> None:
    """out (float32) = left @ right, or added to it; of half types with float32 sums and results."""
    if left.dtype == torch.float32:
        torch.addmm(out, left, right, beta=int(add), out=out)
    else:
        torch.addmm(out, left, right, out_dtype=torch.float32, beta=int(add), out=out)


def _stack_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The panel has the type of the embeddings; float16 has not the range for gradients and is widened.

    Triton's interpreter, which is what runs on a CPU, cannot multiply matrices of bfloat16.
    """
    return torch.bfloat16 if dtype == torch.bfloat16 and device.type == "cuda" else torch.float32


@functools.cache
def setting_names(direction: str, count: int, masked: bool, kind: str) -> tuple[str, str]:
    """The tuned settings of so many modalities, and those of some such number; kind: "half" or "float"."""
    own = f"{count}_masked" if masked else str(count)
    return f"sv_paired_{direction}_{own}_{kind}", f"sv_paired_{direction}_{how_many(count, masked)}_{kind}"


def how_many(count: int, masked: bool) -> str:
    """Modalities as the tuned settings tell them apart: 2 and 3 have a closed form, 7 and 8 take all registers."""
    if count <= 3:
        return "few"
    return ("several" if count <= 6 else "many") + "_masked" * masked


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
