"""`prepare check`: a sound file passes, and each kind of damage is named with its rows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from tests.data.test_prepare import run
from tests.support.people import H36M_CAMERA, SIZE, picture_crop, pixels_of, sample, standing_person
from unihpe_fast.data import check
from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.camera import Camera
from unihpe_fast.data.check import check_store
from unihpe_fast.data.store import write_store


def adult(rng: np.random.Generator, **changes):
    """A person whose thighs are 440 mm long, upright before a level camera."""
    joints = standing_person() + rng.uniform((-200, -200, 4500), (200, 200, 6000))
    pixels = pixels_of(joints)
    bbox = square_bbox(pixels)
    level = Camera("54138969", H36M_CAMERA, *SIZE, np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]), np.zeros(3))
    person = sample(
        rng,
        picture=True,
        camera=level,
        joints_3d=np.concatenate([joints, np.ones((17, 1))], axis=1),
        keypoints_2d=np.concatenate([pixels, np.ones((17, 1))], axis=1),
        bbox=bbox,
        crop=picture_crop(bbox, 128, 2.0),
    )
    return replace(person, **changes)


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    people = [adult(rng, frame=n, action="") for n in range(9)]
    people[3] = adult(rng, action="", joints_3d=None, camera=Camera("", np.full(9, np.nan), 640, 480))
    people[4] = adult(rng, action="", image=None, crop=None)
    people[5] = adult(rng, action="", keypoints_2d=None)
    write_store(tmp_path / "a.h5", people, dataset="toy", split="val", licence="free", caveat="a toy")
    return tmp_path / "a.h5"


def test_a_sound_file_passes_and_is_drawn(prepared: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(check, "BLOCK", 4)
    png = tmp_path / "sheet.png"
    assert run("check", prepared, "--png", png) == 0
    printed = capsys.readouterr().out
    for line in (
        f"{prepared}: 9 samples of toy val",
        "with image: 8, pose2d: 8, pose3d: 8",
        "1 subjects, 0 actions",
        "terms of use: free",
        "pictures of 128 x 128 px",
        "caveat: a toy",
        "projected 3D against 2D joints: median 0.000 px, 99 % below 0.000 px (7 samples)",
        "median thigh: 440 mm",
        "nothing is wrong with it",
    ):
        assert line in printed
    picture = cv2.imread(str(png))
    assert picture.shape[0] > 500
    assert picture.std() > 20


def test_the_median_miss_is_that_put_in(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    people = [adult(rng) for _ in range(5)]
    for n, person in enumerate(people):
        # 3-4-5 triangles at every joint; what is not known does not count
        person.keypoints_2d[:, :2] += np.array([3.0, 4.0]) * (n + 1)
        person.keypoints_2d[16] = 0
    write_store(tmp_path / "a.h5", people, dataset="toy", split="val")
    report = check_store(tmp_path / "a.h5")
    assert "projected 3D against 2D joints: median 15.000 px, 99 % below 24.800 px (5 samples)" in report.facts
    assert not report.problems


def set_rows(key: str, rows, value) -> Callable[[h5py.File], None]:
    def damage(file: h5py.File) -> None:
        values = file[key][:]
        values[rows] = value
        file[key][:] = values

    return damage


def scale_joints(factor: float) -> Callable[[h5py.File], None]:
    def damage(file: h5py.File) -> None:
        values = file["joints_3d"][:]
        values[..., :3] *= factor
        file["joints_3d"][:] = values

    return damage


def cut_image(file: h5py.File) -> None:
    for row in (2, 7):
        data = file["image"][row]
        file["image"][row] = data[: len(data) // 2]


def garble_image(file: h5py.File) -> None:
    data = file["image"][1].copy()
    data[2 : len(data) - 2] = 0
    file["image"][1] = data


def swap_joints(file: h5py.File) -> None:
    """The order of MPI-INF-3DHP's test set taken for Human3.6M's."""
    file["joints_3d"][:] = file["joints_3d"][:][:, [10, 8, 14, 15, 16, 11, 12, 13, 1, 2, 3, 4, 5, 6, 0, 7, 9]]


def lay_down(file: h5py.File) -> None:
    """Everyone on their side, arms up and down."""
    values = file["joints_3d"][:]
    root = values[:, :1, :3].copy()
    values[..., :3] = (values[..., :3] - root)[..., [1, 0, 2]] * [-1, 1, 1] + root
    file["joints_3d"][:] = values


def mirror_2d(file: h5py.File) -> None:
    values = file["keypoints_2d"][:]
    values[..., 0] = np.where(values[..., 2] > 0, 1000 - values[..., 0], 0)
    file["keypoints_2d"][:] = values


@pytest.mark.parametrize(
    ("damage", "problems"),
    [
        (cut_image, ["image: does not decode: 2 rows: 2, 7 (found a JPEG that ends after"]),
        (garble_image, ["image: does not decode: 1 rows: 1 (found a JPEG without a frame header"]),
        (set_rows("present", (4, 0), True), ["crop: row 4: found"]),
        (set_rows("present", (1, 0), False), ["image: bytes where present says there is no image: 1 rows: 1"]),
        (set_rows("crop", (6, 0, 2), 5000), ["crop: the middle of the box lies outside the picture: 1 rows: 6"]),
        (set_rows("present", (8, 1), False), ["keypoints_2d: numbers where present says there are none: 1 rows: 8"]),
        (set_rows("keypoints_2d", (0, slice(None), 2), 0), ["keypoints_2d: present, but no joint of it is known: 1 r"]),
        (set_rows("joints_3d", ([0, 1], 5, 2), -3), ["joints_3d: a joint lies behind the camera: 2 rows: 0, 1"]),
        (set_rows("frame", 3, -1), ["frame: below 0: 1 rows: 3"]),
        (set_rows("present", slice(None), False), ["has neither image nor 2D nor 3D: 9 rows: 0, 1, 2, 3, 4, .."]),
        (scale_joints(0.001), ["joints_3d: the median thigh is 0.44 mm long: another unit?"]),
        (swap_joints, ["joints_3d: no person has: 8 rows: 0, 1, 2, 4, 5, .. (S1 54138969: right thigh "]),
        (lay_down, ["never upright (another up axis?)", "joints_3d: subject S1: never upright in the whole file"]),
        (mirror_2d, ["camera: projected 3D joints do not meet the 2D ones"]),
        (set_rows("bbox", (slice(None), 2), 3), ["bbox: only 0.0% of the 2D joints lie inside their box"]),
        (set_rows("bbox", (3, 2), np.nan), ["a.h5: bbox: row 3"]),
        (lambda file: file.pop("crop"), ["a.h5: crop: found nothing"]),
    ],
)
def test_damage_is_named_with_its_rows(prepared: Path, capsys, damage, problems: list[str]) -> None:
    with h5py.File(prepared, "r+") as file:
        damage(file)
    assert run("check", prepared) == 1
    printed = capsys.readouterr().out
    for problem in problems:
        assert problem in printed
    assert "nothing is wrong" not in printed


def test_a_file_that_is_not_there_or_not_hdf5_fails(tmp_path: Path, capsys) -> None:
    assert run("check", tmp_path / "gone.h5") == 1
    assert "gone.h5" in capsys.readouterr().err
    (tmp_path / "a.h5").write_text("no HDF5")
    assert run("check", tmp_path / "a.h5", "--png", tmp_path / "a.png") == 1
    assert "found a file that HDF5 cannot read" in capsys.readouterr().out
    assert not (tmp_path / "a.png").exists()


def test_a_broken_picture_is_drawn_as_such_and_few_samples_are_enough(tmp_path: Path, capsys) -> None:
    write_store(tmp_path / "a.h5", [adult(np.random.default_rng(0))], dataset="toy", split="val")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        garbled = file["image"][0].copy()
        garbled[2 : len(garbled) - 2] = 0
        file["image"][0] = garbled
    assert run("check", tmp_path / "a.h5", "--png", tmp_path / "a.png") == 1
    assert "\n1 problem\n" in capsys.readouterr().out
    assert (tmp_path / "a.png").stat().st_size > 1000
