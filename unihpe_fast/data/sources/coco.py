"""People in photographs, joints in 2D only, in COCO's annotation format.

COCO itself (person_keypoints_{train,val}{2014,2017}.json) and others that use its format: CrowdPose, PoseTrack 2018,
Halpe, Human3.6M. Whose keypoint is where is taken from the names in `categories[].keypoints` (data/joint_sets.py).
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unihpe_fast.data.bbox import MARGIN, square_bbox
from unihpe_fast.data.camera import Camera, unknown_camera
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.json_records import LARGEST, field_of, numbers_of, records
from unihpe_fast.data.formats.untrusted import photo_path
from unihpe_fast.data.joint_sets import COCO17, KEYPOINT_NAMES, JointMap, joint_map, to_h36m17
from unihpe_fast.data.records import Sample
from unihpe_fast.data.skeleton import NUM_JOINTS
from unihpe_fast.data.sources import Reading, Request, Tally
from unihpe_fast.data.sources.photo_names import found_layout

LICENCE = (
    "Annotations: COCO Consortium, Creative Commons Attribution 4.0; the photographs are under the terms of use of "
    "Flickr. See cocodataset.org/#termsofuse."
)
JOINTS = 17
# of COCO's format, whatever the dataset has
MOST_KEYPOINTS = 1000


@dataclass(frozen=True)
class Options:
    min_keypoints: int = 1
    """people with fewer labelled keypoints, hidden ones among them, are left out; HRNet trains on 1 or more"""


@dataclass(frozen=True)
class Photo:
    """An entry of `images`: file_name, relative to the folder of the photographs, and its size in px, 0 for unknown."""

    name: str
    width: int
    height: int


@dataclass(frozen=True)
class Category:
    """An entry of `categories`: its name, whether it is one of animals, and its keypoints' names, None without any."""

    name: str
    animal: bool
    keypoints: list[str] | None
    where: str


@dataclass
class People:
    """The annotations that are kept, one after another in flat arrays, so that 300 thousand take little room.

    keypoints: x, y and visibility, as many as each person has. starts: where in it each person begins, and the end.
    boxes: 4 a person, as the file has them, NaN where it has none. photos: the ids in `images`. categories: their ids,
    None where the annotation names none. numbers: positions in `annotations`. ids: the annotations' own.
    """

    keypoints: array = field(default_factory=lambda: array("f"))
    starts: array = field(default_factory=lambda: array("q", [0]))
    boxes: array = field(default_factory=lambda: array("f"))
    numbers: array = field(default_factory=lambda: array("q"))
    ids: array = field(default_factory=lambda: array("q"))
    photos: list[int | str] = field(default_factory=list)
    categories: list[int | str | None] = field(default_factory=list)


