import gc
import json
import multiprocessing
import os
import pickle
import re
import resource
import signal
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.support.forked import Forked
from tests.support.people import H36M_CAMERA, SIZE, jpeg, sample, samples, turned_camera
from unihpe_fast.config import DataConfig
from unihpe_fast.data import check_apart as check_apart_module
from unihpe_fast.data import store_writer
from unihpe_fast.data.camera import Camera
from unihpe_fast.data.check_apart import check_apart
from unihpe_fast.data.loader import val_batches
from unihpe_fast.data.records import Sample
from unihpe_fast.data.store import Store, StoreError, WriteSummary, write_store


def write(path: Path, people, **options) -> WriteSummary:
    return write_store(path, people, **({"dataset": "test", "split": "train"} | options))


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    path = tmp_path / "people.h5"
    write(path, samples(5, picture=True))
    return path


def mixed_people() -> list[Sample]:
    """One sample of every set of modalities that a dataset has."""
    rng = np.random.default_rng(1)
    return [
        sample(rng, picture=True, subject="S1", action="Walking", frame=7),
        sample(rng, joints_3d=None, camera=None, subject="S2", action="Eating", camera_id="", frame=2**40),
        sample(rng, keypoints_2d=None, subject="S1", action="Eating"),
        sample(rng, picture=True, keypoints_2d=None, joints_3d=None),
        sample(rng, picture=True, joints_3d=None, camera=Camera("size only", np.full(9, np.nan), 640, 480)),
    ]


def test_every_field_comes_back_and_what_a_sample_lacks_is_absent(tmp_path: Path) -> None:
    people = mixed_people()
    # a confidence of 0 and an invalid joint are values like any other
    people[0].keypoints_2d[3] = 0
    people[0].joints_3d[5] = 0
    summary = write(tmp_path / "a.h5", people)
    store = Store(tmp_path / "a.h5")
    assert len(store) == 5
    assert store.subjects == ("S1", "S2")
    assert store.actions == ("Walking", "Eating")
    present = np.array([[1, 0, 0, 1, 1], [1, 1, 0, 0, 1], [1, 0, 1, 0, 0]], dtype=bool)
    np.testing.assert_array_equal(store.present, present)
    assert summary.samples == 5
    assert summary.subjects == {"S1": 4, "S2": 1}
    assert summary.actions == {"Walking": 3, "Eating": 2}
    assert summary.present == {"image": 3, "pose2d": 3, "pose3d": 2}

    order = np.array([4, 0, 3, 0, 2, 1])
    columns = store.read(order)
    np.testing.assert_array_equal(columns.info.index, order)
    np.testing.assert_array_equal(columns.present, present[:, order])
    for row, person in enumerate(people[i] for i in order):
        np.testing.assert_array_equal(columns.bbox[row], person.bbox.astype(np.float32))
        for name, shape in (("keypoints_2d", (17, 3)), ("joints_3d", (17, 4)), ("crop", (2, 3))):
            wanted = np.zeros(shape) if getattr(person, name) is None else getattr(person, name)
            found = getattr(columns, name)[row]
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, wanted.astype(np.float32))
        assert columns.images[row].tobytes() == (person.image or b"")
        found = (
            columns.info.subject[row],
            columns.info.action[row],
            columns.info.camera_id[row],
            columns.info.frame[row],
        )
        assert found == (person.subject, person.action, person.camera_id, person.frame)
        camera = person.camera
        np.testing.assert_array_equal(columns.camera[row], np.full(9, np.nan) if camera is None else camera.vector)
        np.testing.assert_array_equal(columns.size[row], (0, 0) if camera is None else (camera.width, camera.height))
        known = camera is not None and camera.rotation is not None
        np.testing.assert_array_equal(columns.rotation[row], camera.rotation if known else np.full((3, 3), np.nan))
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["frame"][:].tolist() == [person.frame for person in people]
        np.testing.assert_array_equal(file["cameras/translation"][0], people[0].camera.translation)


