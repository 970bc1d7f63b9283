import json
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from tests.support.fuzz import fuzz
from unihpe_fast import prepare
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.joint_sets import KEYPOINT_NAMES
from unihpe_fast.data.sources import Request, coco
from unihpe_fast.data.sources.coco import Options

# COCO's order: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles, left ahead of right
POINTS = [
    (100, 50), (104, 46), (96, 46), (110, 48), (90, 48), (130, 80), (70, 80), (140, 120), (60, 120), (145, 160),
    (55, 160), (118, 170), (82, 170), (120, 240), (80, 240), (122, 310), (78, 310),
]  # fmt: skip

CATEGORY = {
    "supercategory": "person",
    "id": 1,
    "name": "person",
    "keypoints": [
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
        "right_ankle",
    ],
    "skeleton": [[16, 14], [14, 12]],
}  # fmt: skip


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
        "categories": [CATEGORY],
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


# where each dataset of the same format has a person's joints, in its own order
PEOPLE = dict(zip(CATEGORY["keypoints"], POINTS, strict=True))
PEOPLE |= {"head": (100, 20), "head_top": (100, 20), "neck": (99, 79), "head_bottom": (99, 79), "hip": (101, 171)}
H36M = ["root", "right_hip", "right_knee", "right_foot", "left_hip", "left_knee", "left_foot", "spine", "thorax",
        "neck_base", "head", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow",
        "right_wrist"]  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "special"),
    [
        # H36M-17's pelvis, thorax, neck and head
        ("coco17", [(100, 170), (100, 80), (100, 50), (100, 46)]),
        ("crowdpose14", [(100, 170), (99, 79), None, (100, 20)]),
        ("posetrack17", [(100, 170), (99, 79), (100, 50), (100, 20)]),
        ("halpe26", [(101, 171), (99, 79), (100, 50), (100, 20)]),
    ],
)
@pytest.mark.parametrize("shuffled", [False, True])
def test_keypoints_are_found_by_their_names(tmp_path, layout, special, shuffled):
    names = list(KEYPOINT_NAMES[layout])
    if shuffled:
        names = [names[k] for k in np.random.default_rng(0).permutation(len(names))]
    # toes and heels count for nothing
    values = [number for name in names for number in (*PEOPLE.get(name, (1, 1)), 2)]
    content = dataset(person(1, keypoints=values), categories=[CATEGORY | {"keypoints": names}])
    reading, (sample,) = draw(write(tmp_path, content))
    found = [None if row[2] == 0 else tuple(row[:2].tolist()) for row in sample.keypoints_2d]
    assert [found[joint] for joint in (0, 8, 9, 10)] == special
    limbs = [(82, 170), (80, 240), (78, 310), (118, 170), (120, 240), (122, 310)]
    arms = [(130, 80), (140, 120), (145, 160), (70, 80), (60, 120), (55, 160)]
    assert found[1:7] + found[11:] == limbs + arms
    assert any("read by their names" in note for note in reading.tally.notes) == (layout != "coco17" or shuffled)


def test_human36m_in_cocos_format_is_what_it_says(tmp_path):
    values = [number for k in range(17) for number in (10 + k, 20 + 2 * k, 1)]
    content = dataset(person(1, keypoints=values), categories=[CATEGORY | {"keypoints": H36M}])
    _, (sample,) = draw(write(tmp_path, content))
    np.testing.assert_array_equal(sample.keypoints_2d, np.reshape(values, (17, 3)))


def test_names_that_are_no_persons_are_refused_and_listed(tmp_path):
    names = [*CATEGORY["keypoints"][:-2], "tail", "l_f_paw"]
    path = write(tmp_path, dataset(person(1), categories=[CATEGORY | {"name": "dog", "keypoints": names}]))
    with pytest.raises(SourceError, match=r"categories\[0\]: keypoints: keypoint names .* got 'tail', 'l_f_paw'$"):
        draw(path)


def test_several_categories_have_their_own_keypoints(tmp_path):
    crowd = list(KEYPOINT_NAMES["crowdpose14"])
    categories = [
        CATEGORY,
        CATEGORY | {"id": 2, "keypoints": crowd},
        {"id": 3, "name": "bicycle", "supercategory": "vehicle"},
        CATEGORY | {"id": 4, "name": "macaque", "supercategory": "animal"},
    ]
    people = [
        person(1, category_id=2, keypoints=[number for name in crowd for number in (*PEOPLE[name], 2)]),
        {key: value for key, value in person(2, category_id=3).items() if key not in ("keypoints", "num_keypoints")},
        person(3),
        person(4, category_id=4),
        person(5, category_id=3),
    ]
    reading, samples = draw(write(tmp_path, dataset(*people, categories=categories)))
    assert [sample.frame for sample in samples] == [1, 3]
    assert samples[0].keypoints_2d[8].tolist() == [99, 79, 1]
    assert samples[1].keypoints_2d[8].tolist() == [100, 80, 1]
    assert reading.tally.skipped == {
        ("", "", "no keypoints"): 1,
        ("", "", "category 'macaque', which is one of animals"): 1,
        ("", "", "category 'bicycle', which has no names of its keypoints"): 1,
    }


