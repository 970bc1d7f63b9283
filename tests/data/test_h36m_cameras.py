"""The packaged cameras against other publications of them, and against where the studio must be."""

import math
from pathlib import Path

import numpy as np
import pytest

from tests.data.h36m_files import W0, write_metadata
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.sources.h36m.cameras import CAMERA_IDS, packaged_cameras, read_metadata

WITH_JOINTS = ("S1", "S5", "S6", "S7", "S8", "S9", "S11")
# of the h5/json camera files of other repositories, which come from metadata.xml, in its float64 digits
LENS_60457274 = (1145.51133842318, 1144.77392807652, 514.968197319863, 501.882018537695)
LENS_55011271_TANGENTIAL = (-0.0027408943961907, -0.001619026613787)
S1_54138969_ROTATION = (
    (-0.9153617321513369, 0.40180836633680234, 0.02574754463350265),
    (0.051548117060134555, 0.1803735689384521, -0.9822464900705729),
    (-0.399319034032262, -0.8977836111057917, -0.185819527201491),
)
# where the world's origin is for that camera: -R T
S1_54138969_TRANSLATION = (-346.05078140028075, 546.9807793144001, 5474.481087434061)
S1_55011271_TRANSLATION = (251.42516271750836, 420.9422103702068, 5588.195881837821)
FLOAT32 = float(np.finfo(np.float32).eps)


def placed() -> list[tuple[str, str]]:
    return [(subject, camera_id) for subject in WITH_JOINTS for camera_id in CAMERA_IDS]


def test_digits_of_a_second_publication():
    rigs = packaged_cameras()
    camera = rigs["S1"]["54138969"]
    np.testing.assert_allclose(camera.rotation, S1_54138969_ROTATION, atol=2 * FLOAT32)
    # a place 5.5 m away, rounded to float32 and turned by angles that are
    np.testing.assert_allclose(camera.translation, S1_54138969_TRANSLATION, atol=4 * FLOAT32 * 5500)
    np.testing.assert_allclose(rigs["S1"]["55011271"].translation, S1_55011271_TRANSLATION, atol=4 * FLOAT32 * 5600)
    np.testing.assert_allclose(rigs["S9"]["60457274"].vector[:4], LENS_60457274, rtol=FLOAT32)
    # metadata.xml has the pair the other way round
    np.testing.assert_allclose(rigs["S5"]["55011271"].vector[7:], LENS_55011271_TANGENTIAL[::-1], rtol=FLOAT32)
    sizes = [(rigs["S11"][camera_id].width, rigs["S11"][camera_id].height) for camera_id in CAMERA_IDS]
    assert sizes == [(1000, 1002), (1000, 1000), (1000, 1000), (1000, 1002)]


@pytest.mark.parametrize(("subject", "camera_id"), placed())
def test_every_camera_is_that_of_the_release(subject, camera_id, tmp_path):
    """All of the table: VideoPose3D's float32 numbers against the release's own, which have angles for quaternions."""
    packaged = packaged_cameras()[subject][camera_id]
    released = read_metadata(write_metadata(tmp_path))[subject][camera_id]
    np.testing.assert_allclose(packaged.vector, released.vector, rtol=FLOAT32)
    np.testing.assert_allclose(packaged.rotation, released.rotation, atol=2 * FLOAT32)
    np.testing.assert_allclose(packaged.translation, released.translation, atol=4 * FLOAT32 * 6000)
    assert (packaged.width, packaged.height, packaged.name) == (released.width, released.height, released.name)


@pytest.mark.parametrize(("subject", "camera_id"), placed())
def test_cameras_stand_around_the_studio_and_see_it(subject, camera_id):
    camera = packaged_cameras()[subject][camera_id]
    assert camera.rotation is not None
    np.testing.assert_allclose(camera.rotation @ camera.rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(camera.rotation) == pytest.approx(1, abs=1e-12)
    x, y, z = -camera.rotation.T @ camera.translation
    # on a tripod, four to six metres from the middle
    assert 1400 < z < 1700
    assert 3500 < math.hypot(x, y) < 6000
    # the corners are taken in turn: +x +y, +x -y, -x +y, -x -y
    corner = CAMERA_IDS.index(camera_id)
    assert (x > 0, y > 0) == (corner < 2, corner % 2 == 0)
    # the middle, at the height of a pelvis, is seen near the middle of the image, and its up is up
    low, high = (camera.rotation @ np.array([0, 0, height]) + camera.translation for height in (0, 1800))
    for point in (low, high):
        assert point[2] > 3000
        pixel = camera.vector[:2] * point[:2] / point[2] + camera.vector[2:4]
        assert 200 < pixel[0] < 800
        assert 100 < pixel[1] < 900
    assert high[1] < low[1]


def test_subjects_without_a_place_have_the_lenses():
    rigs = packaged_cameras()
    assert set(rigs) == {f"S{number}" for number in range(1, 12)}
    for subject in ("S2", "S3", "S4", "S10"):
        for camera_id in CAMERA_IDS:
            camera = rigs[subject][camera_id]
            assert camera.rotation is None
            assert camera.translation is None
            np.testing.assert_array_equal(camera.vector, rigs["S1"][camera_id].vector)


def test_metadata_places_all_eleven(tmp_path):
    rigs = read_metadata(write_metadata(tmp_path))
    numbers = [float(word) for word in W0.split()]
    # third camera, subject 4: 6 (2 * 11 + 3) numbers in
    place = np.array(numbers[6 * 25 + 3 : 6 * 26])
    camera = rigs["S4"]["58860488"]
    assert camera.rotation is not None
    np.testing.assert_allclose(-camera.rotation.T @ camera.translation, place, rtol=1e-12)


@pytest.mark.parametrize("wrap", ["[{}]", "{}", "\n  [ {} ]\n", "[{};]"])
def test_metadata_is_read_however_it_is_laid_out(tmp_path, wrap):
    rigs = read_metadata(write_metadata(tmp_path, wrap.format(" ".join(W0.split()))))
    assert rigs["S1"]["54138969"].vector[0] == 1145.04940458804


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no element w0"),
        ("<w0>[]</w0>", "w0: want 300 finite numbers, found 0 of 0"),
        ("<w0>[1 2 3]</w0>", "w0: want 300 finite numbers, found 3 of 3"),
        (f"<w0>[{'nan ' * 300}]</w0>", "w0: want 300 finite numbers, found 0 of 300"),
        (f"<w0>[{'-1 ' * 300}]</w0>", "w0: want positive focal lengths in px from 1 to 1e\\+06, found -1"),
        ("<w0>[1 2 three]</w0>", "w0: want numbers, .*'three'"),
        ('<!DOCTYPE w0 [<!ENTITY a "1 1"><!ENTITY b "&a;&a;">]><w0>[&b;]</w0>', "w0: want numbers"),
    ],
)
def test_metadata_that_cannot_be_used_is_named(tmp_path, text, message):
    path = tmp_path / "metadata.xml"
    path.write_text(text)
    with pytest.raises(SourceError, match=message) as raised:
        read_metadata(path)
    assert str(raised.value).startswith(str(path))


def test_metadata_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_metadata(Path(tmp_path / "metadata.xml"))
