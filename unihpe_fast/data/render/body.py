"""A body of stretched rounded cones around the 17 joints."""

from typing import NamedTuple

import torch
from torch import Tensor

from unihpe_fast.data.render.appearance import Appearance
from unihpe_fast.data.skeleton import BONES

PARTS = (
    "pelvis", "abdomen", "chest", "right_clavicle", "left_clavicle", "neck", "head", "nose", "hair",
    "right_upper_arm", "right_forearm", "right_hand", "left_upper_arm", "left_forearm", "left_hand",
    "right_thigh", "right_shin", "right_foot", "left_thigh", "left_shin", "left_foot",
)  # fmt: skip
NUM_PARTS = len(PARTS)
# sum of the 16 bone lengths of the person whose girths the numbers below are, metres
_REFERENCE_BONES = 4.15


class Parts(NamedTuple):
    """P rounded cones, each the hull of a sphere around `start` and one around `end`, stretched across its axis.

    start, end: [B, P, 3] m, camera space. frame: [B, P, 3, 3], rows are the unit vectors to the part's left, along it
    and to its front. radius: [B, P, 2] m at start and end. stretch: [B, P, 2], by how much the cone is wider to its
    left and its front than `radius` says. A part of radius 0 is not drawn.
    """

    start: Tensor
    end: Tensor
    frame: Tensor
    radius: Tensor
    stretch: Tensor


class _Cone(NamedTuple):
    """One part of B bodies before they are stacked; `girth` [B] scales the radii (m), `wide` [B] and `deep` stretch."""

    start: Tensor
    end: Tensor
    left: Tensor
    girth: Tensor
    radii: tuple[float, float]
    wide: Tensor
    deep: float


def build_parts(joints: Tensor, look: Appearance) -> Parts:
    """The body around joints [B, 17, 3] m in camera space, as stout as `look` says; left and right are alike.

    Feet and face point where hips, knees and shoulders say that the front is; `look.head_turn` adds what the joints do
    not tell.
    """
    size = _bone_length(joints) / _REFERENCE_BONES  # [B, 1]
    torso, head_girth, arm, leg = (look.girth * size).unbind(1)
    pelvis, spine, thorax, neck, head = (joints[:, j] for j in (0, 7, 8, 9, 10))
    hips_up, chest_up, head_up = _unit(spine - pelvis), _unit(thorax - spine), _unit(head - neck)
    hips_left = joints[:, 4] - joints[:, 1]
    chest_left = joints[:, 11] - joints[:, 14]
    head_left, head_front = _turned(chest_left, head_up, look.head_turn)
    torso_, head_ = torso[:, None], head_girth[:, None]

    cones: list[_Cone] = []

    def add(start: Tensor, end: Tensor, left: Tensor, girth: Tensor, r0: float, r1: float,
            wide: Tensor | float = 1.0, deep: float = 1.0) -> None:  # fmt: skip
        wide_ = wide if isinstance(wide, Tensor) else torch.full_like(torso, wide)
        cones.append(_Cone(start, end, left, girth, (r0, r1), wide_, deep))

    hip_width = hips_left.norm(dim=1) / (0.26 * size[:, 0])
    add(pelvis - 0.02 * torso_ * hips_up, pelvis + 0.07 * torso_ * hips_up, hips_left, torso,
        0.094, 0.096, 1.1 + 0.35 * hip_width.clamp(0.4, 1.4), 1.08)  # fmt: skip
    add(pelvis + 0.06 * torso_ * hips_up, spine, hips_left + chest_left, torso, 0.1, 0.1, 1.3, 0.95)
    add(spine, thorax - 0.1 * torso_ * chest_up, chest_left, torso, 0.1, 0.112, 1.38, 0.98)
    shoulder_root = thorax - 0.035 * torso_ * chest_up
    for shoulder in (14, 11):
        add(shoulder_root, joints[:, shoulder], chest_up, torso, 0.068, 0.052)
    jaw, skull = (neck + head_ * (up * head_up + front * head_front) for up, front in ((0.035, 0.022), (0.1, 0.0)))
    add(thorax - 0.03 * torso_ * chest_up, neck + 0.03 * head_ * head_up, chest_left, head_girth, 0.058, 0.05)
    add(jaw, skull, head_left, head_girth, 0.064, 0.094, 0.84, 1.06)
    bridge = neck + head_ * (0.085 * head_up + 0.088 * head_front)
    add(bridge, bridge + head_ * (0.022 * head_front - 0.03 * head_up), head_left, head_girth, 0.008, 0.016)
    fall = neck - 0.06 * head_ * head_front - look.long_hair[:, None] * chest_up
    add(skull - 0.02 * head_ * head_front, fall, head_left, head_girth * (look.long_hair > 0), 0.09, 0.06, 0.98, 0.85)

    for shoulder, elbow, wrist in ((14, 15, 16), (11, 12, 13)):
        upper, fore, hand = joints[:, shoulder], joints[:, elbow], joints[:, wrist]
        along = _unit(hand - fore)
        add(upper, fore, chest_left, arm, 0.052, 0.041)
        add(fore, hand, chest_left, arm, 0.043, 0.029)
        add(hand + 0.02 * size * along, hand + 0.13 * size * along, chest_left, arm, 0.034, 0.026, 1.15, 0.65)
    for hip, knee, ankle in ((1, 2, 3), (4, 5, 6)):
        upper, middle, lower = joints[:, hip], joints[:, knee], joints[:, ankle]
        down = _unit(lower - middle)
        add(upper, middle, hips_left, leg, 0.079, 0.056)
        add(middle, lower, hips_left, leg, 0.057, 0.037)
        front = _leg_front(upper, middle, lower, hips_left, hips_up)
        heel = lower + size * (0.042 * down - 0.035 * front)
        toe = lower + size * (0.062 * down + 0.15 * front)
        # the axis points to the toes, so "left" keeps the flat side below
        add(heel, toe, torch.linalg.cross(front, down, dim=1), size[:, 0], 0.04, 0.034, 1.05, 0.9)

    start = torch.stack([cone.start for cone in cones], 1)
    end = torch.stack([cone.end for cone in cones], 1)
    girth = torch.stack([cone.girth for cone in cones], 1)
    wide = torch.stack([cone.wide for cone in cones], 1)
    deep = joints.new_tensor([cone.deep for cone in cones]).expand_as(wide)
    return Parts(
        start=start,
        end=end,
        frame=frames(start, end, torch.stack([cone.left for cone in cones], 1)),
        radius=girth[..., None] * joints.new_tensor([cone.radii for cone in cones]),
        stretch=torch.stack([wide, deep], -1),
    )


