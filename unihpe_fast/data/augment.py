"""Training augmentation of whole batches, in float64, as pure functions of a numpy Generator.

Every change is made to the 2D joints, the 3D joints and the camera together, so that the augmented camera still
projects the augmented joints onto the augmented pixels exactly, lens distortion included.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from unihpe_fast.config import AugmentConfig
from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.camera import project
from unihpe_fast.data.skeleton import FLIP, LEFT, NUM_JOINTS, PARENTS, RIGHT, ROOT

# a joint nearer to the camera than this, mm, is not something a camera would have taken
NEAREST = 200.0


@dataclass(frozen=True)
class People:
    """N people in their full images; the arrays are float64 unless said otherwise.

    keypoints_2d: [N, 17, 3] px and confidence. joints_3d: [N, 17, 4] camera-space mm and validity. camera: [N, 9],
    NaN where unknown. size: [N, 2] width and height of the full image, 0 where unknown. up: [N, 3] unit vector to the
    sky in camera space. bbox: [N, 3] px. affine: [N, 2, 3] from px of the image as it was taken to px of all the
    others. free: [N] bool, no picture of this sample is used, so the person may be moved and re-projected.
    """

    keypoints_2d: np.ndarray
    joints_3d: np.ndarray
    camera: np.ndarray
    size: np.ndarray
    up: np.ndarray
    bbox: np.ndarray
    affine: np.ndarray
    free: np.ndarray

    @property
    def center(self) -> np.ndarray:
        """[N, 2] px where the optical axis meets the image; without a camera its middle, without a size the bbox's."""
        middle = np.where(self.size > 0, self.size / 2, self.bbox[:, :2])
        return np.where(np.isnan(self.camera[:, 2:4]), middle, self.camera[:, 2:4])


def camera_up(rotation: np.ndarray) -> np.ndarray:
    """Unit vectors to the sky in camera space [N, 3], from world-to-camera rotations [N, 3, 3] of a world with Z up.

    NaN rotations are unknown and count as a level camera: up is -y.
    """
    up = rotation[:, :, 2]
    return np.where(np.isnan(up), [0.0, -1.0, 0.0], up)


def augment(people: People, config: AugmentConfig, rng: np.random.Generator) -> People:
    """Everything but colours and the simulated 2D detector. What is drawn does not depend on what the people are."""
    if config.yaw or config.bone_scale or config.body_scale:
        people = move(people, config, rng)
    if config.flip:
        people = flip(people, rng.random(len(people.bbox)) < 0.5)
    if config.rotate:
        people = roll(people, np.radians(rng.uniform(-config.rotate, config.rotate, len(people.bbox))))
    if config.scale or config.shift:
        people = replace(people, bbox=_jitter_bbox(people.bbox, config, rng))
    return people


def move(people: People, config: AugmentConfig, rng: np.random.Generator) -> People:
    """Turn free people about the vertical through their pelvis and change their bone lengths, then re-project them.

    Bones of the same name left and right get the same factor, and body_scale one that all bones of a person share. A
    person stays as it was where a picture shows it, a joint or the camera is unknown, or the moved one would leave the
    image or come too near to the camera.
    """
    count = len(people.bbox)
    angle = rng.uniform(-np.pi, np.pi, count) if config.yaw else np.zeros(count)
    scales = 1 + config.bone_scale * rng.uniform(-1, 1, (count, NUM_JOINTS))
    size = 1 + config.body_scale * rng.uniform(-1, 1, count)
    known = (people.joints_3d[..., 3] > 0).all(1) & ~np.isnan(people.camera).any(1)
    rows = np.flatnonzero(people.free & known)
    if not len(rows):
        return people

    joints, camera = people.joints_3d[rows, :, :3], people.camera[rows]
    bones = joints - joints[:, _PARENT]
    bones = bones * (scales[rows][:, _BONE_TYPE] * size[rows, None])[..., None]
    offsets = _ANCESTORS @ _turned(bones, people.up[rows], angle[rows])
    moved = joints[:, ROOT, None] + offsets
    far = (moved[..., 2] > NEAREST).all(1)
    moved[~far] = joints[~far]
    pixels = project(torch.from_numpy(moved), torch.from_numpy(camera)).numpy()
    fits = far & ((pixels >= 0) & (pixels <= people.size[rows, None] - 1)).all((1, 2))
    rows, moved, pixels = rows[fits], moved[fits], pixels[fits]

    result = replace(
        people,
        joints_3d=people.joints_3d.copy(),
        keypoints_2d=people.keypoints_2d.copy(),
        bbox=people.bbox.copy(),
    )
    result.joints_3d[rows, :, :3] = moved
    result.keypoints_2d[rows, :, :2] = pixels
    if len(rows):
        result.bbox[rows] = square_bbox(pixels)
    return result


_PARENT = np.array([max(parent, ROOT) for parent in PARENTS])
_BONE_TYPE = np.arange(NUM_JOINTS)
_BONE_TYPE[list(LEFT)] = RIGHT


