"""The source h36m on small files in the formats Human3.6M comes in; expected values by plain arithmetic."""

import math
from collections import Counter

import h5py
import numpy as np
import pytest

from tests.data.h36m_files import (
    CAMERAS,
    KEPT,
    walk,
    write_h5,
    write_metadata,
    write_npz_2d,
    write_npz_3d,
    write_tree,
)
from unihpe_fast import prepare
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.records import Sample
from unihpe_fast.data.sources import Reading, Request
from unihpe_fast.data.sources.h36m.source import Options, read

H36M_LEFT, H36M_RIGHT = (4, 5, 6, 11, 12, 13), (1, 2, 3, 14, 15, 16)
MPII_LEFT, MPII_RIGHT = (3, 4, 5, 13, 14, 15), (0, 1, 2, 10, 11, 12)
# VideoPose3D's numbers for S9 in camera 60457274: quaternion camera to world, place mm, lens
QUATERNION = (0.5879399180412292, -0.7823407053947449, 0.1427614390850067, -0.14794869720935822)
PLACE = (-1696.04345703125, -3827.099853515625, 1591.4127197265625)
FOCAL, CENTER = (1145.5113525390625, 1144.77392578125), (514.9682006835938, 501.88201904296875)
RADIAL = (-0.198384091258049, 0.21832367777824402, -0.008947807364165783)
TANGENTIAL = (-0.0005872055771760643, -0.0018133620033040643)


def in_camera(point) -> tuple[float, float, float]:
    """A world point in that camera: v + 2 w (a x v) + 2 a x (a x v) for the inverse quaternion (w, a)."""
    vx, vy, vz = (float(point[i]) - PLACE[i] for i in range(3))
    w, ax, ay, az = QUATERNION[0], -QUATERNION[1], -QUATERNION[2], -QUATERNION[3]
    tx, ty, tz = 2 * (ay * vz - az * vy), 2 * (az * vx - ax * vz), 2 * (ax * vy - ay * vx)
    return (
        vx + w * tx + ay * tz - az * ty,
        vy + w * ty + az * tx - ax * tz,
        vz + w * tz + ax * ty - ay * tx,
    )


def pixel(point: tuple[float, float, float]) -> tuple[float, float]:
    """Where that camera sees a point of its own space; Human3.6M's distortion as 3d-pose-baseline writes it."""
    x, y = point[0] / point[2], point[1] / point[2]
    r2 = x * x + y * y
    # in the order of metadata.xml
    p = TANGENTIAL[::-1]
    factor = 1 + RADIAL[0] * r2 + RADIAL[1] * r2**2 + RADIAL[2] * r2**3 + p[0] * y + p[1] * x
    u, v = x * factor + p[1] * r2, y * factor + p[0] * r2
    return FOCAL[0] * u + CENTER[0], FOCAL[1] * v + CENTER[1]


def takes(*names: str, frames: int = 7) -> dict[tuple[str, str], np.ndarray]:
    """Made-up takes: names such as "S9 Walking 1"."""
    pairs = [(name.split(" ", 1)[0], name.split(" ", 1)[1]) for name in names]
    return {pair: walk(frames, phase=0.7 * number) for number, pair in enumerate(pairs)}


def drawn(reading: Reading) -> list[Sample]:
    return list(reading.samples)


def of(inputs, subjects="S9", request: Request | None = None, **options) -> list[Sample]:
    return drawn(read(inputs, Options(subjects=subjects, **options), request or Request()))