def test_a_file_without_names_is_taken_for_cocos_and_says_so(tmp_path):
    for categories in ([], [{"id": 1, "name": "person"}]):
        reading, (sample,) = draw(write(tmp_path, dataset(person(1), categories=categories)))
        assert sample.keypoints_2d[9].tolist() == [100, 50, 1]
        assert any("taken for COCO's 17" in note for note in reading.tally.notes)


def test_one_odd_annotation_does_not_end_the_file(tmp_path):
    people = [
        person(1, keypoints=[], num_keypoints=0),
        person(2, keypoints=None),
        {key: value for key, value in person(3).items() if key != "bbox"},
        person(4, bbox=None),
        person(5, bbox=None, keypoints=keypoints(**{f"k{k}": 0 for k in range(1, 17)})),
        person(6, iscrowd=None),
    ]
    reading, samples = draw(write(tmp_path, dataset(*people)))
    assert [sample.frame for sample in samples] == [3, 4, 6]
    for sample in samples[:2]:
        # around the joints of H36M-17: from x 55 to 145, y 46 to 310
        np.testing.assert_allclose(sample.bbox, [100, 178, 1.25 * 264], rtol=1e-6)
    assert reading.tally.skipped == {("", "", "no keypoints"): 2, ("", "", "no bbox, and joints that span none"): 1}


def test_photographs_without_a_size_are_measured_later(tmp_path):
    images = [{"id": 7, "file_name": "a.jpg"}]
    _, (sample,) = draw(write(tmp_path, dataset(person(1), images=images)))
    assert sample.camera is None
    np.testing.assert_array_equal(sample.bbox, np.float32([99.5, 179.5, 1.25 * 280]))


def test_photographs_are_found_where_the_archives_unpack_to(tmp_path):
    path = write(tmp_path, dataset(person(1)))
    root = tmp_path / "root"
    root.mkdir()
    name = "000000000007.jpg"
    # where no file is, the root says where it should be
    assert draw(path, root)[1][0].photo == root / name
    for folder in (root / "images" / "train2017", root / "train2017", root):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
        assert draw(path, root)[1][0].photo == folder / name
        assert draw(path, folder)[1][0].photo == folder / name


def test_photographs_are_looked_for_first_where_the_root_says(tmp_path):
    """A folder may be called as the end of the file's name without being meant: people_val.json, val/a.jpg."""
    content = dataset(person(1), person(2, image=9))
    content["images"][0]["file_name"], content["images"][1]["file_name"] = "val/missing.jpg", "val/a.jpg"
    path = write(tmp_path, content, "people_val.json")
    photo = tmp_path / "set" / "val" / "a.jpg"
    photo.parent.mkdir(parents=True)
    photo.touch()
    assert [sample.photo for sample in draw(path, tmp_path / "set")[1]] == [photo.parent / "missing.jpg", photo]


def test_backslashes_part_folders_as_on_windows(tmp_path):
    content = dataset(person(1))
    content["images"][0]["file_name"] = "val\\a.jpg"
    assert draw(write(tmp_path, content), tmp_path)[1][0].photo == tmp_path / "val" / "a.jpg"


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/../../b.jpg", "", "a\0b", "\ud800.jpg", r"..\a.jpg", r"C:\a.jpg"]
)
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
        (dataset(person(1, keypoints="1 2 3")), r"annotations\[0\]: keypoints: found str, wanted list"),
        (dataset(person(1, keypoints=[1, 2])), r"annotations\[0\]: keypoints: found 2 values, wanted x, y and visib"),
        (dataset(person(1, category_id=3)), r"annotations\[0\]: category_id: found 3, which no category has"),
        (dataset(person(1), categories=[{"id": 1, "keypoints": "nose"}]), r"categories\[0\]: keypoints: found nose"),
        (dataset(person(1), categories=[{"keypoints": ["nose"]}]), r"categories\[0\]: id: found nothing"),
        (dataset(person(1), categories=[CATEGORY, CATEGORY]), r"categories\[1\]: id: found 1 a second time"),
        (dataset(person(1, keypoints=[1, 2, 2]), categories=[]), r"\[0\]: keypoints: found 3 values, wanted 51"),
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
