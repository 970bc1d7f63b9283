import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from tests.support.fuzz import fuzz
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.npz import open_npz


def npy(header: str, body: bytes = b"", version: int = 1) -> bytes:
    """A .npy member byte for byte, its header whatever it is told."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + body


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_as_numpy_saved_them(tmp_path, save):
    arrays = {
        "S": np.random.default_rng(0).normal(size=(5, 24, 4)),
        "big": np.arange(6, dtype=">i2").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "imgname": np.array(["a.jpg", "é.jpg"]),
        "none": np.zeros((0, 3)),
    }
    save(tmp_path / "a.npz", **arrays)
    archive = open_npz(tmp_path / "a.npz")
    assert archive.keys == set(arrays)
    for key, want in arrays.items():
        found = archive.array(key, [f"axis {axis}" for axis in range(want.ndim)], want.dtype.kind)
        np.testing.assert_array_equal(found, want)
        assert found.dtype.isnative


def test_objects_come_through_the_safe_unpickler(tmp_path):
    poses = {"S1": {"Walking 1": np.ones((2, 3), np.float32)}}
    np.savez(tmp_path / "a.npz", positions=np.array(poses, dtype=object), names=np.array(["a", b"b"], object))
    archive = open_npz(tmp_path / "a.npz")
    assert archive.object("positions")["S1"]["Walking 1"].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert archive.array("names", ("N",), "O").tolist() == ["a", b"b"]
    with pytest.raises(SourceError, match="positions: holds objects, want a plain array"):
        archive.array("positions", (), "f")


def test_headers_as_other_writers_write_them(tmp_path):
    body = struct.pack("<2f", 1, 2)
    members = {
        "python2.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2L,), }     ", body),
        "version2.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", body, version=2),
        "tight.npy": npy("{'descr':'<f4','fortran_order':False,'shape':(1,2)}", body),
    }
    archive = open_npz(write_zip(tmp_path / "a.npz", members))
    assert archive.array("python2", ("N",), "f").tolist() == [1, 2]
    assert archive.array("version2", (2,), "f").tolist() == [1, 2]
    assert archive.array("tight", (1, "N"), "f").tolist() == [[1, 2]]


def test_a_payload_does_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "canary"),)

    np.savez(tmp_path / "a.npz", imgname=np.array([Payload()], object))
    with pytest.raises(SourceError, match=r"a\.npz: imgname: the pickle asks for more than plain data: .*mkdir"):
        open_npz(tmp_path / "a.npz").array("imgname", ("N",), "SUO")
    assert not (tmp_path / "canary").exists()


PLAIN = "{'descr': '%s', 'fortran_order': False, 'shape': (1,), }"
FLOATS = "{'descr': '<f8', 'fortran_order': False, 'shape': %s, }"
BROKEN = {
    "gigantic shape": (npy(FLOATS % "(1000000000000, 24, 4)", bytes(8)), "8 bytes for an array of"),
    "shape beyond 64 bits": (npy(FLOATS % f"({10**60},)", bytes(8)), "8 bytes for an array of"),
    "negative shape": (npy(FLOATS % "(-1,)", bytes(8)), "no header"),
    "too many bytes": (npy(FLOATS % "(1,)", bytes(16)), "16 bytes for an array of"),
    "no data": (npy(FLOATS % "(1,)"), "0 bytes for an array of"),
    "code in the header": (npy("__import__('os').mkdir('x')"), "no header"),
    "structured dtype": (npy((PLAIN % "x").replace("'x'", "[('a', '<f8')]"), bytes(8)), "no header"),
    "void": (npy(PLAIN % "|V8", bytes(8)), "want a dtype of plain numbers"),
    "complex": (npy(PLAIN % "<c8", bytes(8)), "want a dtype of plain numbers"),
    "header longer than the member": (b"\x93NUMPY\1\0\xff\xff{'descr'", "no header"),
    "gigantic header": (b"\x93NUMPY\2\0\xff\xff\xff\xff{'descr'", "no header"),
    "empty": (b"", "not a .npy array"),
    "the magic only": (b"\x93NUMPY", "not a .npy array"),
    "no length": (b"\x93NUMPY\1\0", "no header"),
    "text": (b"hello there", "not a .npy array"),
    "integers": (npy(PLAIN % "<i8", bytes(8)), r"want \[N\] of float, got \[1\] int64"),
    "two axes": (npy(FLOATS % "(1, 1)", bytes(8)), r"want \[N\] of float, got \[1, 1\] float64"),
    "object that is none": (npy(PLAIN % "|O", b"N."), "holds objects"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_members_are_named(tmp_path, name):
    content, message = BROKEN[name]
    archive = open_npz(write_zip(tmp_path / "a.npz", {"S.npy": content}))
    with pytest.raises(SourceError, match=rf"a\.npz: S: .*{message}"):
        archive.array("S", ("N",), "f")


def test_missing_keys_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", center=np.ones(1), scale=np.ones(1))
    with pytest.raises(SourceError, match=r"a\.npz: has no 'imgname', only center, scale"):
        open_npz(tmp_path / "a.npz").array("imgname", ("N",), "U")


def test_an_object_array_that_pickles_another_thing(tmp_path):
    content = npy("{'descr': '|O', 'fortran_order': False, 'shape': (), }", pickle.dumps([1]))
    with pytest.raises(SourceError, match="want an object array, got list"):
        open_npz(write_zip(tmp_path / "a.npz", {"S.npy": content})).object("S")


def test_bombs_are_refused_before_they_unpack(tmp_path):
    path = write_zip(tmp_path / "a.npz", {"S.npy": npy(FLOATS % "(1,)", bytes(8))}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\1\2")
    data[directory + 24 : directory + 28] = struct.pack("<I", 3 << 30)
    path.write_bytes(data)
    with pytest.raises(SourceError, match=rf"a\.npz: S: \d+ bytes claim to unpack to {3 << 30}"):
        open_npz(path).array("S", ("N",), "f")
    lzma = write_zip(tmp_path / "b.npz", {"S.npy": npy(FLOATS % "(1,)", bytes(8))}, zipfile.ZIP_LZMA)
    with pytest.raises(SourceError, match="packed as numpy does not"):
        open_npz(lzma).array("S", ("N",), "f")


@pytest.mark.parametrize("damage", ["empty", "truncated", "a folder", "checksum"])
def test_broken_archives_are_named(tmp_path, damage):
    path = tmp_path / "a.npz"
    np.savez(path, S=np.arange(100.0))
    data = bytearray(path.read_bytes())
    if damage == "a folder":
        path.unlink()
        path.mkdir()
    elif damage == "checksum":
        data[400] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(data[: {"empty": 0, "truncated": 500}[damage]])
    with pytest.raises(SourceError, match=r"a\.npz: "):
        open_npz(path).array("S", ("N",), "f")


def test_a_missing_archive_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.npz"):
        open_npz(tmp_path / "a.npz")


@pytest.mark.fuzz
def test_fuzz_npz():
    files = {}
    for name, save in (("stored.npz", np.savez), ("deflated.npz", np.savez_compressed)):
        buffer = io.BytesIO()
        save(
            buffer, S=np.arange(24.0).reshape(2, 3, 4), imgname=np.array(["a", "b"]), poses=np.array({"a": np.ones(2)})
        )
        files[name] = buffer.getvalue()

    def read(folder):
        for name in files:
            archive = open_npz(folder / name)
            archive.array("S", ("N", 3, 4), "f")
            archive.array("imgname", ("N",), "SU")
            archive.object("poses")

    assert fuzz(read, files) > 0