def read(inputs: Sequence[Path], options: Options, request: Request) -> Reading:
    """inputs: annotation files. request.images: the folder that `file_name` is relative to, or the one of train2017 and
    the like, where that holds the photographs.

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
        photos, people, categories = _parse(path, options, tally)
        self.photos = [_photo_of(path, people, row, photos) for row in range(len(people.photos))]
        self.numbers, self.ids = np.array(people.numbers, np.int64), np.array(people.ids, np.int64)

        self.keypoints, left_out = _h36m17(path, people, categories, tally)
        boxes = np.array(people.boxes, np.float32).reshape(-1, 4)
        sizes = np.array([(photo.width or np.inf, photo.height or np.inf) for photo in self.photos], np.float32)
        self.boxes = square_boxes(boxes, sizes.reshape(-1, 2))
        boxless = np.isnan(boxes).any(1)
        self.boxes[boxless] = _boxes_of_joints(self.keypoints[boxless])
        boxed, jointed = self.boxes[:, 2] > 0, (self.keypoints[..., 2] > 0).any(1)
        tally.skip("", "", "no box in the image", int((~left_out & ~boxless & ~boxed).sum()))
        tally.skip("", "", "none of the 17 joints labelled", int((~left_out & (boxed | boxless) & ~jointed).sum()))
        tally.skip("", "", "no bbox, and joints that span none", int((boxless & jointed & ~boxed).sum()))
        self._keep(~left_out & boxed & jointed)
        self._root = images
        # person_keypoints_train2017.json has its photographs in train2017, after COCO's own archives
        split = path.stem.rsplit("_", 1)[-1].replace("{", "").replace("}", "")
        layouts = ("{}", f"{split}/{{}}", f"images/{split}/{{}}")
        self._layout = layouts[0] if images is None else found_layout(layouts, len(self.photos), self._photo)

    def _photo(self, layout: str, row: int) -> Path:
        assert self._root is not None
        where = f"{self.path}: annotations[{self.numbers[row]}]: file_name"
        return photo_path(self._root, layout.format(self.photos[row].name), where)

    def _keep(self, good: np.ndarray) -> None:
        self.photos = [photo for photo, kept in zip(self.photos, good, strict=True) if kept]
        self.numbers, self.ids = self.numbers[good], self.ids[good]
        self.keypoints, self.boxes = self.keypoints[good], self.boxes[good]

    def samples(self) -> Iterator[Sample]:
        cameras: dict[tuple[int, int], Camera] = {}
        for row, photo in enumerate(self.photos):
            size = photo.width, photo.height
            if size not in cameras and all(size):
                cameras[size] = unknown_camera(*size)
            yield Sample(
                keypoints_2d=self.keypoints[row],
                bbox=self.boxes[row],
                camera=cameras.get(size),
                photo=None if self._root is None else self._photo(self._layout, row),
                frame=int(self.ids[row]),
            )


def _h36m17(
    path: Path, people: People, categories: dict[int | str, Category], tally: Tally
) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints [N, 17, 3] of H36M-17, each category's by its own names, and which annotations are left out, [N] bool.

    Hidden and visible joints are equally well placed: the confidence of both is 1, that of others 0.
    """
    count = len(people.numbers)
    result, left_out = np.zeros((count, NUM_JOINTS, 3), np.float32), np.zeros(count, bool)
    flat, starts = np.array(people.keypoints, np.float32), np.array(people.starts, np.int64)
    rows_of: dict[int | str | None, list[int]] = {}
    for row, key in enumerate(people.categories):
        rows_of.setdefault(key, []).append(row)
    for key, found in rows_of.items():
        rows = np.array(found)
        first = f"{path}: annotations[{people.numbers[found[0]]}]"
        category = _category(key, categories, first)
        if category is not None and (category.animal or (category.keypoints is None and _named(categories))):
            reason = "is one of animals" if category.animal else "has no names of its keypoints"
            tally.skip("", "", f"category {category.name!r}, which {reason}", len(rows))
            left_out[rows] = True
            continue
        size, mapped = _map_of(path, category, tally)
        lengths = starts[rows + 1] - starts[rows]
        if (lengths != 3 * size).any():
            row = int(rows[(lengths != 3 * size).argmax()])
            where = f"{path}: annotations[{people.numbers[row]}]: keypoints"
            raise SourceError(f"{where}: found {starts[row + 1] - starts[row]} values, wanted {3 * size}")
        keypoints = flat[starts[rows][:, None] + np.arange(3 * size)].reshape(-1, size, 3)
        visibility = keypoints[..., 2]
        wrong = ~np.isin(visibility, (0, 1, 2)).all(1)
        if wrong.any():
            at = int(wrong.argmax())
            where = f"{path}: annotations[{people.numbers[rows[at]]}]: keypoints"
            raise SourceError(f"{where}: found visibilities {visibility[at].tolist()}, wanted 0, 1 or 2")
        # the coordinates of those that are not labelled mean nothing
        keypoints[visibility == 0] = 0
        visibility[visibility > 0] = 1
        result[rows] = to_h36m17(keypoints, mapped)
    return result, left_out


def _named(categories: dict[int | str, Category]) -> bool:
    return any(category.keypoints is not None for category in categories.values())


def _category(key: int | str | None, categories: dict[int | str, Category], where: str) -> Category | None:
    """That of an annotation, None for a file without categories."""
    if key is None:
        named = [category for category in categories.values() if category.keypoints is not None]
        if len(named) > 1:
            raise SourceError(f"{where}: category_id: found nothing, wanted one of {list(categories)}")
        return named[0] if named else next(iter(categories.values()), None)
    if categories and key not in categories:
        raise SourceError(f"{where}: category_id: found {key!r}, which no category has")
    return categories.get(key)


def _map_of(path: Path, category: Category | None, tally: Tally) -> tuple[int, JointMap]:
    """How many keypoints a category has, and which joints they are."""
    if category is None or category.keypoints is None:
        tally.notes.append(f"{path}: no categories[].keypoints says whose the keypoints are; taken for COCO's 17")
        return JOINTS, COCO17
    try:
        found = joint_map(category.keypoints)
    except ValueError as error:
        raise SourceError(f"{category.where}: {error}") from error
    if tuple(category.keypoints) != KEYPOINT_NAMES["coco17"]:
        count = len(category.keypoints)
        tally.notes.append(
            f"{path}: category {category.name!r}: {count} keypoints other than COCO's, read by their names"
        )
    return len(category.keypoints), found


