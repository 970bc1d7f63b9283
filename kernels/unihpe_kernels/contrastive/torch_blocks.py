"""Block functions of "paired" in plain torch: any device, float32 and float64."""

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from unihpe_kernels.contrastive.contract import (
    Block,
    Centers,
    Factors,
    Forward,
    Options,
    Pullback,
    Samples,
    Statistics,
)
from unihpe_kernels.scaling import inverse_power
from unihpe_kernels.sv_contrastive.arguments import MIN_NORM

LN_2 = math.log(2)


class TorchBackend:
    masks = False

    def in_place(self, options: Options) -> bool:
        return True

    def units(self, embeddings: list[Tensor], normalize: bool, used: Tensor | None) -> tuple[Tensor, Tensor | None]:
        dtype = torch.float64 if embeddings[0].dtype == torch.float64 else torch.float32
        rows = torch.stack(embeddings).to(dtype)
        if used is not None:
            rows.masked_fill_(~used[:, :, None], 0)
        if not normalize:
            return rows, None
        scale = inverse_power(rows, 2)  # squares of rows as they are could overflow or vanish
        norms = torch.linalg.vector_norm(rows.mul_(scale), dim=2, keepdim=True)
        inverse = norms.reciprocal().masked_fill_(norms < MIN_NORM * scale, 0)
        return rows.mul_(inverse), inverse.mul_(scale)[:, :, 0]

    def through_units(
        self, units: Tensor, inverse_norms: Tensor | None, d_units: Tensor, like: list[Tensor]
    ) -> list[Tensor]:
        if inverse_norms is not None:
            along = (units * d_units).sum(2, keepdim=True)
            d_units = torch.addcmul(d_units, units, along, value=-1).mul_(inverse_norms[:, :, None])
        return [d_unit.to(other.dtype, copy=True) for d_unit, other in zip(d_units, like, strict=True)]

    def inner(self, units: Tensor) -> Tensor:
        return torch.stack([(units[p] * units[q]).sum(1) for p, q in combinations(range(len(units)), 2)])

    def members(self, inner: Tensor, options: Options) -> list[list[Tensor]]:
        """[A]: what the score makes of the products of the others."""
        return [self._members(inner, m, options) for m in options.anchors]

    def positives(self, inner: Tensor, options: Options) -> Tensor:
        return self._positives(inner, options)[0]

    def positives_gradient(self, inner: Tensor, options: Options, weight: Tensor) -> Tensor:
        _, gradient, members = self._positives(inner, options)
        d_products, sums = gradient(weight)
        own = options.score.torch.own(sums, members, options.num_modalities - 1)
        return torch.stack([*d_products, *own])

    def products(self, out: Tensor, left: Tensor, rights: Tensor) -> None:
        torch.bmm(left.expand(len(rights), *left.shape), rights.mT, out=out)

    def add_to_left(self, d_left: Tensor, d_products: Tensor, rights: Tensor) -> None:
        d_left.addbmm_(d_products, rights)

    def add_to_rights(self, d_rights: Tensor, d_products: Tensor, left: Tensor) -> None:
        d_rights.baddbmm_(d_products.mT, left.expand(len(d_rights), *left.shape))

    def forward(self, block: Block, options: Options, centers: Centers) -> Forward:
        found: list[list[Statistics]] = [[], [], [], []]
        for k, m in enumerate(options.anchors):
            scores, _ = self._scores(block, options, k, m, True)
            found[0].append(_statistics(scores, options, 1, centers.rows, block.diagonal))
            if options.both:
                found[1].append(_statistics(scores, options, 0, centers.columns, block.diagonal))
            if block.two_ways:
                scores, _ = self._scores(block, options, k, m, False)
                found[2].append(_statistics(scores, options, 0, centers.columns, False))
                if options.both:
                    found[3].append(_statistics(scores, options, 1, centers.rows, False))
        return Forward(*(_stack(parts) for parts in found))  # type: ignore[arg-type]

    def new_sums(self, samples: Samples, options: Options) -> dict[int, list[Tensor]]:
        """By the place of the anchor's modality, [n] each."""
        return {}

    def backward(
        self, block: Block, options: Options, of_rows: Factors, of_columns: Factors | None, out: Tensor
    ) -> None:
        gradients = torch.zeros_like(block.products)
        for k, m in enumerate(options.anchors):
            scores, gradient = self._scores(block, options, k, m, True)
            d_products, sums = gradient(_weights(scores, options, of_rows, k, 0, block.diagonal))
            _add(block.columns.sums, k, [part.sum(0) for part in sums])
            for slot, d_product in enumerate(d_products):
                gradients[m, slot] += d_product
            if of_columns is None:
                continue
            scores, gradient = self._scores(block, options, k, m, False)
            d_products, sums = gradient(_weights(scores, options, of_columns, k, 1, False))
            _add(block.rows.sums, k, [part.sum(1) for part in sums])
            for (row, slot), d_product in zip(_column_places(options.num_modalities, m), d_products, strict=True):
                gradients[row, slot] += d_product
        out.copy_(gradients)

    def own(self, samples: Samples, options: Options) -> Tensor:
        total = torch.zeros_like(samples.inner)
        places = {pair: place for place, pair in enumerate(combinations(range(options.num_modalities), 2))}
        for k, m in enumerate(options.anchors):
            others = [n for n in range(options.num_modalities) if n != m]
            sums = samples.sums[k] if samples.sums else []
            if not sums:
                continue
            parts = options.score.torch.own(sums, samples.members[k], len(others))
            for pair, part in zip(combinations(others, 2), parts, strict=True):
                total[places[pair]] += part
        return total

    def _members(self, inner: Tensor, m: int, options: Options) -> list[Tensor]:
        pairs = enumerate(combinations(range(options.num_modalities), 2))
        gram = [inner[place] for place, pair in pairs if m not in pair]
        return options.score.torch.members(gram, options.num_modalities - 1)

    def _positives(self, inner: Tensor, options: Options) -> tuple[Tensor, Pullback, list[Tensor]]:
        members = self._members(inner, 0, options)
        products = list(inner[: options.num_modalities - 1])
        return *options.score.torch.score(products, members), members

    def _scores(self, block: Block, options: Options, k: int, m: int, of_rows: bool) -> tuple[Tensor, Pullback]:
        if of_rows:
            products, members = list(block.products[m]), [x[None, :] for x in block.columns.members[k]]
        else:
            places = _column_places(options.num_modalities, m)
            products = [block.products[row, slot] for row, slot in places]
            members = [x[:, None] for x in block.rows.members[k]]
        return options.score.torch.score(products, members)


