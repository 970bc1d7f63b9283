"""The benchmark on pose2sim's clips: calibration, triangulation, who counts, with made-up cameras and people."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from benchmarks.pose2sim import LIMBS, aligned, associate, match, score, triangulate, truths
from benchmarks.pose2sim.clips import Calibration, Seen, read_calibration, watch
from benchmarks.pose2sim.pictures import cut
from tests.support.fakes import STANDING
from unihpe_fast.data.camera import look_at, project
from unihpe_fast.data.joint_sets import COCO17, to_h36m17

QCA = """<?xml version='1.0'?><calibration><cameras>
<camera serial="cam01"><fov_video bottom="1919" left="4" right="1087" top="0"/>
<transform r11="0" r12="1" r13="0" r21="0" r22="0" r23="1" r31="1" r32="0" r33="0" x="3000" y="0" z="1000"/>
<intrinsic centerPointU="34816" centerPointV="61440" focalLengthU="107520" focalLengthV="107520"
 radialDistortion1="0.1" radialDistortion2="0.2" tangentalDistortion1="0.01" tangentalDistortion2="0.02"/></camera>
</cameras></calibration>"""


def camera(angle: float) -> Calibration:
    eye = 4000 * np.array([np.cos(angle), np.sin(angle), 0.3])
    rotation, translation = look_at(torch.from_numpy(eye), torch.zeros(3, dtype=torch.float64))
    matrix = np.array([[1600.0, 0, 544], [0, 1600, 960], [0, 0, 1]])
    return Calibration(matrix, np.zeros(4), rotation.numpy(), translation.numpy())


CAMERAS = [camera(angle) for angle in (0.2, 1.9, 3.4, 5.0)]


def person(x: float = 0.0, stretch: float = 1.0) -> np.ndarray:
    """COCO's joints of a standing person, world mm with Z up."""
    body = STANDING.double().numpy() @ np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]).T
    # nose, eyes, ears, then the limbs in COCO's order
    order = [9, 10, 10, 10, 10, 11, 14, 12, 15, 13, 16, 4, 1, 5, 2, 6, 3]
    joints = body[order] + [x, 0, 0]
    joints[1:5] += np.array([[30, 60, 0], [-30, 60, 0], [70, 0, 0], [-70, 0, 0]])
    joints[9] = joints[7] + stretch * (joints[9] - joints[7])
    return joints


def seen(people: list[np.ndarray], number: int) -> Seen:
    points = np.stack([CAMERAS[number].project(joints) for joints in people])
    relative = np.stack([joints @ CAMERAS[number].rotation.T for joints in people])
    return Seen(points, np.full(points.shape[:2], 0.9), relative)


def test_a_qualisys_calibration(tmp_path):
    (tmp_path / "c.xml").write_text(QCA)
    (found,) = read_calibration(tmp_path / "c.xml")
    np.testing.assert_allclose(found.matrix, [[1680, 0, 540], [0, 1680, 960], [0, 0, 1]])
    np.testing.assert_allclose(found.distortion, [0.1, 0.2, 0.01, 0.02])
    # the camera stands at (3, 0, 1) m and looks along -x; y is to its right, z above
    np.testing.assert_allclose(found.project(np.array([0.0, 0.0, 1000.0])), [540, 960], atol=1e-9)
    right, above = found.project(np.array([[0.0, 300, 1000], [0, 0, 1300]]))
    np.testing.assert_allclose([right, above], [[708, 960], [540, 792]])


def test_undistorted_points_are_a_pinholes():
    lens = replace(CAMERAS[0], distortion=np.array([-0.05, 0.14, 0.001, 0.002]))
    joints = person()
    vector, _ = cv2.Rodrigues(lens.rotation)
    drawn = cv2.projectPoints(joints, vector, lens.translation, lens.matrix, lens.distortion)[0][:, 0]
    np.testing.assert_allclose(lens.undistort(drawn), lens.project(joints), atol=0.01)


def test_triangulated_joints_are_where_they_were():
    joints = person(200)
    points = np.stack([c.project(joints) for c in CAMERAS])
    sure = np.ones((4, 17), bool)
    sure[0, 3] = False
    sure[:2, 4] = False
    points[0, 3] = 1e4  # not looked at
    found, error = triangulate(points, sure, CAMERAS)
    assert np.isnan(found[4]).all()
    assert error[4] == np.inf
    kept = np.arange(17) != 4
    np.testing.assert_allclose(found[kept], joints[kept], atol=1e-6)
    assert error[kept].max() < 1e-6


def test_people_are_told_apart_and_one_wrong_camera_is_left_out():
    views = []
    for number in range(4):
        both = [person(-600), person(600)][:: 1 if number % 2 else -1]
        one = seen(both, number)
        if number == 2:
            one.keypoints_2d[:, 9] += 200  # one camera takes a wrist to be elsewhere
        views.append([one])
    groups = associate(views, CAMERAS)
    found = truths(groups, CAMERAS)
    assert len(found) == 2
    places = np.sort([truth.h36m[0, 0] for truth in found])
    np.testing.assert_allclose(places, [-600, 600], atol=1)
    for truth in found:
        assert truth.h36m[:, 3].all()
        np.testing.assert_allclose(truth.joints, person(float(np.sign(truth.joints[0, 0])) * 600), atol=1e-3)


