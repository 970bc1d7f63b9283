"""Triples over a group in plain torch, and their gradients: all samples as j and k, this rank's as i.

Samples are embeddings as they are, [samples, 3, D]; so are gradients, in the compute dtype.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from unihpe_kernels.contrastive.torch_blocks import BACKEND as TORCH
from unihpe_kernels.sv_contrastive import torch_backend
from unihpe_kernels.sv_contrastive.closed_form import SCALE
from unihpe_kernels.sv_contrastive.torch_backend import TripleShard


class TorchTriples:
    """Triples (i, j, k) of all samples as j and k, some consecutive ones as i: the own."""

    num_sums = 2  # kinds of `sums`: of exponentials, and of those times score

    def __init__(
        self, temperature: Tensor, normalize: bool, samples: Tensor, first: int, count: int, saved: Tensor | None
    ) -> None:
        """count: the own, from `first` on. saved: what the forward pass left as `saved`, in the backward pass."""
        self._own = slice(first, first + count)
        self._units, self._inverses = TORCH.units(list(samples.unbind(1)), normalize, None)
        self._scale = torch_backend.logit_scale(temperature, self._units)
        self._prepare(count, saved)

    def _prepare(self, count: int, saved: Tensor | None) -> None:
        x, y, z = self._units
        self.saved = x.new_zeros(TripleShard.saved_size(count, len(x))) if saved is None else saved
        x = x[self._own]
        self._grams = [(left @ right.T).mul_(SCALE) for left, right in ((x, y), (x, z), (y, z))]
        self._shard = TripleShard(self._grams, self._own.start, self._scale, self.saved)

    def sums(self) -> tuple[Tensor, Tensor]:
        """By i [kinds, own], and by j and k [2, kinds, samples], of `num_sums` kinds."""
        by_i, by_j, by_k, self._positives = self._shard.sums()
        return by_i, torch.stack([by_j, by_k])

    def finish(self, by_i: Tensor, by_jk: Tensor) -> tuple[Tensor, Tensor]:
        """From `sums`, those by j and k complete: log2 of the sum over every own anchor's tuples [3, own], and the
        losses of the own samples [own]."""
        by_j, by_k = by_jk[:, :, self._own].to(by_i.dtype)
        return self._shard.finish(by_i, by_j, by_k, self._positives)

    def gradients(self, log_sums: Tensor, sums_jk: Tensor, d_score: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the samples, and the sum of scores times their gradient []; added up over all i, both are whole.

        log_sums: of `finish`; sums_jk [2, samples]: sums of exponentials by j and k, complete; d_score [samples].
        """
        own_d_score = d_score[self._own]
        of_i = self._shard.factors(log_sums[0], own_d_score)
        sums_jk = sums_jk + self._shard.own_exponentials(torch_backend.positives(self._units))
        of_j, of_k = self._shard.factors(self._shard.log_sums(sums_jk), d_score)
        d_grams = [torch.zeros_like(gram) for gram in self._grams]
        self._shard.add_gradients((of_i, of_j, of_k), own_d_score, d_grams)
        return self._rows(self._of_products(d_grams)), torch.dot(own_d_score, self._shard.excess)

    def _of_products(self, d_grams: Sequence[Tensor]) -> Tensor:
        """Gradients of x, y and z [3, samples, D] from those of x.y, x.z and y.z, where x are its own rows alone."""
        (x, y, z), (d_xy, d_xz, d_yz) = self._units, d_grams
        d_x = torch.zeros_like(x)
        d_x[self._own] = torch.addmm(d_xy @ y, d_xz, z)
        x = x[self._own]
        return torch.stack([d_x, torch.addmm(d_xy.T @ x, d_yz, z), torch.addmm(d_xz.T @ x, d_yz.T, y)])

    def _rows(self, d_units: Tensor) -> Tensor:
        """Gradients of the samples behind the unit rows."""
        return torch.stack(TORCH.through_units(self._units, self._inverses, d_units, list(d_units)), dim=1)
