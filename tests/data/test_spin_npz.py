import io
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.support.fuzz import fuzz
from tests.support.people import standing_person
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.skeleton import PARENTS
from unihpe_fast.data.sources import Request
from unihpe_fast.data.sources.photo_names import Origin, origin
from unihpe_fast.data.sources.spin_npz import Options, read
from unihpe_fast.prepare import main

# SPIN's joint of each of Human3.6M's 17, and where a person's would be in the picture
FROM_24 = [14, 2, 1, 0, 3, 4, 5, 16, 12, 17, 18, 9, 10, 11, 8, 7, 6]
NAMES = ["images/S9_Directions_1.60457274_000006.jpg", "images/S11_TakingPhoto.55011271_000001.jpg"]


def joints(shape, seed=0):
    """Random coordinates, every joint known."""
    values = np.random.default_rng(seed).uniform(0.1, 0.9, shape)
    values[..., -1] = 1
    return values


def annotations(**changes):
    values = {
        "imgname": np.array(NAMES),
        "center": np.array([[500.0, 400.0], [300.0, 200.0]]),
        "scale": np.array([2.0, 3.5]),
        "part": joints((2, 24, 3)) * [1000, 1000, 1],
        "S": joints((2, 24, 4), 1),
    }
    return {key: value for key, value in (values | changes).items() if value is not None}


def write(path, **changes):
    np.savez(path, **annotations(**changes))
    return path


def drawn(*paths, images=None):
    reading = read(paths, Options(), Request(images))
    return list(reading.samples), reading


def test_spin_rows_become_samples(tmp_path):
    path = write(tmp_path / "a.npz")
    samples, reading = drawn(path, images=Path("/photos"))
    want = annotations()
    assert reading.total == len(samples) == 2
    assert not reading.caveat
    first, second = samples
    assert first.bbox.tolist() == [500, 400, 400]
    assert second.bbox.tolist() == [300, 200, 700]
    np.testing.assert_allclose(first.keypoints_2d, want["part"][0, FROM_24], rtol=1e-6)
    metres = want["S"][1, FROM_24]
    np.testing.assert_allclose(second.joints_3d[:, :3], 1000 * (metres[:, :3] - metres[0, :3]), atol=1e-3)
    assert second.joints_3d[:, 3].all()
    # what is relative to the pelvis says so by a pelvis at the origin, exactly
    assert second.joints_3d[0].tolist() == [0, 0, 0, 1]
    assert first.camera is None
    assert first.photo == Path("/photos/images/S9_Directions_1.60457274_000006.jpg")
    assert (first.subject, first.action, first.camera_id, first.frame) == ("S9", "Directions 1", "60457274", 5)
    assert (second.subject, second.action, second.camera_id, second.frame) == ("S11", "Photo", "55011271", 0)
    assert any("relative to the pelvis" in note for note in reading.tally.notes)


def test_mmpose_rows_have_17_joints_in_camera_space(tmp_path):
    metres = joints((2, 17, 4)) + np.array([0, 0, 4, 0])
    part = joints((2, 17, 3), 3)
    (first, _), reading = drawn(write(tmp_path / "a.npz", S=metres, part=part))
    np.testing.assert_allclose(first.joints_3d[:, :3], 1000 * metres[0, :, :3], rtol=1e-6)
    np.testing.assert_allclose(first.keypoints_2d, part[0], rtol=1e-6)
    assert not reading.tally.notes


# the joints of MPI-INF-3DHP's test set in its order, as those of Human3.6M: 0 is the head top, 14 the pelvis
AS_3DHP = [10, 8, 14, 15, 16, 11, 12, 13, 1, 2, 3, 4, 5, 6, 0, 7, 9]
# m: bones of a person from the parent to each joint of Human3.6M's 17, camera y down
BONES = [
    (0, 0, 0), (-0.13, 0, 0), (0, 0.44, 0), (0, 0.45, 0), (0.13, 0, 0), (0, 0.44, 0), (0, 0.45, 0), (0, -0.23, 0),
    (0, -0.25, 0), (0, -0.1, -0.05), (0, -0.12, 0), (0.15, 0, 0), (0, 0.28, 0), (0, 0.25, 0), (-0.15, 0, 0),
    (0, 0.28, 0), (0, 0.25, 0),
]  # fmt: skip


