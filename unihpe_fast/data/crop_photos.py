"""From samples that name their photograph to samples that carry the crop: on all cores, in order, with flat memory."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path

import cv2
import numpy as np

from unihpe_fast.data.bbox import crop_map
from unihpe_fast.data.camera import Camera, unknown_camera
from unihpe_fast.data.crop_cache import Crop, CropCache, crop_keys
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.untrusted import read_bytes
from unihpe_fast.data.images import (
    JPEG_QUALITY,
    LARGEST_SIDE,
    decode_photo,
    enlargement,
    orientation,
    photo_size,
    reduction,
    upright_map,
    upright_size,
)
from unihpe_fast.data.records import Sample

# a network input of 256 px with the margin around it, and no pixel more
CROP_SIZE = 320
LARGEST_FILE = 256 << 20  # bytes
# persons of one photograph that are cut at once; photographs a thread that are under way
GROUP, AHEAD = 32, 4


class PhotoError(SourceError):
    """A photograph that cannot be used. The message names the file; `reason` says it in words that can be counted."""

    def __init__(self, path: Path, reason: str, detail: str) -> None:
        super().__init__(f"{path}: {reason}: {detail}")
        self.reason = reason


@dataclass(frozen=True)
class _Task:
    """Neighbouring samples of one photograph (None: they have none), the crops of an earlier job, and the rest's."""

    photo: Path | None
    samples: list[Sample]
    keys: list[int]
    known: list[Crop | None]
    made: Future[list[Crop | PhotoError]] | None


Broken = Callable[[Sample, PhotoError], None]


def crop_photos(
    samples: Iterable[Sample],
    size: int = CROP_SIZE,
    *,
    cache: CropCache | None = None,
    broken: Broken | None = None,
) -> Iterator[Sample]:
    """The same samples with `image`, a JPEG of size x size px, and `crop` filled in from `photo`.

    The crop is the bbox with its margin (data/bbox.py), black where it leaves the photograph. A sample without a photo
    comes back as it is. One without a camera gets one of unknown intrinsics, which carries the photograph's size.
    Photographs are JPEGs or PNGs of at most `LARGEST_FILE` bytes and images.LARGEST_SIDE px a side. Where an EXIF
    orientation turns one, the size in the sample's camera says whether it was annotated as stored or upright; a
    photograph for which it does not say cannot be used. Neighbouring samples of one photograph share its decoding.

    cache: crops of an unfinished job, used and added to. broken: is told of each sample whose photograph cannot be
    used, and the sample is left out; None: PhotoError is raised for the first. Raises ValueError for a size below 1.
    """
    if size < 1:
        raise ValueError(f"size: want at least 1, got {size}")
    return _pipeline(samples, size, cache, broken)


def _pipeline(samples: Iterable[Sample], size: int, cache: CropCache | None, broken: Broken | None) -> Iterator[Sample]:
    # OpenCV lets go of the interpreter's lock, and threads copy nothing: measured, quicker than processes
    threads = len(os.sched_getaffinity(0))
    pool = ThreadPoolExecutor(threads, "photo")
    running: deque[_Task] = deque()
    inner_threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        for photo, group in _groups(samples):
            running.append(_start(photo, group, size, cache, pool))
            if len(running) > AHEAD * threads:
                yield from _finish(running.popleft(), size, cache, broken)
        while running:
            yield from _finish(running.popleft(), size, cache, broken)
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(inner_threads)


def _groups(samples: Iterable[Sample]) -> Iterator[tuple[Path | None, list[Sample]]]:
    for photo, run in groupby(samples, key=lambda sample: sample.photo if _boxed(sample) else None):
        while group := list(islice(run, GROUP)):
            yield photo, group


def _boxed(sample: Sample) -> bool:
    """Whether there is something to cut; what is malformed the store refuses, with the sample's name."""
    return np.shape(sample.bbox) == (3,) and bool(np.isfinite(sample.bbox).all() and sample.bbox[2] > 0)


