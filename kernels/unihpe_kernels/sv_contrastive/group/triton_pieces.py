"""The pieces of `torch_pieces` by Triton kernels. Own tuples' gradients, one a sample, are left to torch."""

import math

import torch
from torch import Tensor

from unihpe_kernels.checks import on_device
from unihpe_kernels.launching import residues
from unihpe_kernels.sv_contrastive import triton_all
from unihpe_kernels.sv_contrastive.group.torch_pieces import TorchPieces, Triples, of_products, to_rows
from unihpe_kernels.sv_contrastive.torch_backend import LOG2_E
from unihpe_kernels.sv_contrastive.triton_paired import Case, Codes, Plan, Tables

_MIDDLE = (1 + math.sqrt(3)) / 2  # of the scores, as the kernels shift them


class TritonPieces(TorchPieces):
    score_sums = False

    def __init__(self, temperature: Tensor, normalize: bool, like: Tensor) -> None:
        super().__init__(temperature, normalize, like)
        self.temperature = temperature.float()

    def paired(self, rows: Tensor, columns: Tensor, own: Tensor) -> Tensor:
        with on_device(rows):
            samples, own = self._samples(rows, columns), _whole(own, len(rows) + len(columns))
            plan, buffer, tables = self._prepared(samples, len(rows), None, own)
            new = self.temperature.new_empty
            logsumexp, sample_loss = new(samples.shape[:2]), new(samples.shape[1])
            plan.forward(buffer, tables, self.temperature, Codes(), logsumexp, sample_loss, own)
            return logsumexp[:, : len(rows)]

    def own_gradients(self, d_score: Tensor, losses: Tensor) -> Tensor:
        # an anchor's loss says what its other tuples' weights come to: 1 - 2^-loss
        return d_score * torch.expm1(losses / -LOG2_E).sum(0)

    def paired_gradients(
        self, rows: Tensor, columns: Tensor, own: Tensor, losses: Tensor, d_score: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with on_device(rows):
            samples, tau = self._samples(rows, columns), self.temperature
            m, n, _ = samples.shape
            own, one, outs = _whole(own, n), torch.ones_like(tau), torch.empty_like(samples, dtype=torch.float32)
            logsumexp, weights = tau.new_zeros(m, n), tau.new_zeros(n)
            logsumexp[:, : len(rows)] = losses + self.positives(rows) * self._scale
            weights[: len(rows)] = d_score * tau  # the kernels divide by it
            plan, buffer, _ = self._prepared(samples, len(rows), weights, own)
            d_scores = plan.backward(buffer, tau, Codes(), logsumexp, one, weights, one, list(outs), own)
        d_rows, d_columns = outs.transpose(0, 1).split([len(rows), len(columns)])
        return d_rows, d_columns, d_scores.sum(dtype=torch.float64), torch.zeros_like(d_score)

    def triples(self, columns: Tensor, first: int, count: int, saved: Tensor | None) -> "TritonTriples":
        return TritonTriples(self, columns, first, count, saved)

    def _samples(self, rows: Tensor, columns: Tensor) -> Tensor:
        """[modalities, rows, then columns, D]"""
        return torch.cat([rows, columns]).transpose(0, 1).contiguous()

    def _prepared(
        self, samples: Tensor, anchors: int, weights: Tensor | None, own: Tensor
    ) -> tuple[Plan, Tensor, Tables]:
        """The plan of these samples, and its tables, which are filled, in their buffer."""
        m, n, dim = samples.shape
        embeddings, dtype = list(samples), None if weights is None else weights.dtype
        case = Case(
            m, n, dim, samples.dtype, samples.device, self._normalize, False, dtype, anchors, 0,
            residues(*embeddings, self.temperature, own),
        )  # fmt: skip
        plan, buffer = case.plan(), self.temperature.new_empty(sum(case.table_sizes()))
        return plan, buffer, plan.prepare(embeddings, buffer, None)


def _whole(own: Tensor, n: int) -> Tensor:
    """Of all n samples, as the kernels read them."""
    return torch.cat([own, own.new_full((n - len(own),), n)])


class TritonTriples(Triples):
    def __init__(self, pieces: TritonPieces, columns: Tensor, first: int, count: int, saved: Tensor | None) -> None:
        self._pieces, self._columns = pieces, columns
        self._own = slice(first, first + count)
        self._units, self._inverses = pieces.units(columns)
        x, y, z = self._units
        x = x[self._own]
        self._size, self._ld = len(y), triton_all.padded(len(y))
        self._count = count
        # of the samples that pad the batch, products are zero
        self._grams = x.new_zeros(2 * count + self._ld, self._ld)
        for gram, left, right in zip(self._split(self._grams), (x, x, y), (y, z, z), strict=True):
            torch.mm(left, right.T, out=gram)
        # what the weights of the other triples of every own sample's anchors come to
        self.saved = x.new_empty(count) if saved is None else saved

    def sums(self) -> tuple[Tensor, Tensor]:
        tau = self._pieces.temperature
        with on_device(self._grams):
            by_i, by_j, by_k = triton_all.sums(
                self._grams, None, tau, self._size, self._ld, self._count, self._own.start
            )
        by_jk = torch.stack([by_j.sum(0), by_k.sum(0)])[:, None, : self._size]
        return by_i.sum(0, keepdim=True), by_jk

    def finish(self, by_i: Tensor, by_jk: Tensor) -> tuple[Tensor, Tensor]:
        sums = torch.stack([by_i[0], *by_jk[:, 0, self._own].to(by_i.dtype)])
        positives = self._pieces.positives(self._columns[self._own]) * LOG2_E / self._pieces.temperature
        others = sums.log2() + (self._shift() - positives)  # relative to the positive's exponential
        losses = torch.logaddexp2(others, others.new_zeros(()))
        self.saved = torch.expm1(losses / -LOG2_E).sum(0).neg_()
        return losses + positives, losses.sum(0).div_(LOG2_E)

    def gradients(self, log_sums: Tensor, sums_jk: Tensor, d_score: Tensor) -> tuple[Tensor, Tensor]:
        own_d_score = d_score[self._own]
        factors = self._grams.new_zeros(3, self._ld)
        factors[0, : self._count] = own_d_score * torch.exp2(self._shift() - log_sums[0])
        own_exponentials = torch.exp2(
            self._pieces.positives(self._columns).double() * LOG2_E / self._pieces.temperature - self._shift()
        )
        factors[1:, : self._size] = d_score / (sums_jk + own_exponentials)
        with on_device(self._grams):
            d_grams, d_scores = triton_all.slab_gradients(
                self._grams,
                self._pieces.temperature,
                factors,
                self._size,
                self._ld,
                self._count,
                self._own.start,
            )
        d_units = of_products(self._units, self._own, self._split(d_grams))
        gradients = to_rows(self._units, self._inverses, d_units)
        rows, positive = self._columns[self._own], own_d_score * -self.saved
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