def people(count=2):
    """Joints [count, 17, 4] m of people who stand 4 m away."""
    pose = np.zeros((17, 3))
    for joint, bone in enumerate(BONES):
        pose[joint] = pose[PARENTS[joint]] + bone if joint else (0, 0, 4)
    return np.concatenate([pose + np.arange(count)[:, None, None] * [0.1, 0, 0], np.ones((count, 17, 1))], axis=2)


def projected(metres):
    return np.concatenate([1000 * metres[..., :2] / metres[..., 2:3] + 500, np.ones((*metres.shape[:2], 1))], axis=2)


@pytest.mark.parametrize(
    ("names", "origins"),
    [
        (
            ["S4_Seq2_Cam0_001033.jpg", "S4_Seq2_Cam5_001033.jpg"],
            [("S4", "Seq2", "0", 1032), ("S4", "Seq2", "5", 1032)],
        ),
        (["TS1_002001.jpg", "TS6_000001.jpg"], [("TS1", "", "", 2000), ("TS6", "", "", 0)]),
        # the names do not tell; the pelvis does
        (["a.jpg", "b.jpg"], [("", "", "", 0)] * 2),
    ],
)
def test_mmposes_mpi_inf_3dhp_is_read_as_what_it_is(tmp_path, names, origins):
    metres = people()
    changes = {"S": metres[:, AS_3DHP], "part": projected(metres)[:, AS_3DHP], "imgname": np.array(names)}
    samples, reading = drawn(write(tmp_path / "a.npz", **changes))
    for sample, pose, pixels, known in zip(samples, metres, projected(metres), origins, strict=True):
        np.testing.assert_allclose(sample.joints_3d[:, :3], 1000 * pose[:, :3], rtol=1e-6)
        np.testing.assert_allclose(sample.keypoints_2d, pixels, rtol=1e-6)
        thighs = [np.linalg.norm(sample.joints_3d[knee, :3] - sample.joints_3d[knee - 1, :3]) for knee in (2, 5)]
        np.testing.assert_allclose(thighs, 440, rtol=1e-5)
        assert (sample.subject, sample.action, sample.camera_id, sample.frame) == known
    assert any("taken for MPI-INF-3DHP's" in note for note in reading.tally.notes) == (names[0] == "a.jpg")


def test_17_joints_of_no_known_order_are_refused(tmp_path):
    metres = people()
    names = np.array(["a.jpg", "b.jpg"])
    samples, _ = drawn(write(tmp_path / "a.npz", S=metres, part=projected(metres), imgname=names))
    np.testing.assert_allclose(samples[0].joints_3d[:, :3], 1000 * metres[0, :, :3], rtol=1e-6)
    other = np.random.default_rng(0).permutation(17)
    path = write(tmp_path / "b.npz", S=metres[:, other], part=None, imgname=names)
    with pytest.raises(SourceError, match=r"b\.npz: S: want 17 joints in the order of Human3.6M or MPI-INF-3DHP, got"):
        drawn(path)


def test_rows_of_both_datasets_may_lie_in_one_file(tmp_path):
    metres = people()
    mixed = np.stack([metres[0], metres[1, AS_3DHP]])
    names = np.array([NAMES[0], "TS1_002001.jpg"])
    samples, _ = drawn(write(tmp_path / "a.npz", S=mixed, part=None, imgname=names))
    for sample, pose in zip(samples, metres, strict=True):
        np.testing.assert_allclose(sample.joints_3d[:, :3], 1000 * pose[:, :3], rtol=1e-6)


@pytest.mark.parametrize(
    "layout", ["{base}/../{name}", "S9/{base}/{name}", "images/S9/{base}/{name}", "S9/images/{base}/{name}"]
)
def test_frames_of_human36m_are_found_in_the_usual_folders(tmp_path, layout):
    name = "S9_Directions_1.60457274_000006.jpg"
    names = np.array([f"images/{name}", "train2014/COCO_train2014_000000000009.jpg"])
    photo = (tmp_path / layout.format(base=name[:-11], name=name)).resolve()
    photo.parent.mkdir(parents=True, exist_ok=True)
    photo.touch()
    samples, _ = drawn(write(tmp_path / "a.npz", imgname=names), images=tmp_path)
    assert [sample.photo for sample in samples] == [photo, tmp_path / names[1]]


def test_backslashes_part_folders_as_on_windows(tmp_path):
    names = np.array([r"S3\Seq2\imageFrames\video_8\frame_000021.jpg", r"b\c.jpg"])
    samples, _ = drawn(write(tmp_path / "a.npz", imgname=names), images=tmp_path)
    assert [(s.subject, s.action, s.camera_id, s.frame) for s in samples] == [("S3", "Seq2", "8", 20), ("", "", "", 0)]
    assert samples[1].photo == tmp_path / "b" / "c.jpg"


