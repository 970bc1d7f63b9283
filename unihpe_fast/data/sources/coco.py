"""COCO person keypoints (person_keypoints_{train,val}{2014,2017}.json): people in photographs, joints in 2D only."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unihpe_fast.data.bbox import MARGIN
from unihpe_fast.data.camera import Camera, unknown_camera
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.json_records import LARGEST, field_of, numbers_of, records
from unihpe_fast.data.formats.untrusted import photo_path
from unihpe_fast.data.joint_sets import COCO17, to_h36m17
from unihpe_fast.data.records import Sample
from unihpe_fast.data.sources import Reading, Request, Tally

LICENCE = (
    "Annotations: COCO Consortium, Creative Commons Attribution 4.0; the photographs are under the terms of use of "
    "Flickr. See cocodataset.org/#termsofuse."
)
JOINTS = 17


@dataclass(frozen=True)
class Options:
    min_keypoints: int = 1
    """people with fewer labelled keypoints, hidden ones among them, are left out; HRNet trains on 1 or more"""


@dataclass(frozen=True)
class Photo:
    """An entry of `images`; name: file_name, relative to the folder of the photographs."""

    name: str
    width: int
    height: int


@dataclass
class People:
    """The annotations that are kept, one after another in flat arrays, so that 300 thousand take little room.

    keypoints: 51 a person, x, y and visibility. boxes: 4 a person, as the file has them. photos: the ids in `images`.
    numbers: positions in `annotations`. ids: the annotations' own.
    """

    keypoints: array = field(default_factory=lambda: array("f"))
    boxes: array = field(default_factory=lambda: array("f"))
    numbers: array = field(default_factory=lambda: array("q"))
    ids: array = field(default_factory=lambda: array("q"))
    photos: list[int | str] = field(default_factory=list)


def read(inputs: Sequence[Path], options: Options, request: Request) -> Reading:
    """inputs: annotation files. request.images: the folder of the photographs, or the one of train2017 and the like.

    See data/sources/__init__.py. All of the annotations are read at once, the photographs are not. `frame` is the
    annotation's id.
    """
    if not 1 <= options.min_keypoints <= JOINTS:
        raise ValueError(f"min_keypoints: want 1 to {JOINTS}, got {options.min_keypoints}")
    if not inputs:
        raise ValueError("no input: want person_keypoints_*.json files")
    tally = Tally()
    parts = [_Part(path, options, request.images, tally) for path in inputs]
    return Reading(
        dataset="coco",
        licence=LICENCE,
        files=list(inputs),
        samples=(sample for part in parts for sample in part.samples()),
        tally=tally,
        total=sum(len(part.numbers) for part in parts),
    )


def square_boxes(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Centre and side [N, 3] px of the squares around boxes [N, 4], corner, width and height, as far as in the image.

    sizes: [N, 2], width and height of the images. A box's corners lie between pixels, and pixel centres are integers
    here, so the centre is half a pixel before the mean of the corners; HRNet's is too. The side is 0 or less for a box
    with nothing in the image.
    """
    low = boxes[:, :2].clip(min=0)
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], sizes)
    side = MARGIN * (high - low).max(1, keepdims=True) * ((high - low) > 0).all(1, keepdims=True)
    return np.concatenate([(low + high) / 2 - 0.5, side], axis=1)


