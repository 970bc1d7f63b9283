import json

import numpy as np
import pytest

from tests.support.fuzz import fuzz
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.sources import Request, mpii
from unihpe_fast.data.sources.mpii import Options

# MPII's order: right ankle, knee, hip, left hip, knee, ankle, pelvis, thorax, upper neck, head top, right wrist, elbow,
# shoulder, left shoulder, elbow, wrist; MATLAB's pixels
JOINTS = [
    [620.0, 394.0], [616.0, 269.0], [573.0, 185.0], [647.0, 188.0], [661.0, 221.0], [656.0, 231.0], [610.0, 187.0],
    [647.0, 176.0], [637.0201, 189.8183], [695.9799, 108.1817], [606.0, 217.0], [553.0, 161.0], [601.0, 167.0],
    [692.0, 185.0], [693.0, 240.0], [688.0, 313.0],
]  # fmt: skip


def person(**changes) -> dict:
    return {
        "joints_vis": [1] * 16,
        "joints": JOINTS,
        "image": "015601864.jpg",
        "scale": 3.021046,
        "center": [594.0, 257.0],
    } | changes


def write(folder, content, name="train.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def draw(path, images=None, **options):
    reading = mpii.read([path], Options(**options), Request(images))
    return reading, list(reading.samples)


def test_a_person_becomes_h36m_joints_with_hrnets_box(tmp_path):
    visible = [1] * 16
    visible[15] = 0
    path = write(tmp_path, [person(), person(joints_vis=visible)])
    reading, (sample, other) = draw(path)
    assert (reading.dataset, reading.total, reading.files) == ("mpii", 2, [path])
    x, y = zip(*JOINTS, strict=True)

    def at(*numbers):
        return np.mean([x[k] for k in numbers]) - 1, np.mean([y[k] for k in numbers]) - 1, 1

    want = [
        at(6), at(2), at(1), at(0), at(3), at(4), at(5), at(6, 8), at(8), (0, 0, 0), at(9), at(13), at(14), at(15),
        at(12), at(11), at(10),
    ]  # fmt: skip
    np.testing.assert_allclose(sample.keypoints_2d, want, rtol=1e-6)
    # 15 * scale lower, 1.25 times as large, counted from 0
    np.testing.assert_allclose(sample.bbox, [593, 257 + 45.31569 - 1, 3.021046 * 200 * 1.25], rtol=1e-6)
    assert sample.camera is None
    assert [sample.frame, other.frame] == [0, 1]
    assert other.keypoints_2d[13].tolist() == [0, 0, 0]
    assert other.keypoints_2d[12, 2] == 1


def test_a_person_without_a_centre_has_the_box_of_the_joints(tmp_path):
    two = [[-1, -1]] * 6 + [[100, 200], [5, 5], [100, 100]] + [[-1, -1]] * 7
    seen = [0] * 6 + [1, 0, 1] + [0] * 7
    path = write(tmp_path, [person(center=[-1, -1], scale=-1, joints=two, joints_vis=seen)])
    np.testing.assert_allclose(draw(path)[1][0].bbox, [99, 149, 125])


def test_what_is_left_out_is_counted(tmp_path):
    people = [
        person(joints_vis=[0] * 16),
        person(joints_vis=[0] * 7 + [1] + [0] * 8),  # MPII's thorax is no joint of the 17
        person(joints_vis=[1] * 4 + [0] * 12),
        person(center=[-1, -1], joints_vis=[1] + [0] * 15),
        person(),
    ]
    path = write(tmp_path, people)
    reading, samples = draw(path)
    assert [sample.frame for sample in samples] == [2, 4]
    assert reading.tally.skipped == {
        ("", "", "fewer than 1 labelled joints"): 1,
        ("", "", "none of the 17 joints labelled"): 1,
        ("", "", "no box"): 1,
    }
    assert [sample.frame for sample in draw(path, min_keypoints=5)[1]] == [4]


def test_photographs_are_below_the_root_or_its_images(tmp_path):
    path = write(tmp_path, [person()])
    assert draw(path, tmp_path)[1][0].photo == tmp_path / "015601864.jpg"
    (tmp_path / "images").mkdir()
    assert draw(path, tmp_path)[1][0].photo == tmp_path / "015601864.jpg"
    (tmp_path / "images" / "015601864.jpg").touch()
    assert draw(path, tmp_path)[1][0].photo == tmp_path / "images" / "015601864.jpg"
    with pytest.raises(SourceError, match=r"\[0\]: image: .*below the images folder"):
        draw(write(tmp_path, [person(image="../x.jpg")]), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [{"image": "1.jpg", "scale": 3.0, "center": [5, 5]}],
            r"\[0\]: no joints: test.json has none; want train",
        ),
        ({"images": [1]}, r"images\[0\]: found int, wanted a list of objects"),
        ([3], r"\[0\]: found int, wanted a list of objects"),
        ([], "found no records"),
        ([person(), person(joints=JOINTS[:15])], r"\[1\]: joints: found 15, wanted 16"),
        ([person(joints=[[1, 2, 3]] * 16)], r"\[0\]: 0: joints: found 3 values, wanted 2"),
        ([person(joints=[1] * 16)], "joints: found int, wanted list"),
        ([person(joints_vis=[1] * 15)], "joints_vis: found 15 values, wanted 16"),
        ([person(joints_vis=[2] * 16)], "joints_vis: found .*wanted 0 or 1"),
        ([person(scale="3")], "scale: must be real number"),
        ([person(scale=None)], "scale: must be real number"),
        ([person(scale=1e30)], "scale: found .*wanted numbers up to"),
        ([person(center=[1])], "center: found 1 values, wanted 2"),
        ([person(center="ab")], "center: found str, wanted list"),
        ([person(image=5)], "image: found int, wanted str"),
        ('[{"center": NaN}]', "found NaN"),
    ],
)
def test_malformed_files_are_named_with_what_was_wanted(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(SourceError, match=message) as caught:
        draw(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_options_and_inputs_are_checked(tmp_path):
    with pytest.raises(ValueError, match="min_keypoints: want 1 to 16"):
        draw(write(tmp_path, [person()]), min_keypoints=17)
    with pytest.raises(ValueError, match="no input"):
        mpii.read([], Options(), Request())
    with pytest.raises(OSError, match="nowhere"):
        draw(tmp_path / "nowhere.json")


@pytest.mark.fuzz
def test_only_documented_errors_escape_from_mutated_files():
    content = json.dumps([person(), person(joints_vis=[0, 1] * 8), person(center=[-1, -1])]).encode()

    def read(folder):
        draw(folder / "valid.json", folder)

    assert fuzz(read, {"valid.json": content}) > 0
