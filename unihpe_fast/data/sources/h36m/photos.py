"""Where the frames of Human3.6M's videos are, in the folders that the known tools write them to."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.untrusted import photo_path
from unihpe_fast.data.sources.h36m.takes import Take, released_actions

# of one take and camera, e.g. base S9_Directions_1.60457274; the frame number that follows is 1-based, six digits
_NAMES = (
    "{base}",  # SPIN
    "{subject}/{base}/{base}",  # mmpose, PARE
    "{subject}/images/{base}/{base}",  # mmhuman3d
)
LAYOUTS = (*_NAMES, *(f"images/{name}" for name in _NAMES))


def frame_photos(root: Path, take: Take, camera_id: str, frames: Iterable[int]) -> Callable[[int], Path] | None:
    """A function from the 0-based frame to its file; None where no file is there for the first of `frames`."""
    first = next(iter(frames), None)
    if first is None:
        return None
    for action in released_actions(take.action):
        base = f"{take.subject}_{action.replace(' ', '_')}.{camera_id}"
        for layout in LAYOUTS:
            prefix = layout.format(base=base, subject=take.subject)
            if _photo(root, prefix, take.where, first).is_file():
                return partial(_photo, root, prefix, take.where)
    return None


def no_photos(root: Path, take: Take, camera_id: str) -> SourceError:
    """The error for a root in which no take has photographs."""
    base = f"{take.subject}_{take.action.replace(' ', '_')}.{camera_id}"
    names = ", ".join(f"{layout.format(base=base, subject=take.subject)}_000001.jpg" for layout in _NAMES)
    return SourceError(f"{root}: no photograph of any take; want names such as {names}, also under images/")


def _photo(root: Path, prefix: str, where: str, frame: int) -> Path:
    return photo_path(root, f"{prefix}_{frame + 1:06d}.jpg", where)
