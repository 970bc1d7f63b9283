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


# by hand from what the makers of each layout publish, joint by joint of H36M-17
BY_HAND = {
    "coco17": [
        (11, 12), (12,), (14,), (16,), (11,), (13,), (15,), (5, 6, 11, 12), (5, 6), (0,), (1, 2), (5,), (7,), (9,),
        (6,), (8,), (10,),
    ],
    "crowdpose14": [
        (6, 7), (7,), (9,), (11,), (6,), (8,), (10,), (6, 7, 13, 13), (13,), (), (12,), (0,), (2,), (4,), (1,), (3,),
        (5,),
    ],
    "posetrack17": [
        (11, 12), (12,), (14,), (16,), (11,), (13,), (15,), (1, 1, 11, 12), (1,), (0,), (2,), (5,), (7,), (9,), (6,),
        (8,), (10,),
    ],
    "halpe26": [
        (19,), (12,), (14,), (16,), (11,), (13,), (15,), (18, 19), (18,), (0,), (17,), (5,), (7,), (9,), (6,), (8,),
        (10,),
    ],
    "mediapipe33": [
        (23, 24), (24,), (26,), (28,), (23,), (25,), (27,), (11, 12, 23, 24), (11, 12), (0,), (2, 5), (11,), (13,),
        (15,), (12,), (14,), (16,),
    ],
    "openpose18": [
        (8, 11), (8,), (9,), (10,), (11,), (12,), (13,), (1, 1, 8, 11), (1,), (0,), (14, 15), (5,), (6,), (7,), (2,),
        (3,), (4,),
    ],
    "body25": [
        (8,), (9,), (10,), (11,), (12,), (13,), (14,), (1, 8), (1,), (0,), (15, 16), (5,), (6,), (7,), (2,), (3,), (4,),
    ],
    "mpii16": [
        (6,), (2,), (1,), (0,), (3,), (4,), (5,), (6, 8), (8,), (), (9,), (13,), (14,), (15,), (12,), (11,), (10,),
    ],
    "lsp14": [
        (2, 3), (2,), (1,), (0,), (3,), (4,), (5,), (2, 3, 12, 12), (12,), (), (13,), (9,), (10,), (11,), (8,), (7,),
        (6,),
    ],
    "h36m17": [(joint,) for joint in range(17)],
    "mpi_inf_3dhp17": [
        (14,), (8,), (9,), (10,), (11,), (12,), (13,), (15,), (1,), (16,), (0,), (5,), (6,), (7,), (2,), (3,), (4,),
    ],
}  # fmt: skip
BY_HAND["wholebody133"] = BY_HAND["coco17"]


@pytest.mark.parametrize("layout", BY_HAND)
def test_the_names_of_a_layout_give_its_map(layout):
    names = sets.KEYPOINT_NAMES[layout]
    digits = "".join(filter(str.isdigit, layout.replace("h36m", "").replace("3dhp", "")))
    assert len(names) == len(set(names)) == int(digits)
    assert list(sets.joint_map(names)) == BY_HAND[layout]


@pytest.mark.parametrize("layout", BY_HAND)
def test_the_order_of_the_names_does_not_matter(layout):
    names = sets.KEYPOINT_NAMES[layout]
    order = np.random.default_rng(0).permutation(len(names))
    joints = np.random.default_rng(1).uniform(1, 9, (len(names), 3))
    want = sets.to_h36m17(joints, sets.joint_map(names))
    np.testing.assert_allclose(sets.to_h36m17(joints[order], sets.joint_map([names[k] for k in order])), want)


def test_usual_spellings_are_one_name():
    for spelling in ("RShoulder", "r_shoulder", "Right Shoulder", "rightShoulder", "shoulder-right", "rshoulder"):
        assert sets.canonical_name(spelling) == "right_shoulder"
    mmpose = ["root", *RIGHT_LEG[:2], "right_foot", *LEFT_LEG[:2], "left_foot", "spine", "thorax", "neck_base", "head"]
    assert sets.joint_map([*mmpose, *LEFT_ARM, *RIGHT_ARM]) == sets.H36M17
    left, right = [[f"{side}_{limb}" for limb in ("Hip", "Knee", "Ankle")] for side in "LR"]
    arms = [f"{side}_{limb}" for side in "LR" for limb in ("Shoulder", "Elbow", "Wrist")]
    assert sets.joint_map(["Pelvis", *right, *left, "Torso", "Neck", "Nose", "Head", *arms]) == sets.H36M17


def test_names_that_no_person_has_are_listed():
    with pytest.raises(ValueError, match=r"'tail', 'L_F_Paw'$"):
        sets.joint_map(["nose", "tail", "left_eye", "L_F_Paw"])
    with pytest.raises(ValueError, match="'LHip', 'left_hip' for one joint"):
        sets.joint_map(["nose", "left_hip", "LHip"])
    with pytest.raises(ValueError, match="must name joints of a body, got 'left_big_toe'"):
        sets.joint_map(["left_big_toe"])
