import io
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from tests.data.python2_pickle import python2_pickle
from tests.support.fuzz import fuzz
from tests.support.people import standing_person
from unihpe_fast.data.camera import project
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.sources import Request
from unihpe_fast.data.sources.threedpw import APPROXIMATION, Options, read
from unihpe_fast.prepare import main

FRAMES = 4
# SMPL's skeleton joint, and row of J_regressor_h36m.npy, for each of Human3.6M's joints; None: there is none
FROM_SKELETON = [0, 2, 5, 8, 1, 4, 7, 6, 12, None, 15, 16, 18, 20, 17, 19, 21]
FROM_REGRESSOR = [0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
# COCO-18: nose, neck, right arm, left arm, right leg, left leg, eyes, ears
FROM_COCO18 = {1: 8, 2: 9, 3: 10, 4: 11, 5: 12, 6: 13, 8: 1, 9: 0, 11: 5, 12: 6, 13: 7, 14: 2, 15: 3, 16: 4}
INTRINSICS = np.array([[1960.0, 0, 540.5], [0, 1950.0, 960.5], [0, 0, 1]])


def cameras():
    """World to camera: a quarter turn about x, so that the world's z is the camera's -y, and a step back each frame."""
    poses = np.tile(np.eye(4), (FRAMES, 1, 1))
    poses[:, :3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
    poses[:, :3, 3] = [[0.1, 0.2, 4 + frame] for frame in range(FRAMES)]
    return poses


def by_hand(world, frame):
    """Camera-space mm of world metres [.., 3]."""
    x, y, z = np.moveaxis(world, -1, 0)
    return 1000 * np.stack([x + 0.1, 0.2 - z, y + 4 + frame], -1)


def skeletons(seed):
    """[F, 24, 3] m, the hips where they belong."""
    joints = np.random.default_rng(seed).uniform(-0.5, 0.5, (FRAMES, 24, 3))
    joints[:, 0], joints[:, 1], joints[:, 2] = [0, 0, 1], [0.1, 0, 0.95], [-0.1, 0, 0.95]
    return joints


def keypoints(seed):
    """[F, 3, 18], all visible."""
    points = np.random.default_rng(seed).uniform(100, 900, (FRAMES, 3, 18))
    points[:, 2] = np.random.default_rng(seed).uniform(0.2, 0.9, (FRAMES, 18))
    return points


def sequence(name="downtown_arguing_00", **changes):
    values = {
        "sequence": name,
        "poses2d": [keypoints(1), keypoints(2)],
        "cam_poses": cameras(),
        "cam_intrinsics": INTRINSICS,
        "campose_valid": [np.array([1, 1, 0, 1]), np.array([0, 1, 1, 1])],
        "jointPositions": [skeletons(3).reshape(FRAMES, 72), skeletons(4).reshape(FRAMES, 72)],
        "genders": ["m", "f"],
        "img_frame_ids": np.arange(0, 2 * FRAMES, 2),
    }
    return {key: value for key, value in (values | changes).items() if value is not None}


def write(folder, name="downtown_arguing_00", **changes):
    path = folder / f"{name}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(python2_pickle(sequence(name, **changes)))
    return path


def regressed(seed):
    """[F, 17, 3] m near the skeleton."""
    joints = np.random.default_rng(seed).uniform(-0.5, 0.5, (FRAMES, 17, 3))
    joints[:, 0], joints[:, 1], joints[:, 4] = [0, 0.05, 1], [0.12, 0, 0.97], [-0.12, 0, 0.97]
    return joints


def drawn(*paths, joints=None, images=None):
    reading = read(paths, Options(joints), Request(images))
    return list(reading.samples), reading


def test_both_actors_where_their_camera_is_known(tmp_path):
    samples, reading = drawn(write(tmp_path))
    assert [(s.subject, s.action, s.frame) for s in samples] == [
        *[("downtown_arguing_00", "actor0", frame) for frame in (0, 1, 3)],
        *[("downtown_arguing_00", "actor1", frame) for frame in (1, 2, 3)],
    ]
    assert reading.total == 6
    assert reading.tally.skipped == {
        ("downtown_arguing_00", "actor0", "camera pose not valid"): 1,
        ("downtown_arguing_00", "actor1", "camera pose not valid"): 1,
    }


def test_the_skeleton_approximates_and_says_so(tmp_path):
    samples, reading = drawn(write(tmp_path))
    assert reading.caveat == APPROXIMATION
    assert "not by the published protocol" in reading.caveat
    sample = samples[4]  # actor 1, frame 2
    world = skeletons(4)[2]
    for target, source in enumerate(FROM_SKELETON):
        if source is None:
            assert sample.joints_3d[target].tolist() == [0, 0, 0, 0]
        else:
            np.testing.assert_allclose(sample.joints_3d[target, :3], by_hand(world[source], 2), atol=1e-3)
            assert sample.joints_3d[target, 3] == 1


def test_the_regressor_s_joints_are_the_published_protocol(tmp_path):
    np.savez(tmp_path / "j.npz", downtown_arguing_00_0=regressed(5), downtown_arguing_00_1=regressed(6))
    path = write(tmp_path / "in")
    samples, reading = drawn(path, joints=tmp_path / "j.npz")
    assert reading.caveat == ""
    assert list(reading.files) == [path, tmp_path / "j.npz"]
    np.testing.assert_allclose(samples[2].joints_3d[:, :3], by_hand(regressed(5)[3, FROM_REGRESSOR], 3), atol=1e-3)
    assert samples[2].joints_3d[:, 3].all()
    # the skeleton is not needed then
    samples, _ = drawn(write(tmp_path / "without", jointPositions=None), joints=tmp_path / "j.npz")
    np.testing.assert_allclose(samples[3].joints_3d[:, :3], by_hand(regressed(6)[1, FROM_REGRESSOR], 1), atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda joints: joints * 1000, "its pelvis .row 0. is .* m from that of jointPositions: want metres in world"),
        (lambda joints: joints - joints[:, :1], "its pelvis .row 0. is 1 m from"),
        (lambda joints: joints[:, FROM_REGRESSOR], "row 1 is the right hip: want the rows of J_regressor_h36m"),
        (lambda joints: joints[:-1], r"want \[4, 17, 3\] of float, got \[3, 17, 3\]"),
        (lambda joints: joints[:, :14], r"want \[4, 17, 3\] of float, got \[4, 14, 3\]"),
    ],
    ids=["millimetres", "without trans", "right leg first", "frames", "14 joints"],
)
def test_joints_that_are_not_the_regressor_s_are_refused(tmp_path, change, message):
    np.savez(tmp_path / "j.npz", downtown_arguing_00_0=regressed(5), downtown_arguing_00_1=change(regressed(6)))
    with pytest.raises(SourceError, match=rf"j\.npz: downtown_arguing_00_1: {message}"):
        drawn(write(tmp_path / "in"), joints=tmp_path / "j.npz")