def test_4d_humans_rows_have_boxes_in_px_and_44_joints(tmp_path):
    extra, body = joints((2, 19, 3), 4) * [900, 900, 1], joints((2, 25, 3), 5) * [900, 900, 1]
    # the second person's spine (16) and head (18) are not annotated; BODY_25 has hips' middle 8, neck 1, eyes 15, 16
    extra[1, [16, 18]] = 0
    body[1, [1, 8, 15, 16], 2] = [0.5, 0.75, 0.8, 0.25]
    extra_3d = joints((2, 19, 4), 6)
    path = write(
        tmp_path / "a.npz",
        scale=np.array([[150.0, 320.0], [210.0, 100.0]]),
        part=None,
        S=None,
        body_keypoints_2d=body,
        extra_keypoints_2d=extra,
        body_keypoints_3d=joints((2, 25, 4), 7),
        extra_keypoints_3d=extra_3d,
    )
    samples, reading = drawn(path)
    assert [sample.bbox[2] for sample in samples] == [320, 210]
    assert any("scale is in px" in note for note in reading.tally.notes)
    np.testing.assert_allclose(samples[0].keypoints_2d, extra[0, FROM_24], rtol=1e-6)
    np.testing.assert_allclose(samples[1].keypoints_2d[7, :2], (body[1, 1, :2] + body[1, 8, :2]) / 2, rtol=1e-6)
    np.testing.assert_allclose(samples[1].keypoints_2d[10, :2], (body[1, 15, :2] + body[1, 16, :2]) / 2, rtol=1e-6)
    assert samples[1].keypoints_2d[[7, 10], 2].tolist() == [0.5, 0.25]
    metres = extra_3d[0, FROM_24, :3]
    np.testing.assert_allclose(samples[0].joints_3d[:, :3], 1000 * (metres - metres[0]), atol=1e-3)


def test_scale_of_one_column_is_a_scale(tmp_path):
    samples, _ = drawn(write(tmp_path / "a.npz", scale=np.array([[2.0], [3.5]])))
    assert [sample.bbox[2] for sample in samples] == [400, 700]


def test_unannotated_joints_are_derived_then_detected(tmp_path):
    """coco_2014_train.npz: the 24 joints are COCO's, so pelvis, neck, spine, jaw and head are not among them."""
    part = joints((2, 24, 3)) * [1000, 1000, 1]
    part[:, [12, 13, 14, 15, 16, 17, 18]] = 0
    # the second one's left hip and its eyes are not annotated either
    part[1, [3, 20, 21]] = 0
    openpose = joints((2, 25, 3), 8) * [1000, 1000, 1.02]
    samples, _ = drawn(write(tmp_path / "a.npz", S=None, part=part, openpose=openpose, imgname=np.array(["a", "b"])))
    first, second = (sample.keypoints_2d for sample in samples)
    hips, shoulders = part[0, [2, 3], :2].mean(0), part[0, [8, 9], :2].mean(0)
    np.testing.assert_allclose(first[0, :2], hips, rtol=1e-6)
    np.testing.assert_allclose(first[8, :2], shoulders, rtol=1e-6)
    np.testing.assert_allclose(first[7, :2], (hips + shoulders) / 2, rtol=1e-6)
    np.testing.assert_allclose(first[9, :2], part[0, 19, :2], rtol=1e-6)
    np.testing.assert_allclose(first[10, :2], part[0, [20, 21], :2].mean(0), rtol=1e-6)
    np.testing.assert_allclose(second[0, :2], openpose[1, 8, :2], rtol=1e-6)
    np.testing.assert_allclose(second[4, :2], openpose[1, 12, :2], rtol=1e-6)
    np.testing.assert_allclose(second[10, :2], openpose[1, [15, 16], :2].mean(0), rtol=1e-6)
    assert second[:, 2].max() == 1
    assert samples[0].joints_3d is None
    assert (samples[0].subject, samples[0].action) == ("", "")


def test_head_top_and_spine_of_mpii(tmp_path):
    part = np.zeros((2, 24, 3))
    part[:, [*range(6), *range(6, 16)]] = joints((2, 16, 3)) * [1000, 1000, 1]
    samples, _ = drawn(write(tmp_path / "a.npz", S=None, part=part))
    found = samples[0].keypoints_2d
    np.testing.assert_allclose(found[10], part[0, 13], rtol=1e-6)
    np.testing.assert_allclose(found[7, :2], part[0, [12, 14], :2].mean(0), rtol=1e-6)
    assert found[9].tolist() == [0, 0, 0]


