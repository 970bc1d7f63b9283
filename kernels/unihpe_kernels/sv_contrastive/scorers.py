"""sigma_1 of one unit vector (the anchor) stacked on the unit vectors of one sample (the members), for many pairs.

A scorer is built from the members of every sample, [b, D] each. It says with which `directions` the anchors' inner
products are wanted, so that those come straight out of a matrix product, turns them into sigma_1, and takes gradients
back. Letters: b samples, n members, i anchors of a tile, j samples of a tile.
"""

from typing import Protocol

import torch
from torch import Tensor

from unihpe_kernels.scores.singular_value.torch import arrowhead_root
from unihpe_kernels.sv_contrastive.closed_form import Operand, TripleTile


class Scorer(Protocol):
    directions: list[Tensor]  # n tensors [b, D]

    def scores(self, products: list[Tensor], samples: slice) -> Tensor:
        """sigma_1 [i, j] from the anchors' products with the directions, n tensors [i, j], of these samples."""

    def backward(self, weight: Tensor) -> list[Tensor]:
        """d/d products, n tensors [i, j], of sum(weight * scores) of the last call; overwrites `weight`.

        What falls to the members' own inner products is added up inside.
        """

    def member_gradients(self, d_directions: list[Tensor]) -> list[Tensor]:
        """n tensors [b, D]: `d_directions` taken back to the members, and what was added up inside."""


def make_scorer(members: list[Tensor], capacity: int) -> Scorer:
    """The scorer for these members; `capacity`: the most pairs of one call."""
    if len(members) == 2:
        return ClosedFormScorer(members, capacity)
    return ArrowheadScorer(members)


class ClosedFormScorer:
    """Two members: the closed form, with the members' inner product constant along a column."""

    def __init__(self, members: list[Tensor], capacity: int) -> None:
        self.directions = members
        inner = (members[0] * members[1]).sum(1)
        self._inner = Operand.of(inner).unsqueeze(0)
        self._d_inner = torch.zeros_like(inner)
        self._tile = TripleTile(capacity, inner)

    def scores(self, products: list[Tensor], samples: slice) -> Tensor:
        self._samples = samples
        a, b = products
        inner = Operand(self._inner.value[:, samples], self._inner.third[:, samples])
        return self._tile.sigma(Operand.of(a), Operand.of(b), inner, tuple(a.shape))

    def backward(self, weight: Tensor) -> list[Tensor]:
        gradients = self._tile.gradients(weight)
        d_products = [next(gradients).clone(), next(gradients).clone()]
        self._d_inner[self._samples] += next(gradients).sum(0)
        return d_products

    def member_gradients(self, d_directions: list[Tensor]) -> list[Tensor]:
        first, second = self.directions
        d_inner = self._d_inner[:, None]
        return [d_directions[0] + d_inner * second, d_directions[1] + d_inner * first]


class ArrowheadScorer:
    """Any number of members: the secular equation of an arrowhead matrix.

    The members' Gram matrix Q diag(nu) Q^T is diagonalised once a sample and the directions are the members rotated by
    Q^T, so the pair's Gram matrix becomes [[1, s^T], [s, diag(nu)]] with s the anchor's products. With nu_1 the
    largest, alpha = nu_1 - 1 and gaps g_n = nu_1 - nu_n, its largest eigenvalue is nu_1 + t, t >= 0 the root of

        t + alpha = sum_n s_n^2 / (t + g_n)

    in which every term is non-negative: t keeps its relative accuracy, and so does the eigenvector. It is found by
    steps that keep the first pole, s_1^2/t, as it is and take the tangent of the others: a quadratic. Those poles are
    convex, so every step stays below the root, and the steps converge quadratically from any start below it.
    """

    def __init__(self, members: list[Tensor]) -> None:
        self._members = torch.stack(members, dim=1)  # [b, n, D]
        gram = self._members @ self._members.mT
        gram.diagonal(dim1=-2, dim2=-1).fill_(1)
        values, vectors = torch.linalg.eigh(gram.double())  # tiny: float64 costs nothing and leaves fp32 no error
        values, vectors = values.flip(-1), vectors.flip(-1)
        self._alpha = (values[:, 0] - 1).clamp_(min=0).to(gram.dtype)
        self._gaps = (values[:, :1] - values).T.to(gram.dtype).contiguous()  # [n, b]
        self._vectors = vectors.to(gram.dtype)
        self.directions = list((self._vectors.mT @ self._members).unbind(1))
        self._d_gram = torch.zeros_like(gram)  # in the basis Q

    def scores(self, products: list[Tensor], samples: slice) -> Tensor:
        alpha, gaps = self._alpha[samples], self._gaps[:, samples]
        squares = [s * s for s in products]
        t = arrowhead_root(squares, alpha, list(gaps))
        self._samples, self._products, self._squares, self._t = samples, products, squares, t
        self._sigma = (t + (alpha + 1)).sqrt_()
        return self._sigma

    def backward(self, weight: Tensor) -> list[Tensor]:
        # The eigenvector, scaled by sqrt(t): v_0^2 = t, v_0 v_1 = s_1, v_1^2 = s_1^2/t, v_0 v_n = t r_n with
        # r_n = s_n/(t + g_n). For s_1 -> 0 the quotient s_1^2/t is taken from the secular equation instead.
        t, alpha, gaps = self._t, self._alpha[self._samples], self._gaps[:, self._samples]
        first, *others = self._products
        ratios = [s / (t + gap) for s, gap in zip(others, gaps[1:], strict=True)]
        top = t + alpha
        norm = torch.zeros_like(t)
        for s, ratio in zip(others, ratios, strict=True):
            top -= s * ratio
            norm += ratio.square()
        top = torch.maximum(top, self._squares[0] / t)
        norm.mul_(t).add_(t).add_(top)
        weight.div_(norm.mul_(self._sigma))  # d sigma = v^T dG v / (2 sigma)
        rotated = [weight * t * ratio for ratio in ratios]

        d_gram = self._d_gram[self._samples]
        d_gram[:, 0, 0] += (weight * top).sum(0)
        d_first = weight.mul_(first)
        for k, ratio in enumerate(ratios, start=1):
            d_gram[:, 0, k] += (d_first * ratio).sum(0)
            for n in range(k, len(ratios) + 1):
                d_gram[:, k, n] += (rotated[k - 1] * ratios[n - 1]).sum(0)
        return [d_first, *rotated]

    def member_gradients(self, d_directions: list[Tensor]) -> list[Tensor]:
        upper = self._d_gram.triu()
        d_gram = self._vectors @ (upper + upper.triu(1).mT) @ self._vectors.mT
        d_gram.diagonal(dim1=-2, dim2=-1).zero_()  # the members stay unit vectors
        d_members = self._vectors @ torch.stack(d_directions, dim=1) + d_gram @ self._members
        return list(d_members.unbind(1))