def test_blocks_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_writer, "BLOCK", 4)
    alive: set[int] = set()
    most = 0

    def counted():
        nonlocal most
        for number, person in enumerate(samples(23, picture=True)):
            alive.add(number)
            weakref.finalize(person, alive.discard, number)
            most = max(most, len(alive))
            yield person

    write(tmp_path / "a.h5", counted())
    gc.collect()
    # the block that is written and the one that is gathered
    assert most <= 2 * 4 + 1
    columns = Store(tmp_path / "a.h5").read(np.arange(23))
    for row, person in enumerate(samples(23, picture=True)):
        np.testing.assert_array_equal(columns.keypoints_2d[row], person.keypoints_2d.astype(np.float32))
        assert columns.images[row].tobytes() == person.image


def test_equal_cameras_are_kept_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    here, there = turned_camera(rng), turned_camera(rng)
    again = Camera(here.name, here.vector.copy(), *SIZE, here.rotation.copy(), here.translation.copy())
    renamed = Camera("other", H36M_CAMERA, *SIZE)
    cameras = [here, there, again, renamed, None, there]
    write(tmp_path / "a.h5", [sample(rng, camera=camera) if camera else sample(rng) for camera in cameras[:4]])
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["camera"][:].tolist() == [0, 1, 0, 2]
        assert file["cameras/name"].asstr()[:].tolist() == ["54138969", "54138969", "other"]


def test_attributes_say_where_the_samples_come_from(tmp_path: Path) -> None:
    source = tmp_path / "annotations.json"
    source.write_text("x" * 1234)
    write(tmp_path / "a.h5", samples(1), dataset="coco", split="val", source_files=[source], licence="CC BY 4.0")
    attributes = Store(tmp_path / "a.h5").attributes
    assert {key: attributes[key] for key in ("dataset", "split", "joint_set", "unit", "licence")} == {
        "dataset": "coco",
        "split": "val",
        "joint_set": "h36m17",
        "unit": "mm",
        "licence": "CC BY 4.0",
    }
    assert json.loads(attributes["source_files"]) == {str(source): 1234}
    assert Store(tmp_path / "a.h5").caveat == ""
    # space that was only reserved while writing is given back
    assert (tmp_path / "a.h5").stat().st_size < store_writer.RESERVE / 4