def test_joints_and_pixels_are_those_of_plain_arithmetic(tmp_path):
    given = takes("S9 Walking 1")
    world = given["S9", "Walking 1"]
    tree = write_tree(tmp_path / "h36m", given)
    samples = of([tree], cameras="60457274")
    assert [sample.frame for sample in samples] == list(range(7))
    for frame, sample in enumerate(samples):
        assert (sample.subject, sample.action, sample.camera_id) == ("S9", "Walking 1", "60457274")
        for joint, raw in enumerate(KEPT):
            expected = in_camera(world[frame, raw])
            # float32 of some 5000 mm, and a quaternion rounded to float32, whose length is 1 to 6e-8
            np.testing.assert_allclose(sample.joints_3d[joint, :3], expected, atol=2e-3)
            np.testing.assert_allclose(sample.keypoints_2d[joint, :2], pixel(expected), atol=2e-4)
        assert (sample.joints_3d[:, 3] == 1).all()
        assert (sample.keypoints_2d[:, 2] == 1).all()
        low, high = sample.keypoints_2d[:, :2].min(0), sample.keypoints_2d[:, :2].max(0)
        np.testing.assert_allclose(sample.bbox[:2], (low + high) / 2, rtol=1e-6)
        assert sample.bbox[2] == pytest.approx(1.25 * (high - low).max(), rel=1e-6)
        assert (sample.camera.width, sample.camera.height) == (1000, 1002)
        assert sample.photo is None


def same(one: list[Sample], other: list[Sample], mm: float, px: float) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert (a.subject, a.action, a.camera_id, a.frame) == (b.subject, b.action, b.camera_id, b.frame)
        np.testing.assert_allclose(a.joints_3d, b.joints_3d, atol=mm)
        np.testing.assert_allclose(a.keypoints_2d, b.keypoints_2d, atol=px)


def test_both_formats_give_the_same_samples(tmp_path):
    given = takes("S9 Walking 1", "S9 Photo", "S11 SittingDown", frames=5)
    npz = write_npz_3d(tmp_path / "data_3d_h36m.npz", given)
    tree = write_tree(tmp_path / "tree" / "h36m", given)
    reading = read([npz], Options(subjects="test"), Request())
    one, other = drawn(reading), of([tree.parent], "test")
    # float32 metres: a micrometre for some metres
    same(one, other, mm=2e-3, px=2e-3)
    assert reading.total == len(one) == 3 * 4 * 5
    assert reading.files == [npz]
    assert "vision.imar.ro" in reading.licence


def test_metadata_cameras_are_those_of_the_package(tmp_path):
    tree = write_tree(tmp_path / "h36m", takes("S9 Walking 1", frames=2))
    metadata = write_metadata(tmp_path)
    reading = read([tree, metadata], Options(subjects="S9"), Request())
    same(drawn(reading), of([tree]), mm=2e-3, px=2e-3)
    assert metadata in reading.files


def test_metadata_places_subjects_that_the_package_does_not(tmp_path):
    tree = write_tree(tmp_path / "h36m", takes("S3 Walking 1", frames=2))
    with pytest.raises(SourceError, match=r"no place of camera 54138969.*metadata.xml"):
        of([tree], "S3")
    assert len(of([tree, write_metadata(tmp_path)], "S3")) == 8


def points(given, joints: int, extra: int = 0):
    """[F + extra, J, 2] px for each camera, distinct numbers everywhere."""
    return {
        pair: [
            np.arange((len(array) + extra) * joints * 2).reshape(-1, joints, 2) * 0.25 + 100 * camera
            for camera in range(4)
        ]
        for pair, array in given.items()
    }


def test_given_2d_points_are_taken_as_they_are_and_cut(tmp_path):
    given = takes("S9 Walking 1", frames=4)
    pixels = points(given, 17, extra=3)
    pair = [
        write_npz_2d(tmp_path / "data_2d_h36m_cpn_ft_h36m_dbb.npz", pixels, H36M_LEFT, H36M_RIGHT),
        write_npz_3d(tmp_path / "data_3d_h36m.npz", given),
    ]
    samples = of(pair)
    assert len(samples) == 16
    for sample in samples:
        expected = pixels["S9", "Walking 1"][CAMERAS.index(sample.camera_id)][sample.frame]
        np.testing.assert_array_equal(sample.keypoints_2d[:, :2], expected)
        assert (sample.keypoints_2d[:, 2] == 1).all()
        assert sample.joints_3d[0, 3] == 1


