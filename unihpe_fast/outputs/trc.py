"""TRC marker files (OpenSim, Blender, Mokka): m, Y up, a file a person; cells of missing frames are empty."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unihpe_fast.fileio import write_lines
from unihpe_fast.outputs import person_paths
from unihpe_fast.outputs.motion import Motion, motions
from unihpe_fast.prediction import Prediction


def write(prediction: Prediction, path: Path) -> list[Path]:
    """A file a person, the pelvis in the origin. Frames are numbered from 1, as the format wants."""
    people = motions(prediction, path)
    paths = person_paths(path, list(people))
    for person, motion in people.items():
        write_lines(paths[person], _lines(motion, prediction.joint_names, paths[person].name))
    return list(paths.values())


def _lines(motion: Motion, names: tuple[str, ...], name: str) -> Iterator[str]:
    count, rate = len(motion.joints), f"{motion.rate:.6g}"
    yield from [
        f"PathFileType\t4\t(X/Y/Z)\t{name}",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
        f"{rate}\t{rate}\t{count}\t{len(names)}\tm\t{rate}\t{motion.first + 1}\t{count}",
        "Frame#\tTime\t" + "\t\t\t".join(names) + "\t\t",
        "\t\t" + "\t".join(f"X{n}\tY{n}\tZ{n}" for n in range(1, len(names) + 1)),
        "",
    ]
    for row, millimetres in enumerate(motion.joints):
        frame = motion.first + row
        cells = ["" if np.isnan(value) else f"{value:.6f}" for value in millimetres.ravel() / 1000]
        yield "\t".join([str(frame + 1), f"{frame / motion.rate:.6f}", *cells])
