"""COCO's keypoint results, a list of people by image, and its annotations, which know the pictures' names and sizes."""

from typing import Any

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.json_records import LARGEST, records
from unihpe_fast.data.formats.keypoints.found import Found
from unihpe_fast.data.formats.keypoints.record import Keypoints, People, ReadOptions
from unihpe_fast.data.formats.keypoints.triples import triples


def recognises(found: Found) -> bool:
    record = found.record
    if isinstance(record, dict):
        return "image_id" in record and not isinstance(record["image_id"], str) and "keypoints" in record
    return found.is_json and bool({"annotations", "images"} & found.keys)


def read(found: Found, options: ReadOptions) -> Keypoints:
    """The pictures are no video; each is a frame, in the order of their first person."""
    people = People(found.path)
    ids: list[Any] = []
    pictures: dict[Any, tuple[str, tuple[int, int]]] = {}
    names: list[str] | None = None
    for member, index, record in records(found.first, constants=True):
        where = f"{member}[{index}]"
        if member not in ("", "images", "annotations", "categories"):
            continue
        if not isinstance(record, dict):
            raise SourceError(f"{found.path}: {where}: must be an object, got {type(record).__name__}")
        if member == "images":
            key = _key(record, "id", f"{found.path}: {where}")
            pictures[key] = str(record.get("file_name", "")), _size(record)
        elif member == "categories":
            names = record["keypoints"] if isinstance(record.get("keypoints"), list) else names
        elif record.get("iscrowd"):
            people.skipped["crowds"] += 1
        elif record.get("keypoints"):
            key = _key(record, "image_id", f"{found.path}: {where}")
            row = triples(record["keypoints"], f"{found.path}: {where}: keypoints")
            # visibility 1 and 2 of annotations: hidden and visible joints are equally well placed
            row[:, 2] = row[:, 2].clip(max=1) if member else row[:, 2]
            people.add(row, 0, where)
            ids.append(key)
        else:
            people.skipped["people without keypoints"] += 1
    order = {key: frame for frame, key in enumerate(dict.fromkeys([*pictures, *ids]))}
    people.frame = [order[key] for key in ids]
    known = [pictures.get(key, (str(key), (0, 0))) for key in ids]
    people.picture, people.size = [name for name, _ in known], [size for _, size in known]
    named = names if names and all(isinstance(name, str) for name in names) and people.rows else None
    if named is not None and len(named) != len(people.rows[0]):
        raise SourceError(f"{found.path}: categories: keypoints must be {len(people.rows[0])} names, got {len(named)}")
    # COCO's own names are those of coco17; whoever adds a category names its keypoints
    return people.finished(options, frames=len(order), names=named, sequence=False)


def _key(record: dict[str, Any], name: str, where: str) -> int | str:
    key = record.get(name)
    if not isinstance(key, int | str):
        raise SourceError(f"{where}: {name} must be a number or a name, got {key!r:.80}")
    return key


def _size(record: dict[str, Any]) -> tuple[int, int]:
    sides = record.get("width"), record.get("height")
    if all(isinstance(side, int) and 0 < side <= LARGEST for side in sides):
        return sides  # type: ignore[return-value]
    return 0, 0
