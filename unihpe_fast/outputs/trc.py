"""TRC marker files (OpenSim, Blender, Mokka): m, Y up, a file a person; cells of missing frames are empty."""

from pathlib import Path

import numpy as np

from unihpe_fast.fileio import write_text
from unihpe_fast.outputs import person_paths
from unihpe_fast.outputs.motion import Motion, motions
from unihpe_fast.prediction import Prediction


def write(prediction: Prediction, path: Path) -> list[Path]:
    """A file a person, the pelvis in the origin. Frames are numbered from 1, as the format wants."""
    people = motions(prediction, path)
    paths = person_paths(path, list(people))
    for person, motion in people.items():
        write_text(paths[person], _text(motion, prediction.joint_names, paths[person].name))
    return list(paths.values())


def _text(motion: Motion, names: tuple[str, ...], name: str) -> str:
    count, rate = len(motion.joints), f"{motion.rate:.6g}"
    lines = [
        f"PathFileType\t4\t(X/Y/Z)\t{name}",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
        f"{rate}\t{rate}\t{count}\t{len(names)}\tm\t{rate}\t{motion.first + 1}\t{count}",
        "Frame#\tTime\t" + "\t\t\t".join(names) + "\t\t",
        "\t\t" + "\t".join(f"X{n}\tY{n}\tZ{n}" for n in range(1, len(names) + 1)),
        "",
    ]
    for row, joints in enumerate(motion.joints / 1000):
        frame = motion.first + row
        cells = ["" if np.isnan(value) else f"{value:.6f}" for value in joints.ravel()]
        lines.append("\t".join([str(frame + 1), f"{frame / motion.rate:.6f}", *cells]))
    return "\n".join(lines) + "\n"