def _start(
    photo: Path | None, samples: list[Sample], size: int, cache: CropCache | None, pool: ThreadPoolExecutor
) -> _Task:
    if photo is None:
        return _Task(None, samples, [], [], None)
    keys = crop_keys(photo, samples) if cache is not None else [0] * len(samples)
    known = [None if cache is None else cache.find(key) for key in keys]
    wanted = [sample for sample, crop in zip(samples, known, strict=True) if crop is None]
    return _Task(photo, samples, keys, known, pool.submit(_cut, photo, wanted, size) if wanted else None)


def _finish(task: _Task, size: int, cache: CropCache | None, broken: Broken | None) -> Iterator[Sample]:
    if task.photo is None:
        yield from task.samples
        return
    made = iter(task.made.result() if task.made else ())
    for sample, key, known in zip(task.samples, task.keys, task.known, strict=True):
        crop = known or next(made)
        if isinstance(crop, PhotoError):
            if broken is None:
                raise crop
            broken(sample, crop)
            continue
        if cache is not None and known is None:
            cache.add(key, crop)
        camera = sample.camera or unknown_camera(crop.width, crop.height)
        yield replace(sample, image=crop.jpeg, crop=crop_map(sample.bbox, size), camera=camera)


def _cut(photo: Path, samples: list[Sample], size: int) -> list[Crop | PhotoError]:
    """The crop of each sample, or why there is none."""
    maps = [crop_map(sample.bbox, size).astype(np.float64) for sample in samples]
    step = min(map(reduction, maps))
    try:
        stored, tag, picture = _read(photo, step)
    except PhotoError as error:
        return [error] * len(samples)
    made: list[Crop | PhotoError] = []
    for sample, matrix in zip(samples, maps, strict=True):
        try:
            annotated, turn = _annotated(photo, stored, tag, sample.camera)
        except PhotoError as error:
            made.append(error)
            continue
        crop = cv2.warpAffine(picture, matrix @ turn @ enlargement(step), (size, size))
        data = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
        made.append(Crop(data, *annotated))
    return made


def _annotated(
    photo: Path, stored: tuple[int, int], tag: int, camera: Camera | None
) -> tuple[tuple[int, int], np.ndarray]:
    """Width and height of the picture that was annotated, and the map [3, 3] from px as stored to its own."""
    size = None if camera is None else (camera.width, camera.height)
    upright = upright_size(stored, tag)
    tagged = "" if tag == 1 else f", orientation tag {tag}"
    if size is not None and size not in (stored, upright):
        detail = f"found {stored[0]} x {stored[1]} px{tagged}, wanted {size[0]} x {size[1]} px"
        raise PhotoError(photo, "image of another size than annotated", detail)
    if tag == 1:
        return stored, np.eye(3)
    if size is None or stored == upright:
        detail = f"found orientation tag {tag}, wanted a picture stored upright, without one"
        raise PhotoError(photo, "image with an orientation tag, perhaps annotated as stored, perhaps upright", detail)
    return size, np.eye(3) if size == stored else upright_map(stored, tag)


def _read(path: Path, step: int) -> tuple[tuple[int, int], int, np.ndarray]:
    """Width and height, the orientation tag and the picture as stored, `step` times smaller."""
    try:
        data = read_bytes(path, LARGEST_FILE)
    except FileNotFoundError as error:
        raise PhotoError(path, "missing image", "no such file") from error
    except (SourceError, OSError) as error:
        raise PhotoError(path, "unreadable image", str(error)) from error
    try:
        width, height = photo_size(data)
        if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
            detail = f"found {width} x {height} px, wanted at most {LARGEST_SIDE} px a side"
            raise PhotoError(path, "image too large", detail)
        return (width, height), orientation(data), decode_photo(data, step)
    except PhotoError:
        raise
    except ValueError as error:
        raise PhotoError(path, "broken image", str(error)) from error
