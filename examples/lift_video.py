"""Lift the 2D keypoints of a video to 3D, and write them as files that other programs read.

python examples/lift_video.py [KEYPOINTS] [OUT]

KEYPOINTS: any file that `python -m unihpe_fast.predict` takes; examples/walk.json where it is not given.
"""

import sys
from pathlib import Path

import numpy as np

from unihpe_fast import Prediction, Predictor
from unihpe_fast.data.formats.keypoints import read_keypoints
from unihpe_fast.outputs import bvh, csv, npz


def main(keypoints: str = "examples/walk.json", out: str = "build/lifted") -> Prediction:
    found = read_keypoints(Path(keypoints))
    print(f"{len(found)} people in {len(set(found.frame.tolist()))} frames, {len(found.names)} keypoints each")
    # the model that comes with the package; gaps are filled and jitter is taken out as in the command
    lifted = Predictor().keypoints(found, source=keypoints, size=(1280, 720), fps=30, smooth=6.0, max_gap=10)

    pelvis, neck = lifted.joint_names.index("pelvis"), lifted.joint_names.index("thorax")
    trunk = np.linalg.norm(lifted.joints_3d[:, neck] - lifted.joints_3d[:, pelvis], axis=-1)
    path = np.linalg.norm(np.diff(lifted.root[lifted.person == lifted.person[0]], axis=0), axis=-1).sum()
    print(f"the trunk is {trunk.mean():.0f} mm long, within {trunk.std():.0f} mm; the first person goes {path:.0f} mm")

    target = Path(out) / Path(keypoints).stem
    written = npz.write(lifted, target.with_suffix(".npz"))  # unihpe_fast.outputs.npz.read reads it
    written += csv.write(lifted, target.with_suffix(".csv"))  # spreadsheets
    written += bvh.write(lifted, target.with_suffix(".bvh"))  # Blender, a file a person
    print("written:", ", ".join(map(str, written)))
    return lifted


if __name__ == "__main__":
    main(*sys.argv[1:])
