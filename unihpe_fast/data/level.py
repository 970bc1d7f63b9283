"""The levelled camera: a camera's frame with its pitch and roll taken out, so that -y is the world's up."""

import numpy as np

from unihpe_fast.data.errors import StoreError
from unihpe_fast.data.store import Store

# the sine of the angle between the optical axis and the vertical, below which no heading can be told
_STEEPEST = 1e-3


def level_rotation(up: np.ndarray) -> np.ndarray:
    """[N, 3, 3] rotations from cameras' axes to those of the levelled cameras, for unit vectors to the sky [N, 3].

    y points down the vertical, z where the camera looks, laid on the ground, and x to its right: the gravity-view axes
    of GVHMR (Shen et al. 2024). A camera that rolls does not change them. NaN where `up` is, and for a camera that
    looks straight up or down.
    """
    # a camera's z is [0, 0, 1], of which the part along the vertical goes
    ahead = np.array([0.0, 0.0, 1.0]) - up[:, 2:] * up
    length = np.linalg.norm(ahead, axis=1, keepdims=True)
    ahead = np.where(length > _STEEPEST, ahead / np.maximum(length, _STEEPEST), np.nan)
    return np.stack([np.cross(-up, ahead), -up, ahead], axis=1)


def check_level(store: Store) -> None:
    """StoreError naming the file where a 3D pose has no levelled camera. Raises as Store does otherwise."""
    lacking = store.present[2] & np.isnan(level_rotation(store.up)).any((1, 2))
    if lacking.any():
        raise StoreError(
            f"{store.path}: cameras/rotation: must be known for every 3D pose, and not look straight up or down, for "
            f"--data.level, got {lacking.sum()} of {store.present[2].sum()} without, row {lacking.argmax()} the first"
        )
