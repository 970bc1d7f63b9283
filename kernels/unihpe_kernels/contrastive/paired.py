""" "paired" negatives, a block of pairs at a time: products of rows by the library, scores by a backend (contract.py).

Samples are cut into blocks. Two blocks are set against each other both ways at once: of the products of one's modality
m with the other's n, anchors of both take their part. The positives, on the diagonal of a block with itself, are left
out of all sums and done apart, one a sample, so that nothing cancels where they dominate.

Memory is that of the embeddings and of one block. A small batch on a CPU is one block, whose products the forward pass
keeps for the backward pass.
"""

import dataclasses
import math
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from unihpe_kernels.contrastive.contract import Backend, Block, Centers, Factors, Options, Samples, Statistics
from unihpe_kernels.scratch import scratch

_GPU_BLOCK = 2**23  # products of a block, for the second cache
_MOST_KEPT = 2**21  # products of a batch in one block, which are kept on a CPU: 8 MiB
_WHOLE = 32  # blocks are made of whole tiles and vectors, of at most so many numbers
LN_2 = math.log(2)


class Result(NamedTuple):
    """Of anchors' samples [n], summed over their anchors: losses, and their derivatives by 1/temperature and by the
    bias.

    shares [2 D, A, n]: for each of D directions 1 / (sum of exponentials), and the part of it that is not the
    positive's; empty for the sigmoid form.
    """

    loss: Tensor
    slope: Tensor
    bias: Tensor | None
    shares: Tensor


def keeps(num_modalities: int, batch: int, device: torch.device) -> bool:
    """Whether the forward pass keeps the products of a batch."""
    return device.type == "cpu" and products_size(num_modalities, batch) <= _MOST_KEPT


def products_size(num_modalities: int, batch: int) -> int:
    return num_modalities * (num_modalities - 1) * batch**2


