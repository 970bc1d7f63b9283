"""Poses that no person has are named, in each of the ways that files have come to hold them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from unihpe_fast.data.camera import Camera
from unihpe_fast.data.plausible import bone_lengths, keep_plausible, person_faults
from unihpe_fast.data.records import Sample
from unihpe_fast.data.skeleton import FLIP
from unihpe_fast.data.sources import Tally
from unihpe_fast.data.sources.synthetic import sample_poses

UP = np.array([0.0, 0.0, 1.0])
# Human3.6M's joints in the places of MPI-INF-3DHP's test order: head top, neck, right arm, left arm, legs, pelvis, ..
MPI_INF_3DHP = [10, 8, 14, 15, 16, 11, 12, 13, 1, 2, 3, 4, 5, 6, 0, 7, 9]


def people(count: int = 200) -> np.ndarray:
    """[count, 17, 4] of different people in different poses, Z up, the pelvis at the origin."""
    joints, _ = sample_poses(count, torch.Generator().manual_seed(0))
    return np.concatenate([joints.double().numpy(), np.ones((count, 17, 1))], axis=-1)


def standing(count: int = 40) -> np.ndarray:
    """[count, 17, 4] of one person whose knees bend to and fro, Z up, facing -Y, left at +X."""
    x, z = 130.0, np.array([0, 0, 0, 0, 0, 0, 0, 230, 480, 590, 700, 440, 440, 440, 440, 440, 440.0])
    joints = np.zeros((count, 17, 4))
    joints[..., 3] = 1
    joints[..., 2] = z
    joints[:, [4, 5, 6], 0], joints[:, [1, 2, 3], 0] = x, -x
    for side, arm in ((1, (11, 12, 13)), (-1, (14, 15, 16))):
        joints[:, arm, 0] = side * np.array([150.0, 430.0, 680.0])
    bend = np.radians(25 + 20 * np.sin(np.arange(count)))
    for knee, ankle in ((2, 3), (5, 6)):
        joints[:, knee, 1], joints[:, knee, 2] = -440 * np.sin(bend), -440 * np.cos(bend)
        joints[:, ankle, 2] = joints[:, knee, 2] - 450 * np.cos(bend)
    return joints


def test_all_sizes_and_poses_of_people_pass():
    for person in people():
        assert person_faults(person[None]) == []
    assert person_faults(standing(), UP) == []
    for size in (0.65, 1.25):  # of 1.0 and 2.2 m
        assert person_faults(standing() * [size, size, size, 1], UP) == []


def test_another_order_of_the_joints_is_named_with_its_lengths():
    for person in people(50):
        assert person_faults(person[None, MPI_INF_3DHP])
    text = "; ".join(person_faults(standing()[:, MPI_INF_3DHP], UP))
    assert "right thigh" in text
    assert "mm" in text


@pytest.mark.parametrize(
    ("factor", "word"), [(1000.0, "thigh"), (0.1, "shin"), (1 / 2.54, "forearm"), (2.54, "upper arm")]
)
def test_another_unit_is_named(factor, word):
    faults = person_faults(standing() * [factor, factor, factor, 1])
    assert any(word in fault for fault in faults)


def test_left_is_held_against_right():
    joints = standing()
    joints[:, 13, 0] += 90
    assert [fault for fault in person_faults(joints) if fault.startswith("forearm left 340 mm, right 250 mm")]


def test_scales_that_no_single_length_tells_are_found_by_ratio():
    joints = standing() * [0.8, 0.8, 0.8, 1]
    joints[:, [13, 16], 0] = np.sign(joints[:, [13, 16], 0]) * (np.abs(joints[:, [12, 15], 0]) + 385)
    assert person_faults(joints) == [fault for fault in person_faults(joints) if fault.startswith("upper arm")]
    assert person_faults(joints)


def test_mirrored_people_have_knees_that_bend_backward():
    assert any("knees bend backward in 100%" in fault for fault in person_faults(standing() * [-1, 1, 1, 1]))
    assert any("knees bend backward" in fault for fault in person_faults(standing()[:, FLIP]))
    # mirrored with the joints swapped is a person again
    assert person_faults((standing() * [-1, 1, 1, 1])[:, FLIP], UP) == []


def test_another_up_axis_is_named_but_lying_people_pass():
    # arms out: lying on the back stays low, on the side it is 1.4 m high
    back = standing()[..., [0, 2, 1, 3]] * [1, 1, -1, 1]
    side = standing()[..., [2, 1, 0, 3]] * [1, 1, -1, 1]
    assert person_faults(back, UP) == []
    assert person_faults(side, UP) == ["never upright (another up axis?)"]
    assert person_faults(side) == []
    assert person_faults(standing() * [-1, 1, -1, 1], UP) == ["never upright (another up axis?)"]
    # once upright is enough
    assert person_faults(np.concatenate([side, standing(1)]), UP) == []


def test_what_is_not_valid_is_not_looked_at():
    joints = standing()
    joints[:, 13] = [5000, 0, 0, 0]
    assert person_faults(joints, UP) == []
    assert 13 not in bone_lengths(joints)
    joints[1:, 16] = 0
    assert bone_lengths(joints)[16] == pytest.approx(250)
    assert person_faults(np.zeros((3, 17, 4)), UP) == []
    joints[0, 16, 0] = np.nan
    assert [fault for fault in person_faults(joints) if fault.startswith("right forearm inf mm")]


def clip(joints: np.ndarray, **names: str) -> list[Sample]:
    camera = Camera("c", np.ones(9), 10, 10, np.eye(3), np.zeros(3))
    return [
        Sample(bbox=np.ones(3), joints_3d=pose.astype(np.float32), camera=camera, frame=n, **names)
        for n, pose in enumerate(joints)
    ]


def test_clips_that_fail_are_named_once_and_counted(monkeypatch):
    monkeypatch.setattr("unihpe_fast.data.plausible.WINDOW", 25)
    good, bad = standing(), standing()[:, MPI_INF_3DHP]
    tally = Tally()
    given = [
        *clip(good, subject="S1", action="walk"),
        *clip(bad, subject="S4", action="sit"),
        *clip(good, subject="S1"),
    ]
    kept = list(keep_plausible(iter(given), tally))
    assert [sample.subject for sample in kept] == ["S1"] * 80
    assert tally.skipped == {("S4", "sit", "3D joints that are no person's"): 40}
    assert len(tally.notes) == 1
    assert tally.notes[0].startswith("S4 sit, frame 0: left out, no person has: ")


def test_people_without_a_name_are_judged_one_by_one():
    tally = Tally()
    poses = people(6)
    poses[3] = poses[3, MPI_INF_3DHP]
    without = Sample(bbox=np.ones(3), photo=Path("a.jpg"))
    kept = list(keep_plausible(iter([*clip(poses), without]), tally))
    assert [sample.frame for sample in kept] == [0, 1, 2, 4, 5, 0]
    assert tally.skipped.total() == 1