@pytest.mark.parametrize("error", [RuntimeError("source broke"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_earlier_file(prepared: Path, error: BaseException) -> None:
    before = prepared.read_bytes()

    def broken():
        yield from samples(3)
        raise error

    with pytest.raises(type(error)):
        write(prepared, broken())
    assert prepared.read_bytes() == before
    assert list(prepared.parent.iterdir()) == [prepared]


def test_a_full_disk_leaves_the_earlier_file(prepared: Path, tmp_path: Path) -> None:
    before = prepared.read_bytes()

    def write_too_much() -> None:
        # a limit on file sizes fails in the same system calls as a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (14_000_000, 14_000_000))
        write_store(prepared, samples(1300, picture=True), dataset="x", split="x")

    run = Forked(write_too_much, tmp_path / "said")
    assert run.wait() != 0
    assert re.search(rf"OSError.*{prepared.name}: no room for it on the disk after \d+ samples", run.said)
    (tmp_path / "said").unlink()
    assert prepared.read_bytes() == before
    assert list(prepared.parent.iterdir()) == [prepared]


def test_no_samples_and_no_source_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.h5: the source has no samples"):
        write(tmp_path / "a.h5", [])
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "a.h5", samples(1), source_files=[tmp_path / "nothing.npz"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"keypoints_2d": np.zeros((16, 3))},
            r"keypoints_2d: found float64 \[16, 3\], wanted numbers of shape \[17, 3\]",
        ),
        ({"joints_3d": np.full((17, 4), "1")}, r"joints_3d: found <U1 \[17, 4\], wanted numbers"),
        ({"joints_3d": np.full((17, 4), np.nan)}, "joints_3d: found .*nan.*, wanted mm within 1e\\+06 and validities"),
        ({"joints_3d": np.full((17, 4), 0.5)}, "joints_3d: found .*, wanted mm within 1e\\+06 and validities"),
        (
            {"keypoints_2d": np.full((17, 3), 2.0)},
            r"keypoints_2d: found .*, wanted px within 1e\+06 and confidences in \[0, 1\]",
        ),
        (
            {"bbox": np.array([1.0, 2.0, 0.0])},
            r"bbox: found \[1.0, 2.0, 0.0\], wanted a centre and a positive side within 1e\+06 px",
        ),
        ({"image": b"GIF89a", "crop": np.eye(2, 3)}, "image: found 6 bytes .*, wanted a whole JPEG"),
        ({"image": jpeg(np.zeros((8, 8, 3), np.uint8))[:-9], "crop": np.eye(2, 3)}, "image: .*wanted a whole JPEG"),
        ({"image": jpeg(np.zeros((8, 8, 3), np.uint8))}, "crop: found None beside an image"),
        (
            {"image": jpeg(np.zeros((8, 8, 3), np.uint8)), "crop": np.zeros((2, 3))},
            "crop: found .*, wanted a .*invertible",
        ),
        ({"keypoints_2d": None, "joints_3d": None}, "found neither image nor keypoints_2d nor joints_3d"),
    ],
)
def test_a_malformed_sample_is_named(tmp_path: Path, changes: dict, message: str) -> None:
    people = [*samples(2), sample(np.random.default_rng(0), frame=77, **changes)]
    with pytest.raises(ValueError, match=r"sample 2 \(S1 Walking frame 77\): " + message):
        write(tmp_path / "a.h5", people)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        (Camera("cam", np.zeros(9), 10, 10), "vector: found .*, wanted finite numbers with positive focal lengths"),
        (Camera("cam", np.array([1.0, np.nan] * 4 + [0]), 10, 10), "vector: found .*, wanted finite numbers"),
        (Camera("cam", H36M_CAMERA, 0, 10), r"size: found \[0, 10\], wanted a positive width and height"),
        (Camera("cam", H36M_CAMERA[:8], 10, 10), r"vector: found float64 \[8\], wanted numbers of shape \[9\]"),
        (Camera("cam", H36M_CAMERA, 10, 10, np.eye(4)), r"rotation: found float64 \[4, 4\]"),
    ],
)
def test_a_malformed_camera_is_named(tmp_path: Path, camera: Camera, message: str) -> None:
    with pytest.raises(ValueError, match="camera 'cam': " + message):
        write(tmp_path / "a.h5", [sample(np.random.default_rng(0), camera=camera)])


def test_a_store_is_pickled_without_its_data(prepared: Path) -> None:
    store = Store(prepared)
    store.read(np.arange(5))
    data = pickle.dumps(store)
    assert len(data) < 500
    copy = pickle.loads(data)
    assert copy._table is None
    assert copy.read(np.array([3])).images[0].tobytes() == store.read(np.array([3])).images[0].tobytes()


def test_making_a_store_opens_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "nothing.h5")
    with pytest.raises(FileNotFoundError, match=r"nothing\.h5"):
        len(store)


def test_images_are_read_only_when_asked_for(prepared: Path) -> None:
    assert Store(prepared).read(np.array([1]), images=False).images == []
    assert Store(prepared).read(np.array([], dtype=np.int64)).images == []


@pytest.mark.parametrize("indices", [[5], [-1], [[0]]])
def test_rows_outside_the_file_are_refused(prepared: Path, indices: list) -> None:
    with pytest.raises(IndexError, match=r"people\.h5: found rows .*, wanted a list of numbers from 0 to 4"):
        Store(prepared).read(np.array(indices))


def test_a_file_that_changed_under_a_store_is_refused(prepared: Path) -> None:
    store = Store(prepared)
    assert len(store) == 5
    write(prepared, samples(4, picture=True))
    with pytest.raises(StoreError, match=r"people\.h5: found another file than the one read before"):
        store.read(np.array([0]))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_a_truncated_file_is_refused(prepared: Path, share: float) -> None:
    data = prepared.read_bytes()
    prepared.write_bytes(data[: int(share * len(data))])
    with pytest.raises(StoreError, match=r"people\.h5: found a file that HDF5 cannot read, truncated perhaps"):
        len(Store(prepared))


