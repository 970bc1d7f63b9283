"""Files of predictions: what they hold against what was written, by other programs' readers where there are some."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.walkers import SIZE, STANDING, walkers
from unihpe_fast.data.formats.bvh import read_bvh
from unihpe_fast.data.skeleton import JOINT_NAMES, NUM_JOINTS, PARENTS
from unihpe_fast.outputs import FORMATS, OutputError, bvh, npz, write
from unihpe_fast.prediction import Prediction, concatenate

TO_Y_UP = np.array([1, -1, -1])
NAME = "clip 1.5 ünï"


def with_absences(p: Prediction) -> Prediction:
    joints_2d, confidence, root = p.joints_2d.copy(), p.confidence.copy(), p.root.copy()
    joints_2d[1, 4], confidence[1, 4], root[2] = np.nan, 0, np.nan
    return replace(p, joints_2d=joints_2d, confidence=confidence, root=root)


def turning(frames: int = 40, people: int = 1) -> Prediction:
    """Walkers of rigid bones who turn about themselves and bend, so that every bone moves in every way."""
    p = walkers(frames, people)
    rng = np.random.default_rng(0)
    offsets = np.array([STANDING[j] - STANDING[max(parent, 0)] for j, parent in enumerate(PARENTS)]) * 1000
    joints = np.zeros((len(p), NUM_JOINTS, 3))
    for row in range(len(p)):
        turned = np.zeros((NUM_JOINTS, 3, 3))
        for joint, parent in enumerate(PARENTS):
            rng_row = np.random.default_rng([joint, row % people])
            axis = rng_row.normal(size=3)
            angle = (0.6 if joint else 3) * np.sin(row / people / 8 + rng_row.uniform(0, 6))
            x = axis / np.linalg.norm(axis)
            cross = np.array([[0, -x[2], x[1]], [x[2], 0, -x[0]], [-x[1], x[0], 0]])
            # hips, and chest with shoulders, are one piece each
            own = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
            turned[joint] = own if parent < 0 else turned[parent] @ own
            if parent >= 0:
                joints[row, joint] = joints[row, parent] + turned[parent] @ offsets[joint]
    del rng
    return replace(p, joints_3d=joints.astype(np.float32))


def test_npz_comes_back(tmp_path: Path) -> None:
    p = with_absences(walkers(5, 2))
    (path,) = write(p, tmp_path / NAME, "npz")
    assert path.name == f"{NAME}.npz"
    back = npz.read(path)
    for name, array in p.arrays.items():
        np.testing.assert_array_equal(back.arrays[name], array)
    assert (back.fps, back.layout, back.joint_names) == (25.0, "coco17", JOINT_NAMES)
    with np.load(path, allow_pickle=False) as file:
        assert str(file["unit"]) == "mm"
    photographs = replace(p, fps=None)
    assert npz.read(write(photographs, tmp_path / "photos", "npz")[0]).fps is None
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(OutputError, match=r"must be a prediction in \.npz"):
        npz.read(path)


def test_csv_has_units_and_empty_cells(tmp_path: Path) -> None:
    p = with_absences(walkers(5, 2))
    (path,) = write(p, tmp_path / NAME, "csv")
    rows = list(csv.DictReader(path.open(encoding="utf-8", newline="")))
    assert len(rows) == 10
    assert rows[3]["source"] == "clip.mp4"
    assert [rows[3][name] for name in ("frame", "time_s", "person", "width_px")] == ["1", "0.040000", "1", "1280"]
    for row, joint in ((0, 3), (7, 16)):
        got = [float(rows[row][f"{JOINT_NAMES[joint]}_{axis}_mm"]) for axis in "xyz"]
        np.testing.assert_allclose(got, p.joints_3d[row, joint], atol=6e-4)
    assert rows[1]["left_hip_x_px"] == ""
    assert float(rows[1]["left_hip_confidence"]) == 0
    assert rows[2]["root_z_mm"] == ""
    assert float(rows[0]["left_hip_y_px"]) == pytest.approx(p.joints_2d[0, 4, 1], abs=1e-3)


def test_json_has_null_for_what_is_unknown(tmp_path: Path) -> None:
    p = with_absences(walkers(3, 2))
    (path,) = write(replace(p, time=np.full(6, np.nan)), tmp_path / NAME, "json")
    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert content["unit"] == "mm"
    assert content["joint_names"] == list(JOINT_NAMES)
    assert len(content["poses"]) == 6
    pose = content["poses"][1]
    assert (pose["person"], pose["frame"], pose["time"], pose["size"]) == (1, 0, None, list(SIZE))
    assert pose["joints_2d"][4] is None
    np.testing.assert_allclose(pose["joints_3d"], p.joints_3d[1], atol=6e-4)
    assert content["poses"][2]["root"] is None


def test_trc_is_metres_with_y_up_and_gaps_are_empty(tmp_path: Path) -> None:
    p = walkers(6, 1)
    gap = p.select(np.array([0, 1, 3, 4, 5]))
    (path,) = write(gap, tmp_path / NAME, "trc")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"PathFileType\t4\t(X/Y/Z)\t{NAME}.trc"
    assert lines[2] == "25\t25\t6\t17\tm\t25\t1\t6"
    assert lines[3].split("\t")[2::3] == list(JOINT_NAMES)
    assert lines[4].split("\t")[2:5] == ["X1", "Y1", "Z1"]
    assert lines[5] == ""
    rows = [line.split("\t") for line in lines[6:]]
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert rows[2][2:] == [""] * 51
    got = np.array(rows[4][2:], np.float64).reshape(17, 3)
    np.testing.assert_allclose(got, p.joints_3d[4] * TO_Y_UP / 1000, atol=1e-6)
    # the head is up
    assert got[10, 1] > 0.5


def test_bvh_moves_as_the_person_by_our_reader_and_another(tmp_path: Path) -> None:
    """Rigid bones but for the two places where three bones meet, which no one rotation can follow exactly."""
    p = walkers(12, 1)
    stiff = replace(p, joints_3d=np.tile(1000 * STANDING.astype(np.float32), (12, 1, 1)))
    angle = np.linspace(0, 2 * np.pi, 12)
    around = np.zeros((12, 3, 3), np.float32)
    around[:, 0, 0], around[:, 0, 2] = np.cos(angle), np.sin(angle)
    around[:, 2, 0], around[:, 2, 2], around[:, 1, 1] = -np.sin(angle), np.cos(angle), 1
    stiff = replace(stiff, joints_3d=stiff.joints_3d @ around.transpose(0, 2, 1))
    (path,) = write(stiff, tmp_path / NAME, "bvh")
    file = read_bvh(path)
    assert [name for name in file.names if not name.endswith("_end")] == list(_order())
    assert file.frame_time == pytest.approx(0.04)
    ours = file.positions()
    want = stiff.joints_3d * TO_Y_UP / 1000
    at = [file.names.index(name) for name in JOINT_NAMES]
    error = np.linalg.norm(ours[:, at] - want, axis=-1)
    # legs hang on the hips, which are level here: exact; the nose's rest direction is a guess
    assert error[:, 1:9].max() < 0.02
    assert error.max() < 0.15

    pybvh = pytest.importorskip("pybvh")
    other = pybvh.read_bvh_file(str(path))
    theirs = other.node_positions()
    names = [node.name for node in other.nodes]
    for joint in JOINT_NAMES:
        moved = theirs[:, names.index(joint)] - theirs[:, names.index("pelvis")]
        # its numbers and ours are those of one file; angles have six decimals
        np.testing.assert_allclose(moved, ours[:, file.names.index(joint)] - ours[:, 0], atol=2e-5)


def _order() -> list[str]:
    def below(joint: int) -> list[str]:
        return [JOINT_NAMES[joint], *(n for c, p in enumerate(PARENTS) if p == joint for n in below(c))]

    return below(0)


def test_bvh_follows_every_limb_in_every_direction() -> None:
    """Directions of single bones are exact, and lengths are the person's median ones."""
    p = turning()
    joints = p.joints_3d * TO_Y_UP / 1000
    offsets, turned = bvh.skeleton(joints), bvh.rotations(joints)
    identity = turned @ turned.swapaxes(-1, -2)
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(3), identity.shape), atol=1e-9)
    assert np.linalg.det(turned) == pytest.approx(1)
    for joint in (2, 3, 5, 6, 8, 12, 13, 15, 16, 10):
        parent = PARENTS[joint]
        bone = turned[:, parent] @ offsets[joint]
        want = joints[:, joint] - joints[:, parent]
        # float32 poses, and the parent's say in the twist
        np.testing.assert_allclose(bone, want, atol=2e-5)
    assert np.linalg.norm(offsets[2]) == pytest.approx(np.linalg.norm(STANDING[2] - STANDING[1]), rel=1e-5)