def test_hourglass_points_have_no_neck_and_a_derived_spine(tmp_path):
    given = takes("S9 Walking 1", frames=2)
    pixels = points(given, 16)
    archive = write_npz_2d(tmp_path / "data_2d_h36m_sh_ft_h36m.npz", pixels, MPII_LEFT, MPII_RIGHT)
    tree = write_tree(tmp_path / "h36m", given)
    for camera, camera_id in enumerate(CAMERAS):
        array = pixels["S9", "Walking 1"][camera]
        write_h5(tree / "S9" / "StackedHourglass" / f"Walking_1.{camera_id}.h5", "poses", array)
    for samples in (of([tree, archive]), of([tree], detections="StackedHourglass")):
        assert len(samples) == 8
        for sample in samples:
            mpii = pixels["S9", "Walking 1"][CAMERAS.index(sample.camera_id)][sample.frame]
            wanted = [6, 2, 1, 0, 3, 4, 5, None, 8, None, 9, 13, 14, 15, 12, 11, 10]
            for joint, source in enumerate(wanted):
                if source is not None:
                    assert sample.keypoints_2d[joint].tolist() == [*mpii[source].tolist(), 1]
            assert sample.keypoints_2d[7].tolist() == [*((mpii[6] + mpii[8]) / 2).tolist(), 1]
            assert sample.keypoints_2d[9].tolist() == [0, 0, 0]


def test_projections_beside_the_tree_are_taken(tmp_path):
    given = takes("S9 Walking 1", frames=3)
    tree = write_tree(tmp_path / "h36m", given)
    for camera, camera_id in enumerate(CAMERAS):
        # row 2 j + c, joint j at (10 j + frame, 1000 camera + j)
        rows = np.zeros((64, 3))
        for joint in range(32):
            rows[2 * joint] = [10 * joint + frame for frame in range(3)]
            rows[2 * joint + 1] = 1000 * camera + joint
        write_h5(tree / "S9" / "MyPoses" / "2D_positions" / f"Walking 1.{camera_id}.h5", "2D_positions", rows)
    for sample in of([tree]):
        expected = [[10 * raw + sample.frame, 1000 * CAMERAS.index(sample.camera_id) + raw, 1] for raw in KEPT]
        assert sample.keypoints_2d.tolist() == expected


def test_a_joint_that_was_not_found_is_absent_and_a_person_without_joints_is_counted(tmp_path):
    given = takes("S9 Walking 1", frames=3)
    pixels = points(given, 17)
    pixels["S9", "Walking 1"][2][0, 4] = math.nan
    pixels["S9", "Walking 1"][2][1, 1:] = math.nan
    inputs = [
        write_npz_3d(tmp_path / "3d.npz", given),
        write_npz_2d(tmp_path / "2d.npz", pixels, H36M_LEFT, H36M_RIGHT),
    ]
    reading = read(inputs, Options(subjects="S9", cameras=CAMERAS[2]), Request())
    samples = drawn(reading)
    assert [sample.frame for sample in samples] == [0, 2]
    assert samples[0].keypoints_2d[4].tolist() == [0, 0, 0]
    assert (np.delete(samples[0].keypoints_2d[:, 2], 4) == 1).all()
    assert reading.tally.skipped == {("S9", "Walking 1", "fewer than two 2D joints"): 1}


def test_2d_points_of_subjects_without_joints(tmp_path):
    given = takes("S9 Walking 1", frames=2)
    pixels = points(given, 17) | points(takes("S2 Eating", frames=5), 17)
    inputs = [
        write_npz_3d(tmp_path / "3d.npz", given),
        write_npz_2d(tmp_path / "2d.npz", pixels, H36M_LEFT, H36M_RIGHT),
    ]
    samples = of(inputs, "S2,S9", step=2)
    assert Counter(sample.subject for sample in samples) == {"S2": 12, "S9": 4}
    for sample in samples[:12]:
        assert sample.joints_3d is None
        assert sample.camera.rotation is None
        assert sample.camera.vector[0] > 1140