def _column_places(num_modalities: int, m: int) -> list[tuple[int, int]]:
    """Where the products of rows' modalities with the columns' modality m are."""
    return [(row, m - (m > row)) for row in range(num_modalities) if row != m]


def _logits(scores: Tensor, options: Options) -> Tensor:
    """To base 2."""
    wide = scores.double() if options.wide else scores
    if options.sigmoid:
        return wide * options.scale + options.shift
    return (wide - options.middle) * options.scale


def _statistics(scores: Tensor, options: Options, dim: int, center: Tensor | None, diagonal: bool) -> Statistics:
    """Over dimension `dim`, the tuples of an anchor or the anchors of a tuple."""
    logits = _logits(scores, options)
    exps, values = (logits * LN_2).sigmoid_() if options.sigmoid else logits.exp2(), scores
    sums = torch.nn.functional.softplus(logits * LN_2) / LN_2 if options.sigmoid else exps
    totals = exps if options.sigmoid else scores - options.middle
    if not options.sigmoid and center is not None:
        values = scores - center.unsqueeze(dim)
    moments = exps * values
    parts = [sums, moments if options.with_scores else None, totals if options.with_totals else None]
    if diagonal:
        parts = [None if part is None else part.clone().fill_diagonal_(0) for part in parts]
    return Statistics(*(None if part is None else part.sum(dim) for part in parts))  # type: ignore[arg-type]


def _weights(scores: Tensor, options: Options, factors: Factors, k: int, dim: int, diagonal: bool) -> Tensor:
    """Of the scores, anchors along dimension `dim`."""

    def along(of_anchors: Tensor | None, of_tuples: Tensor | None) -> Tensor | float:
        total: Tensor | float = 0.0
        for part, other in ((of_anchors, 1 - dim), (of_tuples, dim)):
            if part is not None:
                total = total + part[k].unsqueeze(other)
        return total

    logits = _logits(scores, options)
    exps = (logits * LN_2).sigmoid_() if options.sigmoid else logits.exp2_()
    weight = exps * along(factors.anchor, factors.tuple) - along(factors.anchor_level, factors.tuple_level)
    weight = weight.to(scores.dtype)
    return weight.fill_diagonal_(0) if diagonal else weight


def _add(into: dict[int, list[Tensor]] | None, k: int, sums: list[Tensor]) -> None:
    assert into is not None
    into[k] = [old + new for old, new in zip(into[k], sums, strict=True)] if k in into else sums


def _stack(parts: Sequence[Statistics]) -> Statistics | None:
    """[A, n] each."""
    if not parts:
        return None
    return Statistics(*(None if kind[0] is None else torch.stack(kind) for kind in zip(*parts, strict=True)))  # type: ignore[arg-type]


BACKEND = TorchBackend()
