"""A batch with missing modalities as dense losses of some of its samples."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from unihpe_kernels.contrastive.spec import Spec
from unihpe_kernels.sv_contrastive.arguments import modality_codes


@dataclass(frozen=True)
class Others:
    """Samples [b] that are members alone. sought: the places of the anchors' modalities that have them as candidates,
    of `Part.modalities`; None: all."""

    index: Tensor
    sought: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Part:
    """Samples that share one dense loss.

    modalities: of its tuples. anchors: places of those that are anchors in turn, among `modalities`. rows: where the
    results of those anchors go, among all of `Spec.num_anchors`. index [n]: the samples that are anchors, None for
    every one. counted [n]: 0 for those whose loss is that of another part; None: all count.
    """

    modalities: tuple[int, ...]
    anchors: tuple[int, ...]
    rows: tuple[int, ...]
    index: Tensor | None = None
    counted: Tensor | None = None
    others: tuple[Others, ...] = ()

    def size(self, batch: int) -> int:
        """The number of samples that are anchors."""
        return batch if self.index is None else len(self.index)

    def of(self, rows: Tensor, index: Tensor | None) -> Tensor:
        """Of [M, B, ..], the part's modalities of these samples."""
        if len(self.modalities) == len(rows):
            return rows if index is None else rows[:, index]
        modalities = _indices(self.modalities, rows.device)
        return rows[modalities] if index is None else rows[modalities[:, None], index]

    def codes(self, present: Tensor | None) -> Tensor | None:
        """int32 [B], bit p: has the p-th of the modalities."""
        if present is None:
            return None
        return modality_codes(present[list(self.modalities)], torch.int32)


@functools.lru_cache
def _indices(modalities: tuple[int, ...], device: torch.device) -> Tensor:
    """Made once: a GPU would be waited for."""
    return torch.tensor(modalities, device=device)


def make_parts(
    spec: Spec, present: Tensor | None, count: int, masks: bool, sets: Sequence[int] | None = None
) -> Iterator[Part]:
    """The parts of a batch of `count` modalities. masks: of the backend, which then gets codes. sets: the codes of the
    modality sets to visit; None: those of the batch."""
    if spec.pairwise:
        for place, pair in enumerate(combinations(range(count), 2)):
            both_ways = (2 * place, 2 * place + 1)
            if present is None or masks:
                yield Part(pair, (0, 1), both_ways)
            else:
                yield _of_pair(pair, both_ways, present)
        return
    every = tuple(range(count))
    anchors = spec.anchors_of(count)
    if present is None or (masks and sets is None):
        yield Part(every, anchors, tuple(range(len(anchors))))
        return
    codes = modality_codes(present)
    for code in codes.unique().tolist() if sets is None else sets:
        modalities = tuple(m for m in every if code >> m & 1)
        chosen = [m for m in anchors if m in modalities]
        if len(modalities) < 2 or not chosen:
            continue
        exact, pool = codes == code, (codes & code) == code
        places, rows = (tuple(of.index(m) for m in chosen) for of in (modalities, anchors))
        if spec.both:  # all of the pool are what a tuple is set against
            index = pool.nonzero()[:, 0]
            yield Part(modalities, places, rows, index, exact[index])
        else:
            others = (pool & ~exact).nonzero()[:, 0]
            yield Part(modalities, places, rows, exact.nonzero()[:, 0], None, (Others(others),) if len(others) else ())


def further(spec: Spec, part: Part, codes: Tensor | None) -> list[tuple[Tensor | None, tuple[int, ...] | None]]:
    """Of samples elsewhere with these codes, None for all complete: those that are candidates of the part's anchors,
    and of which (`Others.sought`)."""
    if codes is None:
        return [(None, None)]
    wanted = [1 << m for m in part.modalities]
    if not spec.pairwise:
        code = sum(wanted)
        return [(((codes & code) == code).nonzero()[:, 0], None)]
    first, second = ((codes & bit) > 0 for bit in wanted)
    kinds: tuple[tuple[Tensor, tuple[int, ...] | None], ...]
    kinds = (first & second, None), (second & ~first, (0,)), (first & ~second, (1,))
    return [(has.nonzero()[:, 0], sought) for has, sought in kinds]


def _of_pair(pair: tuple[int, int], rows: tuple[int, int], present: Tensor) -> Part:
    """A sample is an anchor where it has both, and a candidate where it has what is looked for."""
    first, second = present[pair[0]], present[pair[1]]
    sought = ((second & ~first, (0,)), (first & ~second, (1,)))
    others = tuple(Others(has.nonzero()[:, 0], anchors) for has, anchors in sought)
    index = (first & second).nonzero()[:, 0]
    return Part(pair, (0, 1), rows, index, None, tuple(other for other in others if len(other.index)))
