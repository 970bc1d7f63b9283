"""How the joints of other datasets become those of the Human3.6M 17-joint set (data/skeleton.py).

A `JointMap` has one entry a joint of H36M-17: the source joints whose mean it is. An empty entry is a joint that the
source does not have. `joint_map` makes one from the names of the keypoints, in whatever order a file has them;
`KEYPOINT_NAMES` has the names of the known layouts.
"""

import re
from collections.abc import Sequence
from math import lcm

import numpy as np

from unihpe_fast.data.skeleton import JOINT_NAMES, NUM_JOINTS

JointMap = tuple[tuple[int, ...], ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_FACE = _words("nose left_eye right_eye left_ear right_ear")
# left and right of each pair in turn, as COCO has them
_ARMS = _words("left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist")
_LEGS = _words("left_hip right_hip left_knee right_knee left_ankle right_ankle")
_RIGHT_ARM, _LEFT_ARM = _ARMS[1::2], _ARMS[::2]
_RIGHT_LEG, _LEFT_LEG = _LEGS[1::2], _LEGS[::2]
_COCO = (*_FACE, *_ARMS, *_LEGS)
_FINGERS = tuple(
    f"{finger}{number}"
    for finger in ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
    for number in range(1, 5)
)
# by the name of the layout, the keypoints in its order
KEYPOINT_NAMES: dict[str, tuple[str, ...]] = {
    "coco17": _COCO,
    "crowdpose14": (*_ARMS, *_LEGS, "head", "neck"),
    # PoseTrack 2018 in COCO's format
    "posetrack17": ("nose", "head_bottom", "head_top", "left_ear", "right_ear", *_ARMS, *_LEGS),
    "halpe26": (
        *_COCO,
        *_words("head neck hip left_big_toe right_big_toe left_small_toe right_small_toe left_heel right_heel"),
    ),
    "wholebody133": (
        *_COCO,
        *_words("left_big_toe left_small_toe left_heel right_big_toe right_small_toe right_heel"),
        *(f"face-{number}" for number in range(68)),
        *(f"{side}_{name}" for side in ("left", "right") for name in ("hand_root", *_FINGERS)),
    ),
    "mediapipe33": _words(
        "nose left_eye_inner left_eye left_eye_outer right_eye_inner right_eye right_eye_outer left_ear right_ear "
        "mouth_left mouth_right left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist "
        "left_pinky right_pinky left_index right_index left_thumb right_thumb left_hip right_hip left_knee right_knee "
        "left_ankle right_ankle left_heel right_heel left_foot_index right_foot_index"
    ),
    "openpose18": (
        "nose", "neck", *_RIGHT_ARM, *_LEFT_ARM, *_RIGHT_LEG, *_LEFT_LEG,
        *_words("right_eye left_eye right_ear left_ear"),
    ),
    "body25": (
        "nose", "neck", *_RIGHT_ARM, *_LEFT_ARM, "mid_hip", *_RIGHT_LEG, *_LEFT_LEG,
        *_words("right_eye left_eye right_ear left_ear left_big_toe left_small_toe left_heel"),
        *_words("right_big_toe right_small_toe right_heel"),
    ),
    "mpii16": (
        *_RIGHT_LEG[::-1], *_LEFT_LEG, "pelvis", "thorax", "upper_neck", "head_top", *_RIGHT_ARM[::-1], *_LEFT_ARM,
    ),
    "lsp14": (*_RIGHT_LEG[::-1], *_LEFT_LEG, *_RIGHT_ARM[::-1], *_LEFT_ARM, "neck", "head_top"),
    "aic14": (*_RIGHT_ARM, *_LEFT_ARM, *_RIGHT_LEG, *_LEFT_LEG, "head_top", "neck"),
    "h36m17": JOINT_NAMES,
    # the 17 joints of MPI-INF-3DHP's test set
    "mpi_inf_3dhp17": (
        "head_top", "neck", *_RIGHT_ARM, *_LEFT_ARM, *_RIGHT_LEG, *_LEFT_LEG, "pelvis", "spine", "head",
    ),
}  # fmt: skip
# other words for the same keypoint
_SYNONYMS = {
    "root": "pelvis", "hip": "pelvis", "hips": "pelvis", "mid_hip": "pelvis", "hip_center": "pelvis",
    "torso": "spine", "belly": "spine", "top_head": "head_top", "headtop": "head_top", "top_of_head": "head_top",
    "head_bottom": "upper_neck",
}  # fmt: skip
# of Human3.6M as mmpose names it: the foot is the ankle, the base of the neck what H36M-17 calls neck
_OTHER = ("neck_base", "jaw", "left_foot", "right_foot")
_SIDES = {"l": "left", "left": "left", "r": "right", "right": "right"}
_LIMBS = "shoulder|elbow|wrist|hip|knee|ankle|eye|ear|heel|foot"


def canonical_name(name: str) -> str:
    """A keypoint's name in one spelling: "RShoulder", "r_shoulder", "Right Shoulder", "shoulder-right" are one."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name).lower()
    spaced = re.sub(rf"\b([lr]|left|right)({_LIMBS})\b", r"\1 \2", re.sub(r"[^a-z0-9]+", " ", spaced))
    words = spaced.split()
    sides = [_SIDES[word] for word in words if word in _SIDES]
    text = "_".join([*sides, *(word for word in words if word not in _SIDES)])
    return _SYNONYMS.get(text, text)


def joint_map(names: Sequence[str]) -> JointMap:
    """The map to H36M-17 of a joint set whose keypoints have these names, in any order and number.

    names: those of `KEYPOINT_NAMES`, in any usual spelling (`canonical_name`). Joints that have no name of their own
    are derived: the pelvis between the hips, the thorax between the shoulders, the spine between those two, the head
    between the eyes; H36M-17's neck is the nose where the set has no such joint. Raises ValueError for a name that no
    known layout has, listing all such, for one that comes twice, and for a set without a joint of H36M-17.
    """
    found = [canonical_name(name) for name in names]
    if unknown := [str(name) for name, known in zip(names, found, strict=True) if known not in _KNOWN]:
        raise ValueError(f"keypoint names must be those of a person, got {', '.join(map(repr, unknown))}")
    if twice := sorted({str(name) for name, known in zip(names, found, strict=True) if found.count(known) > 1}):
        raise ValueError(f"keypoint names must be different, got {', '.join(map(repr, twice))} for one joint")
    at = {name: index for index, name in enumerate(found)}

    def first(*choices: str) -> tuple[int, ...]:
        """The joints of the first choice, names with a space between, of which all are there."""
        return next((tuple(sorted(at[n] for n in c.split())) for c in choices if all(n in at for n in c.split())), ())

    # Human3.6M's names have a spine; in MPII's and others' without one, the neck stands where Human3.6M has its thorax
    human36m = "spine" in at and "thorax" in at
    result: dict[str, tuple[int, ...]] = {name: first(name) for name in JOINT_NAMES}
    result["pelvis"] = first("pelvis", "left_hip right_hip")
    result["thorax"] = first("upper_neck", "thorax" if human36m else "neck", "thorax", "left_shoulder right_shoulder")
    result["spine"] = first("spine") or _between(result["pelvis"], result["thorax"])
    other = "neck" if human36m else "head" if "head_top" in at else "nose"
    result["neck"] = first("nose", "neck_base", "jaw", other)
    result["head"] = first("head_top", "head", "left_eye right_eye")
    for side in ("left", "right"):
        result[f"{side}_ankle"] = first(f"{side}_ankle", f"{side}_foot")
    if not any(result.values()):
        raise ValueError(f"keypoint names must name joints of a body, got {', '.join(map(repr, names))}")
    return tuple(result[name] for name in JOINT_NAMES)


def _between(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """Sources whose mean is midway between those of two joints; none where either has none."""
    if not one or not other:
        return ()
    size = lcm(len(one), len(other))
    return tuple(sorted(one * (size // len(one)) + other * (size // len(other))))


_KNOWN = frozenset(canonical_name(name) for names in (*KEYPOINT_NAMES.values(), _OTHER) for name in names)


def _singles(*joints: int) -> JointMap:
    return tuple((joint,) for joint in joints)


# pelvis, thorax, spine and head as mmpose derives them
COCO17 = joint_map(KEYPOINT_NAMES["coco17"])
# 10 is the head top, an approximation, and the neck/nose joint has no source (3d-pose-baseline, SPIN)
MPII16 = joint_map(KEYPOINT_NAMES["mpii16"])
LSP14 = joint_map(KEYPOINT_NAMES["lsp14"])
# COCO-18, as 3DPW's poses2d has it; joint 1 is the neck at the height of the shoulders
OPENPOSE18 = joint_map(KEYPOINT_NAMES["openpose18"])
# the 24 joints of SPIN's, PARE's and CLIFF's annotation files
SPIN24: JointMap = _singles(14, 2, 1, 0, 3, 4, 5, 16, 12, 17, 18, 9, 10, 11, 8, 7, 6)
# what can be said of those that are not annotated, to be tried in turn: as MPII's and COCO's are derived
SPIN24_DERIVED: tuple[JointMap, ...] = (
    ((2, 3), (), (), (), (), (), (), (12, 14), (8, 9), (19,), (20, 21), (), (), (), (), (), ()),
    ((), (), (), (), (), (), (), (2, 3, 8, 9), (), (), (13,), (), (), (), (), (), ()),
)
# joint 1 is the neck at the height of the shoulders, joint 8 between the hips
BODY25 = joint_map(KEYPOINT_NAMES["body25"])
# the skeleton's own joints of SMPL, an approximation: its head joint is at the base of the skull
SMPL24: JointMap = (
    (0,), (2,), (5,), (8,), (1,), (4,), (7,), (6,), (12,), (), (15,), (16,), (18,), (20,), (17,), (19,), (21,),
)  # fmt: skip
H36M17: JointMap = _singles(*range(NUM_JOINTS))
# MPI-INF-3DHP: the 28 joints of the training set, the 17 of the test set
MPI_INF_3DHP28: JointMap = _singles(4, 23, 24, 25, 18, 19, 20, 3, 5, 6, 7, 9, 10, 11, 14, 15, 16)
MPI_INF_3DHP17 = joint_map(KEYPOINT_NAMES["mpi_inf_3dhp17"])
# rows of SMPL's J_regressor_h36m.npy, whose left leg comes first
SMPL_H36M17: JointMap = _singles(0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
# Human3.6M's 32 joints as released
H36M32: JointMap = _singles(0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)


def to_h36m17(joints: np.ndarray, joint_map: JointMap) -> np.ndarray:
    """Joints of another set as H36M-17, in the dtype they have.

    joints: [..., J, C + 1] floating, coordinates and last a confidence or validity. Returns [..., 17, C + 1]. A derived
    joint is the mean of its sources (one named twice counts twice) and has the least of their confidences; where that
    is 0, or there is no source, all of the joint is 0.
    """
    # the axes lie in memory as those of `joints` do
    result = np.zeros_like(joints, shape=(*joints.shape[:-2], NUM_JOINTS, joints.shape[-1]))
    for target, sources in enumerate(joint_map):
        if sources:
            found = [joints[..., source, :] for source in sources]
            result[..., target, :-1] = sum(joint[..., :-1] for joint in found) / len(found)
            result[..., target, -1] = np.minimum.reduce([joint[..., -1] for joint in found])
    np.copyto(result, 0, where=result[..., -1:] <= 0)
    return result
