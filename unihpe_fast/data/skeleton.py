"""The Human3.6M 17-joint set that every dataset is converted to."""

import numpy as np

JOINT_SET = "h36m17"
JOINT_NAMES = (
    "pelvis", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "spine", "thorax",
    "neck", "head", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist",
)  # fmt: skip
NUM_JOINTS = len(JOINT_NAMES)
ROOT = 0
PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15)
BONES = tuple((parent, child) for child, parent in enumerate(PARENTS) if parent >= 0)
LEFT = (4, 5, 6, 11, 12, 13)
RIGHT = (1, 2, 3, 14, 15, 16)


def _flip_permutation() -> tuple[int, ...]:
    order = list(range(NUM_JOINTS))
    for left, right in zip(LEFT, RIGHT, strict=True):
        order[left], order[right] = right, left
    return tuple(order)


# joint j of a mirrored person is joint FLIP[j] of the original
FLIP = np.array(_flip_permutation())
# the 14 joints that SMPL-style protocols score (data order of H36M-17)
H36M14 = np.array([1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 16])
