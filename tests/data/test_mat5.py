import struct
import zlib

import numpy as np
import pytest
from scipy.io import savemat

from tests.support.fuzz import fuzz
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats import mat5
from unihpe_fast.data.formats.mat5 import cells, variables


def column(*arrays) -> np.ndarray:
    """A cell array [n, 1], as MATLAB's annot.mat has them."""
    result = np.empty((len(arrays), 1), object)
    for row, array in enumerate(arrays):
        result[row, 0] = array
    return result


def read(path, name):
    return list(cells(path, variables(path)[name]))


@pytest.mark.parametrize("compressed", [False, True])
def test_cells_come_back_as_scipy_wrote_them(tmp_path, compressed):
    rng = np.random.default_rng(0)
    arrays = [
        rng.normal(size=(50, 84)), rng.normal(size=(3, 2, 4)).astype(np.float32), np.arange(6).reshape(2, 3),
        np.array([[-5]], np.int16), np.array([[7, 8]], np.uint8), np.zeros((0, 5)),
    ]  # fmt: skip
    path = tmp_path / "a.mat"
    content = {"annot2": column(*arrays), "frames": np.arange(5.0), "a_longer_name": column(np.ones((1, 1)))}
    savemat(path, content, do_compression=compressed)
    found = variables(path)
    assert {name: (variable.cells, variable.shape) for name, variable in found.items()} == {
        "annot2": (True, (6, 1)),
        "frames": (False, (1, 5)),
        "a_longer_name": (True, (1, 1)),
    }
    for want, got in zip(arrays, read(path, "annot2"), strict=True):
        np.testing.assert_array_equal(got, want)
    with pytest.raises(SourceError, match="frames: found no cell array"):
        read(path, "frames")


def element(kind: int, data: bytes, order: str) -> bytes:
    return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)


def small(kind: int, data: bytes, order: str) -> bytes:
    return struct.pack(f"{order}I", len(data) << 16 | kind) + data.ljust(4, b"\0")


def matrix(body: bytes, order="<", name=b"", kind=6, flags=0, shape=(1, 1)) -> bytes:
    head = element(6, struct.pack(f"{order}II", kind | flags, 0), order)
    head += element(5, struct.pack(f"{order}{len(shape)}i", *shape), order)
    head += element(1, name, order) if len(name) > 4 else small(1, name, order) if name else element(1, b"", order)
    return element(14, head + body, order)


def file(*elements: bytes, order="<", version=0x0100) -> bytes:
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}H", version)
    return head + (b"IM" if order == "<" else b"MI") + b"".join(elements)


def test_numbers_are_kept_in_small_types_and_in_either_byte_order(tmp_path):
    """MATLAB saves doubles that are integers in as few bytes as they need; a few bytes go into the tag."""
    for order in "<>":
        first = matrix(small(2, bytes([1, 2, 3]), order), order, shape=(1, 3))
        second = matrix(element(3, struct.pack(f"{order}6h", *range(6)), order), order, shape=(2, 3))
        empty = struct.pack(f"{order}II", 14, 0)
        path = tmp_path / "a.mat"
        path.write_bytes(file(matrix(first + second + empty, order, b"annot2", kind=1, shape=(3, 1)), order=order))
        one, two, three = read(path, "annot2")
        assert one.tolist() == [[1, 2, 3]]
        # by columns
        assert two.tolist() == [[0, 2, 4], [1, 3, 5]]
        assert three.size == 0