def test_a_file_that_is_not_hdf5_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.h5"
    path.write_text("not HDF5")
    with pytest.raises(StoreError, match=r"notes\.h5: found a file that HDF5 cannot read"):
        len(Store(path))


def test_a_foreign_hdf5_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.h5"
    with h5py.File(path, "w") as file:
        file["keypoints_2d"] = np.zeros((3, 17, 3))
    with pytest.raises(
        StoreError, match=r"foreign\.h5: attribute format: found None, wanted 'unihpe-fast prepared file'"
    ):
        len(Store(path))


def replace(file: h5py.File, key: str, data: np.ndarray) -> None:
    del file[key]
    file[key] = data


def change(file: h5py.File, key: str, where, value) -> None:
    file[key][where] = value


def link_elsewhere(file: h5py.File) -> None:
    file.move("bbox", "old")
    file["bbox"] = h5py.ExternalLink("elsewhere.h5", "bbox")


def keep_outside(file: h5py.File) -> None:
    del file["frame"]
    file.create_dataset("frame", (5,), np.int64, external=[("/etc/hostname", 0, 40)])


def make_virtual(file: h5py.File) -> None:
    del file["frame"]
    layout = h5py.VirtualLayout((5,), np.int64)
    layout[:] = h5py.VirtualSource("elsewhere.h5", "frame", (5,))
    file.create_virtual_dataset("frame", layout)


def promise_terabytes(file: h5py.File) -> None:
    # HDF5 keeps no bytes for chunks that were never written
    for key in [key for key in file if isinstance(file[key], h5py.Dataset)]:
        file[key].resize(2**36, axis=0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.attrs.__setitem__("schema_version", 99), "attribute schema_version: found 99, wanted 1"),
        (lambda f: f.attrs.__setitem__("schema_version", "1"), "attribute schema_version: found '1', wanted 1"),
        (lambda f: f.attrs.__setitem__("joint_set", "coco17"), "attribute joint_set: found 'coco17', wanted 'h36m17'"),
        (lambda f: f.attrs.__setitem__("unit", np.arange(3)), "attribute unit: found array.*, wanted 'mm'"),
        (lambda f: f.pop("joints_3d"), r"joints_3d: found nothing, wanted float32 \[5, 17, 4\]"),
        (lambda f: (f.pop("bbox"), f.create_group("bbox")), r"bbox: found Group, wanted float32 \['N', 3\]"),
        (lambda f: replace(f, "bbox", np.ones((5, 3))), r"bbox: found float64 \[5, 3\], wanted float32 \['N', 3\]"),
        (lambda f: replace(f, "bbox", np.ones((5, 4), np.float32)), r"bbox: found float32 \[5, 4\], wanted"),
        (lambda f: replace(f, "frame", np.ones(4, np.int64)), r"frame: found int64 \[4\], wanted int64 \[5\]"),
        (lambda f: replace(f, "image", np.ones(5, np.uint8)), r"image: found uint8 \[5\], wanted JPEG bytes \[5\]"),
        (lambda f: replace(f, "names/subject", np.ones(5, np.uint8)), r"names/subject: found uint8 \[5\], wanted text"),
        (lambda f: replace(f, "names/action", np.array([b"\xff"])), "names/action: found .*, wanted text"),
        (lambda f: change(f, "camera", 2, 5), "camera: found values from 0 to 5, wanted -1 to 4"),
        (lambda f: change(f, "camera", 2, -2), "camera: found values from -2 to 4, wanted -1 to 4"),
        (lambda f: change(f, "subject", 0, 1), "subject: found values from 0 to 1, wanted 0 to 0"),
        (lambda f: change(f, "action", 0, -1), "action: found values from -1 to 0, wanted 0 to 0"),
        (lambda f: change(f, "bbox", (3, 2), np.inf), r"bbox: row 3: found \[.*inf\], wanted a centre"),
        (lambda f: change(f, "crop", 1, 0), "crop: row 1: found .*, wanted a finite, invertible affine map"),
        (lambda f: change(f, "crop", 2, np.inf), "crop: row 2: found .*, wanted a finite, invertible affine map"),
        (lambda f: change(f, "crop", 2, -3e38), "crop: row 2: found .*, wanted a finite, invertible affine map"),
        (lambda f: change(f, "cameras/rotation", 1, 1e300), "cameras/rotation: row 1: found .*, wanted a rotation"),
        (lambda f: change(f, "keypoints_2d", (4, 0), np.nan), "keypoints_2d: row 4: found .*nan"),
        (lambda f: change(f, "cameras/vector", (1, 0), -1), "cameras/vector: row 1: found .*, wanted finite numbers"),
        (lambda f: change(f, "cameras/size", 0, 0), r"cameras/size: row 0: found \[0, 0\], wanted a positive width"),
        (link_elsewhere, "bbox: found nothing, wanted float32"),
        (keep_outside, "frame: found data kept in other files"),
        (make_virtual, "frame: found data kept in other files"),
        (promise_terabytes, r"bbox: found \d+ bytes for \[68719476736, 3\], wanted all of its rows"),
    ],
)
def test_a_damaged_file_is_refused_with_the_key(prepared: Path, damage, message: str) -> None:
    with h5py.File(prepared, "r+") as file:
        damage(file)
    with pytest.raises(StoreError, match=r"people\.h5: " + message):
        len(Store(prepared))


