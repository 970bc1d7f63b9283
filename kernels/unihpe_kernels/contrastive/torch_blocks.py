"""Block functions of "paired" in plain torch: any device, float32 and float64."""

import functools
import math
from itertools import combinations
from typing import Any

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
    cpu_block = 2**17  # beside some twenty temporaries of a score

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

    def members(self, inner: Tensor, options: Options) -> list[Tensor]:
        """[A, n] each: what the score makes of the products of the others."""
        of_anchors = [self._members(inner, m, options) for m in options.anchors]
        return [torch.stack(same) for same in zip(*of_anchors, strict=True)]

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
        scores, _ = self._scores(block, options, of_rows=True)
        of_rows = _statistics(scores, options, 2, centers.rows, block.diagonal)
        by_tuple = _statistics(scores, options, 1, centers.columns, block.diagonal) if options.both else None
        if not block.two_ways:
            return Forward(of_rows, by_tuple, None, None)
        scores, _ = self._scores(block, options, of_rows=False)
        of_columns = _statistics(scores, options, 1, centers.columns, False)
        other_by_tuple = _statistics(scores, options, 2, centers.rows, False) if options.both else None
        return Forward(of_rows, by_tuple, of_columns, other_by_tuple)

    def new_sums(self, samples: Samples, options: Options) -> list[Tensor]:
        """[A, n] each, once there are any."""
        return []

    def backward(
        self, block: Block, options: Options, of_rows: Factors, of_columns: Factors | None, out: Tensor
    ) -> None:
        gradients, of_table = torch.zeros_like(block.products), (options.num_modalities, options.anchors)
        scores, gradient = self._scores(block, options, of_rows=True)
        d_products, sums = gradient(_weights(scores, options, of_rows, 1, block.diagonal))
        _add(block.columns.sums, [part.sum(1) for part in sums])
        for place, d_product in zip(_places(*of_table, True, out.device), d_products, strict=True):
            gradients[place] += d_product
        if of_columns is not None:
            scores, gradient = self._scores(block, options, of_rows=False)
            d_products, sums = gradient(_weights(scores, options, of_columns, 2, False))
            _add(block.rows.sums, [part.sum(2) for part in sums])
            for place, d_product in zip(_places(*of_table, False, out.device), d_products, strict=True):
                gradients[place] += d_product
        out.copy_(gradients)

    def own(self, samples: Samples, options: Options) -> Tensor:
        total = torch.zeros_like(samples.inner)
        places = {pair: place for place, pair in enumerate(combinations(range(options.num_modalities), 2))}
        if not samples.sums:
            return total
        for k, m in enumerate(options.anchors):
            others = [n for n in range(options.num_modalities) if n != m]
            members, sums = ([part[k] for part in parts] for parts in (samples.members, samples.sums))
            parts = options.score.torch.own(sums, members, len(others))
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

    def _scores(self, block: Block, options: Options, *, of_rows: bool) -> tuple[Tensor, Pullback]:
        """[A, a, b]"""
        products = [
            block.products[place]
            for place in _places(options.num_modalities, options.anchors, of_rows, block.products.device)
        ]
        if of_rows:
            members = [x[:, None, :] for x in block.columns.members]
        else:
            members = [x[:, :, None] for x in block.rows.members]
        return options.score.torch.score(products, members)


@functools.lru_cache
def _places(
    num_modalities: int, anchors: tuple[int, ...], of_rows: bool, device: torch.device
) -> list[tuple[Any, Any]]:
    """Of every member of a tuple in turn, where the products of all anchors' modalities with it are in a table: indices
    made once, as a GPU would be waited for."""
    slots = range(num_modalities - 1)
    if of_rows and len(anchors) == num_modalities:
        return [(slice(None), slot) for slot in slots]
    if of_rows:
        chosen = torch.tensor(anchors, device=device)
        return [(chosen, slot) for slot in slots]
    members = [[slot + (slot >= m) for m in anchors] for slot in slots]
    pairs = [(of, [m - (m > row) for m, row in zip(anchors, of, strict=True)]) for of in members]
    return [(torch.tensor(rows, device=device), torch.tensor(at, device=device)) for rows, at in pairs]


def _logits(scores: Tensor, options: Options) -> Tensor:
    """To base 2."""
    wide = scores.double() if options.wide else scores
    if options.sigmoid:
        return wide * options.scale + options.shift
    return (wide - options.middle) * options.scale


def _statistics(scores: Tensor, options: Options, dim: int, center: Tensor | None, diagonal: bool) -> Statistics:
    """Over dimension `dim` of scores [A, a, b], the tuples of an anchor or the anchors of a tuple."""
    logits = _logits(scores, options)
    exps, values = (logits * LN_2).sigmoid_() if options.sigmoid else logits.exp2(), scores
    sums = torch.nn.functional.softplus(logits * LN_2) / LN_2 if options.sigmoid else exps
    totals = exps if options.sigmoid else scores - options.middle
    if not options.sigmoid and center is not None:
        values = scores - center.unsqueeze(dim - 1)
    moments = exps * values
    parts = [sums, moments if options.with_scores else None, totals if options.with_totals else None]
    if diagonal:
        parts = [None if part is None else _without_diagonal(part.clone()) for part in parts]
    return Statistics(*(None if part is None else part.sum(dim) for part in parts))  # type: ignore[arg-type]


def _weights(scores: Tensor, options: Options, factors: Factors, dim: int, diagonal: bool) -> Tensor:
    """Of the scores [A, a, b], anchors along dimension `dim`."""

    def along(of_anchors: Tensor | None, of_tuples: Tensor | None) -> Tensor | float:
        total: Tensor | float = 0.0
        for part, other in ((of_anchors, 3 - dim), (of_tuples, dim)):
            if part is not None:
                total = total + part.unsqueeze(other)
        return total

    logits = _logits(scores, options)
    exps = (logits * LN_2).sigmoid_() if options.sigmoid else logits.exp2_()
    weight = exps * along(factors.anchor, factors.tuple) - along(factors.anchor_level, factors.tuple_level)
    weight = weight.to(scores.dtype)
    return _without_diagonal(weight) if diagonal else weight


def _without_diagonal(table: Tensor) -> Tensor:
    table.diagonal(dim1=1, dim2=2).zero_()
    return table


def _add(into: list[Tensor] | None, sums: list[Tensor]) -> None:
    assert into is not None
    if into:
        for total, part in zip(into, sums, strict=True):
            total += part
    else:
        into += sums


BACKEND = TorchBackend()