def test_a_person_without_regressed_joints_is_named(tmp_path):
    np.savez(tmp_path / "j.npz", downtown_arguing_00_0=regressed(5))
    with pytest.raises(SourceError, match=r"j\.npz: has no 'downtown_arguing_00_1', only downtown_arguing_00_0"):
        drawn(write(tmp_path / "in"), joints=tmp_path / "j.npz")


def test_2d_joints_boxes_and_cameras(tmp_path):
    points = keypoints(1)
    points[1, 2, [0, 3]] = 0
    points[1, :2, [0, 3]] = 5000
    samples, _ = drawn(write(tmp_path, poses2d=[points, keypoints(2)]))
    sample = samples[1]
    for target, source in FROM_COCO18.items():
        want = [0, 0, 0] if source in (0, 3) else points[1, :, source]
        np.testing.assert_allclose(sample.keypoints_2d[target], want, rtol=1e-6)
    seen = np.delete(points[1, :2], [0, 3], axis=1)
    low, high = seen.min(1), seen.max(1)
    np.testing.assert_allclose(sample.bbox, [*(low + high) / 2, 1.2 * (high - low).max()], rtol=1e-6)
    assert sample.camera.vector.tolist() == [1960, 1950, 540.5, 960.5, 0, 0, 0, 0, 0]
    assert (sample.camera.width, sample.camera.height) == (1080, 1920)
    turned = INTRINSICS[[1, 0, 2]][:, [1, 0, 2]]
    samples, _ = drawn(write(tmp_path, cam_intrinsics=turned))
    assert (samples[0].camera.width, samples[0].camera.height) == (1920, 1080)


def test_photographs_lie_under_image_files(tmp_path):
    samples, _ = drawn(write(tmp_path), images=tmp_path / "imageFiles")
    assert samples[2].photo == tmp_path / "imageFiles/downtown_arguing_00/image_00003.jpg"
    (tmp_path / "root/imageFiles").mkdir(parents=True)
    samples, _ = drawn(write(tmp_path), images=tmp_path / "root")
    assert samples[2].photo == tmp_path / "root/imageFiles/downtown_arguing_00/image_00003.jpg"
    with pytest.raises(SourceError, match="want a file name below the images folder"):
        drawn(write(tmp_path / "evil", sequence="../../etc"), images=tmp_path)


def test_folders_are_searched_and_files_taken_once(tmp_path):
    one, two = write(tmp_path / "test", "b_00"), write(tmp_path / "validation", "a_00")
    _, reading = drawn(tmp_path, one)
    assert list(reading.files) == [one, two]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"want 3DPW's \.pkl files, found none"):
        drawn(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="nothing: no such file"):
        drawn(tmp_path / "nothing")


def test_frames_without_2d_joints_have_no_box(tmp_path):
    points = keypoints(1)
    points[0] = 0
    points[1, 2, 1:] = 0
    samples, reading = drawn(
        write(tmp_path, poses2d=[points], campose_valid=[np.ones(FRAMES)], jointPositions=[skeletons(3).reshape(4, 72)])
    )
    assert [s.frame for s in samples] == [2, 3]
    assert reading.tally.skipped == {("downtown_arguing_00", "actor0", "too few 2D joints for a box"): 2}