def _ancestors() -> np.ndarray:
    """[17, 17], 1 where the bone that ends in the column's joint lies on the way from the root to the row's joint."""
    matrix = np.zeros((NUM_JOINTS, NUM_JOINTS))
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            matrix[joint] = matrix[parent]
            matrix[joint, joint] = 1
    return matrix


_ANCESTORS = _ancestors()


def _turned(vectors: np.ndarray, axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """vectors [N, J, 3] turned about unit axes [N, 3] by angles [N], Rodrigues' formula."""
    cross = np.zeros((len(axis), 3, 3))
    cross[:, [2, 0, 1], [1, 2, 0]] = axis
    cross[:, [1, 2, 0], [2, 0, 1]] = -axis
    sin, cos = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    rotation = np.eye(3) + sin * cross + (1 - cos) * (cross @ cross)
    return vectors @ rotation.transpose(0, 2, 1)


def flip(people: People, mirrored: np.ndarray) -> People:
    """Mirror the people chosen by mirrored [N] bool, left and right joints swapped.

    The mirror stands upright at the principal point, which therefore stays where it is.
    """
    sign = np.where(mirrored, -1.0, 1.0)
    keypoints, joints = people.keypoints_2d.copy(), people.joints_3d.copy()
    keypoints[mirrored] = keypoints[mirrored][:, FLIP]
    joints[mirrored] = joints[mirrored][:, FLIP]
    joints[..., 0] *= sign[:, None]
    linear = np.zeros((len(sign), 2, 2))
    linear[:, 0, 0], linear[:, 1, 1] = sign, 1
    camera, up = people.camera.copy(), people.up.copy()
    camera[:, 7] *= sign
    up[:, 0] *= sign
    return _with_pixels(replace(people, keypoints_2d=keypoints, joints_3d=joints, camera=camera, up=up), linear)


def roll(people: People, angle: np.ndarray) -> People:
    """Turn every camera about its optical axis, so that the picture turns by angle [N] radians from x towards y.

    Exact with distortion: radial terms do not see a roll, and the tangential pair turns like a direction.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    joints, camera, up = people.joints_3d.copy(), people.camera.copy(), people.up.copy()
    joints[..., :2] = joints[..., :2] @ rotation.transpose(0, 2, 1)
    camera[:, 7:] = (rotation @ camera[:, 7:, None])[..., 0]
    up[:, :2] = (rotation @ up[:, :2, None])[..., 0]
    # pixels turn rigidly only where both focal lengths are the same
    focal = np.where(np.isnan(camera[:, :2]), 1.0, camera[:, :2])
    linear = rotation * (focal[:, :, None] / focal[:, None, :])
    return _with_pixels(replace(people, joints_3d=joints, camera=camera, up=up), linear)


def _with_pixels(people: People, linear: np.ndarray) -> People:
    """Apply linear maps [N, 2, 2] about the principal points to all that is in px; bboxes keep their side."""
    offset = people.center - (linear @ people.center[..., None])[..., 0]
    keypoints, bbox = people.keypoints_2d.copy(), people.bbox.copy()
    keypoints[..., :2] = keypoints[..., :2] @ linear.transpose(0, 2, 1) + offset[:, None]
    bbox[:, :2] = (linear @ bbox[:, :2, None])[..., 0] + offset
    affine = linear @ people.affine
    affine[..., 2] += offset
    return replace(people, keypoints_2d=keypoints, bbox=bbox, affine=affine)


def _jitter_bbox(bbox: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    shift = rng.uniform(-config.shift, config.shift, (len(bbox), 2)) * bbox[:, 2:]
    side = bbox[:, 2:] * (1 + rng.uniform(-config.scale, config.scale, (len(bbox), 1)))
    return np.concatenate([bbox[:, :2] + shift, side], axis=1)


def simulate_detector(keypoints: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """What a 2D detector would have said: joints displaced at random, and some missing.

    keypoints: [N, 17, 3] in half bbox sides about its centre, and confidence. Returns the same, where a missing joint
    has confidence 0. The size of the error is AugmentConfig.noise, a share of the whole bbox side.
    """
    noisy = keypoints.copy()
    if config.noise:
        noisy[..., :2] += 2 * config.noise * rng.standard_normal(keypoints[..., :2].shape)
    if config.missing:
        noisy[rng.random(keypoints.shape[:2]) < config.missing] = 0
    return noisy


def color_jitter(count: int, config: AugmentConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Factors and offsets, each [count, 3] RGB, that change intensities in [0, 1] to `factor * x + offset`.

    Brightness and channel gains scale; contrast scales about mid grey. Values are not clipped.
    """
    low, high = 1 - config.color, 1 + config.color
    contrast = rng.uniform(low, high, (count, 1))
    gain = rng.uniform(low, high, (count, 1)) * rng.uniform(low, high, (count, 3))
    return gain * contrast, gain * (1 - contrast) * 0.5
