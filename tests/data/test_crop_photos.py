"""Crops of photographs: geometry, sharing, order, memory, and everything that can be wrong with a file."""

import os
import resource
import struct
import threading
import zlib
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.data.test_images import bright_spot, centroid
from tests.support.forked import Forked
from tests.support.fuzz import fuzz
from tests.support.people import jpeg
from unihpe_fast.data import crop_photos as cropping
from unihpe_fast.data.bbox import CROP_MARGIN
from unihpe_fast.data.camera import Camera
from unihpe_fast.data.crop_cache import Crop, CropCache
from unihpe_fast.data.crop_photos import PhotoError, crop_photos
from unihpe_fast.data.records import Sample


def photograph(folder: Path, name: str, picture: np.ndarray, quality: int = 98) -> Path:
    path = folder / name
    cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return path


def person(photo: Path | None, x: float = 50.0, y: float = 50.0, side: float = 60.0, **changes) -> Sample:
    values = {"bbox": np.array([x, y, side], np.float32), "keypoints_2d": np.zeros((17, 3), np.float32), "photo": photo}
    return Sample(**(values | changes))


def decoded(sample: Sample) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_COLOR)


def png(width: int, height: int) -> bytes:
    return cv2.imencode(".png", np.zeros((height, width, 3), np.uint8))[1].tobytes()


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("side", [40, 100, 200, 330, 700])
def test_a_crop_shows_what_its_map_says(tmp_path: Path, suffix: str, side: float) -> None:
    """Whole, and decoded at a half, a quarter or an eighth of its size; an odd size leaves a rest when halved."""
    spot = (301.3, 256.8)
    photo = photograph(tmp_path, f"a.{suffix}", bright_spot(603, *spot, side / 30))
    box = (301.3 + side / 8, 256.8 - side / 10, side)
    (made,) = crop_photos([person(photo, *box)], 64)
    scale = 64 / (CROP_MARGIN * side)
    wanted = [31.5 - scale * side / 8, 31.5 + scale * side / 10]
    np.testing.assert_allclose(made.crop @ [*spot, 1], wanted, atol=1e-3)
    picture = decoded(made)
    assert picture.shape == (64, 64, 3)
    # 8 bits, JPEG twice and the clipped flanks of the spot move it by some hundredths of a px
    np.testing.assert_allclose(centroid(picture[..., 0]), wanted, atol=0.08)
    assert (made.camera.width, made.camera.height) == (603, 603)
    assert np.isnan(made.camera.vector).all()


