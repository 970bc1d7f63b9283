import gzip
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from unihpe_fast.data.formats.bvh import read_bvh

TEXT = """HIERARCHY
ROOT hip
{
  OFFSET 0.5 1 -2
  CHANNELS 6 Yposition Xposition Zposition Zrotation Yrotation Xrotation
  JOINT chest
  {
    OFFSET 0 20 -1
    CHANNELS 3 Zrotation Xrotation Yrotation
    JOINT head
    {
      OFFSET 1 8 0
      CHANNELS 3 Yrotation Zrotation Xrotation
      End Site
      {
        OFFSET 0 5 1
      }
    }
  }
  JOINT leg
  {
    OFFSET 3 -9 0
    CHANNELS 3 Xrotation Yrotation Zrotation
    End Site
    {
      OFFSET 0 -40 0
    }
  }
}
MOTION
Frames: 3
Frame Time: 0.01
1 2 3 10 20 30 40 50 60 -10 -20 -30 5 15 25
4 5 6 0 0 0 90 0 0 0 0 0 0 0 0
-1 0 1 170 -80 33 -44 55 -66 77 -88 99 -111 122 -133
"""
ORDERS = {"hip": "ZYX", "chest": "ZXY", "head": "YZX", "leg": "XYZ"}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "clip.bvh"
    path.write_text(text)
    return path


def reference(row: list[float]) -> dict[str, np.ndarray]:
    """Joint positions of one frame, walked by hand with SciPy's intrinsic Euler angles."""
    rotation = {"hip": Rotation.from_euler("ZYX", row[3:6], degrees=True)}
    place = {"hip": np.add([row[1], row[0], row[2]], [0.5, 1, -2])}

    def child(name: str, parent: str, offset: list[float], angles: list[float] | None) -> None:
        place[name] = place[parent] + rotation[parent].apply(offset)
        if angles is not None:
            rotation[name] = rotation[parent] * Rotation.from_euler(ORDERS[name], angles, degrees=True)

    child("chest", "hip", [0, 20, -1], row[6:9])
    child("head", "chest", [1, 8, 0], row[9:12])
    child("head_end", "head", [0, 5, 1], None)
    child("leg", "hip", [3, -9, 0], row[12:15])
    child("leg_end", "leg", [0, -40, 0], None)
    return place


def test_kinematics_agree_with_an_independent_walk(tmp_path):
    bvh = read_bvh(write(tmp_path, TEXT))
    assert bvh.names == ("hip", "chest", "head", "head_end", "leg", "leg_end")
    assert bvh.frame_time == 0.01
    rows = [[float(word) for word in line.split()] for line in TEXT.splitlines()[-3:]]
    positions = bvh.positions()
    assert positions.shape == (3, 6, 3)
    for frame, row in enumerate(rows):
        for name, place in reference(row).items():
            np.testing.assert_allclose(positions[frame, bvh.index(name)], place, atol=1e-9)


def test_replaced_offsets_move_the_joint_and_its_children(tmp_path):
    bvh = read_bvh(write(tmp_path, TEXT))
    offsets = bvh.offsets.copy()
    offsets[bvh.index("leg")] += [0, -1, 0]
    moved = bvh.positions(offsets) - bvh.positions()
    # frame 1 has no rotation but the chest's, which the leg does not hang on
    np.testing.assert_allclose(moved[1, [bvh.index("leg"), bvh.index("leg_end")]], [[0, -1, 0]] * 2, atol=1e-12)
    np.testing.assert_array_equal(moved[1, bvh.index("head_end")], 0)


