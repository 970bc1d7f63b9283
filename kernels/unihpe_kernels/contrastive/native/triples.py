"""negatives="all" of three modalities by C++ (triples.cpp), for float32 on a CPU: matrix products by torch."""

import torch
from torch import Tensor

from unihpe_kernels.native import call

SOURCE = "contrastive/native/triples.cpp"
_VECTOR = 16  # float32 numbers: whole vectors of every CPU


class NativeTriples:
    """As triples.TripleLoss, of float32 units. scale: log2(e) over the temperature. Where the torch backend has
    logarithms, these are the sums themselves, of exponentials about the middle of the scores' range: of the size of a
    score over the temperature, float32 would round their logarithms to that."""

    def __init__(self, saved: Tensor, size: int, width: int, scale: float) -> None:
        self._size, self._ld, self._scale = size, _padded(size), scale
        parts = saved[: self.saved_size(size, width)].split(self._sizes(size, width))
        # x, x, y, z, z: the first three by the last three are all pairs
        self._units = parts[0].view(5, self._ld, width)
        self._grams = parts[1].view(3, self._ld, self._ld)  # x.y, x.z, y.z
        self._other_weights = parts[2]  # [b], of all triples but the own one, summed over the sample's anchors

    @classmethod
    def saved_size(cls, size: int, width: int) -> int:
        return sum(cls._sizes(size, width))

    @staticmethod
    def _sizes(size: int, width: int) -> list[int]:
        ld = _padded(size)
        return [5 * ld * width, 3 * ld * ld, size]

    def forward(self, units: Tensor, learns_temperature: bool) -> tuple[Tensor, Tensor]:
        """The sums over every anchor's tuples [3, b], and the samples' losses [b]. units: [3, b, D]."""
        width = units.shape[2]
        call(SOURCE, "triple_units", *units, self._size, self._ld, width, self._units, None)
        torch.bmm(self._units[:3], self._units[2:].mT, out=self._grams)
        sums, losses = units.new_empty(3, self._size), units.new_empty(self._size)
        call(SOURCE, "triple_sums", self._grams, *self._shape(), sums, self._other_weights, losses)
        return sums, losses

    def backward(self, sums: Tensor, d_score: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the units [3, b, D] and the sum of scores times their gradient [].

        d_score [b]: what the softmax weights of a sample's anchors are multiplied with.
        """
        d_grams = torch.zeros_like(self._grams)
        d_scores = sums.new_empty((), dtype=torch.float64)
        given = sums.contiguous(), self._other_weights, d_score.contiguous()
        call(SOURCE, "triple_gradients", self._grams, *self._shape(), *given, d_grams, d_scores)
        left, right = torch.bmm(d_grams, self._units[2:]), torch.bmm(d_grams.mT, self._units[:3])
        (x_y, x_z, y_z), (y_x, z_x, z_y) = left, right
        d_units = torch.stack([x_y.add_(x_z), y_x.add_(y_z), z_x.add_(z_y)])
        return d_units[:, : self._size], d_scores

    def _shape(self) -> tuple[int, int, float, int]:
        return self._size, self._ld, self._scale, torch.get_num_threads()


def _padded(batch: int) -> int:
    return -(-batch // _VECTOR) * _VECTOR
