"""VideoPose3D's custom npz: `positions_2d`, a dict of videos, and `metadata` with the layout's name and the sizes."""

from typing import Any

import numpy as np

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.keypoints.found import Found
from unihpe_fast.data.formats.keypoints.record import Keypoints, People, ReadOptions
from unihpe_fast.data.formats.npz import open_npz
from unihpe_fast.data.formats.untrusted import checked
from unihpe_fast.data.joint_sets import KEYPOINT_NAMES

_LAYOUTS = {"coco": "coco17", "h36m": "h36m17", "mpii": "mpii16"}


def recognises(found: Found) -> bool:
    if found.suffix != ".npz":
        return False
    try:
        return "positions_2d" in open_npz(found.first).keys
    except SourceError:
        return False


def read(found: Found, options: ReadOptions) -> Keypoints:
    """The videos one after another; each video, and each of its cameras, is a person of its own. No confidences."""
    npz = open_npz(found.first)
    positions = npz.object("positions_2d")
    metadata = npz.object("metadata") if "metadata" in npz.keys else {}
    if not isinstance(positions, dict) or not isinstance(metadata, dict):
        raise SourceError(f"{found.path}: positions_2d and metadata must be dicts")
    layout = _LAYOUTS.get(str(metadata.get("layout_name", "coco")))
    if layout is None:
        raise SourceError(
            f"{found.path}: layout_name must be one of {', '.join(_LAYOUTS)}, got {metadata['layout_name']!r}"
        )
    sizes = metadata.get("video_metadata", {})
    people = People(found.path)
    frames = 0
    for index, (video, name, array) in enumerate(_arrays(positions, found.path)):
        where = f"positions_2d: {name}"
        joints = checked(array, ("F", "K", "2 or 3"), f"{found.path}: {where}", "fiu")
        if joints.shape[2] not in (2, 3):
            raise SourceError(f"{found.path}: {where}: must be [F, K, 2], got {list(joints.shape)}")
        whole = np.ones((*joints.shape[:2], 3))
        whole[..., : joints.shape[2]] = joints
        whole[(whole[..., :2] == 0).all(-1) | ~np.isfinite(whole).all(-1)] = 0
        for frame, row in enumerate(whole):
            people.add(row, frame, f"{where}, frame {frame}", person=index, picture=video, size=_size(sizes, video))
        frames = max(frames, len(whole))
    names = KEYPOINT_NAMES[layout]
    if people.rows and len(people.rows[0]) != len(names):
        raise SourceError(f"{found.path}: {layout} must have {len(names)} keypoints, got {len(people.rows[0])}")
    # two videos are no frames of one
    return people.finished(options, frames=frames, names=names, sequence=len(set(people.picture)) <= 1)


def _arrays(positions: dict[Any, Any], path: object) -> Any:
    for video, actions in positions.items():
        if not isinstance(actions, dict):
            raise SourceError(f"{path}: positions_2d: {video}: must be a dict of actions, got {type(actions).__name__}")
        for action, cameras in actions.items():
            listed = cameras if isinstance(cameras, list | tuple) else [cameras]
            for number, array in enumerate(listed):
                if not isinstance(array, np.ndarray):
                    raise SourceError(f"{path}: positions_2d: {video}: {action}: must be arrays, got {array!r:.40}")
                yield str(video), f"{video}, {action}, {number}", array


def _size(sizes: Any, video: str) -> tuple[int, int]:
    of_video = sizes.get(video, {}) if isinstance(sizes, dict) else {}
    sides = (of_video.get("w"), of_video.get("h")) if isinstance(of_video, dict) else (None, None)
    if all(isinstance(side, int | np.integer) and 0 < side < 1 << 20 for side in sides):
        return int(sides[0]), int(sides[1])  # type: ignore[arg-type]
    return 0, 0