NUMBER = matrix(element(9, struct.pack("<d", 1.5), "<"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found something else, or a part of one, wanted a MATLAB v5 file"),
        (b"MATLAB 5.0 MAT-file", "found something else, or a part of one"),
        (file(version=0x0200), r"found MATLAB v7.3 \(HDF5\), wanted a MATLAB v5 file"),
        (file(element(3, bytes(8), "<")), "byte 128: found element type 3, wanted a matrix"),
        (file(matrix(NUMBER, name=b"a", kind=1))[:-30], "cut short"),
        (file(struct.pack("<II", 15, 4) + b"abcd"), "found compressed data that is broken"),
        (file(element(15, zlib.compress(bytes(4)), "<")[:-4]), "bytes are missing; cut short"),
        (file(matrix(b"", name=b"a", shape=(-1, 1))), "found dimensions"),
        (file(matrix(b"", name=b"a", shape=(1,))), "no matrix where one should begin"),
    ],
)  # fmt: skip
def test_files_that_are_no_matlab_v5_are_named(tmp_path, content, message):
    path = tmp_path / "a.mat"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        variables(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("body", "shape", "message"),
    [
        (matrix(NUMBER, kind=1), (1, 1), "a: cell 0: found array class 1, wanted a matrix of real numbers"),
        (matrix(b"", kind=4), (1, 1), "cell 0: found array class 4"),
        (matrix(element(9, bytes(8), "<"), flags=0x0800), (1, 1), "wanted a matrix of real numbers"),
        (matrix(element(9, bytes(8), "<"), shape=(2, 3)), (1, 1), r"found 1 numbers for dimensions \[2, 3\]"),
        (matrix(element(9, bytes(8), "<"), shape=(1 << 30, 1 << 30)), (1, 1), "found 1 numbers for dimensions"),
        (matrix(struct.pack("<II", 9, 0xFFFFFFF8)), (1, 1), "found 4294967288 bytes of type 9, wanted numbers"),
        (matrix(struct.pack("<II", 9, 1 << 27)), (1, 1), "bytes are missing; cut short"),
        (matrix(element(9, bytes(7), "<")), (1, 1), "found 7 bytes of type 9"),
        (matrix(element(14, bytes(8), "<")), (1, 1), "found 8 bytes of type 14"),
        (NUMBER, (1, 2), "a: cell 1: 8 bytes are missing"),
        (NUMBER, (1 << 20, 1 << 20), "cells, wanted at most"),
    ],
)  # fmt: skip
def test_cells_that_are_no_numbers_are_named(tmp_path, body, shape, message):
    path = tmp_path / "a.mat"
    path.write_bytes(file(matrix(body, name=b"a", kind=1, shape=shape)))
    with pytest.raises(SourceError, match=message):
        read(path, "a")


def test_deeply_nested_cells_are_refused_without_descending(tmp_path):
    """scipy.io.loadmat ends the process here."""
    head = element(6, struct.pack("<II", 1, 0), "<") + element(5, struct.pack("<2i", 1, 1), "<") + element(1, b"", "<")
    depth = 100_000
    inner = b"".join(struct.pack("<II", 14, len(head) * (depth - k) + 8 * (depth - k - 1)) + head for k in range(depth))
    path = tmp_path / "a.mat"
    path.write_bytes(file(matrix(inner, name=b"a", kind=1)))
    with pytest.raises(SourceError, match="a: cell 0: found array class 1, wanted a matrix of real numbers"):
        read(path, "a")


def test_a_bomb_is_stopped_at_the_limit_of_a_cell(tmp_path, monkeypatch):
    monkeypatch.setattr(mat5, "LARGEST_CELL", 1 << 20)
    savemat(tmp_path / "a.mat", {"a": column(np.zeros((1, 1 << 18)))}, do_compression=True)
    assert (tmp_path / "a.mat").stat().st_size < 10_000
    with pytest.raises(SourceError, match="found 2097152 bytes of type 9, wanted numbers, 1048576 bytes at most"):
        read(tmp_path / "a.mat", "a")


@pytest.mark.fuzz
def test_only_documented_errors_escape_from_mutated_files(tmp_path):
    rng = np.random.default_rng(0)
    content = {"annot2": column(rng.normal(size=(3, 4)), np.ones((2, 2), np.uint8)), "frames": np.arange(5.0)}
    files = {}
    for name in ("plain", "packed"):
        savemat(tmp_path / name, content, do_compression=name == "packed", appendmat=False)
        files[name] = (tmp_path / name).read_bytes()

    def read_all(folder):
        for name in files:
            for variable in variables(folder / name).values():
                list(cells(folder / name, variable)) if variable.cells else None

    assert fuzz(read_all, files) > 0
