"""Human3.6M's four cameras for each subject, from the table in this package or from the release's metadata.xml.

A point of the world (mm, Z up) is at `R (X - T)` in camera space. The lens distortion is that of data/camera.py.
"""

import json
import re
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from unihpe_fast.data.bounds import LARGEST_DISTORTION, LARGEST_FOCAL, LARGEST_MM, LARGEST_PX, LEAST_FOCAL
from unihpe_fast.data.camera import Camera
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.untrusted import read_bytes

# in the order of VideoPose3D's lists and of metadata.xml
CAMERA_IDS = ("54138969", "55011271", "58860488", "60457274")
SUBJECTS = tuple(f"S{number}" for number in range(1, 12))
METADATA_BYTES = 16 << 20

Rigs = dict[str, dict[str, Camera]]
"""subject -> camera id -> camera"""


@cache
def _table() -> dict:
    return json.loads(files(__package__).joinpath("cameras.json").read_text(encoding="utf-8"))


def packaged_cameras() -> Rigs:
    """The cameras of this package's table; those of S2, S3, S4 and S10 have no place in the world."""
    table = _table()
    rigs: Rigs = {}
    for subject in SUBJECTS:
        rigs[subject] = {}
        for camera_id in CAMERA_IDS:
            lens = table["intrinsics"][camera_id]
            parts = ("focal_length", "center", "radial_distortion", "tangential_distortion")
            vector = np.array([number for part in parts for number in lens[part]])
            place = table["extrinsics"].get(subject, {}).get(camera_id)
            if place is None:
                rigs[subject][camera_id] = _camera(subject, camera_id, vector, None, None)
            else:
                # camera to world, transposed
                rotation = quaternion_matrix(np.array(place["orientation"])).T
                rigs[subject][camera_id] = _camera(subject, camera_id, vector, rotation, np.array(place["translation"]))
    return rigs


def read_metadata(path: Path) -> Rigs:
    """The cameras of all 11 subjects by the element `w0` of a metadata.xml; SourceError where it is missing or broken.

    w0 is 300 numbers: for each camera and in it each subject three Euler angles (rad; rotation Rx Ry Rz, world to
    camera) and the place T (mm); then for each camera focal length, principal point (px), three radial and two
    tangential coefficients, these in the reverse of VideoPose3D's order.
    """
    # no XML parser: entities that expand without end cannot do harm to a pattern
    found = re.search(rb"<w0\s*>([^<]*)</w0>", read_bytes(path, METADATA_BYTES))
    if found is None:
        raise SourceError(f"{path}: no element w0, the cameras of Human3.6M's metadata.xml")
    words = re.findall(r"[^\s,;\[\]]+", found[1].decode("latin-1"))
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError as error:
        raise SourceError(f"{path}: w0: want numbers, {error}") from error
    if numbers.shape != (300,) or not np.isfinite(numbers).all():
        raise SourceError(f"{path}: w0: want 300 finite numbers, found {np.isfinite(numbers).sum()} of {len(numbers)}")
    places, lenses = numbers[:264].reshape(4, 11, 6), numbers[264:].reshape(4, 9)
    for what, values, least, most in (
        ("positive focal lengths in px", lenses[:, :2], LEAST_FOCAL, LARGEST_FOCAL),
        ("principal points in px", lenses[:, 2:4], -LARGEST_PX, LARGEST_PX),
        ("coefficients of distortion", lenses[:, 4:], -LARGEST_DISTORTION, LARGEST_DISTORTION),
        ("angles in rad", places[..., :3], -2 * np.pi, 2 * np.pi),
        ("places in mm", places[..., 3:], -LARGEST_MM, LARGEST_MM),
    ):
        outside = values[(values < least) | (values > most)]
        if len(outside):
            raise SourceError(f"{path}: w0: want {what} from {least:.3g} to {most:.3g}, found {outside[0]:.6g}")
    lenses = lenses[:, [0, 1, 2, 3, 4, 5, 6, 8, 7]]
    return {
        subject: {
            camera_id: _camera(subject, camera_id, lenses[c], euler_matrix(places[c, s, :3]), places[c, s, 3:])
            for c, camera_id in enumerate(CAMERA_IDS)
        }
        for s, subject in enumerate(SUBJECTS)
    }


def quaternion_matrix(q: np.ndarray) -> np.ndarray:
    """Rotation [3, 3] of a quaternion [4], w x y z, of any length but 0."""
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def euler_matrix(angles: np.ndarray) -> np.ndarray:
    """Rx Ry Rz [3, 3] of three angles in rad."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def _camera(
    subject: str, camera_id: str, vector: np.ndarray, rotation: np.ndarray | None, place: np.ndarray | None
) -> Camera:
    lens = _table()["intrinsics"][camera_id]
    translation = None if rotation is None or place is None else -rotation @ place
    return Camera(f"{subject}.{camera_id}", vector, lens["width"], lens["height"], rotation, translation)