def test_names_are_those_of_the_literature_and_the_damaged_take_is_counted(tmp_path):
    given = takes("S11 TakingPhoto 1", "S11 WalkingDog", "S11 Directions", "S11 Directions 1", "S11 Sitting", frames=6)
    tree = write_tree(tmp_path / "h36m", given)
    write_h5(tree / "S11" / "MyPoses" / "3D_positions" / "_ALL.h5", "3D_positions", np.zeros((96, 3)))
    reading = read([tree], Options(subjects="S11", step=5), Request())
    samples = drawn(reading)
    counts = Counter(sample.action for sample in samples)
    # frames 0 and 5 in four cameras
    assert counts == {"Photo 1": 8, "WalkDog": 8, "Directions 1": 8, "Sitting": 8}
    assert {sample.frame for sample in samples} == {0, 5}
    assert reading.tally.skipped == {("S11", "Directions", "damaged video"): 8}
    assert reading.tally.notes == ["S11: 5 recordings, the dataset has 30"]
    assert reading.total == 32


def test_the_damaged_take_is_kept_in_three_cameras_for_the_image_protocols(tmp_path):
    tree = write_tree(tmp_path / "h36m", takes("S11 Directions", "S11 Sitting", frames=6))
    reading = read([tree], Options(subjects="S11", step=5, s11_directions=True), Request())
    counts = Counter((sample.action, sample.camera_id) for sample in drawn(reading))
    assert counts == {
        (action, camera_id): 2
        for action in ("Directions", "Sitting")
        for camera_id in CAMERAS
        if (action, camera_id) != ("Directions", "54138969")
    }
    assert reading.tally.skipped == {("S11", "Directions", "damaged video"): 2}
    assert reading.total == 14


def test_a_joint_behind_the_camera_is_counted(tmp_path):
    given = takes("S9 Walking 1", frames=3)
    given["S9", "Walking 1"][1, :, :2] += (-3000, -6000)
    reading = read([write_tree(tmp_path, given)], Options(subjects="S9", cameras="60457274"), Request())
    assert [sample.frame for sample in drawn(reading)] == [0, 2]
    assert reading.tally.skipped == {("S9", "Walking 1", "joint behind the camera"): 1}


@pytest.mark.parametrize(
    "layout",
    [
        "{base}",
        "images/{base}",
        "S9/{base}/{base}",
        "images/S9/{base}/{base}",
        "S9/images/{base}/{base}",
    ],
)
@pytest.mark.parametrize(("action", "released"), [("Walking 1", "Walking_1"), ("Photo", "TakingPhoto")])
def test_photographs_of_known_layouts(tmp_path, layout, action, released):
    tree = write_tree(tmp_path / "h36m", takes(f"S9 {action}", "S9 Waiting", frames=6))
    base = f"S9_{released}.60457274"
    first = tmp_path / "photos" / f"{layout.format(base=base)}_000001.jpg"
    first.parent.mkdir(parents=True)
    first.touch()
    request = Request(images=tmp_path / "photos")
    reading = read([tree], Options(subjects="S9", cameras="60457274", step=5), request)
    samples = drawn(reading)
    assert [(sample.action, sample.frame) for sample in samples] == sorted(
        (a, f) for a in (action, "Waiting") for f in (0, 5)
    )
    for sample in samples:
        if sample.action == action:
            assert sample.photo == first.with_name(f"{base}_{sample.frame + 1:06d}.jpg")
        else:
            assert sample.photo is None
    assert "no photographs of 1 recordings: S9 Waiting 60457274" in reading.tally.notes[1]


