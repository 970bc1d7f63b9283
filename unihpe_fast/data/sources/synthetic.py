"""Procedural people: a parametric skeleton posed by archetypes of everyday activity, seen by Human3.6M-like cameras.

Body frame: x forward, y to the person's left, z up, mm. The limbs of both sides are posed by the same rules with the
same chances and half of the people are mirrored, so left and right are exactly alike in distribution.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.camera import Camera, look_at, project
from unihpe_fast.data.records import Sample
from unihpe_fast.data.rig import CENTER_JITTER, FOCAL, FOCAL_JITTER, ROLL_JITTER, intrinsics
from unihpe_fast.data.skeleton import FLIP, NUM_JOINTS
from unihpe_fast.data.sources import Reading, Request

IMAGE_SIZE = (1000, 1000)  # px, width and height
LENSES = 8
DISTANCE = (3600.0, 6500.0)  # mm from the camera to the middle of the person
EYE_HEIGHT = (1000.0, 2100.0)  # mm above the floor
ANKLE_HEIGHT = 80.0  # mm of the lowest joint above the floor
CHUNK = 256  # people a random stream, so that sample i does not depend on how many are asked for

# mm; typical lengths between H36M's and CMU's markers. A person's own: a factor for the stature, one for each bone
BONES = {
    "hip": 115.0, "thigh": 430.0, "shin": 445.0, "loin": 225.0, "chest": 250.0, "neck": 110.0, "head": 120.0,
    "collar": 170.0, "upper_arm": 285.0, "forearm": 240.0,
}  # fmt: skip
STATURE_SPREAD, BONE_SPREAD = 0.06, 0.06  # standard deviations of the logarithms

# degrees, in this order throughout: pelvis roll and pitch, spine roll, pitch and yaw, neck roll, pitch and yaw
TRUNK_STD = (3.0, 5.0, 6.0, 8.0, 10.0, 7.0, 12.0, 20.0)
TRUNK_MIN = (-25.0, -35.0, -35.0, -30.0, -45.0, -30.0, -50.0, -70.0)
TRUNK_MAX = (25.0, 80.0, 35.0, 80.0, 45.0, 30.0, 50.0, 70.0)
# degrees: swing forward and outward (of the thigh from the plumb line, of the upper arm from the chest's axis), twist
# (outward positive), bend of the knee or elbow
LEG_MIN, LEG_MAX = (-40.0, -12.0, -30.0, 2.0), (120.0, 60.0, 45.0, 145.0)
ARM_MIN, ARM_MAX = (-55.0, 2.0, -80.0, 4.0), (165.0, 150.0, 60.0, 145.0)
MAX_SWING = 165.0


class ArmPose(NamedTuple):
    mean: tuple[float, float, float, float]
    std: tuple[float, float, float, float]


ARMS = {
    "hang": ArmPose((4, 11, -15, 20), (9, 6, 20, 14)),
    "bent": ArmPose((22, 14, -30, 85), (18, 11, 25, 25)),
    "reach": ArmPose((80, 12, -15, 25), (28, 22, 25, 22)),
    "up": ArmPose((110, 85, -5, 30), (32, 38, 30, 28)),
    "side": ArmPose((8, 80, 0, 25), (22, 22, 35, 28)),
    "hip": ArmPose((-18, 38, -55, 95), (8, 8, 12, 12)),
    "face": ArmPose((48, 25, -25, 128), (15, 14, 22, 10)),
    "back": ArmPose((-32, 18, -25, 45), (10, 9, 20, 25)),
}


@dataclass(frozen=True)
class Action:
    """An archetype. legs: mean angles of one leg and of the other; leg_std: their spread, `steady` times that of the
    second leg, where it bears the weight.

    lean: mean pitch of pelvis and spine, lean_std: their spread. gait: amplitudes in degrees of hip, knee and arms over
    a cycle. arms: how often an arm takes each pose of ARMS.
    """

    name: str
    weight: float
    legs: tuple[tuple[float, float, float, float], tuple[float, float, float, float]]
    leg_std: tuple[float, float, float, float]
    arms: dict[str, float]
    lean: tuple[float, float] = (0.0, 4.0)
    lean_std: tuple[float, float] = (4.0, 8.0)
    gait: tuple[float, float, float] = (0.0, 0.0, 0.0)
    steady: float = 1.0


_STRAIGHT = (2.0, 5.0, 8.0, 6.0)
_SMALL = (5.0, 4.0, 9.0, 6.0)
ACTION_TABLE = (
    Action("standing", 0.17, (_STRAIGHT, _STRAIGHT), _SMALL,
           {"hang": 0.4, "bent": 0.3, "hip": 0.15, "back": 0.05, "side": 0.1}),
    Action("walking", 0.15, ((6, 3, 5, 26), (6, 3, 5, 26)), (5, 3, 6, 7),
           {"hang": 0.85, "bent": 0.15}, (2, 4), gait=(24, 28, 22)),
    Action("running", 0.05, ((20, 3, 4, 58), (20, 3, 4, 58)), (7, 3, 6, 10),
           {"hang": 0.3, "bent": 0.7}, (8, 8), gait=(38, 40, 35)),
    Action("talking", 0.10, (_STRAIGHT, _STRAIGHT), _SMALL, {"bent": 0.55, "hang": 0.25, "face": 0.1, "side": 0.1}),
    Action("phoning", 0.07, (_STRAIGHT, (4, 6, 12, 10)), _SMALL, {"face": 0.55, "hang": 0.25, "bent": 0.2}),
    Action("reaching", 0.10, ((12, 8, 8, 15), (-4, 8, 8, 10)), (12, 6, 9, 12),
           {"reach": 0.6, "up": 0.2, "hang": 0.2}, (8, 10), (10, 12)),
    Action("arms_up", 0.06, (_STRAIGHT, _STRAIGHT), _SMALL, {"up": 0.75, "side": 0.25}, (0, 0)),
    Action("sitting", 0.12, ((83, 9, 4, 85), (83, 9, 4, 85)), (10, 8, 10, 18),
           {"bent": 0.45, "hang": 0.2, "reach": 0.15, "face": 0.2}, (-4, 10), (8, 12)),
    Action("sitting_on_floor", 0.03, ((85, 22, 25, 75), (85, 22, 25, 75)), (16, 14, 14, 42),
           {"bent": 0.5, "reach": 0.2, "back": 0.15, "face": 0.15}, (-8, 20), (9, 12)),
    Action("squatting", 0.04, ((95, 18, 14, 118), (95, 18, 14, 118)), (16, 8, 9, 16),
           {"reach": 0.5, "bent": 0.4, "side": 0.1}, (22, 18), (9, 10)),
    Action("bending", 0.05, ((8, 8, 8, 16), (8, 8, 8, 16)), (12, 6, 9, 14),
           {"reach": 0.65, "bent": 0.25, "hang": 0.1}, (38, 26), (17, 14)),
    Action("kneeling", 0.02, ((78, 10, 4, 88), (-4, 6, 4, 92)), (12, 6, 8, 10),
           {"bent": 0.5, "hang": 0.2, "reach": 0.3}, (8, 10), (10, 12)),
    Action("lunging", 0.02, ((55, 10, 4, 62), (-22, 8, 12, 22)), (14, 7, 9, 16),
           {"bent": 0.4, "hang": 0.2, "side": 0.2, "reach": 0.2}, (6, 8), (8, 10), steady=0.6),
    Action("kicking", 0.02, ((50, 22, 6, 40), (2, 5, 10, 12)), (32, 18, 10, 28),
           {"side": 0.35, "bent": 0.4, "hang": 0.15, "up": 0.1}, (-4, 4), (8, 10), steady=0.25),
)  # fmt: skip
ACTIONS = tuple(action.name for action in ACTION_TABLE)
# chance that the second arm takes the pose of the first
SAME_ARMS = 0.45
# share of the variance of a limb's angles that left and right have in common
SHARED = 0.5


class People(NamedTuple):
    """N people. joints_3d: [N, 17, 3] camera-space mm; keypoints_2d: [N, 17, 2] px of an IMAGE_SIZE image.

    camera: [N, 9] of data/camera.py; bbox: [N, 3] px; action: [N] int64, index into ACTIONS; lens: [N] int64, which of
    the LENSES cameras; up: [N, 3] unit vector to the sky in camera space.
    """

    joints_3d: Tensor
    keypoints_2d: Tensor
    camera: Tensor
    bbox: Tensor
    action: Tensor
    lens: Tensor
    up: Tensor


def synthetic_people(count: int, generator: torch.Generator) -> People:
    """`count` random people, float32 on the generator's device; a pure function of the generator's state."""
    joints, action = sample_poses(count, generator)
    device = joints.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator, device=device)

    low, high = joints.amin(1), joints.amax(1)
    # stand on the floor, around the origin
    middle = (low + high) / 2
    joints = joints - torch.cat([middle[:, :2], low[:, 2:] - ANKLE_HEIGHT], dim=1)[:, None]
    target = torch.nn.functional.pad((high - low)[:, 2:] / 2 + ANKLE_HEIGHT, (2, 0))
    radius = (joints - target[:, None]).norm(dim=-1).amax(-1)
    # half the field of view of the narrowest lens: a sphere of that radius fits the image from `nearest` on
    half = (min(IMAGE_SIZE) / 2 - CENTER_JITTER - 1) / (FOCAL + FOCAL_JITTER + 1)
    nearest = radius * (1 + half) / half
    distance = torch.maximum(uniform(*DISTANCE), nearest)
    bearing = uniform(-math.pi, math.pi)
    eye = torch.stack([distance * bearing.cos(), distance * bearing.sin(), uniform(*EYE_HEIGHT)], dim=1)
    roll = ROLL_JITTER * torch.randn(count, generator=generator, device=device)
    rotation, translation = look_at(eye, target, roll)
    joints = joints @ rotation.mT + translation[:, None]
    # away from the image's middle, as far as the whole sphere still fits
    spare = half * (distance - radius) - radius
    off, toward = spare * uniform(0, 1).sqrt(), uniform(-math.pi, math.pi)
    joints = joints + torch.stack([off * toward.cos(), off * toward.sin(), torch.zeros_like(off)], dim=1)[:, None]

    lens = torch.randint(LENSES, (count,), generator=generator, device=device)
    camera = lenses().to(device)[lens]
    keypoints_2d = project(joints, camera)
    return People(joints, keypoints_2d, camera, square_bbox(keypoints_2d), action, lens, rotation[:, :, 2])


@cache
def lenses() -> Tensor:
    """[LENSES, 9] float32, the cameras of synthetic people: always the same few, so a file's camera table is short."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(np.stack([intrinsics(rng, IMAGE_SIZE[1]) for _ in range(LENSES)])).float()


