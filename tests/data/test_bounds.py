"""Numbers that no camera sees: each reader refuses them by one table, and names the file."""

import numpy as np
import pytest

from tests.data import test_mpii
from tests.data.h36m_files import W0, write_metadata
from tests.data.keypoints import files
from tests.data.keypoints.test_formats import NAMED
from tests.data.motion_files import standing, write_clip
from tests.support.people import sample
from unihpe_fast.data.bounds import LARGEST_MM
from unihpe_fast.data.camera import Camera
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.bvh import read_bvh
from unihpe_fast.data.formats.keypoints import ReadOptions, read_keypoints
from unihpe_fast.data.formats.motion_manifest import COLUMNS, read_manifest
from unihpe_fast.data.sources.h36m.cameras import read_metadata
from unihpe_fast.data.sources.motion import ClipReader, find_clips, resample
from unihpe_fast.data.store import write_store

SEVERAL = "9" * 5000


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a.bvh,1,1,walk,inf", "fps_true, the last from 0.5 to 10000"),
        ("a.bvh,1,1,walk,1e400", None),
        (f"a.bvh,1,1,walk,{'9' * 400}", "fps_true"),
        ("a.bvh,1,1,walk,20000", "fps_true"),
        ("a.bvh,1,1,walk,0.1", "fps_true"),
        (f"a.bvh,1,1,walk,120/{SEVERAL}", "fps_true"),
        (f"a.bvh,{SEVERAL},1,walk,120", "numbers for subject"),
        (f"a.bvh,1,1,{'w' * 140_000},120", "line 2: cannot be read as a table: field larger than"),
        ("a\0.bvh,1,1,walk,120", "want the name of a file"),
    ],
)
def test_manifests(tmp_path, row, words):
    path = tmp_path / "manifest.csv"
    path.write_text(f"{','.join(COLUMNS)}\n{row}\n")
    if words is None:
        # as ever, the leading number counts
        assert [clip.fps for clip in read_manifest(path, []).values()] == [1.0]
        return
    with pytest.raises(ValueError, match=f"^{path}.*{words}"):
        read_manifest(path, [])


@pytest.mark.parametrize("seconds", ["1e-320", "1e-5", "inf", "120"])
def test_frame_times(tmp_path, seconds):
    with pytest.raises(ValueError, match=r"^.*clip\.bvh, line \d+: (want a|Frame Time)"):
        read_bvh(write_clip(tmp_path / "clip.bvh", standing(3), frame_time=seconds))


@pytest.mark.parametrize("fps", [1e-9, 1e9, float("nan")])
def test_rates_that_are_asked_for(tmp_path, fps):
    from tests.data.test_motion import draw

    write_clip(tmp_path / "02_01.bvh", standing(3))
    with pytest.raises(ValueError, match=r"fps: want a positive number from 0\.5 to 10000"):
        draw(tmp_path, fps=fps)
    assert len(resample(3, 1e4, 0.5)) == 1


def test_joints_of_motion(tmp_path):
    path = write_clip(tmp_path / "02_01.bvh", standing(3))
    text = path.read_text().splitlines()
    words = text[-1].split()
    for number, message in (
        ("3e9", r"frame 2: joint \S+ must lie within 1e\+06 mm .* got .*another unit"),
        ("1e13", "1e\\+12"),
    ):
        path.write_text("\n".join([*text[:-1], " ".join([number, *words[1:]])]))
        with pytest.raises(ValueError, match=rf"02_01\.bvh.*{message}"):
            ClipReader().read(*find_clips([tmp_path]))


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (3, "1e7", "places in mm from -1e\\+06 to 1e\\+06, found 1e\\+07"),
        (0, "700", "angles in rad"),
        (264, "0.01", "positive focal lengths in px from 1 to 1e\\+06, found 0.01"),
        (264, "1e12", "positive focal lengths in px from 1 to 1e\\+06, found 1e\\+12"),
        (266, "-1e9", "principal points"),
        (268, "1e30", "coefficients of distortion"),
    ],
)
def test_cameras_of_metadata(tmp_path, at, value, words):
    numbers = W0.split()
    numbers[at] = value
    with pytest.raises(SourceError, match=f"w0: want {words}"):
        read_metadata(write_metadata(tmp_path, f"<w0>{' '.join(numbers)}</w0>"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"focal": 1e9}, "vector: found .* focal lengths from 1 to 1e"),
        ({"translation": np.array([0, 0, 10 * LARGEST_MM])}, "translation: found .* wanted mm within 1e"),
        ({"rotation": 2 * np.eye(3)}, "rotation: found .* wanted a rotation"),
    ],
)
def test_cameras_of_a_prepared_file(tmp_path, changes, words):
    focal = changes.pop("focal", 1000.0)
    vector = np.array([focal, focal, 500, 500, 0, 0, 0, 0, 0.0])
    camera = Camera("a", vector, 1000, 1000, **{"rotation": np.eye(3), "translation": np.zeros(3), **changes})
    with pytest.raises(ValueError, match=words):
        write_store(tmp_path / "a.h5", [sample(np.random.default_rng(0), camera=camera)], dataset="a", split="a")


@pytest.mark.parametrize("changes", [{"scale": 1e5}, {"center": [9.9e5, 9.9e5], "scale": 900.0}])
def test_boxes_of_mpii(tmp_path, changes):
    path = test_mpii.write(tmp_path, [test_mpii.person(**changes)])
    with pytest.raises(SourceError, match=r"\[0\]: found center .*, wanted a box within 1e\+06 px"):
        test_mpii.draw(path)


@pytest.mark.parametrize("maker", ["deeplabcut", "mediapipe"])
def test_tables_of_keypoints(tmp_path, maker):
    if maker == "deeplabcut":
        path = files.deeplabcut_csv(tmp_path / "x.csv", NAMED, files.person(8)[None, None])
    else:
        path = files.mediapipe_long(tmp_path / "x.csv", [files.person(33)], named=False)
    whole = path.read_text()
    path.write_text(whole + "x" * 140_000 + "\n")
    with pytest.raises(SourceError, match=r"x\.csv: line \d+: cannot be read as a table"):
        read_keypoints(path, ReadOptions(size=(640, 480)), maker)
    head, _, last = whole.rstrip("\n").rpartition("\n")
    path.write_text(f"{head}\n{SEVERAL},{last.partition(',')[2]}\n")
    if maker == "deeplabcut":
        # its first cells are names as often as numbers
        read_keypoints(path, ReadOptions(size=(640, 480)), maker)
    else:
        with pytest.raises(SourceError, match=r"x\.csv: line \d+: "):
            read_keypoints(path, ReadOptions(size=(640, 480)), maker)
