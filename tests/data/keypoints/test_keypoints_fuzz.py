"""Readers of keypoints against mutated files: nothing but the documented errors may come out."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from tests.data.keypoints import files
from tests.data.keypoints.files import SIZE, person
from tests.data.keypoints.test_formats import NAMED
from tests.support.fuzz import CASES, fuzz
from unihpe_fast.data.formats.keypoints import FORMATS, ReadOptions, read_keypoints

MAKERS = {
    "openpose": lambda path: files.openpose(path / "x", [[person(25)], [], [person(25, seed=1)]]),
    "alphapose": lambda path: files.alphapose(path / "x.json", [(f"{n}.jpg", person(17)) for n in range(3)]),
    "alphapose forms": lambda path: files.alphapose_form(path / "x.json", {"0.jpg": [person(18)], "1.jpg": []}, "cmu"),
    "mmpose": lambda path: files.mmpose_demo(path / "x.json", [[person(3)]], ("nose", "left_eye", "left_hip")),
    "coco": lambda path: files.coco_annotations(path / "x.json", [(1, person(17)), (2, person(17))]),
    "mediapipe": lambda path: files.mediapipe_long(path / "x.csv", [person(33)], named=False),
    "yolo": lambda path: files.yolo(path / "x", [[person(17)], [person(17)]]),
    "deeplabcut": lambda path: files.deeplabcut_csv(path / "x.csv", NAMED, person(8)[None, None]),
    "deeplabcut h5": lambda path: files.deeplabcut_h5(
        path / "x.h5", [("s", n, a) for n in NAMED for a in ("x", "y", "likelihood")], person(8).reshape(1, 24)
    ),
    "sleap": lambda path: files.sleap(path / "x.h5", NAMED, np.stack([person(8)] * 2)[None]),
    "videopose3d": lambda path: files.videopose3d(path / "x.npz", {"a": np.ones((2, 17, 2))}),
    "trc": lambda path: files.trc(path / "x.trc", NAMED, person(8)[None, :, :2]),
    "lsp": lambda path: files.lsp(path / "x.mat", np.ones((3, 14, 2))),
}


@pytest.mark.fuzz
@pytest.mark.parametrize("name", MAKERS)
def test_mutated_files(name: str) -> None:
    with TemporaryDirectory() as folder:
        made = MAKERS[name](Path(folder))
        members = made.iterdir() if made.is_dir() else [made]
        content = {str(p.relative_to(folder)): p.read_bytes() for p in members}
        relative = made.relative_to(folder)
    form = name.split()[0]
    assert form in FORMATS

    def read(root: Path) -> None:
        # what recognises a file may not fail on it either
        read_keypoints(root / relative, ReadOptions(size=SIZE))
        read_keypoints(root / relative, ReadOptions(size=SIZE), form)

    # a tenth of what a dataset's reader gets: there are many of these, and each case is read twice
    fuzz(read, content, max(CASES // 10, 20))
