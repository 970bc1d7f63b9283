import os
from pathlib import Path

import numpy as np
import pytest

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.untrusted import array_of, checked, photo_path, read_bytes, texts


@pytest.mark.parametrize(
    ("name", "want"),
    [("a.jpg", "a.jpg"), ("S1/x/a b.jpg", "S1/x/a b.jpg"), ("./a/../b.jpg", "b.jpg"), ("..a.jpg", "..a.jpg")],
)
def test_photos_lie_under_their_root(name, want):
    assert photo_path(Path("/data"), name, "here") == Path("/data") / want


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/etc/passwd", "//a", "../a.jpg", "a/../../b.jpg", "a\0.jpg", "\ud800.jpg", "a/.."]
)
def test_names_that_climb_out_are_refused(name):
    with pytest.raises(SourceError, match=r"^here: "):
        photo_path(Path("/data"), name, "here")


def test_files_are_read_up_to_a_limit(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(SourceError, match="a: has 5 bytes, want at most 4"):
        read_bytes(path, 4)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "b", 4)
    os.mkfifo(tmp_path / "pipe")
    for folder in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(SourceError, match="not a regular file"):
            read_bytes(folder, 4)


def test_shapes_and_kinds_are_checked():
    assert checked(np.ones((3, 2), ">f4"), ("N", 2), "here", "f").dtype == np.float32
    with pytest.raises(SourceError, match=r"here: want \[N, 2\] of float or int, got \[3\] float64"):
        checked(np.ones(3), ("N", 2), "here", "fi")
    with pytest.raises(SourceError, match=r"here: want \[N, N\] of float, got \[3, 2\] float64"):
        checked(np.ones((3, 2)), ("N", "N"), "here", "f")
    with pytest.raises(SourceError, match=r"here: want \[N\] of bool, got \[3\] float64"):
        checked(np.ones(3), ("N",), "here", "b")


def test_texts_of_every_kind():
    assert texts(np.array(["é", "b"]), "here") == ["é", "b"]
    assert texts(np.array(["é".encode(), b"b"]), "here") == ["é", "b"]
    assert texts(np.array(["é", b"b"], object), "here") == ["é", "b"]
    with pytest.raises(SourceError, match="here: want strings, got int in row 1"):
        texts(np.array(["a", 1], object), "here")
    with pytest.raises(SourceError, match="here: a text is broken"):
        texts(np.array([b"\xff"]), "here")


@pytest.mark.parametrize("order", "<>")
def test_characters_that_there_are_not_are_refused(order):
    for character, fits in ((0x10FFFF, True), (0x110000, False)):
        raw = np.array([65, character], f"{order}u4").tobytes()
        if fits:
            assert array_of(raw, np.dtype(f"{order}U1"), (2,), False, "here").tolist() == ["A", chr(character)]
        else:
            with pytest.raises(SourceError, match="here: a text is broken"):
                array_of(raw, np.dtype(f"{order}U1"), (2,), False, "here")