def test_rows_without_joints_need_a_picture(tmp_path):
    """3dpw_test.npz: SMPL parameters, no joints."""
    extras = {"pose": np.zeros((2, 72)), "shape": np.zeros((2, 10)), "gender": np.array(["m", "f"])}
    names = np.array([f"imageFiles/downtown_arguing_00/image_{k:05d}.jpg" for k in (0, 7)]).astype("S")
    path = write(tmp_path / "a.npz", S=None, part=None, imgname=names, **extras)
    samples, reading = drawn(path)
    assert not samples
    assert reading.tally.skipped == {("downtown_arguing_00", "", "neither joints nor a picture"): 2}
    samples, reading = drawn(path, images=tmp_path)
    assert [(s.subject, s.frame, s.keypoints_2d, s.joints_3d) for s in samples] == [
        ("downtown_arguing_00", 0, None, None),
        ("downtown_arguing_00", 7, None, None),
    ]
    assert any("no joints" in note for note in reading.tally.notes)


def test_unknown_pelvis_and_joints_stay_unknown(tmp_path):
    metres = joints((2, 24, 4))
    metres[0, 14, 3] = 0
    metres[1, 16, 3] = 0
    (first, second), _ = drawn(write(tmp_path / "a.npz", S=metres))
    assert first.joints_3d[0].tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(first.joints_3d[1, :3], 1000 * metres[0, 2, :3], rtol=1e-5)
    assert second.joints_3d[7].tolist() == [0, 0, 0, 0]
    assert second.joints_3d[:, 3].sum() == 16


def test_numbers_that_are_none_are_counted(tmp_path):
    metres, part, center = joints((2, 24, 4)), joints((2, 24, 3)), np.array([[np.nan, 1], [5, 5]])
    metres[1, 0, 0], part[1, 1, 1] = np.nan, 1e300
    (sample,), reading = drawn(write(tmp_path / "a.npz", S=metres, part=part, center=center))
    assert sample.joints_3d[3].tolist() == [0, 0, 0, 0]
    assert sample.keypoints_2d[2].tolist() == [0, 0, 0]
    assert reading.tally.skipped == {("S9", "Directions 1", "box that is empty or no number"): 1}
    assert sum("1 joints have numbers that are none" in note for note in reading.tally.notes) == 2


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("S1/S1_WalkingDog_1.54138969/S1_WalkingDog_1.54138969_000011.jpg", Origin("S1", "WalkDog 1", "54138969", 10)),
        ("images/S11_Sitting 1.58860488_000001.jpg", Origin("S11", "Sitting 1", "58860488", 0)),
        ("S3/Seq2/imageFrames/video_8/frame_000021.jpg", Origin("S3", "Seq2", "8", 20)),
        ("mpi_inf_3dhp_test_set/TS5/imageSequence/img_000320.jpg", Origin("TS5", "", "", 319)),
        ("imageFiles/courtyard_basketball_00/image_00012.jpg", Origin("courtyard_basketball_00", "", "", 12)),
        ("train2014/COCO_train2014_000000044474.jpg", Origin()),
        ("images/015601864.jpg", Origin()),
        ("images/S9_Directions_1.60457274_000000.jpg", Origin("S9", "Directions 1", "60457274", 0)),
        ("a/" * 500_000, Origin()),
    ],
)
def test_origins_of_photographs(name, want):
    assert origin(name) == want