def test_an_image_that_hdf5_cannot_read_is_named(prepared: Path) -> None:
    first = next(samples(1, picture=True)).image
    data = bytearray(prepared.read_bytes())
    # the bytes of an image lie in a heap whose header is a page before them at most
    header = data.rfind(b"GCOL", 0, data.find(first))
    data[header : header + 4] = b"XXXX"
    prepared.write_bytes(data)
    with pytest.raises(StoreError, match=r"people\.h5: image: rows \[0, 1\] cannot be read"):
        Store(prepared).read(np.array([1, 0]))


def null_space(key: str) -> Callable[[h5py.File], None]:
    return lambda file: (file.pop(key), file.create_dataset(key, data=h5py.Empty("f")))


def time_type(file: h5py.File) -> None:
    del file["frame"]
    h5py.h5d.create(file.id, b"frame", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((5,)))


def link_the_group(file: h5py.File) -> None:
    file.move("cameras", "old")
    file["cameras"] = h5py.ExternalLink("elsewhere.h5", "cameras")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (null_space("bbox"), "bbox: found a dataset of no shape, wanted float32"),
        (null_space("names/subject"), "names/subject: found a dataset of no shape, wanted text"),
        (null_space("image_crc32"), "image_crc32: found a dataset of no shape"),
        (time_type, "found a file that HDF5 cannot read|frame: "),
        (link_the_group, "cameras/vector: found nothing"),
        (lambda f: f.attrs.__setitem__("licence", np.arange(3)), "attribute licence: found ndarray, wanted text"),
        (lambda f: f.attrs.__setitem__("caveat", h5py.Empty("f")), "attribute caveat: found Empty, wanted text"),
        (lambda f: f.attrs.__setitem__("dataset", 3), "attribute dataset: found int, wanted text"),
        (lambda f: f.attrs.__setitem__("format", h5py.Empty("S1")), "attribute format: found .*, wanted 'unihpe"),
        (
            lambda f: f["names/subject"].__setitem__(0, "S2"),
            "names/subject: found other texts than were written, as their checksum says",
        ),
        (lambda f: f["names/subject"].attrs.__setitem__("crc32", np.arange(3)), "names/subject: found other texts"),
    ],
)
def test_what_numpy_has_no_type_for_is_refused_with_the_key(prepared: Path, damage, message: str) -> None:
    with h5py.File(prepared, "r+") as file:
        damage(file)
    with pytest.raises(StoreError, match=r"people\.h5: " + message):
        len(Store(prepared))
    # nothing else of what the command prints of a file stumbles either
    assert check_apart(prepared, lambda count: None).problems


