"""The triples of `torch_triples` by Triton kernels. Own tuples' gradients, one a sample, are left to torch."""

import math

import torch
from torch import Tensor

from unihpe_kernels.checks import on_device
from unihpe_kernels.scores import LOG2_E
from unihpe_kernels.sv_contrastive import torch_backend, triton_all
from unihpe_kernels.sv_contrastive.group.torch_triples import TorchTriples

_MIDDLE = (1 + math.sqrt(3)) / 2  # of the scores, as the kernels shift them


class TritonTriples(TorchTriples):
    num_sums = 1  # of exponentials alone

    def __init__(
        self, temperature: Tensor, normalize: bool, samples: Tensor, first: int, count: int, saved: Tensor | None
    ) -> None:
        self._temperature = temperature.float()
        super().__init__(temperature, normalize, samples, first, count, saved)

    def _prepare(self, count: int, saved: Tensor | None) -> None:
        x, y, z = self._units
        x = x[self._own]
        self._size, self._ld, self._count = len(y), triton_all.padded(len(y)), count
        # of the samples that pad the batch, products are zero
        self._padded_grams = x.new_zeros(2 * count + self._ld, self._ld)
        for gram, left, right in zip(self._split(self._padded_grams), (x, x, y), (y, z, z), strict=True):
            torch.mm(left, right.T, out=gram)
        # what the weights of the other triples of every own sample's anchors come to
        self.saved = x.new_empty(count) if saved is None else saved

    def sums(self) -> tuple[Tensor, Tensor]:
        with on_device(self._padded_grams):
            by_i, by_j, by_k = triton_all.sums(
                self._padded_grams, None, self._temperature, self._size, self._ld, self._count, self._own.start
            )
        by_jk = torch.stack([by_j.sum(0), by_k.sum(0)])[:, None, : self._size]
        return by_i.sum(0, keepdim=True), by_jk

    def finish(self, by_i: Tensor, by_jk: Tensor) -> tuple[Tensor, Tensor]:
        sums = torch.stack([by_i[0], *by_jk[:, 0, self._own].to(by_i.dtype)])
        positives = torch_backend.positives(self._units[:, self._own]) * self._scale
        others = sums.log2() + (self._shift() - positives)  # relative to the positive's exponential
        losses = torch.logaddexp2(others, others.new_zeros(()))
        self.saved = torch.expm1(losses / -LOG2_E).sum(0).neg_()
        return losses + positives, losses.sum(0).div_(LOG2_E)

    def gradients(self, log_sums: Tensor, sums_jk: Tensor, d_score: Tensor) -> tuple[Tensor, Tensor]:
        own_d_score = d_score[self._own]
        factors = self._padded_grams.new_zeros(3, self._ld)
        factors[0, : self._count] = own_d_score * torch.exp2(self._shift() - log_sums[0])
        positives = torch_backend.positives(self._units)
        own_exponentials = torch.exp2(positives.double() * LOG2_E / self._temperature - self._shift())
        factors[1:, : self._size] = d_score / (sums_jk + own_exponentials)
        with on_device(self._padded_grams):
            d_grams, d_scores = triton_all.shard_gradients(
                self._padded_grams,
                self._temperature,
                factors,
                self._size,
                self._ld,
                self._count,
                self._own.start,
            )
        d_units = self._of_products(self._split(d_grams))
        weight = own_d_score * -self.saved
        d_units[:, self._own] += torch_backend.positive_gradients(self._units[:, self._own], weight)
        return self._rows(d_units), d_scores + torch.dot(weight, positives[self._own])

    def _split(self, grams: Tensor) -> list[Tensor]:
        """Those of x.y, x.z and y.z, without padding."""
        padding = self._ld - self._size
        return list(grams[:, : self._size].split([self._count, self._count, self._size, padding])[:3])

    def _shift(self) -> Tensor:
        """What the logits lack; NaN where sums of exponentials, or those times a score, would not be float32."""
        scale = LOG2_E / self._temperature
        reach = scale * (math.sqrt(3) - 1) / 2 + 2 * math.log2(max(self._size, 1))
        return torch.where(reach < 110, scale * _MIDDLE, math.nan)
