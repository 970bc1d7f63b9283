"""Readers of motion, cameras and prepared files against mutated ones: only the documented errors may come out."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.data.h36m_files import W0
from tests.data.motion_files import motionbuilder_text, standing
from tests.data.test_asf_amc import AMC, ASF
from tests.data.test_store import mixed_people, write
from tests.support.fuzz import CASES, fuzz, fuzz_made, mutate
from tests.support.people import samples
from unihpe_fast.data.errors import StoreError
from unihpe_fast.data.formats.asf_amc import read_amc, read_asf
from unihpe_fast.data.formats.motion_manifest import read_manifest
from unihpe_fast.data.sources import Request
from unihpe_fast.data.sources.h36m.cameras import read_metadata
from unihpe_fast.data.sources.motion import Options, read_motion
from unihpe_fast.data.store import Store

pytestmark = pytest.mark.fuzz
MANIFEST = 'file,subject,trial,description,fps_true\n02_01.bvh,2,1,walk,120\nsub/b.amc,94 (inferred),7,"a, b",119.88\n'


class Named(Exception):
    """A ValueError whose message says which file it is."""


def naming(read: Callable[[Path], object]) -> Callable[[Path], None]:
    """Motion's readers raise ValueError, as Python's own mistakes do: theirs name the file."""

    def reading(folder: Path) -> None:
        try:
            read(folder)
        except ValueError as error:
            # what is wrong with all of the files together is said of the options
            if str(folder) in str(error) or str(error).startswith(("no input", "subjects: ")):
                raise Named from error
            raise

    return reading


def test_bvh_with_its_manifest() -> None:
    def read(folder: Path) -> None:
        reading = read_motion([folder], Options(views=1), Request(None, 0, 0))
        for _ in reading.samples:
            pass

    files = {"02_01.bvh": motionbuilder_text(standing(4)).encode(), "manifest.csv": MANIFEST.encode()}
    assert fuzz(naming(read), files, errors=(Named, OSError)) > 0


def test_acclaim() -> None:
    def read(folder: Path) -> None:
        read_amc(folder / "x_1.amc", read_asf(folder / "x.asf")).end_points()

    assert fuzz(naming(read), {"x.asf": ASF.encode(), "x_1.amc": AMC.encode()}, errors=(Named, OSError)) > 0


def test_manifests() -> None:
    def read(folder: Path) -> None:
        read_manifest(folder / "manifest.csv", [])

    assert fuzz(naming(read), {"manifest.csv": MANIFEST.encode()}, errors=(Named, OSError)) > 0


def test_metadata_of_cameras() -> None:
    files = {"metadata.xml": f"<metadata><w0>[{W0}]</w0></metadata>".encode()}
    assert fuzz(lambda folder: read_metadata(folder / "metadata.xml"), files) > 0


# --- prepared files ---------------------------------------------------------------------------------------------------


def read_store(folder: Path) -> None:
    store = Store(folder / "a.h5")
    store.read(np.arange(len(store)))
    assert isinstance(f"{store.attributes} {store.caveat} {store.subjects} {store.actions}", str)


def plain_copy(path: Path) -> bytes:
    """As files were written before there were checksums."""
    other = path.with_name("plain.h5")
    with h5py.File(path) as file, h5py.File(other, "w") as plain:
        plain.attrs.update(file.attrs)
        for key in [*file, *(f"{group}/{key}" for group in ("cameras", "names") for key in file[group])]:
            if isinstance(file[key], h5py.Dataset) and key != "image_crc32":
                chunks = {} if "name" in key else {"chunks": file[key].chunks, "maxshape": file[key].maxshape}
                plain.create_dataset(key, data=file[key][...], dtype=file[key].dtype, **chunks)
    return other.read_bytes()


@pytest.mark.parametrize("form", ["with checksums", "without"])
def test_bytes_of_prepared_files(form: str, tmp_path: Path) -> None:
    write(tmp_path / "a.h5", mixed_people())
    data = (tmp_path / "a.h5").read_bytes() if form == "with checksums" else plain_copy(tmp_path / "a.h5")
    # without checksums, libhdf5 itself may loop or crash: `prepare check` is for such files
    read = read_store if form == "with checksums" else read_apart
    fuzz(read, {"a.h5": data}, max(CASES // 5, 20), errors=(StoreError, OSError), apart=True)


def read_apart(folder: Path) -> None:
    from unihpe_fast.data.check_apart import check_apart

    check_apart(folder / "a.h5", lambda count: None, patience=5)


def test_flipped_bits_of_prepared_files_change_nothing_unseen(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", samples(6, picture=True))
    data = (tmp_path / "a.h5").read_bytes()
    sound = Store(tmp_path / "a.h5").read(np.arange(6))
    attributes = Store(tmp_path / "a.h5").attributes

    def make(folder: Path, number: int) -> None:
        rng = np.random.default_rng([1, number])
        changed = bytearray(data)
        changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
        (folder / "a.h5").write_bytes(changed)

    def read(folder: Path) -> None:
        store = Store(folder / "a.h5")
        found = store.read(np.arange(len(store)))
        assert store.attributes == attributes
        for name in ("keypoints_2d", "joints_3d", "bbox", "crop", "camera", "size", "rotation", "present"):
            np.testing.assert_array_equal(getattr(found, name), getattr(sound, name), name)
        np.testing.assert_array_equal(found.info.frame, sound.info.frame)
        assert (found.info.subject, found.info.action, found.info.camera_id) == (
            sound.info.subject,
            sound.info.action,
            sound.info.camera_id,
        )
        for row in np.flatnonzero(~found.damaged):
            assert found.images[row].tobytes() == sound.images[row].tobytes()

    fuzz_made(read, make, max(CASES // 5, 60), errors=(StoreError, OSError), apart=True)


def _null(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    file[key] = h5py.Empty("f")


def _time(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    h5py.h5d.create(file.id, key.encode(), h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((5,)))


def _other(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    shape = tuple(int(size) for size in rng.integers(0, 20, size=rng.integers(0, 4)))
    kinds = (np.float32, np.float64, np.int64, np.uint8, "S5", np.complex64, np.dtype([("a", "f4"), ("b", "i8")]))
    file.create_dataset(key, data=np.zeros(shape, kinds[rng.integers(len(kinds))]))


def _link(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    links = (h5py.SoftLink("/" + key), h5py.SoftLink("/bbox"), h5py.ExternalLink("a.h5", "/" + key))
    file[key] = links[rng.integers(len(links))]


def _group(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    file.create_group(key)


def _texts(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    file.create_dataset(key, data=np.array([b"\xff", b"a"], object), dtype=h5py.string_dtype())


def test_structure_of_prepared_files(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", mixed_people())
    data = (tmp_path / "a.h5").read_bytes()
    columns = [
        "keypoints_2d",
        "joints_3d",
        "bbox",
        "camera",
        "image",
        "image_crc32",
        "crop",
        "present",
        "subject",
        "frame",
    ]
    columns += ["cameras/vector", "cameras/size", "cameras/name", "names/subject", "names/action", "cameras", "names"]
    attributes = ["format", "schema_version", "unit", "dataset", "caveat", "licence", "split", "source_files", "more"]
    odd = (
        np.arange(3), np.zeros((0,)), h5py.Empty("f"), np.float64("nan"), 2**63, b"\xff", np.array(["a", "b"], object),
        np.void(b"abc"), True, "", "\udc80",
    )  # fmt: skip

    def make(folder: Path, number: int) -> None:
        rng = np.random.default_rng([2, number])
        (folder / "a.h5").write_bytes(data)
        changed: set[str] = set()
        with h5py.File(folder / "a.h5", "r+") as file:
            for _ in range(rng.integers(1, 4)):
                if rng.random() < 0.4:
                    key, value = attributes[rng.integers(len(attributes))], odd[rng.integers(len(odd))]
                    try:
                        file.attrs[key] = value
                    except (TypeError, ValueError, UnicodeEncodeError):
                        file.attrs[key] = 0
                    continue
                key = columns[rng.integers(len(columns))]
                if key not in file or key in changed:
                    continue
                changed.add(key)
                if rng.random() < 0.3 and isinstance(file[key], h5py.Dataset) and file[key].dtype.kind in "fiu":
                    values = file[key][...]
                    raw = mutate(values.tobytes(), rng)[: values.nbytes].ljust(values.nbytes, b"\0")
                    file[key][...] = np.frombuffer(raw, values.dtype).reshape(values.shape)
                    continue
                del file[key]
                if "/" in key and key.split("/")[0] not in file:
                    continue
                (_null, _time, _other, _link, _group, _texts)[rng.integers(6)](file, key, rng)

    fuzz_made(read_store, make, max(CASES // 5, 60), errors=(StoreError, OSError), apart=True)
