"""AlphaPose's results: one list of people, or objects by picture in its "cmu" and "open" forms."""

from typing import Any

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.json_records import document, records
from unihpe_fast.data.formats.keypoints.found import Found
from unihpe_fast.data.formats.keypoints.record import Keypoints, People, ReadOptions, frame_numbers
from unihpe_fast.data.formats.keypoints.triples import identity, triples

LARGEST_FILE = 1 << 30


def recognises(found: Found) -> bool:
    if "AlphaPose" in found.head and found.is_json:
        return True
    record = found.record
    return isinstance(record, dict) and isinstance(record.get("image_id"), str) and "keypoints" in record


def read(found: Found, options: ReadOptions) -> Keypoints:
    """Pictures are frames of a video where their names are numbers ("0.jpg"), else pictures in the file's order."""
    people = People(found.path)
    pictures: list[str] = []
    entries = _from_list(found) if found.head.lstrip()[:1] == "[" else _from_objects(found, pictures)
    for picture, where, values, person in entries:
        row = triples(values, f"{found.path}: {where}")
        people.add(row, 0, where, person=person, picture=picture)
    # those without people are named by the objects only
    order = {name: index for index, name in enumerate(dict.fromkeys([*pictures, *people.picture]))}
    numbers = frame_numbers(list(order))
    people.frame = [order[name] if numbers is None else numbers[order[name]] for name in people.picture]
    return people.finished(options, frames=len(order), sequence=numbers is not None)


def _from_list(found: Found) -> Any:
    for name, index, record in records(found.first, constants=True):
        where = f"{name}[{index}]"
        if not isinstance(record, dict) or not isinstance(record.get("image_id"), str):
            raise SourceError(f"{found.path}: {where}: image_id must be the name of a picture, got {record!r:.60}")
        yield record["image_id"], f"{where}: keypoints", record.get("keypoints"), identity(record.get("idx"))


def _from_objects(found: Found, pictures: list[str]) -> Any:
    content = document(found.first, LARGEST_FILE, "AlphaPose")
    if not isinstance(content, dict):
        raise SourceError(f"{found.path}: must be an object by picture, got {type(content).__name__}")
    if "version" in content:
        # a file of one picture
        content = {found.first.stem: content}
    for picture, value in content.items():
        pictures.append(picture)
        kind, key = ("bodies", "joints")
        if isinstance(value, dict) and "people" in value:
            kind, key = ("people", "pose_keypoints_2d")
        bodies = value.get(kind) if isinstance(value, dict) else None
        if not isinstance(bodies, list) or not all(isinstance(body, dict) for body in bodies):
            raise SourceError(f"{found.path}: {picture}: {kind} must be a list of objects, got {value!r:.60}")
        for index, body in enumerate(bodies):
            yield picture, f"{picture}: {kind}[{index}]: {key}", body.get(key), -1
