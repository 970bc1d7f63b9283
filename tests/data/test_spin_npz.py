import io
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.data.fuzz import fuzz
from unihpe_fast.data.errors import SourceError
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
    samples, reading = drawn(path, images=Path("/root"))
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
    assert first.photo == Path("/root/images/S9_Directions_1.60457274_000006.jpg")
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
    assert main(["spin-npz", str(write(tmp_path / "a.npz")), str(out), "--image-size", "0"]) == 0
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
            reading = read([folder / name], Options(), Request(Path("/root")))
            for sample in reading.samples:
                for array in (sample.bbox, sample.keypoints_2d, sample.joints_3d):
                    assert array is None or np.isfinite(array).all()

    assert fuzz(read_all, files) > 0