def test_a_shrunk_png_is_averaged(tmp_path: Path) -> None:
    board = np.repeat((np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    photo = photograph(tmp_path, "a.png", board)
    (made,) = crop_photos([person(photo, 127.5, 127.5, 200)], 32)
    # skipping pixels would give 0 or 255
    assert np.abs(decoded(made)[2:-2, 2:-2].astype(int) - 127).max() < 20


def test_outside_the_photograph_is_black(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    # with what a camera left behind the picture
    photo.write_bytes(jpeg(bright_spot(64, 12, 30, 3)) + b"\0" * 99)
    (made,) = crop_photos([person(photo, 12, 30, 51.2)], 64)
    picture = decoded(made)[..., 0]
    np.testing.assert_allclose(centroid(picture), [31.5, 31.5], atol=0.06)
    assert picture[:, :18].max() < 3


def tagged(data: bytes, tag: int, order: str = ">") -> bytes:
    """A JPEG or PNG with an EXIF orientation; a JPEG's has a fill byte before its segment."""
    exif = {">": b"MM\0*", "<": b"II*\0"}[order] + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, tag, 0, 0)
    if data[:2] == b"\xff\xd8":
        exif = b"Exif\0\0" + exif
        return data[:2] + b"\xff\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    chunk = b"eXIf" + exif
    return data[:33] + struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


def camera_of(width: int, height: int) -> Camera:
    return Camera("c", np.full(9, np.nan), width, height)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("side", [30, 130])
def test_an_orientation_is_applied_where_the_annotated_size_says_so(
    tmp_path: Path, tag: int, suffix: str, side: float
) -> None:
    """OpenCV's own upright picture is the reference; the larger box has it decoded at a half of its odd size."""
    stored = np.zeros((91, 131, 3), np.uint8)
    stored[:, :91] = bright_spot(91, 60, 33, 2 + side / 30)
    data = tagged(cv2.imencode(f".{suffix}", stored, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes(), tag)
    upright = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    photo = tmp_path / f"a.{suffix}"
    photo.write_bytes(data)
    height, width = upright.shape[:2]
    x, y = centroid(upright[..., 0])
    if tag in (2, 3, 4):
        with pytest.raises(PhotoError, match=f"orientation tag.*found orientation tag {tag}, wanted a picture stored"):
            list(crop_photos([person(photo, x, y, side, camera=camera_of(width, height))], 32))
        return
    people = [
        person(photo, x, y, side, camera=camera_of(width, height)),
        person(photo, 60, 33, side, camera=camera_of(131, 91)),
    ]
    for made in crop_photos(people, 32):
        np.testing.assert_allclose(centroid(decoded(made)[..., 0]), [15.5, 15.5], atol=0.1)
    assert (width, height) == ((131, 91) if tag == 1 else (91, 131))


def test_an_orientation_that_the_size_does_not_tell_is_refused_by_name(tmp_path: Path) -> None:
    square, wide = np.zeros((90, 90, 3), np.uint8), np.zeros((60, 90, 3), np.uint8)
    cases = [
        (square, 6, camera_of(90, 90), "perhaps annotated as stored, perhaps upright: found orientation tag 6"),
        (wide, 8, None, "perhaps annotated as stored, perhaps upright: found orientation tag 8"),
        (wide, 3, camera_of(90, 60), "perhaps annotated as stored, perhaps upright: found orientation tag 3"),
        (
            wide,
            6,
            camera_of(90, 61),
            "another size than annotated: found 90 x 60 px, orientation tag 6, wanted 90 x 61",
        ),
    ]
    for picture, tag, camera, message in cases:
        for order in "<>":
            photo = tmp_path / "a.jpg"
            photo.write_bytes(tagged(jpeg(picture), tag, order))
            with pytest.raises(PhotoError, match=message):
                list(crop_photos([person(photo, camera=camera)], 8))
    # a tag of no meaning, one of another type and a block that is cut are none
    for data in (tagged(jpeg(wide), 9), tagged(jpeg(wide), 6).replace(b"\x01\x12\0\x03", b"\x01\x12\0\x04")):
        photo.write_bytes(data)
        assert len(list(crop_photos([person(photo)], 8))) == 1


def damaged(quality: int = 90) -> bytes:
    """A JPEG with its end marker, half of whose pixels are overwritten."""
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8), (0, 0), 2)
    data = bytearray(jpeg(picture, quality))
    data[len(data) // 2 : len(data) - 200] = b"\x55" * (len(data) - 200 - len(data) // 2)
    return bytes(data)


def test_a_damaged_picture_says_nothing_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(damaged())
    with pytest.raises(PhotoError, match="broken image"):
        list(crop_photos([person(photo)], 8))
    assert capfd.readouterr().err == ""


def test_grey_and_four_colour_jpegs_are_read(tmp_path: Path) -> None:
    shade = np.full((90, 90), 200, np.uint8)
    for mode in ("L", "CMYK"):
        photo = tmp_path / f"{mode}.jpg"
        Image.fromarray(np.repeat(shade[..., None], 3, axis=2)).convert(mode).save(photo, quality=95)
        (made,) = crop_photos([person(photo)], 8)
        assert np.abs(decoded(made).astype(int) - 200).max() < 6


def test_samples_come_in_order_and_neighbours_share_a_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    paths = [
        photograph(tmp_path, f"{n}.jpg", np.full((90, 90, 3), rng.integers(20, 230, 3), np.uint8)) for n in range(9)
    ]
    people = [person(paths[n], frame=10 * n + k) for n in range(9) for k in range(n % 3 + 1)]
    people.insert(3, person(None, frame=-1))
    reads: list[str] = []
    read = cropping._read
    monkeypatch.setattr(cropping, "_read", lambda path, step: (reads.append(path.name), read(path, step))[1])
    made = list(crop_photos(people, 16))
    assert [sample.frame for sample in made] == [sample.frame for sample in people]
    assert sorted(reads) == [path.name for path in paths]
    assert made[3] is people[3]
    for sample in made[:3] + made[4:]:
        colour = cv2.imread(str(sample.photo))[0, 0].astype(int)
        # the box and its margin lie within the photograph
        assert np.abs(decoded(sample).astype(int) - colour).max() < 6


def test_many_people_on_one_photograph_are_cut_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cropping, "GROUP", 4)
    photo = photograph(tmp_path, "a.jpg", np.zeros((90, 90, 3), np.uint8))
    made = list(crop_photos([person(photo, frame=n) for n in range(11)], 8))
    assert [sample.frame for sample in made] == list(range(11))


def test_only_a_few_samples_are_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cropping.os, "sched_getaffinity", lambda _: {0, 1})
    paths = [photograph(tmp_path, f"{n}.jpg", np.zeros((40, 40, 3), np.uint8)) for n in range(2)]
    drawn = 0

    def people():
        nonlocal drawn
        for n in range(200):
            drawn += 1
            yield person(paths[n % 2], frame=n)

    before = threading.active_count()
    stream = crop_photos(people(), 8)
    for n in range(50):
        assert next(stream).frame == n
        # those that run, the one that is gathered, and the first of the next photograph
        assert drawn - n <= cropping.AHEAD * 2 + 3
    stream.close()
    assert threading.active_count() == before


