"""Who, what and when, from the names that the published datasets give their photographs."""

import re
from dataclasses import dataclass

from unihpe_fast.data.sources.h36m.takes import RENAMED


@dataclass(frozen=True)
class Origin:
    """The fields of a Sample that a photograph's name tells; empty and 0 where it does not."""

    subject: str = ""
    action: str = ""
    camera_id: str = ""
    frame: int = 0


_FOLDERS, _FRAME = r"(?:.*/)?", r"(?P<frame>\d+)\.\w+"
# each with the number of its first frame; Human3.6M is flat in SPIN's files, in folders in others'
_NAMES = tuple(
    (re.compile(_FOLDERS + pattern + _FRAME), first)
    for pattern, first in (
        (r"(?P<subject>S\d+)_(?P<action>[A-Za-z]+(?:[_ ]\d+)?)\.(?P<camera>\d{8})_", 1),
        (r"(?P<subject>S\d+)/(?P<action>Seq\d+)/(?:.*/)?video_(?P<camera>\d+)[/_]\D*", 1),
        (r"(?P<subject>TS[1-6])/(?:.*/)?img_", 1),
        (r"imageFiles/(?P<subject>[^/]+)/image_", 0),
    )
)
# of a path, on any system
_LONGEST = 4096


def origin(name: str) -> Origin:
    """What the name of a photograph of Human3.6M, MPI-INF-3DHP (training or test set) or 3DPW says.

    The frame is 0-based. Human3.6M's actions are spelt as VideoPose3D does, the take after a space: "Walking 1".
    """
    if len(name) > _LONGEST:
        return Origin()
    for pattern, first in _NAMES:
        if match := pattern.fullmatch(name):
            found = match.groupdict()
            # more digits are no frame number
            frame = int(found["frame"][-15:]) - first
            action, _, take = found.get("action", "").replace("_", " ").partition(" ")
            action = " ".join(filter(None, (RENAMED.get(action, action), take)))
            return Origin(found["subject"], action, found.get("camera", ""), max(frame, 0))
    return Origin()
