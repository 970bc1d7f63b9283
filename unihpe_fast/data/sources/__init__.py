"""Datasets that `python -m unihpe_fast.prepare` can read: one module a dataset.

A source is a module with

- `Options`, a frozen dataclass of the flags that only this dataset has, each with a default and a docstring;
- `read(inputs, options, request) -> Reading`, which finds its files at once, raises SourceError or OSError naming the
  file (and the key in it) that is missing or malformed, and opens the rest lazily while its samples are drawn, so that
  memory stays flat however large the dataset is. Its samples name their photographs (`Sample.photo`); cropping and
  encoding them is not a source's business.

A sample that is left out is counted in `Reading.tally` with the reason, never dropped in silence. To add a dataset,
write the module and name it in `SOURCES`; `Sample` says which units and frames its fields have, `data/skeleton.py`
the joint set, `data/bbox.py` the bounding box.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from unihpe_fast.data.records import Sample

# name on the command line -> module of this package
SOURCES = {
    "3dpw": "threedpw",
    "cmu": "cmu",
    "coco": "coco",
    "h36m": "h36m.source",
    "keypoints": "keypoints",
    "lsp": "lsp",
    "motion": "motion",
    "mpi-inf-3dhp": "mpi_inf_3dhp.source",
    "mpii": "mpii",
    "spin-npz": "spin_npz",
    "synthetic": "synthetic",
}


@dataclass
class Tally:
    """What a source left out and what the user should know; complete once the samples are drawn.

    skipped: samples or frames by (subject, action, reason). notes: sentences to show.
    """

    skipped: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def skip(self, subject: str, action: str, reason: str, count: int = 1) -> None:
        if count:
            self.skipped[subject, action, reason] += count


@dataclass(frozen=True)
class Request:
    """What is asked of every source alike.

    images: the folder under which the dataset's photographs lie, None: none are wanted. image_size: side of the crops
    in px, 0: none. seed: of everything that is made up.
    """

    images: Path | None = None
    image_size: int = 0
    seed: int = 0


@dataclass
class Reading:
    """What a source found: its name in the prepared file, the files it reads, the terms of use and its samples.

    total: how many samples there will be, None where only reading them all would tell.
    render: the dataset has no photographs; crops may be rendered from the 3D joints.
    caveat: how these samples differ from the published protocol, shown wherever their scores are; empty: they do not.
    """

    dataset: str
    licence: str
    files: Sequence[Path]
    samples: Iterator[Sample]
    tally: Tally = field(default_factory=Tally)
    total: int | None = None
    render: bool = False
    caveat: str = ""


class Source(Protocol):
    """The two names a source module has."""

    Options: Any

    def read(self, inputs: Sequence[Path], options: Any, request: Request) -> Reading: ...


def source_module(name: str) -> Source:
    """The module of a dataset by its command-line name; ValueError when there is none."""
    if name not in SOURCES:
        raise ValueError(f"unknown source {name!r}: want one of {', '.join(sorted(SOURCES))}")
    return cast(Source, import_module(f"{__name__}.{SOURCES[name]}"))
