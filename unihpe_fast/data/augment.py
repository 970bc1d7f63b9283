"""Training augmentation of whole batches, in float64, as pure functions of a numpy Generator.

Every change is made to the 2D joints, the 3D joints and the camera together, so that the augmented camera still
projects the augmented joints onto the augmented pixels exactly, lens distortion included.
"""

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

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

    def select(self, rows: np.ndarray) -> "People":
        """Copies of some of them, by index."""
        return People(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

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
    if config.refilm:
        people = refilm(people, rng.random(len(people.bbox)) < config.refilm, rng, tumble=config.tumble)
    if config.flip:
        people = flip(people, rng.random(len(people.bbox)) < 0.5)
    if config.rotate:
        people = roll(people, np.radians(rng.uniform(-config.rotate, config.rotate, len(people.bbox))))
    if config.scale or config.shift:
        people = replace(people, bbox=_jitter_bbox(people.bbox, config, rng))
    if config.detector:
        people = detect(people, config, rng)
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


def refilm(people: People, chosen: np.ndarray, rng: np.random.Generator, *, tumble: float = 0.0) -> People:
    """Film the chosen people [N] bool with other cameras: pinhole, focal length 0.7 to 2.2 times the image's width, the
    camera's elevation over the person 8 +- 12 degrees, rolled by 3 degrees, the person anywhere in the image and from
    a fifth to nine tenths of it high. A share `tumble` of them are turned any way round before they are filmed.

    Who may not be moved (see `move`) stays, and who would not fit the image.
    """
    count = len(people.bbox)
    focal = _REFILM_SIZE * np.exp(rng.uniform(np.log(0.7), np.log(2.2), count))
    pitch, tilt = np.radians(rng.normal(8, 12, count)).clip(-0.5, 1.0), np.radians(rng.normal(0, 3, count))
    yaw, share, off = rng.uniform(-np.pi, np.pi, count), rng.uniform(0.2, 0.9, count), rng.uniform(-1, 1, (count, 2))
    turns = _any_rotation(count, rng) if tumble else None
    tumbled = rng.random(count) < tumble if tumble else np.zeros(count, bool)
    known = (people.joints_3d[..., 3] > 0).all(1)
    rows = np.flatnonzero(chosen & people.free & known)
    if not len(rows):
        return people

    offsets = people.joints_3d[rows, :, :3] - people.joints_3d[rows, ROOT, None, :3]
    up, level = people.up[rows], np.array([0.0, -1.0, 0.0])
    # upright before a level camera, any way round, then the camera tips down and rolls
    axis = np.cross(up, level)
    sine = np.linalg.norm(axis, axis=1)
    axis = np.where(sine[:, None] > 1e-9, axis / np.maximum(sine, 1e-9)[:, None], [1.0, 0.0, 0.0])
    offsets = _turned(offsets, axis, np.arctan2(sine, up @ level))
    if turns is not None:
        over = tumbled[rows]
        offsets[over] = offsets[over] @ turns[rows[over]].transpose(0, 2, 1)
    unit = np.eye(3)[:, None].repeat(len(rows), 1)
    for about, angle in ((1, yaw), (0, pitch), (2, tilt)):
        offsets = _turned(offsets, unit[about], angle[rows])
    radius = np.linalg.norm(offsets, axis=2).max(1)
    distance = (2 * radius * focal[rows] / (share[rows] * _REFILM_SIZE)).clip(1500.0, 15_000.0)
    # the middle of the body, as far off the optical axis as a sphere around it still fits the image
    half = _REFILM_SIZE / 2 / focal[rows]
    spare = (half - radius / distance).clip(0.0, None)
    root = np.concatenate([off[rows] * spare[:, None] * distance[:, None], distance[:, None]], axis=1)
    moved = offsets + root[:, None]
    camera = np.zeros((len(rows), people.camera.shape[1]))
    camera[:, :2], camera[:, 2:4] = focal[rows, None], _REFILM_SIZE / 2
    far = (moved[..., 2] > NEAREST).all(1)
    moved[~far] = [0, 0, 1e6]
    pixels = project(torch.from_numpy(moved), torch.from_numpy(camera)).numpy()
    fits = far & ((pixels >= 0) & (pixels <= _REFILM_SIZE - 1)).all((1, 2))
    rows, new_up = rows[fits], np.broadcast_to(level, up.shape)[:, None]
    for about, angle in ((0, pitch), (2, tilt)):
        new_up = _turned(new_up, unit[about], angle[np.flatnonzero(chosen & people.free & known)])

    result = replace(
        people,
        joints_3d=people.joints_3d.copy(),
        keypoints_2d=people.keypoints_2d.copy(),
        camera=people.camera.copy(),
        size=people.size.copy(),
        up=people.up.copy(),
        bbox=people.bbox.copy(),
    )
    if len(rows):
        result.joints_3d[rows, :, :3] = moved[fits]
        result.keypoints_2d[rows] = np.concatenate([pixels[fits], np.ones((len(rows), NUM_JOINTS, 1))], axis=2)
        result.camera[rows], result.size[rows] = camera[fits], _REFILM_SIZE
        result.up[rows] = new_up[fits, 0]
        result.bbox[rows] = square_bbox(pixels[fits])
    return result


def _any_rotation(count: int, rng: np.random.Generator) -> np.ndarray:
    """[N, 3, 3] drawn uniformly from all rotations: those of normal quaternions."""
    quaternions = rng.standard_normal((count, 4))
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    w, axis = quaternions[:, 0], quaternions[:, 1:]
    angle = 2 * np.arctan2(np.linalg.norm(axis, axis=1), w)
    axis = axis / np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-12)
    return _turned(np.eye(3)[None].repeat(count, 0), axis, angle).transpose(0, 2, 1)