TOO_LARGE = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 100_000, 100_000) + b"\x08\x02\0\0\0" + b"IEND"


def huge_jpeg() -> bytes:
    data = bytearray(jpeg(np.zeros((8, 8, 3), np.uint8)))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    return bytes(data)


def thumbnailed_and_cut() -> bytes:
    data = jpeg(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    small = jpeg(np.zeros((8, 8, 3), np.uint8))
    with_thumbnail = data[:2] + b"\xff\xe1" + struct.pack(">H", len(small) + 2) + small + data[2:]
    return with_thumbnail[:-200]


BROKEN = {
    "nothing": (b"", "broken image: found 0 bytes"),
    "text": (b"<html>not found</html>", "broken image: found 22 bytes that begin with"),
    "gif": (b"GIF89a" + b"\0" * 40, "broken image: found 46 bytes that begin with '47494638'"),
    "cut jpeg": (jpeg(bright_spot(64, 30, 30, 9))[:-40], "broken image: found a JPEG that ends after"),
    "cut behind a thumbnail": (thumbnailed_and_cut(), "broken image: found a JPEG that ends after"),
    "cut png": (png(60, 40)[:-13], "broken image: found a PNG that ends after"),
    "cut jpeg with an end": (jpeg(bright_spot(64, 30, 30, 9))[:-40] + b"\xff\xd9", "broken image: found a broken JPEG"),
    "damaged jpeg": (damaged(), "broken image: found a broken JPEG"),
    "header only": (b"\xff\xd8\xff\xd9", "broken image: found a JPEG without a frame header"),
    "endless segment": (b"\xff\xd8\xff\xe0\0\0" + b"\xff\xd9", "broken image: found a JPEG without a frame header"),
    "garbage png": (b"\x89PNG\r\n\x1a\n" + png(60, 40)[8:33] + b"x" * 50 + b"IEND", "broken image: found a broken"),
    "no pixels": (png(60, 40)[:16] + b"\0" * 8 + png(60, 40)[24:], "image too large: found 0 x 0 px"),
    "terabytes": (TOO_LARGE, "image too large: found 100000 x 100000 px, wanted at most 8192"),
    "wide jpeg": (huge_jpeg(), "image too large: found 60000 x 60000 px"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_photograph_is_named_or_counted(tmp_path: Path, name: str) -> None:
    data, message = BROKEN[name]
    bad, good = tmp_path / "bad.jpg", photograph(tmp_path, "good.jpg", np.zeros((90, 90, 3), np.uint8))
    bad.write_bytes(data)
    people = [person(good, frame=0), person(bad, frame=1), person(bad, frame=2), person(good, frame=3)]
    with pytest.raises(PhotoError) as caught:
        list(crop_photos(people, 8))
    assert str(caught.value).startswith(f"{bad}: {message}")
    seen: list[tuple[int, str]] = []
    made = list(crop_photos(people, 8, broken=lambda sample, error: seen.append((sample.frame, error.reason))))
    assert [sample.frame for sample in made] == [0, 3]
    reason = message.split(":")[0]
    assert seen == [(1, reason), (2, reason)]


def test_missing_and_enormous_files_and_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PhotoError, match=r"gone\.jpg: missing image: no such file"):
        list(crop_photos([person(tmp_path / "gone.jpg")], 8))
    # one that nobody writes to would be waited for
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path, tmp_path / "pipe.jpg"):
        with pytest.raises(PhotoError, match=r"unreadable image: .*not a regular file"):
            list(crop_photos([person(path)], 8))
    photo = photograph(tmp_path, "a.jpg", np.zeros((90, 90, 3), np.uint8))
    monkeypatch.setattr(cropping, "LARGEST_FILE", 100)
    with pytest.raises(PhotoError, match=r"a\.jpg: unreadable image: .*has \d+ bytes, want at most 100"):
        list(crop_photos([person(photo)], 8))
    with pytest.raises(ValueError, match="size: want at least 1"):
        crop_photos([], 0)


def test_a_photograph_of_another_size_than_its_camera_is_refused(tmp_path: Path) -> None:
    photo = photograph(tmp_path, "a.jpg", np.zeros((90, 80, 3), np.uint8))
    right, wrong = (Camera("c", np.full(9, np.nan), 80, height) for height in (90, 91))
    (made,) = crop_photos([person(photo, camera=right)], 8)
    assert made.camera is right
    with pytest.raises(PhotoError, match="another size than annotated: found 80 x 90 px, wanted 80 x 91 px"):
        list(crop_photos([person(photo, camera=wrong)], 8))


@pytest.mark.parametrize("bbox", [[50, 50, 0], [50, np.nan, 60], [50, 50, np.inf], [50, 50]])
def test_a_malformed_box_is_left_for_the_store_to_name(tmp_path: Path, bbox: list) -> None:
    photo = photograph(tmp_path, "a.jpg", np.zeros((90, 90, 3), np.uint8))
    odd = replace(person(photo), bbox=np.array(bbox, np.float32))
    assert list(crop_photos([odd], 8)) == [odd]


@pytest.mark.fuzz
def test_fuzz_photographs() -> None:
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 255, (12, 10, 3), dtype=np.uint8), (80, 90), interpolation=cv2.INTER_CUBIC)
    files = {
        "a.jpg": jpeg(picture, 80),
        "b.jpg": cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes(),
        "c.jpg": cv2.imencode(".png", picture)[1].tobytes(),
    }

    def read(folder: Path) -> None:
        for name in files:
            for side in (30, 300):
                (made,) = crop_photos([person(folder / name, side=side)], 8)
                assert decoded(made).shape == (8, 8, 3)

    assert fuzz(read, files) > 0