def test_frames_with_other_bones_or_too_few_joints_do_not_count():
    frames = [[person()], [person()], [person(stretch=1.3)], [person()], [person()]]
    views = [[seen(people, number) for people in frames] for number in range(4)]
    for view in views[:2]:
        view[4].confidence[:, 13] = 0.1  # a knee that two cameras alone see
    found = truths(associate(views, CAMERAS), CAMERAS)
    assert [truth.frame for truth in found] == [0, 1, 3]


def test_cameras_that_look_a_little_aside_are_turned_back():
    rng = np.random.default_rng(0)
    frames = [[person(x) + rng.normal(0, 200, 3)] for x in np.linspace(-800, 800, 12)]
    views = [[seen(people, number) for people in frames] for number in range(4)]
    aside = []
    for wrong, true in zip(0.004 * rng.normal(size=(4, 3)), CAMERAS, strict=True):
        turn = cv2.Rodrigues(wrong)[0]
        aside.append(replace(true, rotation=turn @ true.rotation, translation=turn @ true.translation))
    groups = associate(views, aside)
    points, sure = (np.concatenate([getattr(g, name) for g in groups], axis=1) for name in ("points", "sure"))
    before = np.median(triangulate(points, sure, aside)[1])
    after = np.median(triangulate(points, sure, aligned(aside, groups))[1])
    assert before > 2
    assert after < 0.2


def test_a_view_counts_where_the_person_was_found():
    truth = truths(associate([[seen([person()], n)] for n in range(4)], CAMERAS), CAMERAS)[0]
    both = seen([person(900), person()], 0)
    assert match(truth, CAMERAS[0], both) == 1
    assert match(truth, CAMERAS[0], seen([person(900)], 0)) is None
    assert match(truth, CAMERAS[0], Seen(np.zeros((0, 17, 2)), np.zeros((0, 17)), np.zeros((0, 17, 3)))) is None


class Lift:
    """A lifter that is wrong in one knee, in all of the pictures."""

    mean_pose = STANDING.numpy()

    def __call__(self, keypoints_2d, confidence, camera, size):
        assert keypoints_2d.shape[1:] == (17, 2)
        assert size == (1088, 1920)
        np.testing.assert_array_equal(camera[0], [1600, 1600, 544, 960])
        joints = np.concatenate([person(), np.ones((17, 1))], axis=1)
        wrong = to_h36m17(joints, COCO17)[:, :3]
        wrong[2] += [0, 0, 170]
        return np.repeat(wrong[None], len(keypoints_2d), axis=0)


def test_every_row_is_scored_on_the_same_samples():
    views = [[seen([person()], n)] for n in range(4)]
    found = truths(associate(views, CAMERAS), CAMERAS)
    theirs = [list(view) for view in views]
    theirs[3] = [Seen(np.zeros((0, 17, 2)), np.zeros((0, 17)), np.zeros((0, 17, 3)))]
    scores = score(found, views, theirs, CAMERAS, Lift())
    assert {len(errors) for errors in scores.values()} == {3}
    assert scores["BlazePose 3D"].max() < 1e-3, "their joints are the truth, turned into the camera"
    # 170 mm in one joint: alignment can only lower the root mean square over the joints, which bounds their mean
    whole, limbs = scores["lifted"][0]
    assert 5 < whole <= 170 / 17**0.5
    assert 5 < limbs <= 170 / 12**0.5
    # the mean pose is the truth but for the head and the spine, which COCO has otherwise
    assert scores["mean pose"][:, 0].min() > 5


def test_a_person_is_cut_from_a_camera_s_picture():
    truth = truths(associate([[seen([person()], n)] for n in range(4)], CAMERAS), CAMERAS)[0]
    truth.h36m[10] = [1e5, 1e5, 1e5, 0]  # a head that does not hold
    view = CAMERAS[2]
    image = np.zeros((1920, 1088, 3), np.uint8)
    wrist = view.project(truth.h36m[13, :3])
    cv2.circle(image, tuple(wrist.round().astype(int).tolist()), 20, (255, 0, 0), -1)
    sample = cut(image, truth, view, name="cam03", clip="single")
    assert not sample.keypoints_2d[10].any()
    assert not sample.joints_3d[10].any()
    drawn = project(torch.from_numpy(sample.joints_3d[:, :3]).double(), torch.from_numpy(sample.camera.vector))
    held = sample.joints_3d[:, 3] > 0
    np.testing.assert_allclose(drawn[held], sample.keypoints_2d[held, :2], atol=1e-2)
    x, y = sample.crop @ [*wrist, 1]
    blue, green, red = cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_COLOR)[round(y), round(x)]
    assert red > 150
    assert max(blue, green) < 100
    assert (abs(sample.keypoints_2d[held, :2] - sample.bbox[:2]) < sample.bbox[2] / 2).all()


def test_what_was_seen_is_kept(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 32))
    for _ in range(3):
        writer.write(np.zeros((32, 32, 3), np.uint8))
    writer.release()
    calls = iter([seen([person()], 0), seen([person(), person(500)], 0), seen([person()], 1)])
    first = watch(tmp_path / "v.avi", lambda image: next(calls), tmp_path / "v.npz")
    again = watch(tmp_path / "v.avi", lambda image: pytest.fail("seen twice"), tmp_path / "v.npz")
    assert [len(s.confidence) for s in first] == [len(s.confidence) for s in again] == [1, 2, 1]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.keypoints_2d, other.keypoints_2d)
        np.testing.assert_array_equal(one.joints_3d, other.joints_3d)


def test_limbs_are_the_joints_that_both_sets_share():
    assert all(len(COCO17[joint]) == 1 for joint in LIMBS)
