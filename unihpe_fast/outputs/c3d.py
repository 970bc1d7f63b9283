"""C3D marker files by ezc3d (an extra): mm, Y up, all people in one file; missing markers are invalid points."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from unihpe_fast.fileio import atomic_path
from unihpe_fast.outputs import OutputError
from unihpe_fast.outputs.motion import motions
from unihpe_fast.prediction import Prediction

# the header keeps frame numbers in 16 bits
_MOST_FRAMES = 65_535


def write(prediction: Prediction, path: Path) -> list[Path]:
    """One file; with several people, markers are called person0_pelvis and so on. Pelves are in the origin."""
    try:
        import ezc3d
    except ImportError as error:
        raise OutputError(f"{path}: C3D must have ezc3d to be written: pip install 'unihpe-fast[c3d]'") from error
    people = motions(prediction, path)
    first = min(motion.first for motion in people.values())
    count = max(motion.first + len(motion.joints) for motion in people.values()) - first
    if count > _MOST_FRAMES:
        raise OutputError(f"{path}: C3D must have at most {_MOST_FRAMES} frames, got {count}")
    several = len(people) > 1
    labels, points = [], np.full((4, len(people) * len(prediction.joint_names), count), np.nan)
    for index, (person, motion) in enumerate(people.items()):
        labels += [f"person{person}_{name}" if several else name for name in prediction.joint_names]
        start = motion.first - first
        where = slice(index * len(prediction.joint_names), (index + 1) * len(prediction.joint_names))
        points[:3, where, start : start + len(motion.joints)] = motion.joints.transpose(2, 1, 0)
    points[3] = 1
    file = ezc3d.c3d()
    file["header"]["points"]["first_frame"] = first
    file["parameters"]["POINT"]["RATE"]["value"] = [next(iter(people.values())).rate]
    file["parameters"]["POINT"]["LABELS"]["value"] = labels
    file["parameters"]["POINT"]["UNITS"]["value"] = ["mm"]
    file["data"]["points"] = points
    # its writer takes no name that does not end in .c3d
    with TemporaryDirectory() as folder, atomic_path(path) as temporary:
        written = Path(folder) / "points.c3d"
        file.write(str(written))
        temporary.write_bytes(written.read_bytes())
    return [path]
