import cv2
import h5py
import numpy as np
import pytest
from scipy.io import savemat

from tests.support.fuzz import fuzz
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.sources import Request
from unihpe_fast.data.sources.lsp import Options, read
from unihpe_fast.prepare import main

# LSP's order: right ankle, knee, hip, left hip, knee, ankle, right wrist, elbow, shoulder, left shoulder, elbow, wrist,
# neck, head top
POINTS = np.array(
    [
        (40, 180), (42, 140), (44, 100), (56, 100), (58, 140), (60, 180), (20, 110), (24, 80), (34, 50), (66, 50),
        (76, 80), (80, 110), (50, 48), (50, 20),
    ],
    float,
)  # fmt: skip


def people(count=3):
    """[14, 3, count]: each 10 px further to the right, every joint labelled and seen."""
    shifted = [np.column_stack([POINTS + np.array([10 * k, 0]), np.ones(14)]) for k in range(count)]
    return np.stack(shifted, axis=2)


def write(path, joints, **options):
    savemat(path, {"joints": joints}, **options)
    return path


def drawn(path, images=None, **options):
    reading = read([path], Options(**options), Request(images))
    return reading, list(reading.samples)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("extended", [False, True])
def test_both_layouts_become_samples(tmp_path, extended, compressed):
    joints = people()
    joints[5, :, 1] = (900, -900, 0)
    if not extended:
        # there 1 means hidden: the ankle lies where it is said to
        joints = np.stack([joints[:, 0], joints[:, 1], 1 - joints[:, 2]])
        joints[:, 5, 1] = (70, 180, 1)
    reading, samples = drawn(write(tmp_path / "joints.mat", joints, do_compression=compressed))
    assert (reading.dataset, reading.total, len(samples)) == ("lsp", 3, 3)
    want = [
        (50, 100), (44, 100), (42, 140), (40, 180), (56, 100), (58, 140), (60, 180), (50, 74), (50, 48), None, (50, 20),
        (66, 50), (76, 80), (80, 110), (34, 50), (24, 80), (20, 110),
    ]  # fmt: skip
    for number in (0, 2):
        shifted = [(0, 0, 0) if xy is None else (xy[0] + 10 * number, xy[1], 1) for xy in want]
        np.testing.assert_array_equal(samples[number].keypoints_2d, np.float32(shifted))
        np.testing.assert_array_equal(samples[number].bbox, np.float32([50 + 10 * number, 100, 1.25 * 160]))
        assert samples[number].frame == number
    assert samples[1].keypoints_2d[6].tolist() == ([0, 0, 0] if extended else [70, 180, 1])


def test_people_without_enough_joints_are_left_out_and_counted(tmp_path):
    joints = people()
    joints[4:, 2, 0] = 0
    joints[1:, 2, 1] = 0
    path = write(tmp_path / "joints.mat", joints)
    reading, samples = drawn(path)
    assert [sample.frame for sample in samples] == [0, 2]
    assert reading.tally.skipped == {("", "", "joints that span no box"): 1}
    reading, samples = drawn(path, min_keypoints=5)
    assert [sample.frame for sample in samples] == [2]
    assert reading.tally.skipped == {("", "", "fewer than 5 labelled joints"): 2}


def test_a_part_of_the_photographs_is_taken_by_their_numbers(tmp_path):
    path = write(tmp_path / "joints.mat", people())
    reading, samples = drawn(path, numbers="2-3")
    assert (reading.total, [sample.frame for sample in samples]) == (2, [1, 2])
    assert samples[0].bbox[0] == 60
    for numbers in ("2-4", "0-2", "3-2", "2", "1-99999999999", "-1-2"):
        with pytest.raises(ValueError, match=f"numbers: want .* got '?{numbers}"):
            drawn(path, numbers=numbers)


@pytest.mark.parametrize("name", ["im{:04d}.jpg", "im{:05d}.jpg", "images/im{:04d}.jpg", "images/im{:05d}.jpg"])
def test_photographs_are_numbered_from_1_with_four_or_five_digits(tmp_path, name):
    path = write(tmp_path / "joints.mat", people())
    (tmp_path / "images").mkdir()
    (tmp_path / name.format(2)).touch()
    assert [sample.photo for sample in drawn(path, tmp_path)[1]] == [tmp_path / name.format(k) for k in (1, 2, 3)]


@pytest.mark.parametrize(
    ("joints", "message"),
    [
        (np.zeros((14, 3)), r"joints: want \[14, 3, N\] or \[3, 14, N\], got \[14, 3\]"),
        (np.zeros((16, 3, 5)), r"joints: want .*, got \[16, 3, 5\]"),
        (2 * people(), "joints: person 0, joint 0: found flag 2.0, wanted 0 or 1"),
        ("text", "joints: found array class 4, wanted a matrix of real numbers"),
    ],
)
def test_wrong_files_are_named(tmp_path, joints, message):
    path = write(tmp_path / "a.mat", joints)
    with pytest.raises(SourceError, match=rf"a\.mat: {message}"):
        drawn(path)
    savemat(path, {"other": np.zeros(3)})
    with pytest.raises(SourceError, match=r"a\.mat: has no 'joints', only other"):
        drawn(path)
    with pytest.raises(ValueError, match="no input"):
        read([], Options(), Request())
    with pytest.raises(ValueError, match="min_keypoints: want 1 to 14"):
        drawn(path, min_keypoints=15)


def test_the_command_writes_people_with_their_crops(tmp_path):
    path = write(tmp_path / "joints.mat", people(2))
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / f"im000{number}.jpg"), np.full((200, 100, 3), 128, np.uint8))
    out = tmp_path / "lsp.h5"
    assert main(["lsp", str(path), str(out), "--images", str(tmp_path), "--image-size", "32"]) == 0
    with h5py.File(out) as file:
        assert file["present"][:].tolist() == [[True, True, False]] * 2
        assert file.attrs["dataset"] == "lsp"


@pytest.mark.fuzz
def test_fuzz_lsp(tmp_path):
    data = write(tmp_path / "joints.mat", people()).read_bytes()
    assert fuzz(lambda folder: drawn(folder / "joints.mat"), {"joints.mat": data}) > 0