# px, width and height of the images of other labs' cameras
_REFILM_SIZE = 1000.0


class ErrorShape(NamedTuple):
    """How a detector errs, whatever the size. joint: [17] relative to the mean over joints. tail, factor: the share of
    joints that err so many times as much. sureness: standard deviation of a confidence's logarithm."""

    joint: np.ndarray
    tail: float
    factor: float
    sureness: float


def _relative(hip: float, knee: float, ankle: float, shoulder: float, elbow: float, wrist: float) -> np.ndarray:
    """[17] of mean 1. Trunk joints as the hips, the shoulders and between; nose and eyes as OKS has them."""
    nose, leg, arm = 0.035 / 0.079 * shoulder, (hip, knee, ankle), (shoulder, elbow, wrist)
    sigma = np.array([hip, *leg, *leg, (hip + shoulder) / 2, shoulder, nose, nose, *arm, *arm])
    return sigma / sigma.mean()


# OKS's standard deviations (Ruggero Ronchi and Perona 2017) and a light tail
OKS_ERRORS = ErrorShape(_relative(0.107, 0.087, 0.089, 0.079, 0.072, 0.062), 0.05, 3.0, 0.1)
# MoveNet's errors against the labels of 500 people of lspet (benchmarks/detector_noise.py), photographs of sports whose
# labels err too: this tail and people's own spread give their quantiles to within a tenth
MOVENET_ERRORS = ErrorShape(_relative(0.0393, 0.0278, 0.0299, 0.0243, 0.0204, 0.0189), 0.12, 7.0, 0.3)
# of the pairs that a detector confuses: right leg and left leg, right arm and left arm
_LIMBS = (((1, 2, 3), (4, 5, 6)), ((14, 15, 16), (11, 12, 13)))
_LOWER = (2, 3, 5, 6)
# share of the people whose errors show in their joints' confidence; of the others it is 1
_GRADED = 0.5