class _Part:
    """One annotation file, checked; see Sample for the arrays' units. photos: of each sample."""

    def __init__(self, path: Path, options: Options, images: Path | None, tally: Tally) -> None:
        self.path = path
        self.root = None if images is None else photo_folder(images, path)
        photos, people = _parse(path, options, tally)
        self.photos = [_photo_of(path, people, row, photos) for row in range(len(people.photos))]
        self.numbers, self.ids = np.array(people.numbers, np.int64), np.array(people.ids, np.int64)

        keypoints = np.array(people.keypoints, np.float32).reshape(-1, JOINTS, 3)
        boxes = np.array(people.boxes, np.float32).reshape(-1, 4)
        visibility = keypoints[..., 2]
        wrong = ~np.isin(visibility, (0, 1, 2)).all(1)
        if wrong.any():
            row = int(wrong.argmax())
            where = f"{path}: annotations[{self.numbers[row]}]: keypoints"
            raise SourceError(f"{where}: found visibilities {visibility[row].tolist()}, wanted 0, 1 or 2")
        # hidden and visible joints are equally well placed; the coordinates of the others mean nothing
        keypoints[visibility == 0] = 0
        visibility[visibility > 0] = 1

        self.keypoints = to_h36m17(keypoints, COCO17)
        sizes = np.array([(photo.width, photo.height) for photo in self.photos], np.float32).reshape(-1, 2)
        self.boxes = square_boxes(boxes, sizes)
        boxed, jointed = self.boxes[:, 2] > 0, (self.keypoints[..., 2] > 0).any(1)
        tally.skip("", "", "no box in the image", int((~boxed).sum()))
        tally.skip("", "", "none of the 17 joints labelled", int((boxed & ~jointed).sum()))
        self._keep(boxed & jointed)

    def _keep(self, good: np.ndarray) -> None:
        self.photos = [photo for photo, kept in zip(self.photos, good, strict=True) if kept]
        self.numbers, self.ids = self.numbers[good], self.ids[good]
        self.keypoints, self.boxes = self.keypoints[good], self.boxes[good]

    def samples(self) -> Iterator[Sample]:
        cameras: dict[tuple[int, int], Camera] = {}
        for row, photo in enumerate(self.photos):
            size = photo.width, photo.height
            if size not in cameras:
                cameras[size] = unknown_camera(*size)
            where = f"{self.path}: annotations[{self.numbers[row]}]: file_name"
            yield Sample(
                keypoints_2d=self.keypoints[row],
                bbox=self.boxes[row],
                camera=cameras[size],
                photo=None if self.root is None else photo_path(self.root, photo.name, where),
                frame=int(self.ids[row]),
            )


def photo_folder(images: Path, annotations: Path) -> Path:
    """Where person_keypoints_train2017.json has its photographs: train2017 or images/train2017 below, or `images`."""
    split = annotations.stem.rsplit("_", 1)[-1]
    candidates = (images / split, images / "images" / split)
    return next((folder for folder in candidates if folder.is_dir()), images)


def _parse(path: Path, options: Options, tally: Tally) -> tuple[dict[int | str, Photo], People]:
    photos: dict[int | str, Photo] = {}
    people = People()
    found = set()
    for name, index, record in records(path):
        found.add(name)
        if name in ("images", "annotations") and not isinstance(record, dict):
            raise SourceError(f"{path}: {name}[{index}]: found {type(record).__name__}, wanted an object")
        if name == "images":
            _add_photo(photos, record, f"{path}: images[{index}]")
        elif name == "annotations":
            reason = _add_person(people, record, index, options.min_keypoints, f"{path}: annotations[{index}]")
            tally.skip("", "", reason, int(bool(reason)))
    missing = [key for key in ("images", "annotations") if key not in found]
    if missing:
        raise SourceError(f"{path}: no {' and no '.join(missing)}; want a person_keypoints_*.json of COCO")
    return photos, people


def _add_photo(photos: dict[int | str, Photo], record: dict[str, Any], where: str) -> None:
    key, name = field_of(record, "id", (int, str), where), field_of(record, "file_name", (str,), where)
    width, height = (field_of(record, side, (int,), where) for side in ("width", "height"))
    if not (0 < width <= LARGEST and 0 < height <= LARGEST):
        raise SourceError(f"{where}: width, height: found {[width, height]}, wanted the size of an image in px")
    if key in photos:
        raise SourceError(f"{where}: id: found {key!r} a second time, wanted each once")
    photos[key] = Photo(name, width, height)


def _add_person(people: People, record: dict[str, Any], index: int, least: int, where: str) -> str:
    """Why this annotation is left out, empty when it is not."""
    if record.get("iscrowd", 0) not in (0, 1):
        raise SourceError(f"{where}: iscrowd: found {record['iscrowd']!r}, wanted 0 or 1")
    if record.get("iscrowd"):
        return "crowd"
    keypoints = numbers_of(record, "keypoints", 3 * JOINTS, where)
    labelled = JOINTS - keypoints[2::3].count(0)
    if not labelled:
        return "no labelled keypoint"
    if labelled < least:
        return f"fewer than {least} labelled keypoints"
    key = field_of(record, "id", (int,), where) if "id" in record else index
    if not 0 <= key < 1 << 63:
        raise SourceError(f"{where}: id: found {key}, wanted 0 or more, of 63 bits")
    people.photos.append(field_of(record, "image_id", (int, str), where))
    people.boxes.extend(numbers_of(record, "bbox", 4, where))
    people.keypoints.extend(keypoints)
    people.numbers.append(index)
    people.ids.append(key)
    return ""


def _photo_of(path: Path, people: People, row: int, photos: dict[int | str, Photo]) -> Photo:
    key = people.photos[row]
    if key not in photos:
        raise SourceError(f"{path}: annotations[{people.numbers[row]}]: image_id: found {key!r}, which no image has")
    return photos[key]