def test_gzip_and_windows_line_ends_read_the_same(tmp_path):
    plain = read_bvh(write(tmp_path, TEXT))
    packed = tmp_path / "packed.bvh.gz"
    packed.write_bytes(gzip.compress(TEXT.replace("\n", "\r\n").encode()))
    np.testing.assert_array_equal(read_bvh(packed).positions(), plain.positions())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("MOTION\n", "", "no MOTION line"),
        ("Frames: 3", "Frames: 4", "says 4 frames and 3 follow"),
        ("Frames: 3", "Frames: many", "line 31: want a number of frames, got 'many'"),
        ("Frames: 3", "Frames: 0", "line 31"),
        ("Frames: 3\n", "", "line 31: want 'Frames:' and 'Frame Time:'"),
        ("Frame Time: 0.01", "Frame Time: soon", "line 32: want a number, got 'soon'"),
        ("Frame Time: 0.01", "Frame Time: 0", "line 32: want a positive frame time"),
        ("4 5 6 0", "4 5 6", "line 34: want 15 channel values, got 14"),
        ("4 5 6 0", "4 5 nan 0", "line 34: want a finite number, got 'nan'"),
        ("4 5 6 0", "4 5 6..0 0", "line 34: want a number, got '6..0'"),
        ("CHANNELS 3 Xrotation Yrotation Zrotation", "CHANNELS 4 Xrotation Yrotation Zrotation",
         "line 23: 'leg' says 4 channels and lists 3"),
        ("CHANNELS 3 Xrotation Yrotation Zrotation", "CHANNELS 2 Xrotation Yrotation",
         "line 23: channels of 'leg': want 3 different ones"),
        ("CHANNELS 3 Xrotation Yrotation Zrotation", "CHANNELS 3 Xrotation Yrotation Yrotation",
         "line 23: channels of 'leg'"),
        ("CHANNELS 3 Xrotation Yrotation Zrotation", "CHANNELS 3 Xposition Yrotation Zrotation",
         "line 23: channels of 'leg': want 3 rotations, got 'Xposition'"),
        ("Yposition Xposition Zposition Zrotation", "Zrotation Yposition Xposition Zposition",
         "line 5: channels of 'hip': want 3 positions, then 3 rotations, got 'Zrotation'"),
        ("    CHANNELS 3 Xrotation Yrotation Zrotation\n", "", "line 27: joint 'leg' has no CHANNELS"),
        ("      OFFSET 0 -40 0\n", "", "line 26: joint 'leg_end' has no OFFSET"),
        ("OFFSET 0 -40 0", "OFFSET 0 -40", "line 26: OFFSET of 'leg_end' has 2 values, want 3"),
        ("OFFSET 0 -40 0", "OFFSET 0 -40 inf", "line 26: want a finite number, got 'inf'"),
        ("OFFSET 0 -40 0", "OFFSET 0 -40 0\n      CHANNELS 3 Xrotation Yrotation Zrotation", "line 27: cannot read"),
        ("JOINT leg", "JOINT head", "line 20: joint 'head' comes twice"),
        ("JOINT leg", "ROOT leg", "line 20: want one ROOT"),
        ("JOINT leg", "BONE leg", "line 20: cannot read 'BONE leg' here"),
        ("ROOT hip", "JOINT hip", "line 2: want one ROOT"),
        ("  JOINT leg\n  {", "  JOINT leg\n", "line 22: want '{' after 'leg'"),
        ("}\nMOTION", "MOTION", "the hierarchy ends inside 'hip'"),
        ("}\nMOTION", "}\n}\nMOTION", "line 30: cannot read '}' here"),
        ("}\nMOTION", "}\nJOINT tail\n{\nMOTION", "line 30: 'tail' stands outside the root"),
        (TEXT[: TEXT.index("MOTION")], "HIERARCHY\n", "no ROOT in the hierarchy"),
    ],
)  # fmt: skip
def test_a_malformed_file_is_named_with_its_line(tmp_path, old, new, message):
    assert TEXT.count(old) == 1
    with pytest.raises(ValueError) as error:
        read_bvh(write(tmp_path, TEXT.replace(old, new)))
    assert str(error.value).startswith(str(tmp_path / "clip.bvh"))
    assert message in str(error.value)


def test_broken_archives_are_named(tmp_path, monkeypatch):
    packed = tmp_path / "clip.bvh.gz"
    whole = gzip.compress(TEXT.encode())
    for data in (whole[: len(whole) // 2], b"no gzip", whole[:20] + b"\xff" * 30 + whole[50:]):
        packed.write_bytes(data)
        with pytest.raises(ValueError, match=r"clip\.bvh\.gz: broken gzip file"):
            read_bvh(packed)
    packed.write_bytes(whole)
    monkeypatch.setattr("unihpe_fast.data.formats.motion.MAX_BYTES", 100)
    with pytest.raises(ValueError, match=r"clip\.bvh\.gz: unpacks to more than"):
        read_bvh(packed)


def test_an_unknown_joint_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"clip\.bvh: no joint 'tail'"):
        read_bvh(write(tmp_path, TEXT)).index("tail")