def test_spelling_of_the_readme_and_modern_pickles(tmp_path):
    data = sequence(poses2d=None, poses2D=[keypoints(1), keypoints(2)])
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(data, 4))
    assert len(drawn(tmp_path / "a.pkl")[0]) == 6


def test_numbers_that_are_none_are_noted(tmp_path):
    poses, points = cameras(), keypoints(1)
    poses[1] = np.nan
    points[0, 0, 4] = np.inf
    samples, reading = drawn(write(tmp_path, cam_poses=poses, poses2d=[points, keypoints(2)]))
    assert samples[1].joints_3d is None
    assert samples[0].keypoints_2d[16].tolist() == [0, 0, 0]
    assert any("actor 0: 24 joints and 1 of poses2d have numbers that are none" in n for n in reading.tally.notes)
    everything = [np.full((FRAMES, 72), np.nan)] * 2
    samples, _ = drawn(write(tmp_path, jointPositions=everything))
    assert all(sample.joints_3d is None for sample in samples)


WRONG = {
    "no intrinsics": ({"cam_intrinsics": None}, "has no 'cam_intrinsics', only cam_poses, campose_valid, genders"),
    "no joints": ({"jointPositions": None}, "has no 'jointPositions'"),
    "transposed joints": (
        {"poses2d": [keypoints(1), keypoints(2).transpose(0, 2, 1)]},
        r"poses2d\[1\]: want \[4, 3, 18\] of .*, got \[4, 18, 3\]",
    ),
    "one actor's validity": ({"campose_valid": [np.ones(4)]}, "campose_valid: want a list of 2 arrays, one an actor"),
    "three actors": ({"poses2d": [keypoints(1)] * 3}, "poses2d: want a list of 1 or 2 arrays"),
    "no list": ({"poses2d": "none"}, "poses2d: want a list"),
    "lists of lists": ({"cam_poses": [[1]]}, "cam_poses: want an array, got list"),
    "negative focal length": ({"cam_intrinsics": -np.eye(3)}, "cam_intrinsics: want finite numbers and focal lengths"),
    "no name": ({"sequence": 5}, "sequence: want a str, got int"),
    "text": ({"cam_poses": np.array(["a"])}, r"cam_poses: want .* got \[1\] <U1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_named(tmp_path, name):
    changes, message = WRONG[name]
    data = sequence(**changes)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(data, 2))
    with pytest.raises(SourceError, match=rf"a\.pkl: {message}"):
        drawn(tmp_path / "a.pkl")


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_payload_does_not_run(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(sequence(genders=[Payload(tmp_path / "canary")]), 2))
    with pytest.raises(SourceError, match=r"a\.pkl: the pickle asks for more than plain data"):
        drawn(tmp_path / "a.pkl")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02", b"PK\3\4", python2_pickle([1, 2]), python2_pickle(sequence())[:-700]]
)
def test_broken_files_are_named(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.pkl: "):
        drawn(tmp_path / "a.pkl")


def test_prepared_joints_project_to_where_the_camera_saw_them(tmp_path):
    world, points = skeletons(3), keypoints(1)
    for target, source in enumerate(FROM_SKELETON):
        if source is not None:
            # the cameras look along the world's y
            x, y, z = standing_person()[target] / 1000
            world[:, source] = [x, z, 1 - y]
    camera = np.array([1960, 1950, 540.5, 960.5, 0, 0, 0, 0, 0])
    for frame in range(FRAMES):
        u = by_hand(world[frame, [2, 5, 8, 1, 4, 7]], frame)
        points[frame, :2, [8, 9, 10, 11, 12, 13]] = u[:, :2] / u[:, 2:] * camera[:2] + camera[2:4]
    path = write(tmp_path, poses2d=[points, keypoints(2)], jointPositions=[world.reshape(FRAMES, 72)] * 2)
    out = tmp_path / "out.h5"
    assert main(["3dpw", str(path), str(out), "--image-size", "0"]) == 0
    with h5py.File(out) as file:
        joints, seen = file["joints_3d"][:3], file["keypoints_2d"][:3]
        assert file["cameras/vector"].shape == (1, 9)
    pixels = project(torch.from_numpy(joints[..., :3]).double(), torch.from_numpy(camera)).numpy()
    np.testing.assert_allclose(pixels[:, 1:7], seen[:, 1:7, :2], atol=1e-2)


@pytest.mark.fuzz
def test_fuzz_3dpw():
    files = {"a.pkl": python2_pickle(sequence("a")), "b.pkl": pickle.dumps(sequence("b"), 4)}
    buffer = io.BytesIO()
    np.savez(buffer, **{f"{name}_{actor}": regressed(actor) for name in "ab" for actor in (0, 1)})
    files["joints.npz"] = buffer.getvalue()

    def read_all(folder):
        for joints in (None, folder / "joints.npz"):
            for name in ("a.pkl", "b.pkl"):
                for sample in read([folder / name], Options(joints), Request(Path("/photos"))).samples:
                    for array in (sample.bbox, sample.keypoints_2d, sample.joints_3d, sample.camera.vector):
                        assert array is None or np.isfinite(array).all()

    assert fuzz(read_all, files) > 0