class _Tables(NamedTuple):
    """ACTION_TABLE and ARMS as tensors, an action a row; sides are the second axis where there is one."""

    weight: Tensor  # [A]
    trunk_mean: Tensor  # [A, 8]
    trunk_std: Tensor  # [A, 8]
    leg_mean: Tensor  # [A, 2, 4]
    leg_std: Tensor  # [A, 2, 4]
    gait: Tensor  # [A, 3]
    arms: Tensor  # [A, P]
    arm_mean: Tensor  # [P, 4]
    arm_std: Tensor  # [P, 4]


@cache
def _tables(device: torch.device) -> _Tables:
    trunk_mean = torch.zeros(len(ACTION_TABLE), len(TRUNK_STD))
    trunk_std = torch.tensor(TRUNK_STD).repeat(len(ACTION_TABLE), 1)
    trunk_mean[:, [1, 3]] = torch.tensor([action.lean for action in ACTION_TABLE])
    trunk_std[:, [1, 3]] = torch.tensor([action.lean_std for action in ACTION_TABLE])
    tables = _Tables(
        weight=torch.tensor([action.weight for action in ACTION_TABLE]),
        trunk_mean=trunk_mean,
        trunk_std=trunk_std,
        leg_mean=torch.tensor([action.legs for action in ACTION_TABLE], dtype=torch.float32),
        leg_std=torch.tensor(
            [[action.leg_std, [action.steady * std for std in action.leg_std]] for action in ACTION_TABLE],
            dtype=torch.float32,
        ),
        gait=torch.tensor([action.gait for action in ACTION_TABLE], dtype=torch.float32),
        arms=torch.tensor([[action.arms.get(name, 0.0) for name in ARMS] for action in ACTION_TABLE]),
        arm_mean=torch.tensor([pose.mean for pose in ARMS.values()], dtype=torch.float32),
        arm_std=torch.tensor([pose.std for pose in ARMS.values()], dtype=torch.float32),
    )
    return _Tables(*(table.to(device) for table in tables))


