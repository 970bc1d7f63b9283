"""The cosine loss of every two modalities of one process, all of them at once, in plain torch and in tiles.

The matrix of products of modality p with a later one q serves both directions: its rows are anchors of p that look for
q, its columns anchors of q that look for p. The block engine, which knows anchors and tuples but no such pairs, would
do with M (M - 1) / 2 losses one after the other, and with copies of the samples that lack a modality: for 64 samples
it takes three to four times as long, most of it calls of torch.

Letters: P = M (M - 1) / 2 pairs p < q, row by row; H = 2 P directed pairs, (p to q, q to p) for each of them.
"""

from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor

from unihpe_kernels.contrastive.contract import Backend
from unihpe_kernels.contrastive.paired import add_own, block_edge, losses_of
from unihpe_kernels.scratch import scratch


class Pairwise:
    """units: [M, n, D]. has: bool [M, n], which modality each sample has, where some lack any. scale, shift: of logits
    to base 2. dtype: of exponentials. kept: [P n^2], of that dtype: the exponentials, for `forward` to fill and for
    `backward` to read, or None."""

    def __init__(
        self,
        backend: Backend,
        units: Tensor,
        has: Tensor | None,
        scale: float | Tensor,
        shift: float | Tensor,
        dtype: torch.dtype,
        kept: Tensor | None,
    ) -> None:
        self._backend, self._units, self._dtype = backend, units, dtype
        self._scale, self._shift = (torch.as_tensor(x, dtype=dtype, device=units.device) for x in (scale, shift))
        count, self._length = units.shape[:2]
        self._pairs = list(combinations(range(count), 2))
        self._kept = kept
        self._both = self._first = self._second = None
        if has is not None:
            first, second = zip(*self._pairs, strict=True)
            self._first, self._second = has[list(first)].to(dtype), has[list(second)].to(dtype)
            self._both = (self._first * self._second).repeat_interleave(2, 0)  # [H, n]: the anchors that there are

    @property
    def keeps(self) -> bool:
        return self._kept is not None

    def forward(self, learns: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The losses of the samples' anchors [n] in all, their derivatives by 1/temperature [n], which are 0 unless
        `learns`, and `shares` [2, H, n]: 1 / (sum of exponentials), and the part of it that is not the positive's."""
        shape = 2 if learns else 1, len(self._pairs), 2, self._length
        totals = self._units.new_zeros(shape, dtype=self._dtype)
        sums = totals[0]
        positives = self._backend.inner(self._units).to(self._dtype)  # [P, n]
        for i, j in self._tiles():
            products, exps = self._products(i, j), self._table(i, j)
            self._exponentials(products, out=exps)
            if i == j:
                exps.diagonal(dim1=1, dim2=2).zero_()  # the positives are done apart
            sums[:, 0, i] += self._over_second(exps, j)
            sums[:, 1, j] += self._over_first(exps, i)
            if learns:  # about the positive's score: the sum of weight (s - s_positive) does not cancel
                relative = torch.sub(products, positives[:, i, None])
                totals[1, :, 0, i] += self._over_second(relative.mul_(exps), j)
                torch.sub(products, positives[:, None, j], out=relative)
                totals[1, :, 1, j] += self._over_first(relative.mul_(exps), i)
        totals = totals.flatten(1, 2)
        if self._both is not None:
            totals = totals * self._both
        sums = totals[0]
        logits = torch.addcmul(self._shift.double(), positives.double(), self._scale.double()).repeat_interleave(2, 0)
        inverse = (sums + logits.exp2()).reciprocal().to(self._dtype)
        slopes = (totals[1] * inverse).sum(0) if learns else torch.zeros_like(sums[0])
        return losses_of(sums, logits).sum(0), slopes, torch.stack([inverse, sums * inverse])

    def backward(self, d_score: Tensor, shares: Tensor) -> Tensor:
        """Of the units [M, n, D]. d_score [n]: the gradient of the samples' losses, over the temperature."""
        inverse, others = (shares * d_score).to(self._dtype)
        factors = inverse if self._both is None else inverse * self._both
        factors = factors.view(len(self._pairs), 2, self._length)
        d_units = torch.zeros_like(self._units)
        for i, j in self._tiles():
            exps = self._table(i, j)
            if self._kept is None:
                self._exponentials(self._products(i, j), out=exps)
                if i == j:
                    exps.diagonal(dim1=1, dim2=2).zero_()
            weights = self._weights(factors, i, j).mul_(exps).to(d_units.dtype)
            for p, place, later in self._places():
                self._backend.add_to_left(d_units[p, i], weights[place], self._units[later, j])
                self._backend.add_to_rights(d_units[later, j], weights[place], self._units[p, i])
        d_inner = others.view(len(self._pairs), 2, self._length).sum(1).neg_()
        add_own(d_units, self._units, d_inner.to(d_units.dtype))
        return d_units

    def _tiles(self) -> Iterator[tuple[slice, slice]]:
        edge = self._length
        if self._kept is None:
            edge = block_edge(self._backend, 2 * len(self._pairs), self._units)
        parts = [slice(first, min(first + edge, self._length)) for first in range(0, self._length, max(edge, 1))]
        for i in parts:
            for j in parts:
                yield i, j

    def _places(self) -> Iterator[tuple[int, slice, slice]]:
        """Modality p, the places of its pairs, and the later modalities."""
        count, first = len(self._units), 0
        for p in range(count - 1):
            later = count - 1 - p
            yield p, slice(first, first + later), slice(p + 1, count)
            first += later

    def _table(self, i: slice, j: slice) -> Tensor:
        shape = (len(self._pairs), i.stop - i.start, j.stop - j.start)
        if self._kept is not None:
            return self._kept.view(shape)
        return scratch("exponentials of pairs", shape, self._dtype, self._units.device)

    def _products(self, i: slice, j: slice) -> Tensor:
        shape = (len(self._pairs), i.stop - i.start, j.stop - j.start)
        products = scratch("products", shape, self._units.dtype, self._units.device)
        for p, place, later in self._places():
            self._backend.products(products[place], self._units[p, i], self._units[later, j])
        return products

    def _exponentials(self, products: Tensor, out: Tensor) -> None:
        torch.addcmul(self._shift, products.to(self._dtype), self._scale, out=out).exp2_()

    def _over_second(self, values: Tensor, j: slice) -> Tensor:
        """[P, i]: the sum over the candidates of anchors of the first modality of each pair."""
        return values.sum(2) if self._second is None else (values @ self._second[:, j, None])[..., 0]

    def _over_first(self, values: Tensor, i: slice) -> Tensor:
        return values.sum(1) if self._first is None else (self._first[:, None, i] @ values)[:, 0]

    def _weights(self, factors: Tensor, i: slice, j: slice) -> Tensor:
        rows, columns = factors[:, 0, i, None], factors[:, 1, None, j]
        if self._first is None or self._second is None:
            return rows + columns
        return torch.addcmul(rows * self._second[:, None, j], columns, self._first[:, i, None])