# --- crops of an unfinished job ---------------------------------------------------------------------------------------


@pytest.fixture
def people(tmp_path: Path) -> list[Sample]:
    rng = np.random.default_rng(1)
    made = []
    for n in range(6):
        photo = photograph(tmp_path, f"{n}.jpg", rng.integers(0, 255, (90, 90, 3), dtype=np.uint8))
        made += [person(photo, frame=n), person(photo, x=45.5, frame=n)]
    return made


def interrupted(out: Path, people: list[Sample], count: int, size: int = 16) -> None:
    with pytest.raises(KeyboardInterrupt), CropCache(out, size) as partial:  # noqa: PT012
        stream = crop_photos(people, size, cache=partial)
        for _ in range(count):
            next(stream)
        raise KeyboardInterrupt


def same(found: list[Sample], wanted: list[Sample]) -> None:
    assert [(s.image, s.frame, s.camera.width) for s in found] == [(s.image, s.frame, s.camera.width) for s in wanted]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.crop, other.crop)


def test_an_interrupted_job_goes_on_with_what_it_has(tmp_path: Path, people, monkeypatch) -> None:
    wanted = list(crop_photos(people, 16))
    out = tmp_path / "out.h5"
    interrupted(out, people, 5)
    # half of a record, as a kill leaves it
    with open(tmp_path / "out.h5.crops", "ab") as file:
        file.write(b"\1" * 30)
    reads: list[str] = []
    read = cropping._read
    monkeypatch.setattr(cropping, "_read", lambda path, step: (reads.append(path.name), read(path, step))[1])
    with CropCache(out, 16) as partial:
        assert partial.found == 5
        same(list(crop_photos(people, 16, cache=partial)), wanted)
        # the sixth shares its photograph with the fifth
        assert sorted(reads) == ["2.jpg", "3.jpg", "4.jpg", "5.jpg"]
    assert not (tmp_path / "out.h5.crops").exists()