def test_takes_without_frames_and_a_subject_whose_only_take_is_damaged(tmp_path):
    given = takes("S9 Walking 1", frames=0) | takes("S11 Directions", frames=2)
    for given_3d in (write_tree(tmp_path / "h36m", given), write_npz_3d(tmp_path / "3d.npz", given)):
        assert of([given_3d]) == []
        assert of([given_3d], "S11", Request(images=tmp_path)) == []


def test_a_root_without_photographs_is_an_error(tmp_path):
    tree = write_tree(tmp_path / "h36m", takes("S9 Walking 1"))
    with pytest.raises(SourceError, match=r"nowhere: no photograph.*S9_Walking_1\.54138969_000001\.jpg"):
        of([tree], request=Request(images=tmp_path / "nowhere"))


def test_the_command_writes_what_the_protocols_need(tmp_path):
    npz = write_npz_3d(tmp_path / "data_3d_h36m.npz", takes("S9 Directions 1", "S11 Photo", frames=11))
    out = tmp_path / "test.h5"
    arguments = ["h36m", npz, out, "--subjects", "test", "--step", "5", "--image-size", "0", "--split", "test"]
    assert prepare.main([str(argument) for argument in arguments]) == 0
    with h5py.File(out) as file:
        tables = {key: file[f"names/{key}"].asstr()[:] for key in ("subject", "action", "camera_id")}
        rows = [tuple(tables[key][file[key][row]] for key in tables) for row in range(len(file["frame"]))]
        assert Counter(rows) == {
            (subject, action, camera_id): 3
            for subject, action in (("S9", "Directions 1"), ("S11", "Photo"))
            for camera_id in CAMERAS
        }
        assert file["frame"][:].tolist() == [0, 5, 10] * 8
        assert (file.attrs["dataset"], file.attrs["split"]) == ("h36m", "test")
        assert file["present"][:].all(0).tolist() == [False, True, True]
        assert file["cameras/vector"].shape == (8, 9)
        assert np.isfinite(file["cameras/rotation"][:]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subjects": "S12"}, "subjects: want train, test, all or names such as S9,S11, got 'S12'"),
        ({"subjects": ","}, "subjects: want"),
        ({"cameras": "1"}, "cameras: want 54138969"),
        ({"step": 0}, "step: want at least 1, got 0"),
        ({"subjects": "train"}, "subjects: there is nothing of S1 in the input, only S9"),
        ({"detections": "StackedHourglass"}, "detections: no StackedHourglass with .h5 files in S9"),
    ],
)
def test_options_that_make_no_sense(tmp_path, options, message):
    tree = write_tree(tmp_path / "h36m", takes("S9 Walking 1"))
    with pytest.raises(ValueError, match=message):
        of([tree], **{"subjects": "S9", **options})


def test_inputs_that_are_none(tmp_path):
    given = takes("S9 Walking 1", frames=2)
    npz, tree = write_npz_3d(tmp_path / "3d.npz", given), write_tree(tmp_path / "h36m", given)
    flat = write_npz_2d(tmp_path / "2d.npz", points(given, 17), H36M_LEFT, H36M_RIGHT)
    np.savez(tmp_path / "other.npz", poses=np.zeros(3))
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"empty: want the folder of an h5 tree, found no points of S1"):
        of([npz, tmp_path / "empty"])
    with pytest.raises(SourceError, match=r"want one input with 3D joints.*got none"):
        of([flat])
    with pytest.raises(SourceError, match=r"want one input with 3D joints.*3d.npz, .*h36m"):
        of([npz, tree])
    with pytest.raises(SourceError, match="want 2D points from one place"):
        of([npz, flat, flat])
    with pytest.raises(SourceError, match=r"other.npz: want positions_3d or positions_2d, the keys are poses"):
        of([tmp_path / "other.npz"])
    with pytest.raises(SourceError, match=r"notes.txt: want the folder"):
        of([tmp_path / "notes.txt"])
    with pytest.raises(FileNotFoundError, match="nowhere: no such file"):
        of([tmp_path / "nowhere"])
