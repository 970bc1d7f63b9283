"""Made-up cameras around a motion-capture clip, like those of Human3.6M's studio."""

import math

import numpy as np
import torch

from unihpe_fast.data.camera import Camera, look_at, pinhole

# Human3.6M's four cameras: focal lengths 1143-1149 px, 1000 x 1002 or 1000 x 1000 px
FOCAL = 1146.0
FOCAL_JITTER = 6.0
CENTER_JITTER = 12.0  # px of the principal point
WIDTH = 1000
HEIGHTS = (1002, 1000)
DISTANCE = (4000.0, 6000.0)  # mm from the middle of the capture area
MAX_DISTANCE = 8000.0
EYE_HEIGHT = (1200.0, 2000.0)  # mm above the floor
TARGET_JITTER = 150.0  # mm, standard deviation
ROLL_JITTER = math.radians(1.5)


def intrinsics(rng: np.random.Generator, height: int) -> np.ndarray:
    """Camera vector [9] of a Human3.6M-like camera without lens distortion."""
    vector = pinhole(FOCAL + FOCAL_JITTER * rng.uniform(-1, 1), WIDTH, height)
    # both focal lengths of a camera are nearly one
    vector[1] += rng.uniform(-1, 1)
    vector[2:4] += CENTER_JITTER * rng.uniform(-1, 1, 2)
    return vector


def camera_rig(joints: np.ndarray, views: int, rng: np.random.Generator, name: str) -> list[Camera]:
    """`views` cameras spread evenly around a clip, from a random bearing on, looking at its middle with some jitter.

    joints: [F, 17, 3] mm, world with Z up and the floor at 0. A camera stands 4-6 m away, or farther, up to 8 m, where
    nine tenths of the frames would not fit its image otherwise. Camera k is called `name`_ck.
    """
    # middle of the extent, so that a long walk is centred whatever its speed
    low, high = np.quantile(joints.reshape(-1, 3), [0.01, 0.99], axis=0)
    middle = (low + high) / 2
    reach = np.quantile(np.linalg.norm(joints[..., :2] - middle[:2], axis=-1).max(-1), 0.9)
    fits = reach * FOCAL / (0.45 * WIDTH)
    start = rng.uniform(0, 2 * math.pi)
    cameras = []
    for k in range(views):
        height = HEIGHTS[k % len(HEIGHTS)]
        vector = intrinsics(rng, height)
        bearing = start + 2 * math.pi * (k + rng.uniform(-0.2, 0.2)) / views
        distance = min(max(rng.uniform(*DISTANCE), fits), MAX_DISTANCE)
        eye = np.array(
            [
                middle[0] + distance * math.cos(bearing),
                middle[1] + distance * math.sin(bearing),
                rng.uniform(*EYE_HEIGHT),
            ]
        )
        target = middle + TARGET_JITTER * rng.standard_normal(3)
        roll = ROLL_JITTER * rng.standard_normal()
        rotation, translation = look_at(torch.from_numpy(eye), torch.from_numpy(target), float(roll))
        cameras.append(Camera(f"{name}_c{k}", vector, WIDTH, height, rotation.numpy(), translation.numpy()))
    return cameras