def test_a_changed_photograph_box_or_size_is_cut_again(tmp_path: Path, people) -> None:
    out = tmp_path / "out.h5"
    interrupted(out, people, 12)
    photograph(tmp_path, "1.jpg", np.full((90, 90, 3), 200, np.uint8))
    people[6] = replace(people[6], bbox=people[6].bbox + 1)
    with CropCache(out, 16) as partial:
        same(list(crop_photos(people, 16, cache=partial)), list(crop_photos(people, 16)))
    interrupted(out, people, 3)
    with CropCache(out, 24) as partial:
        assert partial.found == 0
        same(list(crop_photos(people, 24, cache=partial)), list(crop_photos(people, 24)))


def test_another_annotated_size_is_looked_at_again(tmp_path: Path) -> None:
    """What a job has made for a picture as stored is neither one annotated upright nor one of another size."""
    path, out = tmp_path / "a.jpg", tmp_path / "out.h5"
    path.write_bytes(tagged(jpeg(np.random.default_rng(2).integers(0, 255, (60, 90, 3), dtype=np.uint8)), 6))
    interrupted(out, [person(path, camera=camera_of(90, 60))], 1)
    upright = [person(path, camera=camera_of(60, 90))]
    with CropCache(out, 16) as partial:
        same(list(crop_photos(upright, 16, cache=partial)), list(crop_photos(upright, 16)))
    interrupted(out, [person(path, camera=camera_of(90, 60))], 1)
    with CropCache(out, 16) as partial, pytest.raises(PhotoError, match="another size than annotated"):
        list(crop_photos([person(path, camera=camera_of(90, 61))], 16, cache=partial))


def test_damaged_crops_are_cut_again(tmp_path: Path, people) -> None:
    out, kept = tmp_path / "out.h5", tmp_path / "out.h5.crops"
    interrupted(out, people, 4)
    data = bytearray(kept.read_bytes())
    data[data.index(b"\xff\xd8") + 30] ^= 0xFF
    for content in (bytes(data), b"something else\n" * 9, b"", b"no line end"):
        kept.write_bytes(content)
        with CropCache(out, 16) as partial:
            same(list(crop_photos(people, 16, cache=partial)), list(crop_photos(people, 16)))
        assert not kept.exists()


def test_a_full_disk_is_told_and_what_is_there_is_used_later(tmp_path: Path, people) -> None:
    out = tmp_path / "out.h5"

    def write_too_much() -> None:
        # a limit on file sizes fails in the same system calls as a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        with CropCache(out, 16) as partial:
            for key in range(99):
                partial.add(key, Crop(bytes(3000), 90, 90))

    run = Forked(write_too_much, tmp_path / "said")
    assert run.wait() != 0
    assert f"OSError: [Errno 27] {out}.crops: no room for it on the disk (File too large)" in run.said
    with CropCache(out, 16) as partial:
        assert partial.found == 13
        assert partial.find(12) == Crop(bytes(3000), 90, 90)
        assert partial.find(13) is None
        partial.add(13, Crop(b"x", 1, 1))


@pytest.mark.fuzz
def test_fuzz_crops_of_an_unfinished_job() -> None:
    crops = [Crop(bytes([n]) * 50 * n, 90 + n, 80) for n in range(1, 6)]
    with TemporaryDirectory() as name:
        out = Path(name) / "out.h5"
        with pytest.raises(KeyboardInterrupt), CropCache(out, 16) as partial:  # noqa: PT012
            for key, crop in enumerate(crops):
                partial.add(key, crop)
            raise KeyboardInterrupt
        files = {"out.h5.crops": (Path(name) / "out.h5.crops").read_bytes()}

    def read(folder: Path) -> None:
        with CropCache(folder / "out.h5", 16) as partial:
            for key, crop in enumerate(crops):
                # what is found is what was written
                assert partial.find(key) in (None, crop)

    assert fuzz(read, files) > 0


def test_two_jobs_do_not_write_one_output(tmp_path: Path, people) -> None:
    out = tmp_path / "out.h5"
    with CropCache(out, 16) as partial:
        next(crop_photos(people, 16, cache=partial))
        with pytest.raises(BlockingIOError, match=r"out\.h5\.crops: another job is writing it"), CropCache(out, 16):
            pass
