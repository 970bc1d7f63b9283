"""Human3.6M as it is distributed, small: data_3d_h36m.npz, the h5 tree and metadata.xml of synthetic poses."""

import math
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

# the 300 numbers of the release's metadata.xml
W0 = (Path(__file__).parent / "h36m_w0.txt").read_text()
CAMERAS = ("54138969", "55011271", "58860488", "60457274")
# raw joint -> x, y, z mm of a person standing in the middle, facing -y, left hand at +x
STANDING = {
    0: (0, 0, 950), 1: (-130, 0, 950), 2: (-140, 20, 500), 3: (-150, 60, 60), 6: (130, 0, 950), 7: (140, 10, 500),
    8: (150, 70, 60), 12: (0, 10, 1200), 13: (0, 20, 1450), 14: (0, -80, 1550), 15: (0, -10, 1680),
    17: (170, 20, 1430), 18: (420, 0, 1400), 19: (650, -60, 1390), 25: (-170, 20, 1430), 26: (-200, 40, 1150),
    27: (-210, -90, 920),
}  # fmt: skip
KEPT = tuple(STANDING)


def walk(frames: int, phase: float = 0.0) -> np.ndarray:
    """[F, 32, 3] float64 mm of somebody who walks in a circle; the joints nobody keeps are far away."""
    joints = np.full((frames, 32, 3), 7000.0)
    for frame in range(frames):
        angle = phase + 0.1 * frame
        for joint, (x, y, z) in STANDING.items():
            joints[frame, joint] = (
                x * math.cos(angle) - y * math.sin(angle) + 600 * math.cos(angle),
                x * math.sin(angle) + y * math.cos(angle) + 600 * math.sin(angle),
                z + 10 * math.sin(3 * angle + joint),
            )
    return joints


Takes = dict[tuple[str, str], np.ndarray]


def write_npz_3d(path: Path, takes: Takes) -> Path:
    """VideoPose3D's data_3d_h36m.npz; takes: subject and action -> [F, 32, 3] mm."""
    table: dict[str, dict[str, np.ndarray]] = {}
    for (subject, action), joints in takes.items():
        table.setdefault(subject, {})[action] = (joints / 1000).astype(np.float32)
    np.savez_compressed(path, positions_3d=np.array(table, dtype=object))
    return path


def write_npz_2d(
    path: Path, points: dict[tuple[str, str], Sequence[np.ndarray]], left: Sequence[int], right: Sequence[int]
) -> Path:
    """VideoPose3D's data_2d_h36m_*.npz; points: subject and action -> [F, J, 2] px for each camera."""
    table: dict[str, dict[str, list[np.ndarray]]] = {}
    for (subject, action), cameras in points.items():
        table.setdefault(subject, {})[action] = [array.astype(np.float32) for array in cameras]
    metadata = {"num_joints": len(left) + len(right), "keypoints_symmetry": [list(left), list(right)]}
    np.savez_compressed(path, positions_2d=np.array(table, dtype=object), metadata=np.array(metadata, dtype=object))
    return path


def write_tree(root: Path, takes: Takes) -> Path:
    """The 3D part of Martinez' tree."""
    for (subject, action), joints in takes.items():
        folder = root / subject / "MyPoses" / "3D_positions"
        folder.mkdir(parents=True, exist_ok=True)
        rows = joints.reshape(len(joints), 96).T
        with h5py.File(folder / f"{action}.h5", "w") as file:
            file["3D_positions"] = rows
    return root


def write_h5(path: Path, key: str, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file[key] = array
    return path


def write_metadata(folder: Path, w0: str | None = None) -> Path:
    """metadata.xml, of which the cameras alone are read."""
    path = folder / "metadata.xml"
    numbers = "[" + " ".join(W0.split()) + "]" if w0 is None else w0
    path.write_text(
        "<dbcameras>\n<index2id>\n<c1>54138969</c1>\n</index2id>\n"
        f"</dbcameras>\n<w0>{numbers}</w0>\n<mapping></mapping>\n"
    )
    return path
