"""What a loss of tuples is made of, as its operators take it."""

import functools
from typing import NamedTuple

from torch import Tensor


class Spec(NamedTuple):
    """What a loss is made of, but for its tensors: as for `tuple_contrastive_loss`, in the form of operators'
    arguments.

    anchors: the modalities that are anchors, ascending; none for all. both: directions. pairwise: the cosine loss of
    every two modalities.
    """

    score: str
    anchors: tuple[int, ...]
    both: bool
    smoothing: float
    sigmoid: bool
    pairwise: bool
    normalize: bool
    backend: str

    @property
    def text(self) -> str:
        """One word, which operators take."""
        flags = (self.both, self.sigmoid, self.pairwise, self.normalize)
        words = (self.score, self.backend, f"{self.smoothing!r}")
        return " ".join([*words, "".join("01"[flag] for flag in flags), *(f"{m}" for m in self.anchors)])

    @classmethod
    @functools.lru_cache
    def of(cls, text: str) -> "Spec":
        score, backend, smoothing, flags, *anchors = text.split()
        both, sigmoid, pairwise, normalize = (flag == "1" for flag in flags)
        modalities = tuple(map(int, anchors))
        return cls(score, modalities, both, float(smoothing), sigmoid, pairwise, normalize, backend)

    def anchors_of(self, count: int) -> tuple[int, ...]:
        return self.anchors or tuple(range(count))

    def num_anchors(self, count: int) -> int:
        """Of a sample that has all `count` modalities."""
        return count * (count - 1) if self.pairwise else len(self.anchors_of(count))

    def used(self, present: Tensor | None) -> Tensor | None:
        """bool [M, B]: rows that some tuple reads; None: all."""
        return present if present is None or self.pairwise else present & (present.sum(0) >= 2)

    def anchor_counts(self, present: Tensor | None) -> Tensor | None:
        """[B]; None: every sample has all anchors."""
        if present is None:
            return None
        has = present.sum(0)
        if self.pairwise:
            return has * (has - 1)
        return (present[list(self.anchors)].sum(0) if self.anchors else has) * (has >= 2)
