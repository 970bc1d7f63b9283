"""How the joints of other datasets become those of the Human3.6M 17-joint set (data/skeleton.py).

A `JointMap` has one entry a joint of H36M-17: the source joints whose mean it is. An empty entry is a joint that the
source does not have.
"""

import numpy as np

from unihpe_fast.data.skeleton import NUM_JOINTS

JointMap = tuple[tuple[int, ...], ...]


def _singles(*joints: int) -> JointMap:
    return tuple((joint,) for joint in joints)


# COCO keypoints; as mmpose derives pelvis, thorax, spine and head
COCO17: JointMap = (
    (11, 12), (12,), (14,), (16,), (11,), (13,), (15,), (5, 6, 11, 12), (5, 6), (0,), (1, 2), (5,), (7,), (9,), (6,),
    (8,), (10,),
)  # fmt: skip
# MPII; 10 is the head top, an approximation, and the neck/nose joint has no source (3d-pose-baseline, SPIN)
MPII16: JointMap = (
    (6,), (2,), (1,), (0,), (3,), (4,), (5,), (6, 8), (8,), (), (9,), (13,), (14,), (15,), (12,), (11,), (10,),
)  # fmt: skip
# OpenPose's COCO-18, as 3DPW's poses2d has it; joint 1 is the neck at the height of the shoulders
OPENPOSE18: JointMap = (
    (8, 11), (8,), (9,), (10,), (11,), (12,), (13,), (1, 1, 8, 11), (1,), (0,), (14, 15), (5,), (6,), (7,), (2,), (3,),
    (4,),
)  # fmt: skip
# the 24 joints of SPIN's, PARE's and CLIFF's annotation files
SPIN24: JointMap = _singles(14, 2, 1, 0, 3, 4, 5, 16, 12, 17, 18, 9, 10, 11, 8, 7, 6)
# what can be said of those that are not annotated, to be tried in turn: as MPII's and COCO's are derived
SPIN24_DERIVED: tuple[JointMap, ...] = (
    ((2, 3), (), (), (), (), (), (), (12, 14), (8, 9), (19,), (20, 21), (), (), (), (), (), ()),
    ((), (), (), (), (), (), (), (2, 3, 8, 9), (), (), (13,), (), (), (), (), (), ()),
)
# OpenPose's BODY_25; joint 1 is the neck at the height of the shoulders, joint 8 between the hips
BODY25: JointMap = (
    (8,), (9,), (10,), (11,), (12,), (13,), (14,), (1, 8), (1,), (0,), (15, 16), (5,), (6,), (7,), (2,), (3,), (4,),
)  # fmt: skip
# the skeleton's own joints of SMPL, an approximation: its head joint is at the base of the skull
SMPL24: JointMap = (
    (0,), (2,), (5,), (8,), (1,), (4,), (7,), (6,), (12,), (), (15,), (16,), (18,), (20,), (17,), (19,), (21,),
)  # fmt: skip
H36M17: JointMap = _singles(*range(NUM_JOINTS))
# MPI-INF-3DHP: the 28 joints of the training set, the 17 of the test set
MPI_INF_3DHP28: JointMap = _singles(4, 23, 24, 25, 18, 19, 20, 3, 5, 6, 7, 9, 10, 11, 14, 15, 16)
MPI_INF_3DHP17: JointMap = _singles(14, 8, 9, 10, 11, 12, 13, 15, 1, 16, 0, 5, 6, 7, 2, 3, 4)
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
    result = np.zeros((*joints.shape[:-2], NUM_JOINTS, joints.shape[-1]), joints.dtype)
    for target, sources in enumerate(joint_map):
        if sources:
            found = joints[..., list(sources), :]
            result[..., target, :-1] = found[..., :-1].mean(-2)
            result[..., target, -1] = found[..., -1].min(-1)
    result[result[..., -1] <= 0] = 0
    return result
