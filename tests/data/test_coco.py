import json
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from tests.data.fuzz import fuzz
from unihpe_fast import prepare
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.sources import Request, coco
from unihpe_fast.data.sources.coco import Options

# COCO's order: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles, left ahead of right
POINTS = [
    (100, 50), (104, 46), (96, 46), (110, 48), (90, 48), (130, 80), (70, 80), (140, 120), (60, 120), (145, 160),
    (55, 160), (118, 170), (82, 170), (120, 240), (80, 240), (122, 310), (78, 310),
]  # fmt: skip


def keypoints(**visibility: int) -> list[int]:
    """51 numbers, all visible but those named k0 .. k16; COCO writes 0, 0, 0 for what is not labelled."""
    values: list[int] = []
    for number, (x, y) in enumerate(POINTS):
        v = visibility.get(f"k{number}", 2)
        values += [x, y, v] if v else [0, 0, 0]
    return values


def person(number: int, image: int = 7, **changes) -> dict:
    return {
        "segmentation": [[1.5, 2.5, 3.5, 4.5, 5.5, 6.5]],
        "num_keypoints": 17,
        "area": 10_000.5,
        "iscrowd": 0,
        "keypoints": keypoints(),
        "image_id": image,
        "bbox": [50.0, 40.0, 100.0, 280.0],
        "category_id": 1,
        "id": number,
    } | changes


def dataset(*people: dict, **changes) -> dict:
    images = [
        {"license": 4, "file_name": "000000000007.jpg", "height": 480, "width": 640, "id": 7},
        {"license": 4, "file_name": "000000000009.jpg", "height": 400, "width": 500, "id": 9},
    ]
    return {
        "info": {"description": "COCO 2017 Dataset", "year": 2017},
        "licenses": [{"id": 4, "name": "Attribution License"}],
        "images": images,
        "annotations": list(people),
        "categories": [{"supercategory": "person", "id": 1, "name": "person"}],
    } | changes