def test_bvh_twists_no_more_than_it_must() -> None:
    """A leg that swings straight forwards has no rotation but about the axis through both hips."""
    p = walkers(1)
    joints = np.tile(1000 * STANDING, (3, 1, 1))
    for frame, angle in enumerate((0.0, 0.5, -0.5)):
        for joint in (2, 3):
            length = joints[0, joint, 1] - joints[0, 1, 1]
            joints[frame, joint] = joints[0, 1] + [0, length * np.cos(angle), -length * np.sin(angle)]
    del p
    turned = bvh.rotations(joints * TO_Y_UP / 1000)
    for frame, angle in enumerate((0.0, 0.5, -0.5)):
        swing = turned[0, 1].T @ turned[frame, 1]
        want = np.array([[1, 0, 0], [0, np.cos(angle), np.sin(angle)], [0, -np.sin(angle), np.cos(angle)]])
        np.testing.assert_allclose(swing, want, atol=1e-3)


@pytest.mark.parametrize("name", ["trc", "bvh"])
def test_a_file_a_person(tmp_path: Path, name: str) -> None:
    paths = write(walkers(4, 2), tmp_path / "two", name)
    assert [path.name for path in paths] == [f"two_person0.{name}", f"two_person1.{name}"]
    assert all(path.is_file() for path in paths)