def detect(
    people: People, config: AugmentConfig, rng: np.random.Generator, shape: ErrorShape = MOVENET_ERRORS
) -> People:
    """What a 2D detector would say of free people: see the options of AugmentConfig. Their boxes are drawn around that.

    A joint's error is Gaussian with a standard deviation of shape.joint times the person's own, which is log-normal
    about config.detector of the box side, and some joints err more. A graded confidence falls with the error that was
    drawn: as exp(-error / 2 config.detector), which is MoveNet's in the median, but not below 0.2.
    """
    count = len(people.bbox)
    own = config.detector * np.exp(rng.normal(-0.125, 0.5, (count, 1)))
    wide = np.where(rng.random((count, NUM_JOINTS)) < shape.tail, shape.factor, 1.0)
    error = rng.standard_normal((count, NUM_JOINTS, 2)) * (own * shape.joint * wide)[..., None]
    if config.sure:
        exact = rng.random(count) < config.sure
        error[exact] = 0
    spread = np.exp(shape.sureness * rng.standard_normal((count, NUM_JOINTS)))
    graded, like_coco, half = (rng.random(count) < share for share in (_GRADED, config.coco, config.halves))
    swapped, lowest = rng.random((count, 2)) < config.swap, rng.random(count) < 0.5
    if config.sure:
        swapped, like_coco = swapped & ~exact[:, None], like_coco & ~exact
    gone = rng.random((count, NUM_JOINTS)) < config.missing

    points = people.keypoints_2d.copy()
    seen = points[..., 2] > 0
    if like_coco.any():
        points = np.where((like_coco & people.free)[:, None, None], _coco_points(people), points)
    points[..., :2] += error * people.bbox[:, None, 2:]
    for limb, (one, two) in enumerate(_LIMBS):
        confused = np.flatnonzero(swapped[:, limb])[:, None]
        points[confused, [*one, *two]] = points[confused, [*two, *one]]
        error[confused, [*one, *two]] = error[confused, [*two, *one]]
    sure = np.exp(-np.linalg.norm(error, axis=2) / (2 * config.detector)) * spread
    points[..., 2] = np.where(graded[:, None], sure.clip(0.2, 1.0), 1.0)
    # cut at the hips, or at the knees
    gone[:, _LOWER] |= half[:, None]
    gone[:, [0, 1, 4]] |= (half & lowest)[:, None]
    # nobody is found by less than a few joints
    keep = (seen & ~gone).sum(1) >= 5
    points[(gone & keep[:, None]) | ~seen] = 0
    rows = np.flatnonzero(people.free & keep)
    result = replace(people, keypoints_2d=people.keypoints_2d.copy(), bbox=people.bbox.copy())
    result.keypoints_2d[rows] = points[rows]
    if len(rows):
        result.bbox[rows] = square_bbox(points[rows])
    return result


def _coco_points(people: People) -> np.ndarray:
    """[N, 17, 3]: the 2D joints with trunk and head as they are derived from COCO's keypoints (joint_sets.COCO17).

    Nose and eyes are taken to lie 95 and 85 mm ahead of the head's middle, the eyes 30 mm higher. Unknown cameras leave
    the neck and head as they are.
    """
    points, joints = people.keypoints_2d.copy(), people.joints_3d[..., :3]
    across, trunk = joints[:, 11] - joints[:, 14], joints[:, 8] - joints[:, 0]
    front = np.cross(across, trunk)
    front /= np.maximum(np.linalg.norm(front, axis=1, keepdims=True), 1e-9)
    high = trunk / np.maximum(np.linalg.norm(trunk, axis=1, keepdims=True), 1e-9)
    face = np.stack([joints[:, 10] + 95 * front, joints[:, 10] + 85 * front + 30 * high], axis=1)
    known = ~np.isnan(people.camera).any(1) & (face[..., 2] > NEAREST).all(1) & (people.joints_3d[..., 3] > 0).all(1)
    if known.any():
        pixels = project(torch.from_numpy(face[known]), torch.from_numpy(people.camera[known])).numpy()
        points[np.flatnonzero(known)[:, None], [9, 10], :2] = pixels
    points[:, 0] = points[:, [1, 4]].mean(1)
    points[:, 8] = points[:, [11, 14]].mean(1)
    points[:, 7] = (points[:, 0] + points[:, 8]) / 2
    return points


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
    # `detect` has left out its own
    if config.missing and not config.detector:
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