def write(folder: Path, content, name="person_keypoints_train2017.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def draw(path: Path, images: Path | None = None, **options):
    reading = coco.read([path], Options(**options), Request(images))
    return reading, list(reading.samples)


def test_a_person_becomes_h36m_joints_with_the_files_box(tmp_path):
    path = write(tmp_path, dataset(person(1234, keypoints=keypoints(k9=1, k1=0, k15=0))))
    reading, (sample,) = draw(path)
    assert (reading.dataset, reading.total, reading.files, reading.caveat) == ("coco", 1, [path], "")
    joints = sample.keypoints_2d
    assert joints.dtype == np.float32
    # pelvis between the hips, thorax between the shoulders, spine midway; head between the eyes, one of which is not
    # labelled; left ankle not labelled; left wrist hidden, which is as good as seen
    want = [
        (100, 170), (82, 170), (80, 240), (78, 310), (118, 170), (120, 240), None, (100, 125), (100, 80), (100, 50),
        None, (130, 80), (140, 120), (145, 160), (70, 80), (60, 120), (55, 160),
    ]  # fmt: skip
    np.testing.assert_array_equal(joints, [(0, 0, 0) if xy is None else (*xy, 1) for xy in want])
    # the box spans columns 50 .. 149 and rows 40 .. 319, whose middles are 99.5 and 179.5
    np.testing.assert_array_equal(sample.bbox, np.float32([99.5, 179.5, 1.25 * 280]))
    assert sample.frame == 1234
    assert sample.joints_3d is None
    assert sample.photo is None
    assert np.isnan(sample.camera.vector).all()
    assert (sample.camera.width, sample.camera.height) == (640, 480)


def test_a_box_counts_as_far_as_it_is_in_the_image(tmp_path):
    people = [
        person(1, image=9, bbox=[-10, 380, 110, 60]),  # columns 0 .. 99, rows 380 .. 399
        person(2, image=9, bbox=[600, 10, 50, 50]),
        person(3, image=9, bbox=[10, 10, 50, 0]),
    ]
    reading, (sample,) = draw(write(tmp_path, dataset(*people)))
    np.testing.assert_array_equal(sample.bbox, np.float32([49.5, 389.5, 125]))
    assert reading.tally.skipped == {("", "", "no box in the image"): 2}


def test_what_is_left_out_is_counted(tmp_path):
    only_ears = keypoints(**{f"k{k}": 0 for k in range(17) if k not in (3, 4)})
    four = keypoints(**{f"k{k}": 0 for k in range(4, 17)})
    people = [
        # a crowd's segmentation is run lengths
        person(1, iscrowd=1, segmentation={"counts": [1, 2], "size": [480, 640]}),
        person(2, keypoints=[0] * 51, num_keypoints=0),
        person(3, keypoints=only_ears),
        person(4, keypoints=four),
        person(5),
    ]
    path = write(tmp_path, dataset(*people))
    reading, samples = draw(path)
    assert [sample.frame for sample in samples] == [4, 5]
    assert reading.total == 2
    assert reading.tally.skipped == {
        ("", "", "crowd"): 1,
        ("", "", "no labelled keypoint"): 1,
        ("", "", "none of the 17 joints labelled"): 1,
    }
    reading, samples = draw(path, min_keypoints=5)
    assert [sample.frame for sample in samples] == [5]
    assert reading.tally.skipped["", "", "fewer than 5 labelled keypoints"] == 2


def test_photographs_are_found_where_the_archives_unpack_to(tmp_path):
    path = write(tmp_path, dataset(person(1)))
    root = tmp_path / "root"
    root.mkdir()
    name = "000000000007.jpg"
    assert draw(path, root)[1][0].photo == root / name
    (root / "images" / "train2017").mkdir(parents=True)
    assert draw(path, root)[1][0].photo == root / "images" / "train2017" / name
    (root / "train2017").mkdir()
    assert draw(path, root)[1][0].photo == root / "train2017" / name
    assert draw(path, root / "train2017")[1][0].photo == root / "train2017" / name


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b.jpg", "", "a\0b", "\ud800.jpg"])
def test_names_that_climb_out_are_refused(tmp_path, name):
    content = dataset(person(1))
    content["images"][0]["file_name"] = name
    path = write(tmp_path, content)
    with pytest.raises(SourceError, match=r"annotations\[0\]: file_name: "):
        draw(path, tmp_path)
    assert len(draw(path)[1]) == 1


def lacking(key: str) -> dict:
    return {k: v for k, v in person(1).items() if k != key}


IMAGE = {"id": 7, "file_name": "a.jpg", "width": 640, "height": 480}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([person(1)], "no images and no annotations; want a person_keypoints"),
        ({"images": [IMAGE]}, "no annotations; want a person_keypoints"),
        (dataset(lacking("keypoints")), r"annotations\[0\]: keypoints: found nothing, wanted list"),
        (dataset(lacking("bbox")), r"annotations\[0\]: bbox: found nothing, wanted list"),
        (dataset(lacking("image_id")), r"annotations\[0\]: image_id: found nothing, wanted int or str"),
        (dataset(person(1), 5), r"annotations\[1\]: found int, wanted an object"),
        (dataset(person(1, keypoints=keypoints()[:42])), r"annotations\[0\]: keypoints: found 42 values, wanted 51"),
        (dataset(person(1, keypoints=["1"] * 51)), "keypoints: must be real number, not str"),
        (dataset(person(1, keypoints=[[1]] * 51)), "keypoints: must be real number, not list"),
        (dataset(person(1), person(2, keypoints=[5, 5, 3] * 17)), r"\[1\]: keypoints: found visibilities \[3"),
        (dataset(person(1, keypoints=[5, 1e9, 2] * 17)), "keypoints: found 2.0 to 1000000000.0, wanted numbers up to"),
        (dataset(person(1, bbox=[1, 2, 3])), "bbox: found 3 values, wanted 4"),
        (dataset(person(1, bbox="1234")), "bbox: found str, wanted list"),
        (dataset(person(1, iscrowd="no")), "iscrowd: found 'no', wanted 0 or 1"),
        (dataset(person(1, image_id=8)), r"annotations\[0\]: image_id: found 8, which no image has"),
        (dataset(person(1, image_id=[7])), "image_id: found list, wanted int or str"),
        (dataset(person(1, id=1 << 70)), "id: found 1180591620717411303424, wanted 0 or more"),
        (dataset(person(1), images=[IMAGE | {"width": 0}]), "width, height: found"),
        (dataset(person(1), images=[IMAGE | {"width": "640"}]), r"images\[0\]: width: found str, wanted int"),
        (dataset(person(1), images=[IMAGE | {"file_name": 3}]), "file_name: found int, wanted str"),
        (dataset(person(1), images=[IMAGE, IMAGE]), r"images\[1\]: id: found 7 a second time"),
        (json.dumps(dataset(person(1))).replace("145", "NaN", 1), "found NaN, wanted a number"),
        (json.dumps(dataset(person(1)))[:-200], "cut short"),
        ("", "found the end at character 0"),
    ],
)  # fmt: skip
def test_malformed_files_are_named_with_what_was_wanted(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(SourceError, match=message) as caught:
        draw(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("least", [0, 18])
def test_options_are_checked(tmp_path, least):
    with pytest.raises(ValueError, match="min_keypoints: want 1 to 17"):
        draw(write(tmp_path, dataset(person(1))), min_keypoints=least)
    with pytest.raises(ValueError, match="no input"):
        coco.read([], Options(), Request())
    with pytest.raises(OSError, match="nowhere"):
        draw(tmp_path / "nowhere.json")


def test_annotations_may_come_ahead_of_the_images(tmp_path):
    content = dataset(person(1))
    content["images"] = content.pop("images")
    assert list(content)[-1] == "images"
    assert len(draw(write(tmp_path, content))[1]) == 1


def test_the_command_writes_people_with_their_crops(tmp_path, capsys):
    path = write(tmp_path, dataset(person(1), person(2, image=9), person(3, iscrowd=1)))
    photos = tmp_path / "images" / "train2017"
    photos.mkdir(parents=True)
    for name, shape in (("000000000007.jpg", (480, 640, 3)), ("000000000009.jpg", (400, 500, 3))):
        cv2.imwrite(str(photos / name), np.full(shape, 128, np.uint8))
    out = tmp_path / "coco.h5"
    arguments = ["coco", path, out, "--images", tmp_path, "--image-size", 64, "--min-keypoints", 10]
    assert prepare.main([str(argument) for argument in arguments]) == 0
    assert "crowd" in capsys.readouterr().out
    with h5py.File(out) as file:
        assert file["present"][:].tolist() == [[True, True, False]] * 2
        assert sorted(file["cameras/size"][:].tolist()) == [[500, 400], [640, 480]]
        assert file["frame"][:].tolist() == [1, 2]
        assert file.attrs["dataset"] == "coco"


@pytest.mark.fuzz
def test_only_documented_errors_escape_from_mutated_files(tmp_path):
    content = dataset(person(1), person(2, image=9, keypoints=keypoints(k3=0, k9=1)), person(3, iscrowd=1))

    def read(folder):
        draw(folder / "person_keypoints_val2017.json", folder)

    assert fuzz(read, {"person_keypoints_val2017.json": json.dumps(content).encode()}) > 0
