"""What a file or folder looks like, read once for all readers to recognise it by."""

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.json_records import records
from unihpe_fast.data.formats.keypoints.record import natural

_HEAD = 1 << 16
# suffixes of photographs
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Found:
    """path: what the user named. folder: it is one. files: the files in it by suffix, or itself, in natural order."""

    path: Path
    folder: bool
    files: dict[str, list[Path]] = field(default_factory=dict)

    @property
    def first(self) -> Path:
        """The file to look into: the first of the most frequent kind."""
        return self.alike[0] if self.files else self.path

    @property
    def alike(self) -> list[Path]:
        """The files of the most frequent kind."""
        return max(self.files.values(), key=len, default=[])

    @property
    def suffix(self) -> str:
        return self.first.suffix.lower()

    @cached_property
    def head(self) -> str:
        """The first characters of the first file; bytes that are no UTF-8 are replaced."""
        with self.first.open("rb") as file:
            return file.read(_HEAD).decode("utf-8-sig", errors="replace")

    @cached_property
    def is_json(self) -> bool:
        return self.suffix == ".json" or self.head.lstrip()[:1] in ("{", "[")

    @cached_property
    def keys(self) -> frozenset[str]:
        """Names of members of objects near the beginning of a JSON file, at any depth."""
        return frozenset(re.findall(r'"([A-Za-z_]\w*)"\s*:', self.head)) if self.is_json else frozenset()

    @cached_property
    def record(self) -> Any:
        """The first element of a JSON file that is one array, None for others."""
        if not self.is_json or self.head.lstrip()[:1] != "[":
            return None
        try:
            return next((value for name, _, value in records(self.first, constants=True) if not name), None)
        except SourceError:
            return None


def look(path: Path) -> Found:
    """What is at the path; OSError where there is nothing."""
    if not path.is_dir():
        path.stat()
        return Found(path, False, {path.suffix.lower(): [path]})
    files: dict[str, list[Path]] = {}
    for file in natural(p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")):
        files.setdefault(file.suffix.lower(), []).append(file)
    # programs leave their drawings beside the keypoints
    others = {suffix: listed for suffix, listed in files.items() if suffix not in PICTURES}
    return Found(path, True, others or files)
