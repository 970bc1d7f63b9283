"""Which samples of which source make up a training batch: a pure function of the seed and the position."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

# keeps these random streams apart from those of augmentation, which start from the same seed
_DOMAIN = 1


class Order:
    """An endless, shuffled sequence of samples from several sources, of which any piece can be asked for.

    It is made of epochs as long as all sources together. Within an epoch every source has its share of the positions,
    by `weights` or by its size; whatever the share, a source shows each of its samples once before it repeats any.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        """sizes: samples in each source. weights: their shares, () for shares by size. ValueError for bad ones."""
        if seed < 0:
            raise ValueError(f"seed: found {seed}, wanted 0 or more")
        if not sizes or min(sizes) < 1:
            raise ValueError(f"sizes: found {list(sizes)}, wanted at least one sample in each of at least one source")
        if weights and (len(weights) != len(sizes) or min(weights) < 0 or sum(weights) <= 0):
            raise ValueError(f"weights: found {list(weights)}, wanted {len(sizes)} non-negative shares, not all 0")
        self.seed, self.sizes = seed, np.array(sizes)
        self.epoch_length = int(self.sizes.sum())
        ends = np.cumsum(weights or sizes) / sum(weights or sizes) * self.epoch_length
        # where the slots of each source end; rounding the ends makes the shares add up
        self._ends = np.round(ends).astype(np.int64)
        self._shares = np.diff(self._ends, prepend=0)

    def at(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Source number and row within the source, each [stop - start] int64, of the positions start .. stop - 1."""
        position = np.arange(start, stop)
        epoch = position // self.epoch_length
        slot = self._shuffled(position, -1, self.epoch_length)
        source = np.searchsorted(self._ends, slot, side="right")
        # how many samples of this source come before, counted by slots
        own = epoch * self._shares[source] + slot - (self._ends - self._shares)[source]
        row = np.empty_like(own)
        for number in np.unique(source).tolist():
            mine = source == number
            row[mine] = self._shuffled(own[mine], number, int(self.sizes[number]))
        return source, row

    def _shuffled(self, position: np.ndarray, stream: int, size: int) -> np.ndarray:
        """Row at each position of a sequence that is one permutation of `size` rows after the other."""
        row = np.empty_like(position)
        epochs = position // size
        for epoch in np.unique(epochs).tolist():
            mine = epochs == epoch
            row[mine] = _permutation(self.seed, stream, epoch, size)[position[mine] % size]
        return row


@lru_cache(maxsize=16)
def _permutation(seed: int, stream: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([_DOMAIN, seed, stream + 1, epoch]).permutation(size)
