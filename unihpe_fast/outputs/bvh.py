"""BVH, a file a person: a fixed skeleton of median bone lengths, turned by rotations that Procrustes gives.

The rest pose is a T-pose, Y up, facing +Z, in m. A joint's rotation turns the bones to its children from the rest pose
onto those predicted. Where the children lie in one line, twist about it cannot be seen, and the joint twists as its
parent does.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from unihpe_fast.data.skeleton import JOINT_NAMES, NUM_JOINTS, PARENTS
from unihpe_fast.fileio import write_lines
from unihpe_fast.outputs import person_paths
from unihpe_fast.outputs.motion import Motion, motions
from unihpe_fast.prediction import Prediction
from unihpe_kernels import procrustes

_PELVIS, _SPINE, _THORAX, _NECK = (JOINT_NAMES.index(name) for name in ("pelvis", "spine", "thorax", "neck"))
_CHILDREN = tuple(
    tuple(child for child, parent in enumerate(PARENTS) if parent == joint) for joint in range(NUM_JOINTS)
)
# a bone without joint at its end, m: a foot, a hand, the crown of the head
_END = 0.1
# how much the parent's rotation counts against a bone: enough to settle the twist, too little to be seen
_TWIST = 1e-5
# whose rotations are looked for at once
_FRAMES = 4096
# a head that turns must not turn the chest
_NECK_WEIGHT = 0.01


def _directions() -> np.ndarray:
    """[17, 3], where each joint lies from its parent in the rest pose; the person's left is +X."""
    up, down, left = np.eye(3)[1], -np.eye(3)[1], np.eye(3)[0]
    by_word = {"hip": left, "knee": down, "ankle": down, "shoulder": left, "elbow": left, "wrist": left}
    directions = np.zeros((NUM_JOINTS, 3))
    for joint, name in enumerate(JOINT_NAMES):
        side, _, part = name.partition("_")
        if part:
            direction = by_word[part]
            # right limbs mirror the left ones
            directions[joint] = direction * [-1 if side == "right" else 1, 1, 1]
        elif joint != _PELVIS:
            directions[joint] = up
    # H36M-17's neck is the nose
    directions[_NECK] = [0, 0.8, 0.6]
    return directions


_DIRECTIONS = _directions()


def write(prediction: Prediction, path: Path) -> list[Path]:
    """A file a person, the pelvis in the origin, each from the first frame in which anyone is seen to the last.

    Frames without the person are filled between their neighbours; before the first and after the last it stands still.
    """
    people = motions(prediction, path)
    paths = person_paths(path, list(people))
    # all begin and end with the clip, so that several that are imported move in step
    first = min(motion.first for motion in people.values())
    end = max(motion.first + len(motion.joints) for motion in people.values())
    for person, motion in people.items():
        write_lines(paths[person], _lines(motion, first, end))
    return list(paths.values())


def skeleton(joints: np.ndarray) -> np.ndarray:
    """Offsets [17, 3] of the rest pose from joints [F, 17, 3]: the median length of each bone."""
    lengths = np.zeros(NUM_JOINTS)
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            lengths[joint] = np.median(np.linalg.norm(joints[:, joint] - joints[:, parent], axis=-1))
    return _DIRECTIONS * lengths[:, None]


def rotations(joints: np.ndarray) -> np.ndarray:
    """Global rotations [F, 17, 3, 3] that turn the rest pose's bones onto those of joints [F, 17, 3]."""
    turned = np.tile(np.eye(3), (len(joints), NUM_JOINTS, 1, 1))
    for joint, children in enumerate(_CHILDREN):
        parent = turned[:, max(PARENTS[joint], 0)]
        if not children:
            turned[:, joint] = parent
            continue
        rest = [_DIRECTIONS[child] for child in children]
        bones = [joints[:, child] - joints[:, joint] for child in children]
        weights = [_NECK_WEIGHT if child == _NECK else 1.0 for child in children]
        if joint == _THORAX:
            # shoulders lie in one line: the spine below them says how the chest is inclined
            rest.append(_DIRECTIONS[_THORAX])
            bones.append(joints[:, _THORAX] - joints[:, _SPINE])
            weights.append(1.0)
        if joint != _PELVIS:
            rest += list(np.eye(3))
            bones += [parent[:, :, axis] for axis in range(3)]
            weights += [_TWIST] * 3
        turned[:, joint] = _rotation(np.stack(rest), np.stack(bones, axis=1), np.array(weights))
    return turned


