from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from unihpe_fast.data.formats.asf_amc import read_amc, read_asf

ASF = """# made for the tests
:version 1.10
:units
  mass 1.0
  length 0.45
  angle deg
:documentation
  words: that mean nothing
:root
   order TX TY TZ RZ RY RX
   axis XYZ
   position 1 2 3
   orientation 10 20 30
:bonedata
  begin
     id 1
     name back
     direction 0.0 0.6 0.8
     length 2.5
     axis 15 -25 35 XYZ
    dof rx ry rz
    limits (-20.0 45.0)
           (-30.0 30.0)
           (-30.0 30.0)
  end
  begin
     name stiff
     direction 1 0 0
     length 1.5
     axis 0 0 40 XYZ
  end
  begin
     name arm
     direction 0 -1 0
     length 3
     axis -50 60 70 XYZ
    dof rz rx
  end
:hierarchy
  begin
    root back
    back stiff
    stiff arm
  end
"""
AMC = """#!OML:ASF somewhere
:FULLY-SPECIFIED
:DEGREES
1
root 1 2 3 40 50 60
back 10 20 30
arm -15 25
2
root 0 0 0 0 0 0
back 0 0 90
arm 45 1e-014
"""


def write(tmp_path: Path, asf: str = ASF, amc: str = AMC) -> tuple[Path, Path]:
    (tmp_path / "x.asf").write_text(asf)
    (tmp_path / "x_1.amc").write_text(amc)
    return tmp_path / "x.asf", tmp_path / "x_1.amc"


def read(tmp_path: Path, asf: str = ASF, amc: str = AMC):
    skeleton, motion = write(tmp_path, asf, amc)
    return read_amc(motion, read_asf(skeleton))


def xyz(*angles: float) -> Rotation:
    """Rz Ry Rx: rotations about the fixed axes x, y, z in turn."""
    return Rotation.from_euler("xyz", angles, degrees=True)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_kinematics_agree_with_an_independent_walk(tmp_path, newline):
    ends = read(tmp_path, ASF.replace("\n", newline), AMC.replace("\n", newline)).end_points()
    root_axis, back_axis, arm_axis = xyz(10, 20, 30), xyz(15, -25, 35), xyz(-50, 60, 70)
    frames = [
        ((1, 2, 3), xyz(60, 50, 40), xyz(10, 20, 30), xyz(25, 0, -15)),
        ((0, 0, 0), xyz(0, 0, 0), xyz(0, 0, 90), xyz(1e-14, 0, 45)),
    ]
    for frame, (place, turn, bend, swing) in enumerate(frames):
        point = np.add(place, [1, 2, 3])
        np.testing.assert_allclose(ends["root"][frame], point, atol=1e-9)
        rotation = root_axis * turn * root_axis.inv() * back_axis * bend * back_axis.inv()
        point = point + rotation.apply([0, 0.6, 0.8]) * 2.5
        np.testing.assert_allclose(ends["back"][frame], point, atol=1e-9)
        point = point + rotation.apply([1, 0, 0]) * 1.5
        np.testing.assert_allclose(ends["stiff"][frame], point, atol=1e-9)
        point = point + (rotation * arm_axis * swing * arm_axis.inv()).apply([0, -1, 0]) * 3
        np.testing.assert_allclose(ends["arm"][frame], point, atol=1e-9)


def test_root_place_defaults_to_the_origin(tmp_path):
    asf = ASF.replace("   position 1 2 3\n   orientation 10 20 30\n", "")
    np.testing.assert_array_equal(read(tmp_path, asf).end_points()["root"], [[1, 2, 3], [0, 0, 0]])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (":hierarchy", "", "no :hierarchy section"),
        ("angle deg", "angle rad", "want ':units angle deg', got 'rad'"),
        ("  angle deg\n", "", "want ':units angle deg', got 'nothing'"),
        ("length 0.45", "length", "':units length' has 0 values, want 1"),
        ("length 0.45", "length -0.45", "':units length': want a positive number"),
        ("order TX TY TZ RZ RY RX", "order TX TY TZ RZ RY", "line 10: the root's order"),
        ("   orientation 10 20 30", "   orientation 10 20", "the root's orientation: want three angles"),
        ("axis 0 0 40 XYZ", "axis 0 0 40 ZYX", "line 31: axis of bone 'stiff': want three angles and 'XYZ'"),
        ("axis 0 0 40 XYZ", "", "line 31: bone 'stiff' has no axis"),
        ("direction 1 0 0", "direction 1 0", "line 31: direction of bone 'stiff' has 2 values, want 3"),
        ("direction 1 0 0", "direction 1 0 nan", "line 31: direction of bone 'stiff': want a finite number"),
        ("length 1.5", "length 1,5", "line 31: length of bone 'stiff': want a number, got '1,5'"),
        ("dof rz rx", "dof rz tx", "line 38: dof of bone 'arm': want some of rx ry rz, got 'rz tx'"),
        ("name arm", "name back", "line 38: bone 'back' comes twice"),
        ("    stiff arm\n", "", "the hierarchy leaves out arm"),
        ("    stiff arm\n", "    stiff leg\n", "line 43: 'leg' is no bone of the file"),
        ("    stiff arm\n", "    stiff arm back\n", "line 43: 'back' has two parents"),
        ("    back stiff\n    stiff arm\n", "    stiff arm\n    back stiff\n",
         "line 42: 'stiff' has children before it has a parent"),
    ],
)  # fmt: skip
def test_a_malformed_skeleton_is_named(tmp_path, old, new, message):
    assert ASF.count(old) == 1
    path, _ = write(tmp_path, ASF.replace(old, new))
    with pytest.raises(ValueError) as error:
        read_asf(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (":DEGREES", ":RADIANS", "no :DEGREES line"),
        ("back 10 20 30", "back 10 20", "line 6: bone 'back' has 2 values, want 3"),
        ("back 10 20 30", "back 10 twenty 30", "line 6: bone 'back': want a number, got 'twenty'"),
        ("back 10 20 30", "back 10 inf 30", "line 6: bone 'back': want a finite number"),
        ("back 10 20 30", "tail 10 20 30", "line 6: 'tail' is no moving bone of x.asf"),
        ("back 10 20 30", "stiff 10", "line 6: 'stiff' is no moving bone"),
        ("back 10 20 30\n", "", "line 7: frame 1 lacks bone back"),
        ("back 10 20 30\n", "back 10 20 30\nback 1 2 3\n", "line 7: bone 'back' comes twice in frame 1"),
        ("arm 45 1e-014\n", "", "the last frame, 2 lacks bone arm"),
        ("\n2\n", "\n3\n", "line 8: want frame 2, got 3"),
        ("1\nroot 1 2 3", "root 1 2 3", "line 4: bone 'root' comes twice in frame 0, or ahead of the first frame"),
        (AMC[AMC.index("1\nroot") :], "", "no frames"),
    ],
)
def test_a_malformed_motion_is_named(tmp_path, old, new, message):
    assert AMC.count(old) == 1
    with pytest.raises(ValueError) as error:
        read(tmp_path, amc=AMC.replace(old, new))
    assert str(error.value).startswith(str(tmp_path / "x_1.amc"))
    assert message in str(error.value)