class Pairs:
    """Anchors against their own samples, and against further columns.

    units: [M, n, D], of `Backend.units`. codes: [n] or None. kept: the products of all, for `forward` to fill and for
    `backward` to read; None where they are not kept.
    """

    def __init__(
        self,
        backend: Backend,
        options: Options,
        units: Tensor,
        *,
        codes: Tensor | None = None,
        kept: Tensor | None = None,
    ) -> None:
        self._backend, self._options, self._kept = backend, options, kept
        self._count, self._length = units.shape[:2]
        edge = self._length if kept is not None else block_edge(backend, products_size(self._count, 1), units)
        self._own = _Cut(backend, options, units, edge, codes)
        self._new = units.new_zeros
        self._dtype = torch.float64 if options.wide or units.dtype == torch.float64 else torch.float32

    def forward(self) -> None:
        """Against their own samples."""
        self._by_anchor, self._by_tuple = self._zeros(self._length), self._zeros(self._length)
        self.positives = self._backend.positives(self._own.inner, self._options).contiguous()
        for block, i, j in self._blocks():
            products = self._products(block, fresh=True)
            found = self._backend.forward(block._replace(products=products), self._options, self._centers(i, j))
            self._add(self._by_anchor, i, found.of_rows)
            self._add(self._by_tuple, j, found.of_rows_by_tuple)
            self._add(self._by_anchor, j, found.of_columns)
            self._add(self._by_tuple, i, found.of_columns_by_tuple)

    def forward_columns(self, columns: Tensor, anchors: tuple[int, ...] | None = None) -> Tensor | None:
        """Against other samples [M, b, D] as tuples. anchors: the modalities that have them as candidates, of
        `Options.anchors`; None: all. Returns the sums by tuple [3, A, b] where both directions are asked for."""
        options, places = self._for(anchors)
        cut = _Cut(self._backend, options, columns, self._own.edge)
        by_tuple = self._zeros(columns.shape[1]) if options.both else None
        positives = self._backend.positives(cut.inner, options) if options.both else torch.zeros_like(cut.inner[0])
        for column, j in zip(cut.samples, cut.slices, strict=True):
            for row, i in zip(self._own.samples, self._own.slices, strict=True):
                block = Block(self._table(row, column), row, column, False, False)
                centers = Centers(self.positives[i], positives[j].contiguous())
                found = self._backend.forward(
                    block._replace(products=self._products(block, fresh=True)), options, centers
                )
                self._add(self._by_anchor, i, found.of_rows, places)
                if by_tuple is not None:
                    self._add(by_tuple, j, found.of_rows_by_tuple)
        return by_tuple

    @property
    def by_tuple(self) -> Tensor:
        """Sums by tuple [3, A, n], to which those of other anchors may be added before `finish`."""
        return self._by_tuple

    def finish(self, candidates: Tensor | float, smoothing: float = 0.0) -> Result:
        """candidates: the tuples of an anchor, a number or [n]."""
        options = self._options
        positives = self.positives.to(self._dtype)
        if options.sigmoid:
            return self._finish_sigmoid(positives)
        about = positives - options.middle
        # of the very shift that the blocks took; in float64, as the logits may be large and their differences count
        logits = positives.double() * options.scale + options.shift
        own = logits.exp2().to(self._dtype)
        losses, slopes = torch.zeros_like(positives), torch.zeros_like(positives)
        shares: list[Tensor] = []
        kinds = (self._by_anchor, self._by_tuple) if options.both else (self._by_anchor,)
        for sums, moments, totals in kinds:
            if options.beyond is not False:  # NaN, not a wrong number
                vanished = (sums < torch.finfo(sums.dtype).tiny) & (torch.as_tensor(candidates > 1) & options.beyond)
                sums = sums.masked_fill(vanished, math.nan)
            loss, inverse = losses_of(sums, logits).sum(0), (sums + own).reciprocal()
            slope = (moments * inverse).sum(0)
            if smoothing:
                mean = (about - (totals + about) / candidates).sum(0) * smoothing
                loss, slope = loss + mean * options.scale * LN_2, slope + mean
            losses, slopes = losses + loss, slopes + slope
            shares += [inverse, sums * inverse]
        of_directions = 1 / len(kinds)
        return Result(losses * of_directions, slopes * of_directions, None, torch.stack(shares))

    def backward(self, d_score: Tensor, shares: Tensor, candidates: Tensor | float, smoothing: float = 0.0) -> None:
        """Against their own samples. d_score [n]: the gradient of the samples' losses, over the temperature."""
        self._own.begin()
        self.factors = self._factors(d_score, shares, candidates, smoothing)
        for block, i, j in self._blocks():
            out = self._backward(block, self._options, self.factors.at(i, j), self.factors.at(j, i))
            self._take_home(block, out)

    def backward_columns(
        self,
        columns: Tensor,
        anchors: tuple[int, ...] | None = None,
        factors: "_Factors | None" = None,
    ) -> Tensor:
        """After `backward`: the gradients [M, b, D] of other samples. factors: of those, by tuple."""
        options, places = self._for(anchors)
        cut = _Cut(self._backend, options, columns, self._own.edge)
        d_columns = cut.begin()
        rows = self.factors if anchors is None else self.factors.of(places)
        for column, j in zip(cut.samples, cut.slices, strict=True):
            for row, i in zip(self._own.samples, self._own.slices, strict=True):
                block = Block(self._table(row, column), row, column, False, False)
                self._take_home(block, self._backward(block, options, rows.at(i, j, factors), None), options)
        self._add_own(cut, options)
        return d_columns

    def gradients(self, d_score: Tensor, shares: Tensor, candidates: Tensor | float, smoothing: float = 0.0) -> Tensor:
        """Of the units [M, n, D], all told. The arguments are those of `backward`."""
        options, anchors = self._options, len(self._options.anchors)
        if options.sigmoid:
            positives = self._backend.positives(self._own.inner, options).to(self._dtype)
            d_positives = -d_score * anchors * torch.sigmoid((positives * options.scale + options.shift) * -LN_2)
        else:
            share = shares[1::2].sum((0, 1)) / (len(shares) // 2)
            d_positives = d_score * -share
            if smoothing:
                d_positives = d_positives + d_score * (anchors * smoothing * (1 - 1 / candidates))
        self._add_own(self._own, options, d_positives)
        return self._own.d_units

    def _finish_sigmoid(self, positives: Tensor) -> Result:
        options, (sums, moments, totals) = self._options, self._by_anchor
        anchors = len(options.anchors)
        logits = (positives * options.scale + options.shift) * LN_2
        off = torch.sigmoid(-logits)
        loss = sums.sum(0) * LN_2 + anchors * torch.nn.functional.softplus(-logits)
        return Result(
            loss,
            moments.sum(0) - anchors * off * positives,
            totals.sum(0) - anchors * off,
            sums.new_empty(0, *sums.shape),
        )

    def _factors(self, d_score: Tensor, shares: Tensor, candidates: Tensor | float, smoothing: float) -> "_Factors":
        options = self._options
        d_score = d_score.to(self._dtype)
        if options.sigmoid:
            return _Factors(d_score.repeat(len(options.anchors), 1), None, None, None)
        directions = 2 if options.both else 1
        anchor = (shares[0] * (d_score / directions)).contiguous()
        level = None
        if smoothing:
            level = (d_score * (smoothing / directions) / candidates).repeat(len(options.anchors), 1)
        if not options.both:
            return _Factors(anchor, None, level, None)
        return _Factors(anchor, (shares[2] * (d_score / directions)).contiguous(), level, level)

    def _blocks(self) -> Iterator[tuple[Block, slice, slice]]:
        samples, slices = self._own.samples, self._own.slices
        for j, column in enumerate(samples):
            for i, row in enumerate(samples[: j + 1]):
                yield Block(self._table(row, column), row, column, i != j, i == j), slices[i], slices[j]

    def _table(self, row: Samples, column: Samples) -> Tensor:
        shape = (self._count, self._count - 1, row.units.shape[1], column.units.shape[1])
        if self._kept is not None:
            return self._kept.view(shape)
        return scratch("products", shape, _of_products(row.units), row.units.device)

    def _products(self, block: Block, fresh: bool) -> Tensor:
        """Those that are kept from before, or fill the table anew."""
        table, (left, right) = block.products, (block.rows.units, block.columns.units)
        if not fresh and self._kept is not None:
            return table
        for m, slots, others in self._places(block, self._options):
            self._backend.products(table[m, slots], left[m], right[others])
        if block.diagonal:
            for m, slot, other, place in self._turned():
                table[m, slot].copy_(table[other, place].T)
        return table

    def _backward(self, block: Block, options: Options, of_rows: Factors, of_columns: Factors | None) -> Tensor:
        block = block._replace(products=self._products(block, fresh=self._kept is None))
        out = block.products
        if self._kept is not None or not self._backend.in_place(options):
            out = scratch("d_products", tuple(out.shape), out.dtype, out.device)
        self._backend.backward(block, options, of_rows, of_columns if block.two_ways else None, out)
        if block.diagonal:
            for m, slot, other, place in self._turned():
                out[other, place].add_(out[m, slot].T)
        return out

    def _take_home(self, block: Block, d_products: Tensor, options: Options | None = None) -> None:
        """From the products to the rows of both sides."""
        rows, columns = block.rows, block.columns
        assert rows.d_units is not None
        assert columns.d_units is not None
        for m, slots, others in self._places(block, options or self._options):
            self._backend.add_to_left(rows.d_units[m], d_products[m, slots], columns.units[others])
            self._backend.add_to_rights(columns.d_units[others], d_products[m, slots], rows.units[m])

    def _places(self, block: Block, options: Options) -> Iterator[tuple[int, slice, slice]]:
        """What is to be multiplied: modalities m of the rows, consecutive slots of the table and the columns'
        modalities there. Of a block with itself those that `_turned` does not give."""
        anchors = options.anchors
        for m in range(self._count):
            wanted = [
                n
                for n in range(self._count)
                if n != m
                and (m in anchors or (block.two_ways and n in anchors))
                and not (block.diagonal and n < m and n in anchors)
            ]
            while wanted:
                run = 1
                while run < len(wanted) and wanted[run] == wanted[0] + run:
                    run += 1
                first = wanted[0]
                slot = first - (first > m)
                yield m, slice(slot, slot + run), slice(first, first + run)
                wanted = wanted[run:]

    def _turned(self) -> Iterator[tuple[int, int, int, int]]:
        """Of a block with itself: where the products of modality m with an earlier one are, and what they are the
        transposes of."""
        anchors = self._options.anchors
        for m in anchors:
            for n in anchors:
                if n < m:
                    yield m, n, n, m - 1

    def _add(self, total: Tensor, place: slice, found: Statistics | None, anchors: list[int] | None = None) -> None:
        if found is None:
            return
        for kind, part in zip(total, found, strict=True):
            if part is None:
                continue
            while part.dim() > 2:
                part = part.sum(0)
            if anchors is None:
                kind[:, place] += part
            else:
                for k, own in zip(anchors, part, strict=True):
                    kind[k, place] += own

    def _add_own(self, cut: "_Cut", options: Options, d_positives: Tensor | None = None) -> None:
        """What the samples' own products give to their units."""
        if not cut.samples:
            return
        d_inner = torch.cat([self._backend.own(samples, options) for samples in cut.samples], dim=1)
        if d_positives is not None:
            weight = d_positives.to(cut.inner.dtype).contiguous()
            d_inner = d_inner + self._backend.positives_gradient(cut.inner, options, weight)
        add_own(cut.d_units, cut.units, d_inner)

    def _centers(self, i: slice, j: slice) -> Centers:
        return Centers(self.positives[i], self.positives[j])

    def _for(self, anchors: tuple[int, ...] | None) -> tuple[Options, list[int] | None]:
        if anchors is None:
            return self._options, None
        places = [self._options.anchors.index(m) for m in anchors]
        return dataclasses.replace(self._options, anchors=anchors), places

    def _zeros(self, length: int) -> Tensor:
        return self._new(3, len(self._options.anchors), length, dtype=self._dtype)


class _Factors(NamedTuple):
    """`Factors` of all anchors."""

    anchor: Tensor
    tuple: Tensor | None
    anchor_level: Tensor | None
    tuple_level: Tensor | None

    def at(self, anchors: slice, tuples: slice, others: "_Factors | None" = None) -> Factors:
        """others: whose tuples, if not those of the anchors."""
        of_tuples = others or self

        def part(whole: Tensor | None, place: slice) -> Tensor | None:
            return None if whole is None else whole[:, place].contiguous()

        return Factors(
            self.anchor[:, anchors].contiguous(),
            part(of_tuples.tuple, tuples),
            part(self.anchor_level, anchors),
            part(of_tuples.tuple_level, tuples),
        )

    def of(self, places: list[int] | None) -> "_Factors":
        return _Factors(*(None if part is None else part[places] for part in self))  # type: ignore[arg-type]


class _Cut:
    """Samples in blocks."""

    def __init__(
        self, backend: Backend, options: Options, units: Tensor, edge: int, codes: Tensor | None = None
    ) -> None:
        self.units, self.edge, self._backend, self._options = units, edge, backend, options
        self.inner = backend.inner(units)
        length = units.shape[1]
        self.slices = [slice(first, min(first + edge, length)) for first in range(0, length, max(edge, 1))]
        self.samples = []
        for at in self.slices:
            whole = len(self.slices) == 1
            inner = self.inner if whole else self.inner[:, at].contiguous()
            self.samples.append(
                Samples(
                    units if whole else units[:, at],
                    backend.members(inner, options),
                    inner,
                    None if codes is None else codes[at].contiguous(),
                )
            )

    def begin(self) -> Tensor:
        """Zeros for the gradients of the units."""
        self.d_units = torch.zeros_like(self.units, dtype=_of_sums(self.units))
        for samples, at in zip(self.samples, self.slices, strict=True):
            samples.d_units = self.d_units[:, at]
            samples.sums = self._backend.new_sums(samples, self._options)
        return self.d_units


def add_own(d_units: Tensor, units: Tensor, d_inner: Tensor) -> None:
    """Add what the gradients [P, n] of samples' own products give to their units."""
    for (p, q), d_product in zip(combinations(range(len(units)), 2), d_inner.unsqueeze(2), strict=True):
        d_units[p].addcmul_(d_product, units[q])
        d_units[q].addcmul_(d_product, units[p])


def losses_of(sums: Tensor, logits: Tensor) -> Tensor:
    """Of anchors, from the sums of their other tuples' exponentials and the logit of the positive, float64, to base 2:
    by the quotient of the two, which may be larger or smaller than any exponential."""
    quotient = (sums.double().log2() - logits) * LN_2
    return torch.nn.functional.softplus(quotient, threshold=40).to(sums.dtype)


def block_edge(backend: Backend, products: int, units: Tensor) -> int:
    """Of blocks as equal as can be, of so many products for each of their pairs of samples."""
    length = units.shape[1]
    capacity = backend.cpu_block if units.device.type == "cpu" else _GPU_BLOCK
    most = max(_WHOLE, math.isqrt(capacity // products))
    blocks = math.ceil(length / most) or 1
    return max(1, -(-math.ceil(length / blocks) // _WHOLE)) * _WHOLE


def _of_products(units: Tensor) -> torch.dtype:
    """Half types are multiplied into float32."""
    return torch.promote_types(units.dtype, torch.float32)


_of_sums = _of_products