def test_a_flipped_bit_of_a_column_is_seen(prepared: Path) -> None:
    sound = Store(prepared).read(np.arange(5))
    data = bytearray(prepared.read_bytes())
    # still a number, and no implausible one
    data[data.index(sound.joints_3d[3].tobytes()) + 1] ^= 1
    prepared.write_bytes(data)
    with pytest.raises(StoreError, match=r"people\.h5: joints_3d: cannot be read, damaged perhaps"):
        len(Store(prepared))


def test_a_flipped_bit_of_a_picture_is_seen(prepared: Path) -> None:
    picture = Store(prepared).read(np.array([3])).images[0].tobytes()
    data = bytearray(prepared.read_bytes())
    data[data.index(picture) + len(picture) // 2] ^= 1
    prepared.write_bytes(data)
    columns = Store(prepared).read(np.array([4, 3, 0]))
    assert columns.damaged.tolist() == [False, True, False]
    assert not Store(prepared).read(np.array([3]), images=False).damaged.any()
    report = check_apart(prepared, lambda count: None)
    found = [line for line in report.problems if line.startswith("image: ")]
    assert len(found) == 1
    assert found[0].endswith("1 rows: 3") or "does not decode: 1 rows: 3" in found[0]
    config = DataConfig(val=(str(prepared),), image_size=16, val_batch_size=5)
    (batch,) = val_batches(config, limit=0)
    assert batch.present[0].tolist() == [True, True, True, False, True]
    assert "row 3: found" in batch.broken[0]


def test_files_without_checksums_are_read_as_ever(prepared: Path) -> None:
    from tests.data.test_fuzz_files import plain_copy

    new, rows = Store(prepared).read(np.arange(5)), np.arange(5)
    with h5py.File(prepared) as file:
        assert all(file[key].fletcher32 for key in file if isinstance(file[key], h5py.Dataset) and key != "image")
    old = prepared.with_name("old.h5")
    old.write_bytes(plain_copy(prepared))
    with h5py.File(old) as file:
        assert "image_crc32" not in file
        assert not file["bbox"].fletcher32
    found = Store(old).read(rows)
    for name in ("keypoints_2d", "joints_3d", "bbox", "camera", "rotation", "present"):
        np.testing.assert_array_equal(getattr(found, name), getattr(new, name))
    assert [x.tobytes() for x in found.images] == [x.tobytes() for x in new.images]
    assert not found.damaged.any()


def test_a_file_that_keeps_its_reader_busy_is_given_up(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advanced: list[int] = []
    assert check_apart(prepared, advanced.append).facts
    assert advanced == [5]

    def ends(path: Path, advance) -> None:
        advance(3)
        os.kill(os.getpid(), signal.SIGKILL)

    def hangs(path: Path, advance) -> None:
        time.sleep(60)

    def raises(path: Path, advance) -> None:
        raise FileNotFoundError("nothing.h5")

    for act, problem in (
        (ends, "reading it ended the process with SIGKILL"),
        (hangs, "came to no end within 0.5 seconds"),
    ):
        monkeypatch.setattr(check_apart_module, "check_store", act)
        assert problem in check_apart(prepared, advanced.append, patience=0.5).problems[0]
    assert advanced == [5, 3]
    monkeypatch.setattr(check_apart_module, "check_store", raises)
    with pytest.raises(FileNotFoundError, match=r"nothing\.h5"):
        check_apart(prepared, advanced.append)
    assert not multiprocessing.active_children()


def test_a_caveat_comes_back_and_older_files_have_none(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, samples(1), caveat="not the published joints")
    assert Store(path).caveat == "not the published joints"
    with h5py.File(path, "r+") as file:
        del file.attrs["caveat"]
    assert Store(path).caveat == ""
    assert len(Store(path)) == 1
