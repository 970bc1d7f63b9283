"""Pieces of the loss in plain torch, and their gradients: any rows as anchors, any columns as the samples of tuples.

Rows and columns are embeddings as they are, [samples, modalities, D]; so are gradients, in the compute dtype.
"""

import torch
from torch import Tensor

from unihpe_kernels.sv_contrastive import torch_backend
from unihpe_kernels.sv_contrastive.torch_backend import Positives, TripleSlab


class TorchPieces:
    score_sums = True  # whether `TorchTriples.sums` are of two kinds

    def __init__(self, temperature: Tensor, normalize: bool, like: Tensor) -> None:
        """like: has the dtype of the embeddings."""
        self._normalize = normalize
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        self._scale = torch_backend.logit_scale(temperature, like.new_empty(0, dtype=dtype))

    def paired(self, rows: Tensor, columns: Tensor) -> Tensor:
        """log2 of the sum over the tuples of every row with these columns, [modalities, rows]."""
        return torch_backend.paired_normalisers(self.units(rows)[0], self.units(columns)[0], self._scale)

    def paired_gradients(
        self, rows: Tensor, columns: Tensor, log_sums: Tensor, d_score: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the rows and of the columns, and the sum of scores times their gradient [].

        log_sums: over all of the anchors' tuples. d_score [rows]: what their softmax weights are multiplied with.
        """
        row_units, row_inverses = self.units(rows)
        units, inverses = self.units(columns)
        d_rows, d_columns, d_scores = torch_backend.paired_backward(row_units, units, self._scale, log_sums, d_score)
        return _to_rows(row_units, row_inverses, d_rows), _to_rows(units, inverses, d_columns), d_scores

    def positives(self, rows: Tensor) -> Tensor:
        """Scores of the rows' own tuples, [rows]."""
        return Positives(self.units(rows)[0]).scores

    def positive_gradients(self, rows: Tensor, d_score: Tensor) -> Tensor:
        """Of the rows, from d_score [rows] of their own tuples, which is overwritten."""
        units, inverses = self.units(rows)
        return _to_rows(units, inverses, Positives(units).backward(d_score))

    def triples(self, columns: Tensor, first: int, count: int, saved: Tensor | None) -> "TorchTriples":
        """Triples (i, j, k) of the columns with `count` of them, from `first` on, as i.

        saved: `TorchTriples.saved` of the forward pass, in the backward pass.
        """
        return TorchTriples(*self.units(columns), self._scale, first, count, saved)

    def units(self, rows: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Unit rows of each modality, and 1/length [modalities, rows, 1]."""
        units, inverses = torch_backend.unit_rows(list(rows.unbind(1)), None, self._normalize)
        return list(units), inverses


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
        self.saved = x.new_zeros(torch_backend.saved_of_slab(count, len(x))) if saved is None else saved
        self._slab = TripleSlab(x[self._own], y, z, first, scale, self.saved)

    def sums(self) -> tuple[Tensor, Tensor]:
        """By i [2, count], and by j and k [2, 2, columns]: sums of exponentials and of those times score."""
        by_i, by_j, by_k, self._positives = self._slab.sums()
        return by_i, torch.stack([by_j, by_k])

    def finish(self, by_i: Tensor, by_jk: Tensor) -> tuple[Tensor, Tensor]:
        """From `sums`, those by j and k complete: log2 of the sum over every own anchor's tuples [3, count], and the
        scores of the own tuples [count]."""
        by_j, by_k = by_jk[:, :, self._own].to(by_i.dtype)
        return self._slab.finish(by_i, by_j, by_k, self._positives)

    def gradients(self, log_sums: Tensor, sums_jk: Tensor, d_score: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the columns, and the sum of scores times their gradient [].

        log_sums: of `finish`; sums_jk [2, columns]: sums of exponentials by j and k, complete; d_score [columns].
        """
        of_i = self._slab.factors(log_sums[0], d_score[self._own])
        of_j, of_k = self._slab.factors(self._slab.log_sums(sums_jk), d_score)
        own_d_score = d_score[self._own]
        d_x, d_y, d_z = self._slab.backward(of_i, of_j, of_k, own_d_score)
        d_columns = [torch.zeros_like(d_y), d_y, d_z]
        d_columns[0][self._own] = d_x
        gradients = _to_rows(self._units, self._inverses, d_columns)
        return gradients, torch.dot(own_d_score, self._slab.excess)


def _to_rows(units: list[Tensor], inverse_norms: Tensor | None, d_units: list[Tensor]) -> Tensor:
    """Gradients of the rows [samples, modalities, D] behind unit rows."""
    through = torch_backend.through_lengths(torch.stack(units), inverse_norms, torch.stack(d_units))
    return through.transpose(0, 1).contiguous()