def _boxes_of_joints(keypoints: np.ndarray) -> np.ndarray:
    """Centre and side [N, 3] px around keypoints [N, 17, 3], whose side is 0 where they span nothing."""
    boxes = np.zeros((len(keypoints), 3), np.float32)
    for row, joints in enumerate(keypoints):
        if len(np.unique(joints[joints[:, 2] > 0, :2], axis=0)) > 1:
            boxes[row] = square_bbox(joints)
    return boxes


def _parse(
    path: Path, options: Options, tally: Tally
) -> tuple[dict[int | str, Photo], People, dict[int | str, Category]]:
    photos: dict[int | str, Photo] = {}
    categories: dict[int | str, Category] = {}
    people = People()
    found = set()
    for name, index, record in records(path):
        found.add(name)
        where = f"{path}: {name}[{index}]"
        if name in ("images", "annotations", "categories") and not isinstance(record, dict):
            raise SourceError(f"{where}: found {type(record).__name__}, wanted an object")
        if name == "images":
            _add_photo(photos, record, where)
        elif name == "categories":
            _add_category(categories, record, where)
        elif name == "annotations":
            reason = _add_person(people, record, index, options.min_keypoints, where)
            tally.skip("", "", reason, int(bool(reason)))
    missing = [key for key in ("images", "annotations") if key not in found]
    if missing:
        raise SourceError(f"{path}: no {' and no '.join(missing)}; want a person_keypoints_*.json of COCO")
    return photos, people, categories


def _add_category(categories: dict[int | str, Category], record: dict[str, Any], where: str) -> None:
    key = field_of(record, "id", (int, str), where)
    names = record.get("keypoints")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise SourceError(f"{where}: keypoints: found {str(names)[:60]}, wanted a list of names")
    if key in categories:
        raise SourceError(f"{where}: id: found {key!r} a second time, wanted each once")
    animal = str(record.get("supercategory", "")).lower() == "animal"
    categories[key] = Category(str(record.get("name", key)), animal, names or None, f"{where}: keypoints")


def _add_photo(photos: dict[int | str, Photo], record: dict[str, Any], where: str) -> None:
    key, name = field_of(record, "id", (int, str), where), field_of(record, "file_name", (str,), where)
    width = height = 0
    # PoseTrack's files do not have them
    if record.get("width") is not None or record.get("height") is not None:
        width, height = (field_of(record, side, (int,), where) for side in ("width", "height"))
        if not (0 < width <= LARGEST and 0 < height <= LARGEST):
            raise SourceError(f"{where}: width, height: found {[width, height]}, wanted the size of an image in px")
    if key in photos:
        raise SourceError(f"{where}: id: found {key!r} a second time, wanted each once")
    photos[key] = Photo(name, width, height)


def _add_person(people: People, record: dict[str, Any], index: int, least: int, where: str) -> str:
    """Why this annotation is left out, empty when it is not."""
    if record.get("iscrowd") not in (0, 1, None):
        raise SourceError(f"{where}: iscrowd: found {record['iscrowd']!r}, wanted 0 or 1")
    if record.get("iscrowd"):
        return "crowd"
    # of things, and of people whose joints nobody looked for
    if record.get("keypoints") in (None, []):
        return "no keypoints"
    size = len(field_of(record, "keypoints", (list,), where))
    if size % 3 or size > 3 * MOST_KEYPOINTS:
        raise SourceError(f"{where}: keypoints: found {size} values, wanted x, y and visibility of each")
    keypoints = numbers_of(record, "keypoints", size, where)
    labelled = size // 3 - keypoints[2::3].count(0)
    if not labelled:
        return "no labelled keypoint"
    if labelled < least:
        return f"fewer than {least} labelled keypoints"
    key = field_of(record, "id", (int,), where) if record.get("id") is not None else index
    if not 0 <= key < 1 << 63:
        raise SourceError(f"{where}: id: found {key}, wanted 0 or more, of 63 bits")
    boxless = record.get("bbox") in (None, [])
    box = array("f", [np.nan] * 4) if boxless else numbers_of(record, "bbox", 4, where)
    given = record.get("category_id") is not None
    category = field_of(record, "category_id", (int, str), where) if given else None
    people.photos.append(field_of(record, "image_id", (int, str), where))
    people.categories.append(category)
    people.boxes.extend(box)
    people.keypoints.extend(keypoints)
    people.starts.append(len(people.keypoints))
    people.numbers.append(index)
    people.ids.append(key)
    return ""


def _photo_of(path: Path, people: People, row: int, photos: dict[int | str, Photo]) -> Photo:
    key = people.photos[row]
    if key not in photos:
        raise SourceError(f"{path}: annotations[{people.numbers[row]}]: image_id: found {key!r}, which no image has")
    return photos[key]
