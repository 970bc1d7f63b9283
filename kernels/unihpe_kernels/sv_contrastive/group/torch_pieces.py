"""Pieces of the loss in plain torch, and their gradients: any rows as anchors, any columns as the samples of tuples.

Rows and columns are embeddings as they are, [samples, modalities, D]; so are gradients, in the compute dtype.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from unihpe_kernels.sv_contrastive import torch_backend
from unihpe_kernels.sv_contrastive.closed_form import SCALE
from unihpe_kernels.sv_contrastive.torch_backend import Positives, TripleSlab


class TorchPieces:
    score_sums = True  # whether `Triples.sums` are of two kinds

    def __init__(self, temperature: Tensor, normalize: bool, like: Tensor) -> None:
        """like: has the dtype of the embeddings."""
        self._normalize = normalize
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        self._scale = torch_backend.logit_scale(temperature, like.new_empty(0, dtype=dtype))

    def paired(self, rows: Tensor, columns: Tensor, own: Tensor) -> Tensor:
        """log2 of the sum over the tuples of every row with these columns, relative to its positive's exponential,
        [modalities, rows]. own [rows]: the places of their samples among the columns, or numbers beyond."""
        units = self.units(rows)[0]
        return torch_backend.paired_sums(units, self.units(columns)[0], self._scale, Positives(units).scores, own)

    def paired_losses(self, sums: Tensor) -> Tensor:
        """The anchors' losses to base 2, from `paired` over all columns."""
        return torch.logaddexp2(sums, sums.new_zeros(()))  # its positive's logit is 0

    def paired_gradients(
        self, rows: Tensor, columns: Tensor, own: Tensor, losses: Tensor, d_score: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of the rows and of the columns, the sum of scores times their gradient [], and what is added to the
        gradients of the positives' scores, [rows].

        losses: of `paired_losses`. d_score [rows]: what their softmax weights are multiplied with.
        """
        row_units, row_inverses = self.units(rows)
        units, inverses = self.units(columns)
        d_rows, d_columns, d_scores, d_own = torch_backend.paired_backward(
            row_units, units, self._scale, Positives(row_units).scores, own, losses, d_score
        )
        return to_rows(row_units, row_inverses, d_rows), to_rows(units, inverses, d_columns), d_scores, d_own

    def own_gradients(self, d_score: Tensor, losses: Tensor) -> Tensor:
        """What `paired_gradients` lacks of the gradients of the positives' scores, [rows]; losses: of
        `paired_losses`, over all columns."""
        return torch.zeros_like(d_score)

    def positives(self, rows: Tensor) -> Tensor:
        """Scores of the rows' positives, [rows]."""
        return Positives(self.units(rows)[0]).scores

    def positive_gradients(self, rows: Tensor, d_score: Tensor) -> Tensor:
        """Of the rows, from d_score [rows] of their positives, which is overwritten."""
        units, inverses = self.units(rows)
        return to_rows(units, inverses, Positives(units).backward(d_score))

    def triples(self, columns: Tensor, first: int, count: int, saved: Tensor | None) -> "Triples":
        """Triples (i, j, k) of the columns with `count` of them, from `first` on, as i.

        saved: `Triples.saved` of the forward pass, in the backward pass.
        """
        return TorchTriples(*self.units(columns), self._scale, first, count, saved)

    def units(self, rows: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Unit rows of each modality, and 1/length [modalities, rows, 1]."""
        units, inverses = torch_backend.unit_rows(list(rows.unbind(1)), None, self._normalize)
        return list(units), inverses


class Triples(Protocol):
    """Triples (i, j, k) of all columns as j and k, some consecutive ones as i: the own."""

    saved: Tensor  # what the forward pass leaves for the backward pass

    def sums(self) -> tuple[Tensor, Tensor]:
        """By i [kinds, own], and by j and k [2, kinds, columns]: sums of exponentials, and of those times score if
        `score_sums`."""

    def finish(self, by_i: Tensor, by_jk: Tensor) -> tuple[Tensor, Tensor]:
        """From `sums`, those by j and k complete: log2 of the sum over every own anchor's tuples [3, own], and the
        losses of the own samples [own]."""

    def gradients(self, log_sums: Tensor, sums_jk: Tensor, d_score: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the columns, and the sum of scores times their gradient []; added up over all i, both are whole.

        log_sums: of `finish`; sums_jk [2, columns]: sums of exponentials by j and k, complete; d_score [columns].
        """


class TorchTriples:
    def __init__(
        self,
        units: list[Tensor],
        inverses: Tensor | None,
        scale: Tensor,
        first: int,
        count: int,
        saved: Tensor | None,
    ) -> None:
        x, y, z = units
        self._units, self._inverses = units, inverses
        self._own = slice(first, first + count)
        self.saved = x.new_zeros(TripleSlab.saved_size(count, len(x))) if saved is None else saved
        x = x[self._own]
        self._grams = [(left @ right.T).mul_(SCALE) for left, right in ((x, y), (x, z), (y, z))]
        self._slab = TripleSlab(self._grams, first, scale, self.saved)

    def sums(self) -> tuple[Tensor, Tensor]:
        by_i, by_j, by_k, self._positives = self._slab.sums()
        return by_i, torch.stack([by_j, by_k])

    def finish(self, by_i: Tensor, by_jk: Tensor) -> tuple[Tensor, Tensor]:
        by_j, by_k = by_jk[:, :, self._own].to(by_i.dtype)
        return self._slab.finish(by_i, by_j, by_k, self._positives)

    def gradients(self, log_sums: Tensor, sums_jk: Tensor, d_score: Tensor) -> tuple[Tensor, Tensor]:
        own_d_score = d_score[self._own]
        of_i = self._slab.factors(log_sums[0], own_d_score)
        sums_jk = sums_jk + self._slab.own_exponentials(Positives(self._units).scores)
        of_j, of_k = self._slab.factors(self._slab.log_sums(sums_jk), d_score)
        d_grams = [torch.zeros_like(gram) for gram in self._grams]
        self._slab.add_gradients((of_i, of_j, of_k), own_d_score, d_grams)
        d_units = of_products(self._units, self._own, d_grams)
        return to_rows(self._units, self._inverses, d_units), torch.dot(own_d_score, self._slab.excess)


def of_products(units: Sequence[Tensor], own: slice, d_grams: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of x, y and z [columns, D] from those of x.y, x.z and y.z, where x are its own rows alone."""
    (x, y, z), (d_xy, d_xz, d_yz) = units, d_grams
    d_x = torch.zeros_like(x)
    d_x[own] = torch.addmm(d_xy @ y, d_xz, z)
    x = x[own]
    return [d_x, torch.addmm(d_xy.T @ x, d_yz, z), torch.addmm(d_xz.T @ x, d_yz.T, y)]


def to_rows(units: Sequence[Tensor], inverse_norms: Tensor | None, d_units: Sequence[Tensor]) -> Tensor:
    """Gradients of the rows [samples, modalities, D] behind unit rows; inverse_norms: [modalities, samples, 1]."""
    d_rows = torch.stack(list(d_units), dim=1)
    if inverse_norms is None:
        return d_rows
    rows = torch.stack(list(units), dim=1)
    d_rows.addcmul_(rows, (rows * d_rows).sum(2, keepdim=True), value=-1)
    return d_rows.mul_(inverse_norms.transpose(0, 1))
