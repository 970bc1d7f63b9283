"""The pieces of `torch_pieces` by Triton kernels. Own tuples, one a sample, are left to torch."""

import math

import torch
from torch import Tensor

from unihpe_kernels.checks import on_device
from unihpe_kernels.contrastive.group.torch_pieces import TorchPieces, Triples, of_products, to_rows
from unihpe_kernels.contrastive.triton import all_triples
from unihpe_kernels.scores import LOG2_E

_MIDDLE = (1 + math.sqrt(3)) / 2  # of the scores, as the kernels shift them


class TritonPieces(TorchPieces):
    score_sums = False

    def __init__(self, temperature: Tensor, normalize: bool, like: Tensor) -> None:
        super().__init__(temperature, normalize, like)
        self.temperature = temperature.float()

    def triples(self, columns: Tensor, first: int, count: int, saved: Tensor | None) -> "TritonTriples":
        return TritonTriples(self, columns, first, count)


class TritonTriples(Triples):
    def __init__(self, pieces: TritonPieces, columns: Tensor, first: int, count: int) -> None:
        self._pieces, self._columns = pieces, columns
        self._own = slice(first, first + count)
        self._units, self._inverses = pieces.units(columns)
        x, y, z = self._units
        x = x[self._own]
        self._size, self._ld = len(y), all_triples.padded(len(y))
        self._count = count
        # of the samples that pad the batch, products are zero
        self._grams = x.new_zeros(2 * count + self._ld, self._ld)
        for gram, left, right in zip(self._split(self._grams), (x, x, y), (y, z, z), strict=True):
            torch.mm(left, right.T, out=gram)
        self.saved = x.new_empty(0)  # nothing, but that there are triples

    def sums(self) -> tuple[Tensor, Tensor]:
        tau = self._pieces.temperature
        with on_device(self._grams):
            by_i, by_j, by_k = all_triples.sums(self._grams, None, tau, self._size, self._ld, self._count)
        by_jk = torch.stack([by_j.sum(0), by_k.sum(0)])[:, None, : self._size]
        return by_i.sum(0, keepdim=True), by_jk

    def finish(self, by_i: Tensor, by_jk: Tensor) -> tuple[Tensor, Tensor]:
        sums = torch.stack([by_i[0], *by_jk[:, 0, self._own].to(by_i.dtype)])
        log_sums = sums.log2() + self._shift()
        positives = self._pieces.positives(self._columns[self._own])
        return log_sums, (log_sums - positives * LOG2_E / self._pieces.temperature).sum(0).div_(LOG2_E)

    def gradients(self, log_sums: Tensor, sums_jk: Tensor, d_score: Tensor) -> tuple[Tensor, Tensor]:
        own_d_score = d_score[self._own]
        factors = self._grams.new_zeros(3, self._ld)
        factors[0, : self._count] = own_d_score * torch.exp2(self._shift() - log_sums[0])
        factors[1:, : self._size] = d_score / sums_jk
        with on_device(self._grams):
            d_grams, d_scores = all_triples.gradients(
                self._grams, self._pieces.temperature, factors, self._size, self._ld, self._count
            )
        d_units = of_products(self._units, self._own, self._split(d_grams))
        gradients = to_rows(self._units, self._inverses, d_units)
        rows, positive = self._columns[self._own], own_d_score * -3
        d_scores = d_scores + torch.dot(positive, self._pieces.positives(rows))
        gradients[self._own] += self._pieces.positive_gradients(rows, positive)
        return gradients, d_scores

    def _split(self, grams: Tensor) -> list[Tensor]:
        """Those of x.y, x.z and y.z, without padding."""
        padding = self._ld - self._size
        return list(grams[:, : self._size].split([self._count, self._count, self._size, padding])[:3])

    def _shift(self) -> Tensor:
        """What the logits lack; NaN where sums of exponentials, or those times a score, would not be float32."""
        scale = LOG2_E / self._pieces.temperature
        reach = scale * (math.sqrt(3) - 1) / 2 + 2 * math.log2(max(self._size, 1))
        return torch.where(reach < 110, scale * _MIDDLE, math.nan)
