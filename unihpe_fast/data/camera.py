"""Pinhole cameras with Human3.6M's lens distortion, as one flat vector a camera.

A camera is `[fx, fy, cx, cy, k1, k2, k3, q0, q1]` (pixels; the k and q have no unit). `q` is the tangential pair in
VideoPose3D's order; Human3.6M's raw metadata has it reversed. Camera space is x right, y down, z forward, in mm.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CAMERA_SIZE = 9


@dataclass(frozen=True)
class Camera:
    """One row of a prepared file's camera table.

    vector: float64 [9], see the module; rotation [3, 3] and translation [3] mm take world to camera
    (`x_cam = rotation @ x_world + translation`) and are None where the dataset does not give them.
    """

    name: str
    vector: np.ndarray
    width: int
    height: int
    rotation: np.ndarray | None = None
    translation: np.ndarray | None = None


def pinhole(focal: float, width: int, height: int) -> np.ndarray:
    """Camera vector [9] without distortion, principal point in the middle of a width x height px image."""
    return np.array([focal, focal, width / 2, height / 2, 0, 0, 0, 0, 0], dtype=np.float64)


def unknown_camera(width: int, height: int) -> Camera:
    """The camera of images of which only the size in px is known."""
    return Camera(f"{width}x{height}", np.full(CAMERA_SIZE, np.nan), width, height)


def project(points: Tensor, camera: Tensor) -> Tensor:
    """Pixels of camera-space points, by Human3.6M's own distortion model (not OpenCV's).

    points: [..., J, 3] mm, z > 0. camera: [..., 9], broadcast over J. Returns [..., J, 2] px of the full image, in the
    dtype of the arguments. Source: the camera model of the Human3.6M release as used by VideoPose3D.
    """
    camera = camera.unsqueeze(-2)
    focal, center, radial, tangential = camera.split([2, 2, 3, 2], dim=-1)
    u = (points[..., :2] / points[..., 2:]).clamp(-1, 1)
    r2 = u.square().sum(-1, keepdim=True)
    powers = torch.cat([r2, r2 * r2, r2 * r2 * r2], dim=-1)
    factor = 1 + (radial * powers).sum(-1, keepdim=True) + (tangential * u).sum(-1, keepdim=True)
    return focal * (u * factor + tangential * r2) + center


def look_at(eye: Tensor, target: Tensor, roll: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Rotation [..., 3, 3] and translation [..., 3] from a world with Z up to a camera at `eye` that faces `target`.

    eye, target: [..., 3] mm. roll: [...] radians, how far the camera is turned clockwise about its viewing axis, seen
    from behind. Raises ValueError where the camera would look straight up or down.
    """
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=eye.dtype, device=eye.device).expand_as(forward)
    across = torch.linalg.cross(forward, up)
    if not bool((across.norm(dim=-1) > 1e-6).all()):
        raise ValueError("look_at: the camera is at its target or looks straight up or down")
    right = torch.nn.functional.normalize(across, dim=-1)
    down = torch.linalg.cross(forward, right)
    angle = torch.as_tensor(roll, dtype=eye.dtype, device=eye.device)[..., None]
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([cos * right + sin * down, cos * down - sin * right, forward], dim=-2)
    return rotation, -(rotation @ eye[..., None])[..., 0]
