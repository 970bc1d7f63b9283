"""What a user names to `predict`: keypoints, photographs, videos, a webcam; and the names of their results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unihpe_fast.data.formats.keypoints import FORMATS, recognise, split
from unihpe_fast.data.formats.keypoints.found import PICTURES
from unihpe_fast.data.formats.keypoints.record import natural

Kind = Literal["keypoints", "photos", "video", "webcam"]
VIDEOS = (
    ".mp4",
    ".mov",
    ".avi",
    ".mkv",
    ".webm",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".wmv",
    ".flv",
    ".3gp",
    ".ts",
    ".ogv",
    ".gif",
)
# of files that are keypoints or nothing
KEYPOINTS = (".json", ".csv", ".tsv", ".h5", ".hdf5", ".slp", ".npz", ".trc", ".mat", ".txt")


class InputError(ValueError):
    """Something that is no input; the message names it."""


@dataclass(frozen=True)
class Input:
    """name: as the user gave it. paths: the photographs, or the one file or folder. stem: what results are called."""

    name: str
    kind: Kind
    paths: tuple[Path, ...]
    stem: str


def find_all(name: str, *, format: str | None = None) -> tuple[list[Input], list[str]]:
    """The inputs that a command-line argument names, several where each file of a folder is one; and files left out.

    format: of keypoints, which it is known to be. Raises InputError or OSError.
    """
    one = find(name, keypoints=format is not None)
    if one.kind != "keypoints":
        return [one], []
    files, others = split(one.paths[0], format)
    if files == list(one.paths):
        return [one], []
    return [_keypoints(str(file), file) for file in files], [file.name for file in others]


def _keypoints(name: str, path: Path) -> Input:
    """Results of keypoints that `--save-keypoints` wrote are called as those of the video are."""
    stem = _stem(path)
    return Input(name, "keypoints", (path,), stem if path.is_dir() else stem.removesuffix("_keypoints") or "result")


def _stem(path: Path) -> str:
    """What results of a file or folder are called; "." and "/" have no name of their own."""
    return (path.resolve().name if path.is_dir() else path.stem) or "result"


def find(name: str, *, keypoints: bool = False) -> Input:
    """The file, folder or webcam that is named. keypoints: it is known to be those. Raises InputError or OSError."""
    path = Path(name)
    if name.isdecimal() and not path.exists():
        return Input(name, "webcam", (), f"webcam{name}")
    if not path.exists():
        raise InputError(f"{name}: input must be a file, a folder or the number of a webcam, got nothing there")
    stem = _stem(path)
    if keypoints:
        return _keypoints(name, path)
    if path.is_file() and path.suffix.lower() in PICTURES:
        return Input(name, "photos", (path,), stem)
    if path.is_file() and path.suffix.lower() in VIDEOS:
        return Input(name, "video", (path,), stem)
    if recognise(path) is not None:
        return _keypoints(name, path)
    if path.is_dir():
        # hidden files are no photographs: other systems leave some beside each
        shown = (p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        photos = natural(p for p in shown if p.suffix.lower() in PICTURES)
        if not photos:
            raise InputError(f"{name}: folder must have photographs or keypoint files, got none that are known")
        return Input(name, "photos", tuple(photos), stem)
    if path.suffix.lower() in KEYPOINTS:
        wanted = ", ".join(FORMATS)
        raise InputError(
            f"{name}: must be keypoints in one of the formats {wanted}, got none of them; --format says which"
        )
    # whatever else it is, the video reader knows, or says what is wrong
    return Input(name, "video", (path,), stem)


def distinct(inputs: list[Input]) -> list[Input]:
    """The same with stems that differ: a second one of a name gets _2."""
    taken: set[str] = set()
    result = []
    for item in inputs:
        stem, number = item.stem, 1
        while stem in taken:
            number += 1
            stem = f"{item.stem}_{number}"
        taken.add(stem)
        result.append(Input(item.name, item.kind, item.paths, stem))
    return result