def frames(start: Tensor, end: Tensor, left: Tensor) -> Tensor:
    """Orthonormal rows (left, along, front), [..., 3, 3], for axes start -> end and hints where the left is.

    Finite for axes of length 0 and for hints along the axis, where the frame is an arbitrary one.
    """
    tilt = start.new_tensor([0.36, 0.48, 0.8])
    along = _unit(end - start + 1e-6 * tilt)
    left = _unit(left)
    left = left - (left * along).sum(-1, keepdim=True) * along
    spare = torch.linalg.cross(along, tilt.roll(1).expand_as(along), dim=-1)
    spare = torch.where(spare.norm(dim=-1, keepdim=True) > 0.1, spare, torch.linalg.cross(along, tilt.expand_as(along)))
    left = _unit(torch.where(left.norm(dim=-1, keepdim=True) > 1e-3, left, spare))
    return torch.stack([left, along, torch.linalg.cross(left, along, dim=-1)], -2)


def _turned(left: Tensor, up: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """The left and front of a head that is turned to its left by angle [B], from the chest's left."""
    frame = frames(torch.zeros_like(up), up, left)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    left, front = frame[:, 0], frame[:, 2]
    return cos * left - sin * front, cos * front + sin * left


def _leg_front(hip: Tensor, knee: Tensor, ankle: Tensor, hips_left: Tensor, hips_up: Tensor) -> Tensor:
    """Where the toes point: across the shin, where a bent knee pokes to, or to the hips' front."""
    length = (knee - hip).norm(dim=1, keepdim=True) + (ankle - knee).norm(dim=1, keepdim=True)
    poke = (knee - 0.5 * (hip + ankle)) / length.clamp(min=1e-6)
    front = 0.15 * _unit(torch.linalg.cross(_unit(hips_left), hips_up, dim=1)) + poke
    down = _unit(ankle - knee)
    across = front - (front * down).sum(1, keepdim=True) * down
    return _unit(across)


def _bone_length(joints: Tensor) -> Tensor:
    parents, children = (list(ends) for ends in zip(*BONES, strict=True))
    return (joints[:, children] - joints[:, parents]).norm(dim=2).sum(1, keepdim=True)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-9)
