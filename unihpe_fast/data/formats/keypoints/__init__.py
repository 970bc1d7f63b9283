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
# those of which the files of a folder are the frames or pictures of one input; of the others each file is one
OF_FOLDERS = ("openpose", "mmpose", "yolo")


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
    if found.folder and name not in OF_FOLDERS and len(found.alike) > 1:
        listed = ", ".join(file.name for file in found.alike[:3])
        raise SourceError(f"{path}: must be one file of {name}, got a folder of {len(found.alike)}: {listed} ..")
    return _module(name).read(found, options or ReadOptions())


def split(path: Path, format: str | None = None) -> tuple[list[Path], list[Path]]:
    """What is an input of its own of a folder of keypoints, and the files in it that are none.

    The folder itself where its files are frames; else its files. A file or another folder is one as it is. OSError.
    """
    found = look(path)
    name = format or recognise(path)
    if not found.folder or name is None or name in OF_FOLDERS or len(found.alike) < 2:
        return [path], []
    files = [file for listed in found.files.values() for file in listed]
    known = [file for file in files if (file in found.alike if format else recognise(file) is not None)]
    return known, [file for file in files if file not in known]