def _rotation(rest: np.ndarray, bones: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[F, 3, 3], the rotation that turns directions rest [n, 3] onto those of bones [F, n, 3] best."""
    unit = bones / np.linalg.norm(bones, axis=-1, keepdims=True).clip(min=1e-9)
    # each vector and its opposite: their centre is the joint, which must stay where it is
    source = torch.from_numpy(np.concatenate([rest, -rest])).expand(len(bones), -1, -1)
    target = torch.from_numpy(np.concatenate([unit, -unit], axis=1))
    found = procrustes(
        source, target, weights=torch.from_numpy(np.tile(weights, 2)).expand(len(bones), -1), scale=False
    )
    return found.rotation.numpy()


def _lines(motion: Motion, first: int, end: int) -> Iterator[str]:
    joints = _filled(motion, first, end) / 1000
    order: list[int] = []
    lines = ["HIERARCHY"]
    _node(_PELVIS, 0, skeleton(joints), lines, order)
    yield from lines
    yield from ["MOTION", f"Frames: {len(joints)}", f"Frame Time: {1 / motion.rate:.8f}"]
    angles = np.concatenate([_angles(joints[at : at + _FRAMES], order) for at in range(0, len(joints), _FRAMES)])
    # without jumps from 180 to -180 degrees a curve can be edited
    for frame in np.unwrap(angles, axis=0, period=360.0):
        yield "0 0 0 " + " ".join(f"{angle:.6f}" for angle in frame.ravel())


def _angles(joints: np.ndarray, order: list[int]) -> np.ndarray:
    """[F, 17, 3] degrees about Z, Y, X of each joint in its parent's frame, in the order of the file."""
    turned = rotations(joints)
    local = [
        turned[:, joint] if joint == _PELVIS else turned[:, PARENTS[joint]].transpose(0, 2, 1) @ turned[:, joint]
        for joint in order
    ]
    return _euler(np.stack(local, axis=1).reshape(-1, 3, 3)).reshape(len(joints), -1, 3)


def _euler(matrices: np.ndarray) -> np.ndarray:
    """[n, 3] degrees about Z, Y, X of rotations that are their product in this order."""
    import warnings

    with warnings.catch_warnings():
        # at 90 degrees about Y many angles are the same rotation, and any of them will do
        warnings.simplefilter("ignore", UserWarning)
        return Rotation.from_matrix(matrices).as_euler("ZYX", degrees=True)


def _filled(motion: Motion, first: int, end: int) -> np.ndarray:
    """[end - first, 17, 3] of all frames from first to end."""
    at, known = np.arange(first, end), motion.first + np.flatnonzero(motion.present)
    flat = motion.joints[motion.present].reshape(len(known), -1)
    return np.stack([np.interp(at, known, column) for column in flat.T], axis=1).reshape(
        len(at), *motion.joints.shape[1:]
    )


def _node(joint: int, depth: int, offsets: np.ndarray, lines: list[str], order: list[int]) -> None:
    tab, inner = "\t" * depth, "\t" * (depth + 1)
    order.append(joint)
    kind = "ROOT" if joint == _PELVIS else "JOINT"
    positions = "6 Xposition Yposition Zposition" if joint == _PELVIS else "3"
    lines += [f"{tab}{kind} {JOINT_NAMES[joint]}", tab + "{", inner + "OFFSET " + _numbers(offsets[joint])]
    lines.append(f"{inner}CHANNELS {positions} Zrotation Yrotation Xrotation")
    for child in _CHILDREN[joint]:
        _node(child, depth + 1, offsets, lines, order)
    if not _CHILDREN[joint]:
        end = np.array([0, 0, _END]) if "ankle" in JOINT_NAMES[joint] else _DIRECTIONS[joint] * _END
        lines += [inner + "End Site", inner + "{", f"{inner}\tOFFSET {_numbers(end)}", inner + "}"]
    lines.append(tab + "}")


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.6f}" for value in values)