def sample_poses(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Body-frame joints [count, 17, 3] mm, pelvis at the origin, and their actions [count]."""
    device = generator.device
    tables = _tables(device)
    action = torch.multinomial(tables.weight, count, replacement=True, generator=generator)
    trunk, legs, arms = _sample_angles(tables, action, generator)
    spread = torch.randn(count, 1 + len(BONES), generator=generator, device=device).clamp(-2.5, 2.5)
    factor = (STATURE_SPREAD * spread[:, :1] + BONE_SPREAD * spread[:, 1:]).exp()
    joints = pose_skeleton(trunk, legs, arms, factor * torch.tensor(tuple(BONES.values()), device=device))
    mirrored = joints[:, torch.from_numpy(FLIP).to(device)] * torch.tensor([1.0, -1.0, 1.0], device=device)
    mirror = torch.rand(count, 1, 1, generator=generator, device=device) < 0.5
    return torch.where(mirror, mirrored, joints), action


def _sample_angles(tables: _Tables, action: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Degrees within the joint limits: trunk [N, 8], legs [N, 2, 4] and arms [N, 2, 4]."""
    count, device = len(action), action.device

    def clamp(angles: Tensor, low: Sequence[float], high: Sequence[float]) -> Tensor:
        return torch.minimum(torch.maximum(angles, torch.tensor(low, device=device)), torch.tensor(high, device=device))

    noise = torch.randn(count, 32, generator=generator, device=device)
    trunk = tables.trunk_mean[action] + tables.trunk_std[action] * noise[:, :8]
    own, shared = noise[:, 8:24].view(count, 2, 2, 4), noise[:, 24:].view(count, 2, 1, 4)
    legs_noise, arms_noise = (math.sqrt(1 - SHARED) * own + math.sqrt(SHARED) * shared).unbind(1)

    first, second = torch.multinomial(tables.arms[action], 2, replacement=True, generator=generator).unbind(1)
    chance, phase = torch.rand(count, 2, generator=generator, device=device).unbind(1)
    pose = torch.stack([first, torch.where(chance < SAME_ARMS, first, second)], dim=1)
    legs = tables.leg_mean[action] + tables.leg_std[action] * legs_noise
    arms = tables.arm_mean[pose] + tables.arm_std[pose] * arms_noise

    # a cycle from heel strike on: the knee bends most in mid-swing, at 0.73 of it; an arm swings against its own leg
    hip, knee, swing = tables.gait[action][:, None].unbind(-1)
    cycle = 2 * math.pi * torch.stack([phase, phase + 0.5], dim=1)
    zero = torch.zeros_like(cycle)
    legs = legs + torch.stack([hip * cycle.cos(), zero, zero, knee * (cycle - 2 * math.pi * 0.73).cos()], dim=-1)
    arms = arms - torch.stack([swing * cycle.cos(), zero, zero, 0.5 * swing * cycle.cos()], dim=-1)

    arms = clamp(arms, ARM_MIN, ARM_MAX)
    reach = arms[..., :2].norm(dim=-1, keepdim=True).clamp(min=MAX_SWING) / MAX_SWING
    arms = torch.cat([arms[..., :2] / reach, arms[..., 2:]], dim=-1)
    return clamp(trunk, TRUNK_MIN, TRUNK_MAX), clamp(legs, LEG_MIN, LEG_MAX), arms


def pose_skeleton(trunk: Tensor, legs: Tensor, arms: Tensor, bones: Tensor) -> Tensor:
    """Forward kinematics. trunk: [N, 8], legs and arms: [N, 2 (left, right), 4] degrees in the orders written at
    TRUNK_STD and LEG_MIN; bones: [N, 10] mm in the order of BONES. Returns [N, 17, 3] mm, pelvis at the origin.
    """
    trunk, legs, arms = (angles.deg2rad() for angles in (trunk, legs, arms))
    side = trunk.new_tensor([1.0, -1.0])
    pelvis = torch.nn.functional.pad(trunk[:, :2], (0, 1))
    spine, neck = trunk[:, 2:5], trunk[:, 5:]
    limbs = torch.cat([legs, arms], dim=1)  # left leg, right leg, left arm, right arm
    side4 = side.repeat(2)
    zero = torch.zeros_like(limbs[..., 0])
    swing = torch.stack([side4 * limbs[..., 1], -limbs[..., 0], zero], dim=-1)
    twist = torch.stack([zero, zero, side4 * limbs[..., 2]], dim=-1)
    # a knee bends backward, an elbow forward
    bend = torch.stack([zero, limbs[..., 3] * side.new_tensor([1.0, 1.0, -1.0, -1.0]), zero], dim=-1)
    # the loin takes a third of the spine's bend
    middle = torch.stack([pelvis, pelvis + spine / 3, pelvis + spine, neck / 2, neck], dim=1)
    rotation = rotation_matrix(torch.cat([middle, swing, twist, bend], dim=1))
    hips, loin, chest, low_neck, high_neck = rotation[:, :5].unbind(1)
    swing, twist, bend = rotation[:, 5:].unflatten(1, (3, 4)).unbind(1)
    upper = swing @ twist
    lower = upper @ bend
    # legs swing from the plumb line, arms from the chest
    upper = torch.cat([upper[:, :2], chest[:, None] @ upper[:, 2:]], dim=1)
    lower = torch.cat([lower[:, :2], chest[:, None] @ lower[:, 2:]], dim=1)

    hip, thigh, shin, loin_length, chest_length, neck_length, head, collar, upper_arm, forearm = bones[
        ..., None
    ].unbind(1)
    lateral = side[:, None] * hips[:, None, :, 1]  # [N, 2, 3]
    hip_joints = hip[:, None] * lateral
    spine_joint = loin_length * loin[..., 2]
    thorax = spine_joint + chest_length * chest[..., 2]
    # the face is ahead of the spine
    neck_joint = thorax + neck_length * (chest @ low_neck @ trunk.new_tensor([0.2, 0.0, 0.98]))
    head_joint = neck_joint + head * (chest @ high_neck)[..., 2]
    # a collar bone rises with the arm, by up to 25 degrees
    raised = arms[..., :2].norm(dim=-1)
    lift = (0.25 * (raised - 0.7)).clamp(0, 0.45) - 0.15
    along = torch.stack([torch.zeros_like(lift), side * lift.cos(), lift.sin()], dim=-1)
    shoulders = thorax[:, None] + collar[:, None] * (along @ chest.mT)
    roots = torch.cat([hip_joints, shoulders], dim=1)  # [N, 4, 3]
    first, second = torch.stack([thigh, thigh, upper_arm, upper_arm], 1), torch.stack([shin, shin, forearm, forearm], 1)
    elbows = roots - first * upper[..., 2]
    wrists = elbows - second * lower[..., 2]
    left_leg, right_leg, left_arm, right_arm = torch.stack([roots, elbows, wrists], dim=2).unbind(1)
    center = torch.stack([spine_joint, thorax, neck_joint, head_joint], dim=1)
    return torch.cat([torch.zeros_like(center[:, :1]), right_leg, left_leg, center, left_arm, right_arm], dim=1)


def rotation_matrix(vector: Tensor) -> Tensor:
    """[..., 3, 3] of rotation vectors [..., 3] in radians, by way of unit quaternions; smooth at zero."""
    angle = vector.norm(dim=-1, keepdim=True)
    x, y, z = (vector * torch.sinc(angle / (2 * math.pi)) / 2).unbind(-1)
    w = (angle[..., 0] / 2).cos()
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


@dataclass(frozen=True)
class Options:
    n: int = 10_000
    """how many people"""


def read(inputs: Sequence[Path], options: Options, request: Request) -> Reading:
    """Takes no inputs. See data/sources/__init__.py."""
    if inputs:
        raise ValueError(f"synthetic people come from no file, got {inputs[0]} besides the output")
    if options.n < 1:
        raise ValueError(f"n: want at least 1, got {options.n}")
    return Reading(
        dataset="synthetic",
        licence="Made by a program; no terms of use.",
        files=(),
        samples=samples(options.n, request.seed),
        total=options.n,
        render=True,
    )


def samples(n: int, seed: int) -> Iterator[Sample]:
    """The first `n` people of a seed; sample i is the same whatever n is."""
    cameras = [Camera(f"lens{k}", lens.double().numpy(), *IMAGE_SIZE) for k, lens in enumerate(lenses())]
    for start in range(0, n, CHUNK):
        words = np.random.SeedSequence([seed, start // CHUNK]).generate_state(1, np.uint64)
        people = synthetic_people(CHUNK, torch.Generator().manual_seed(int(words[0]) >> 1))
        ones = torch.ones(CHUNK, NUM_JOINTS, 1)
        joints_3d = torch.cat([people.joints_3d, ones], dim=-1).numpy()
        keypoints_2d = torch.cat([people.keypoints_2d, ones], dim=-1).numpy()
        bbox = people.bbox.numpy()
        for i in range(min(CHUNK, n - start)):
            camera = cameras[int(people.lens[i])]
            yield Sample(
                joints_3d=joints_3d[i],
                keypoints_2d=keypoints_2d[i],
                bbox=bbox[i],
                camera=camera,
                action=ACTIONS[int(people.action[i])],
                camera_id=camera.name,
                frame=start + i,
            )
