"""One person, who stands before cameras that are pitched and rolled, and looks alike to all of them once levelled."""

from collections.abc import Iterator

import numpy as np

from tests.support.people import H36M_CAMERA, SIZE, pixels_of, sample, standing_person
from unihpe_fast.data.camera import Camera
from unihpe_fast.data.records import Sample

# the axes of a levelled camera (x right, y down, z ahead) in a world with Z up
_LEVEL_TO_WORLD = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


def turn(axis: int, angle: float) -> np.ndarray:
    """[3, 3] about one of the axes, radians."""
    one, two = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[[one, two], [one, two]] = np.cos(angle)
    matrix[one, two], matrix[two, one] = -np.sin(angle), np.sin(angle)
    return matrix


def tilted(count: int, *, seed: int = 0, known: bool = True) -> Iterator[Sample]:
    """Samples without pictures. known: the cameras' rotations are given."""
    rng = np.random.default_rng(seed)
    for frame in range(count):
        to_camera = turn(2, rng.uniform(-0.6, 0.6)) @ turn(0, rng.uniform(-0.7, 0.7))
        rotation = to_camera @ (turn(2, rng.uniform(-3, 3)) @ _LEVEL_TO_WORLD).T
        joints = standing_person() @ to_camera.T + [100, -50, 5000]
        camera = Camera(str(frame), H36M_CAMERA, *SIZE, *((rotation, np.zeros(3)) if known else ()))
        keypoints = np.concatenate([pixels_of(joints), np.ones((17, 1))], axis=1)
        low, high = keypoints[:, :2].min(0), keypoints[:, :2].max(0)
        yield sample(
            rng,
            frame=frame,
            camera=camera,
            joints_3d=np.concatenate([joints, np.ones((17, 1))], axis=1),
            keypoints_2d=keypoints,
            bbox=np.array([*(low + high) / 2, 1.25 * (high - low).max()]),
        )
