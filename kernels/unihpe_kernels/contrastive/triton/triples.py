"""negatives="all" of three modalities by the kernels of `kernels_all`; positives by those of `kernels_samples`."""

import math

import torch
from torch import Tensor

from unihpe_kernels.checks import on_device
from unihpe_kernels.contrastive.contract import Options
from unihpe_kernels.contrastive.triton import all_triples
from unihpe_kernels.contrastive.triton.backend import BACKEND
from unihpe_kernels.scores import LOG2_E, SCORES

_SCORE = SCORES["singular_value"]


class TritonTriples:
    """As triples.TripleLoss, of unit rows that may be of a half type. temperature: float32 []."""

    def __init__(self, saved: Tensor, size: int, width: int, temperature: Tensor) -> None:
        """saved: float32, of at least `saved_size` numbers."""
        self._size, self._ld, self._temperature = size, all_triples.padded(size), temperature
        grams, units = saved[: self.saved_size(size, width)].split(self._sizes(size, width))
        self._grams = grams.view(3, self._ld, self._ld)
        self._units = units.view(3, size, width)
        scale = LOG2_E / temperature
        self._options = Options(_SCORE, 3, (0, 1, 2), scale, _SCORE.middle(3))
        # NaN where float32 does not hold the sums of exponentials, or those times a score
        reach = scale * (math.sqrt(3) - 1) / 2 + 2 * math.log2(max(size, 1))
        self._shift = torch.where(reach < 110, scale * self._options.middle, math.nan)

    @classmethod
    def saved_size(cls, size: int, width: int) -> int:
        return sum(cls._sizes(size, width))

    @staticmethod
    def _sizes(size: int, width: int) -> list[int]:
        return [3 * all_triples.padded(size) ** 2, 3 * size * width]

    def forward(self, units: Tensor, learns_temperature: bool) -> tuple[Tensor, Tensor]:
        """log2 of the sum over every anchor's tuples [3, b], and the samples' losses [b]. units: [3, b, D]."""
        self._units.copy_(units)
        self._grams.zero_()  # of the samples that pad the batch, products are zero
        for gram, (p, q) in zip(self._products(self._grams), ((0, 1), (0, 2), (1, 2)), strict=True):
            torch.mm(self._units[p], self._units[q].T, out=gram)
        with on_device(units):
            parts = all_triples.sums(self._grams, None, self._temperature, self._size, self._ld, None)
        sums = torch.stack([part.sum(0)[: self._size] for part in parts])
        log_sums = sums.log2() + self._shift
        return log_sums, (log_sums - self._positives() * self._options.scale).sum(0) / LOG2_E

    def backward(self, log_sums: Tensor, d_score: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the units [3, b, D] and the sum of scores times their gradient [].

        d_score [b]: what the softmax weights of a sample's anchors are multiplied with.
        """
        factors = self._grams.new_zeros(3, self._ld)
        factors[:, : self._size] = d_score * torch.exp2(self._shift - log_sums)
        with on_device(self._grams):
            d_grams, d_scores = all_triples.gradients(
                self._grams, self._temperature, factors, self._size, self._ld, None
            )
        xy, xz, yz = self._products(d_grams)
        weight = -3 * d_score
        own = BACKEND.positives_gradient(self._inner(), self._options, weight)
        for gradient, part in zip((xy, xz, yz), own, strict=True):
            gradient.diagonal().add_(part)
        x, y, z = self._units
        d_units = torch.stack([xy @ y, xy.T @ x, xz.T @ x])
        for d_unit, left, right in zip(d_units, (xz, yz, yz.T), (z, z, y), strict=True):
            d_unit.addmm_(left, right)
        return d_units, d_scores + torch.dot(weight.double(), self._positives().double())

    def _products(self, grams: Tensor) -> list[Tensor]:
        """Without padding."""
        return list(grams.view(3, self._ld, self._ld)[:, : self._size, : self._size])

    def _inner(self) -> Tensor:
        return torch.stack([gram.diagonal() for gram in self._products(self._grams)])

    def _positives(self) -> Tensor:
        return BACKEND.positives(self._inner(), self._options)
