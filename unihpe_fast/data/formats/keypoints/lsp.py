"""Leeds Sports Pose and its extended training set, `joints.mat`: photographs im0001.jpg and so on."""

from unihpe_fast.data.formats.keypoints.found import Found
from unihpe_fast.data.formats.keypoints.record import KEYPOINT_NAMES, Keypoints, People, ReadOptions
from unihpe_fast.data.formats.lsp import read_joints
from unihpe_fast.data.formats.mat5 import variables

# numbers of the photographs have four digits in LSP, five in the extended set
_FOUR_DIGITS = 2000


def recognises(found: Found) -> bool:
    # MATLAB v5 begins with a text of 116 characters
    return found.suffix == ".mat" and found.head.startswith("MATLAB 5.0") and "joints" in variables(found.first)


def read(found: Found, options: ReadOptions) -> Keypoints:
    """A file; its pictures are no video."""
    joints = read_joints(found.first)
    people = People(found.path)
    digits = 4 if len(joints) <= _FOUR_DIGITS else 5
    for index, row in enumerate(joints):
        people.add(row, index, f"joints {index}", picture=f"im{index + 1:0{digits}}.jpg")
    return people.finished(options, frames=len(joints), names=KEYPOINT_NAMES["lsp14"], sequence=False)
