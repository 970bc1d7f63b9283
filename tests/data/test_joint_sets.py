import numpy as np
import pytest

from unihpe_fast.data import joint_sets as sets
from unihpe_fast.data.skeleton import JOINT_NAMES

# the names that each dataset gives its joints, in its order, as far as they name a joint of H36M-17
RIGHT_LEG, LEFT_LEG = ("right_hip", "right_knee", "right_ankle"), ("left_hip", "left_knee", "left_ankle")
RIGHT_ARM = ("right_shoulder", "right_elbow", "right_wrist")
LEFT_ARM = ("left_shoulder", "left_elbow", "left_wrist")
NAMED = {
    "SPIN24": (
        *RIGHT_LEG[::-1], *LEFT_LEG, *RIGHT_ARM[::-1], *LEFT_ARM, "thorax", "", "pelvis", "", "spine", "neck", "head",
    ),
    "MPI_INF_3DHP17": ("head", "thorax", *RIGHT_ARM, *LEFT_ARM, *RIGHT_LEG, *LEFT_LEG, "pelvis", "spine", "neck"),
    "MPI_INF_3DHP28": (
        "", "", "", "spine", "pelvis", "thorax", "neck", "head", "", *LEFT_ARM, "", "", *RIGHT_ARM, "", *LEFT_LEG, "",
        "", *RIGHT_LEG,
    ),
    "SMPL_H36M17": ("pelvis", *LEFT_LEG, *RIGHT_LEG, "spine", "thorax", "neck", "head", *LEFT_ARM, *RIGHT_ARM),
    "H36M32": (
        "pelvis", *RIGHT_LEG, "", "", *LEFT_LEG, "", "", "", "spine", "thorax", "neck", "head", "", *LEFT_ARM, "", "",
        "", "", "", *RIGHT_ARM,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_joint_maps_follow_the_names(name):
    found = tuple(NAMED[name][source] for (source,) in getattr(sets, name))
    assert found == JOINT_NAMES


def test_derived_coco_joints_are_means_with_the_least_confidence():
    joints = np.random.default_rng(0).uniform(1, 9, (2, 17, 3))
    joints[..., 2] = np.linspace(0.1, 0.9, 17)
    out = sets.to_h36m17(joints, sets.COCO17)
    pelvis = (joints[:, 11, :2] + joints[:, 12, :2]) / 2
    thorax = (joints[:, 5, :2] + joints[:, 6, :2]) / 2
    np.testing.assert_allclose(out[:, 0, :2], pelvis)
    np.testing.assert_allclose(out[:, 8, :2], thorax)
    np.testing.assert_allclose(out[:, 7, :2], (pelvis + thorax) / 2)
    np.testing.assert_allclose(out[:, 10, :2], (joints[:, 1, :2] + joints[:, 2, :2]) / 2)
    np.testing.assert_array_equal(out[:, [9, 1, 2, 3, 4, 5, 6]], joints[:, [0, 12, 14, 16, 11, 13, 15]])
    np.testing.assert_array_equal(out[:, 11:], joints[:, [5, 7, 9, 6, 8, 10]])
    np.testing.assert_array_equal(out[0, [0, 7, 10], 2], joints[0, [11, 5, 1], 2])


def test_openpose_spine_is_midway_between_pelvis_and_neck():
    joints = np.random.default_rng(1).uniform(1, 9, (18, 3))
    out = sets.to_h36m17(joints, sets.OPENPOSE18)
    np.testing.assert_allclose(out[0, :2], (joints[8, :2] + joints[11, :2]) / 2)
    np.testing.assert_allclose(out[7, :2], (out[0, :2] + joints[1, :2]) / 2)


def test_a_joint_with_an_unknown_source_is_unknown_and_zero():
    joints = np.ones((16, 3), np.float32)
    joints[8] = (7, 7, 0)
    out = sets.to_h36m17(joints, sets.MPII16)
    assert out.dtype == np.float32
    assert np.flatnonzero(out[:, 2] == 0).tolist() == [7, 8, 9]
    assert not out[[7, 8, 9]].any()


# the joints of SMPL's skeleton by the names of its makers
SMPL_NAMES = [
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand",
]  # fmt: skip
SMPL_FOR = {"spine": "spine2", "thorax": "neck", "neck": None}
BODY25_NAMES = ["nose", "neck", *RIGHT_ARM, *LEFT_ARM, "pelvis", *RIGHT_LEG, *LEFT_LEG, "right_eye", "left_eye"]
BODY25_FOR = {"spine": ("neck", "pelvis"), "thorax": "neck", "neck": "nose", "head": ("right_eye", "left_eye")}


@pytest.mark.parametrize(
    ("joint_map", "names", "renamed"),
    [(sets.SMPL24, SMPL_NAMES, SMPL_FOR), (sets.BODY25, BODY25_NAMES, BODY25_FOR), (sets.H36M17, JOINT_NAMES, {})],
    ids=["SMPL24", "BODY25", "H36M17"],
)
def test_approximate_maps_follow_the_names(joint_map, names, renamed):
    for target, sources in zip(JOINT_NAMES, joint_map, strict=True):
        want = renamed.get(target, target)
        want = () if want is None else (want,) if isinstance(want, str) else want
        assert tuple(names[source] for source in sources) == want