@pytest.mark.parametrize("name", ["trc", "bvh", "c3d"])
def test_photographs_are_no_motion(tmp_path: Path, name: str) -> None:
    if name == "c3d":
        pytest.importorskip("ezc3d")
    for p in (walkers(4, fps=None), concatenate([walkers(2), walkers(2, source="other.mp4")])):
        with pytest.raises(OutputError, match="poses must be frames of one video to be a motion, got pictures"):
            write(p, tmp_path / "x", name)
    assert not list(tmp_path.iterdir())


def test_c3d_by_ezc3d(tmp_path: Path) -> None:
    ezc3d = pytest.importorskip("ezc3d")
    p = walkers(5, 2)
    missing = p.select(np.array([row for row in range(10) if row != 5]))
    (path,) = write(missing, tmp_path / NAME, "c3d")
    file = ezc3d.c3d(str(path))
    assert file["parameters"]["POINT"]["RATE"]["value"][0] == 25
    assert file["parameters"]["POINT"]["UNITS"]["value"] == ["mm"]
    assert file["parameters"]["POINT"]["LABELS"]["value"][17] == "person1_pelvis"
    points = file["data"]["points"]
    assert points.shape == (4, 34, 5)
    np.testing.assert_allclose(points[:3, :17, 3].T, p.joints_3d[6] * TO_Y_UP, atol=1e-3)
    assert np.isnan(points[:3, 17:, 2]).all()


def test_rrd_by_rerun(tmp_path: Path) -> None:
    chunk = pytest.importorskip("rerun.chunk", reason="rerun-sdk is not installed, or reads no files yet")
    (path,) = write(walkers(3, 2), tmp_path / "x", "rrd")
    rows = {str(piece.entity_path): piece.num_rows for piece in chunk.RrdReader(str(path)).stream()}
    for person in ("person0", "person1"):
        assert rows[f"/{person}/joints"] == rows[f"/{person}/bones"] == 3


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("c3d", "rrd", "html", "overlay")])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = write(walkers(3), tmp_path / "x", name)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unihpe_fast.fileio.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(walkers(4), tmp_path / "x", name)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_formats_that_do_not_exist_are_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"format must be one of npz, .*, got 'fbx'"):
        write(walkers(2), tmp_path / "x", "fbx")
    assert all(re.fullmatch(r"[a-z0-9]+", name) for name in FORMATS)
