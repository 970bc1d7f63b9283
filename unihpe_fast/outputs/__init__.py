"""Files that predictions are written to: a module a format, `write(prediction, path) -> written files`.

A writer writes its file whole or not at all and returns the paths: one, or one a person where the format holds one
person. It raises OutputError where this prediction cannot be such a file (a motion of photographs), and whoever asked
says so and goes on. Formats that draw on the pictures take them as a third argument, None where there are none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from unihpe_fast.prediction import Prediction


class OutputError(ValueError):
    """A prediction that cannot be written in the format that was asked for; the message says why."""


class Pictures(Protocol):
    """The pictures of a prediction: frame, source and uint8 RGB [H, W, 3] of each, in order, as often as asked."""

    def __iter__(self) -> Iterator[tuple[int, str, np.ndarray]]: ...


@dataclass(frozen=True)
class Format:
    """suffix: of its files. module: in this package. pictures: its `write` takes the pictures too."""

    suffix: str
    module: str
    pictures: bool = False


FORMATS: dict[str, Format] = {
    "npz": Format(".npz", "npz"),
    "csv": Format(".csv", "csv"),
    "json": Format(".json", "json"),
    "trc": Format(".trc", "trc"),
    "bvh": Format(".bvh", "bvh"),
    "c3d": Format(".c3d", "c3d"),
    "rrd": Format(".rrd", "rrd"),
    "html": Format(".html", "viewer", pictures=True),
    # .png of photographs, .mp4 of a video
    "overlay": Format("_overlay", "overlay", pictures=True),
}
# what a call without formats writes
DEFAULT = ("npz", "csv", "json", "html", "overlay")


def write(prediction: Prediction, stem: Path, name: str, pictures: Pictures | None = None) -> list[Path]:
    """Write a prediction as STEM.suffix in the format `name`; returns the files.

    Raises OutputError for a format that does not exist or that this prediction has no file in; OSError.
    """
    if name not in FORMATS:
        raise OutputError(f"format must be one of {', '.join(FORMATS)}, got {name!r}")
    form = FORMATS[name]
    module = import_module(f"{__name__}.{form.module}")
    # with_suffix would cut "clip.1" short
    path = stem.with_name(stem.name + form.suffix)
    flat = prediction.flat()
    return module.write(flat, path, pictures) if form.pictures else module.write(flat, path)


def person_paths(path: Path, people: list[int]) -> dict[int, Path]:
    """The file of each person: `path` itself for one, with _personN before the suffix for several."""
    if len(people) == 1:
        return {people[0]: path}
    return {person: path.with_name(f"{path.stem}_person{person}{path.suffix}") for person in people}