WRONG = {
    "no center": ({"center": None}, "has no 'center', only S, imgname, part, scale"),
    "no names": ({"imgname": None}, "has no 'imgname'"),
    "one row less": ({"scale": np.ones(1)}, r"scale: want \[2\], \[2, 1\] or \[2, 2\], got \[1\]"),
    "16 joints": ({"part": joints((2, 16, 3))}, r"part: want \[2, 17 or 24, 3\], got \[2, 16, 3\]"),
    "S without validity": ({"S": joints((2, 24, 3))}, r"S: want \[2, 17 or 24, 4\], got \[2, 24, 3\]"),
    "openpose of 18": ({"openpose": joints((2, 18, 3))}, r"openpose: want \[2, 25, 3\], got \[2, 18, 3\]"),
    "text for numbers": ({"center": np.array([["1", "2"]] * 2)}, r"center: want \[2, 2\] of float or int or uint"),
    "numbers for text": ({"imgname": np.arange(2)}, r"imgname: want \[N\] of bytes or str or object, got \[2\] int64"),
    "complex": ({"scale": np.ones(2, complex)}, "scale: want a dtype of plain numbers"),
    "no rows": ({key: value[:0] for key, value in annotations().items()}, "imgname: no rows"),
    "object joints": ({"S": np.array([None, None])}, "S: holds objects"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_named(tmp_path, name):
    changes, message = WRONG[name]
    path = write(tmp_path / "a.npz", **changes)
    with pytest.raises(SourceError, match=rf"a\.npz: {message}"):
        drawn(path)


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a\0.jpg", ""])
def test_names_that_climb_out_stop_the_job_before_it_starts(tmp_path, name):
    path = write(tmp_path / "a.npz", imgname=np.array(["a.jpg", name + "\0"], object))
    # NumPy takes trailing zeros off fixed-size text only
    np.savez(path, **annotations(imgname=np.array(["a.jpg", name], object)))
    with pytest.raises(SourceError, match=r"a\.npz: imgname: row 1: "):
        read([path], Options(), Request(tmp_path))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"b\.npz"):
        read([write(tmp_path / "a.npz"), tmp_path / "b.npz"], Options(), Request())
    with pytest.raises(ValueError, match="no input"):
        read([], Options(), Request())


def test_the_command_writes_them(tmp_path, capsys):
    out = tmp_path / "out.h5"
    people = joints((2, 24, 4), 1)
    people[:, FROM_24, :3] = standing_person() / 1000
    assert main(["spin-npz", str(write(tmp_path / "a.npz", S=people)), str(out), "--image-size", "0"]) == 0
    assert "2 samples in" in capsys.readouterr().out
    with h5py.File(out) as file:
        assert file["present"][:].tolist() == [[False, True, True]] * 2
        assert file["camera"][:].tolist() == [-1, -1]
        assert file["joints_3d"][:, 0].tolist() == [[0, 0, 0, 1]] * 2
        assert file.attrs["dataset"] == "spin-npz"


def test_a_broken_file_leaves_earlier_output_alone(tmp_path, capsys):
    out = tmp_path / "out.h5"
    out.write_bytes(b"earlier")
    path = write(tmp_path / "a.npz", scale=None)
    assert main(["spin-npz", str(path), str(out)]) == 1
    assert "a.npz: has no 'scale'" in capsys.readouterr().err
    assert out.read_bytes() == b"earlier"


@pytest.mark.filterwarnings("error")
def test_half_precision_joints_are_read_without_a_word(tmp_path):
    people = joints((2, 24, 4), 1)
    people[:, FROM_24, :3] = standing_person() / 1000 + 3
    samples, _ = drawn(write(tmp_path / "a.npz", S=people.astype(np.float16)))
    want = people[0, FROM_24, :3].astype(np.float16).astype(np.float64)
    found = samples[0].joints_3d[:, :3]
    np.testing.assert_allclose(found - found[0], 1000 * (want - want[0]), atol=1e-3)
    # beyond float16's largest number in mm, not in metres
    people[:, FROM_24, 0] += 100
    samples, _ = drawn(write(tmp_path / "b.npz", S=people.astype(np.float16)))
    assert np.isfinite(samples[0].joints_3d).all()


@pytest.mark.fuzz
def test_fuzz_spin_npz():
    files = {}
    humans = {"part": None, "S": None, "scale": np.array([[150.0, 320.0], [210.0, 100.0]])}
    humans |= {"extra_keypoints_2d": joints((2, 19, 3)), "body_keypoints_3d": joints((2, 25, 4))}
    for name, save, changes in (
        ("spin.npz", np.savez, {"openpose": joints((2, 25, 3))}),
        ("deflated.npz", np.savez_compressed, {"imgname": np.array(NAMES, object)}),
        ("humans.npz", np.savez, humans),
    ):
        buffer = io.BytesIO()
        save(buffer, **annotations(**changes))
        files[name] = buffer.getvalue()

    def read_all(folder):
        for name in files:
            reading = read([folder / name], Options(), Request(Path("/photos")))
            for sample in reading.samples:
                for array in (sample.bbox, sample.keypoints_2d, sample.joints_3d):
                    assert array is None or np.isfinite(array).all()

    assert fuzz(read_all, files) > 0
