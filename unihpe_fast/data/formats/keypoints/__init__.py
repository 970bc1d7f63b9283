"""2D keypoints as other programs save them: one module a program, recognised by what is in the files.

A module has `recognises(found)`, which looks at the beginning of a file or at the names in a folder, and
`read(found, options) -> Keypoints`, which raises SourceError naming file and place for what it cannot use. To add a
format, write the module and name it in `FORMATS`.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.keypoints.found import Found, look
from unihpe_fast.data.formats.keypoints.record import Keypoints, ReadOptions

# name on the command line -> module; asked in this order
FORMATS = {
    "openpose": "openpose",
    "alphapose": "alphapose",
    "mmpose": "mmpose",
    "coco": "coco_results",
    "mediapipe": "mediapipe",
    "deeplabcut": "deeplabcut",
    "sleap": "sleap",
    "videopose3d": "videopose3d",
    "trc": "trc",
    "lsp": "lsp",
    "yolo": "yolo",
}


def _module(name: str) -> ModuleType:
    return import_module(f"{__name__}.{FORMATS[name]}")


def recognise(path: Path) -> str | None:
    """The format of a file or folder of keypoints, None where it is none that is known; OSError where it is not there.

    A folder counts as one format by the most frequent kind of file in it.
    """
    found = look(path)
    return next((name for name in FORMATS if _has_files(found) and _module(name).recognises(found)), None)


def _has_files(found: Found) -> bool:
    return bool(found.files)


def read_keypoints(path: Path, options: ReadOptions | None = None, format: str | None = None) -> Keypoints:
    """The people in a file or folder of 2D keypoints.

    format: a name of FORMATS, which overrules what the content looks like. Raises SourceError naming the file,
    ValueError for a format that does not exist, OSError.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    found = look(path)
    if not _has_files(found):
        raise SourceError(f"{path}: must have files of keypoints in it, got an empty folder")
    name = format or recognise(path)
    if name is None:
        raise SourceError(f"{path}: must be keypoints in one of the formats {', '.join(FORMATS)}, got none of them")
    if found.folder and format is not None and not _module(name).recognises(found):
        raise SourceError(f"{path}: must be {name}, got a folder whose files are not")
    return _module(name).read(found, options or ReadOptions())
