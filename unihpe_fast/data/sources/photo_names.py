"""Photographs by the names that annotations give them: who, what and when, and in which of the usual folders."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unihpe_fast.data.sources.h36m.takes import RENAMED


@dataclass(frozen=True)
class Origin:
    """The fields of a Sample that a photograph's name tells, and the dataset; empty and 0 where it does not."""

    subject: str = ""
    action: str = ""
    camera_id: str = ""
    frame: int = 0
    dataset: str = field(default="", compare=False)


_FOLDERS, _FRAME = r"(?:.*/)?", r"(?P<frame>\d+)\.\w+"
HUMAN36M, MPI_INF_3DHP = "Human3.6M", "MPI-INF-3DHP"
# each with the number of its first frame; Human3.6M is flat in SPIN's files, in folders in others', and MPI-INF-3DHP in
# folders in SPIN's, flat in mmpose's
_NAMES = tuple(
    (re.compile(_FOLDERS + pattern + _FRAME), first, dataset)
    for pattern, first, dataset in (
        (r"(?P<subject>S\d+)_(?P<action>[A-Za-z]+(?:[_ ]\d+)?)\.(?P<camera>\d{8})_", 1, HUMAN36M),
        (r"(?P<subject>S\d+)/(?P<action>Seq\d+)/(?:.*/)?video_(?P<camera>\d+)[/_]\D*", 1, MPI_INF_3DHP),
        (r"(?P<subject>S\d+)_(?P<action>Seq\d+)_Cam(?P<camera>\d+)_", 1, MPI_INF_3DHP),
        (r"(?P<subject>TS[1-6])/(?:.*/)?img_", 1, MPI_INF_3DHP),
        (r"(?P<subject>TS[1-6])_", 1, MPI_INF_3DHP),
        (r"imageFiles/(?P<subject>[^/]+)/image_", 0, "3DPW"),
    )
)
# of a path, on any system
_LONGEST = 4096
# photographs that are looked for before a folder is taken to be another one
_TRIED = 64


def origin(name: str) -> Origin:
    """What the name of a photograph of Human3.6M, MPI-INF-3DHP (training or test set) or 3DPW says, on any system.

    The frame is 0-based. Human3.6M's actions are spelt as VideoPose3D does, the take after a space: "Walking 1".
    """
    if len(name) > _LONGEST:
        return Origin()
    name = name.replace("\\", "/")
    for pattern, first, dataset in _NAMES:
        if match := pattern.fullmatch(name):
            found = match.groupdict()
            # more digits are no frame number
            frame = int(found["frame"][-15:]) - first
            action, _, take = found.get("action", "").replace("_", " ").partition(" ")
            action = " ".join(filter(None, (RENAMED.get(action, action), take)))
            return Origin(found["subject"], action, found.get("camera", ""), max(frame, 0), dataset)
    return Origin()


def found_layout(layouts: Sequence[str], count: int, path_of: Callable[[str, int], Path]) -> str:
    """The first of the `layouts` by which one of the first photographs is a file; layouts[0] where none is.

    layouts: format strings of a path, where the root says first. count: how many photographs there are. path_of: the
    path by a layout of the photograph with this number.
    """
    rows = range(min(count, _TRIED))
    return next((layout for layout in layouts if any(path_of(layout, row).is_file() for row in rows)), layouts[0])
