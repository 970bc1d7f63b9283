"""Landmarks of MediaPipe's (BlazePose's) 33 as people save them, in JSON or CSV: x, y in [0, 1] and visibility."""

import csv
import re
from typing import Any

import numpy as np

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.json_records import document
from unihpe_fast.data.formats.keypoints.found import Found
from unihpe_fast.data.formats.keypoints.record import KEYPOINT_NAMES, Keypoints, People, ReadOptions
from unihpe_fast.data.formats.untrusted import csv_rows, read_bytes, whole_number
from unihpe_fast.data.joint_sets import canonical_name

LARGEST_FILE = 1 << 30
NAMES = KEYPOINT_NAMES["mediapipe33"]
_COUNT = len(NAMES)
_LANDMARKS = ("pose_landmarks", "poseLandmarks", "landmarks", "keypoints", "pose")
_FRAME = ("frame", "frame_id", "frame_number", "frame_index", "frame_idx", "frameNumber")
_NUMBER = ("landmark", "landmark_id", "landmark_index", "landmark_name", "index", "idx", "id", "joint", "name")
_SEEN = ("visibility", "vis", "v", "presence", "confidence", "score")
_INDEX = {canonical_name(name): index for index, name in enumerate(NAMES)}


def recognises(found: Found) -> bool:
    if found.is_json:
        return {"x", "y"} <= found.keys and bool({"visibility", "z", *_LANDMARKS} & found.keys)
    return found.suffix in (".csv", ".tsv") and _columns(found) is not None


def read(found: Found, options: ReadOptions) -> Keypoints:
    """A file. Coordinates above 1 are px; those within [0, 1] want the pictures' size.

    JSON: any nesting of lists and objects around lists of 33 landmarks; each list or object around one is a frame. CSV:
    a row a frame with columns x0, y0, .. or nose_x, nose_y, .., or a row a landmark with its number or name.
    """
    people = People(found.path)
    frames = _read_json(found, people) if found.is_json else _read_csv(found, people)
    if people.normalised()[0]:
        if people.share_below(0.0) > 0.25:
            raise SourceError(
                f"{found.path}: coordinates must be those of the picture, px or in [0, 1], got many below 0, as world "
                "landmarks, in m from the hips, have them"
            )
        people.scale(options)
    return people.finished(options, frames=frames, names=NAMES, sequence=frames > 1)


def _read_json(found: Found, people: People) -> int:
    content = _inside(document(found.first, LARGEST_FILE))
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list | dict)]
        by_frame = all(key.isdecimal() for key in content)
        if not by_frame and len(lists) != 1:
            raise SourceError(f"{found.path}: must hold frames of landmarks, got an object of {', '.join(content)}")
        content = list(content.values()) if by_frame else lists[0]
    if not isinstance(content, list):
        raise SourceError(f"{found.path}: must hold a list of frames, got {type(content).__name__}")
    frames = [content] if _is_person(content) else content
    for order, entry in enumerate(frames):
        number = next((entry[key] for key in _FRAME if key in entry), order) if isinstance(entry, dict) else order
        frame = number if isinstance(number, int) and 0 <= number < 1 << 62 else order
        inside = _inside(entry)
        persons = [inside] if _is_person(inside) else inside
        if persons is None or persons == {}:
            persons = []
        if not isinstance(persons, list) or not all(_is_person(person) for person in persons):
            raise SourceError(f"{found.path}: frame {order}: must be lists of {_COUNT} landmarks, got {entry!r:.80}")
        for index, person in enumerate(persons):
            where = f"frame {order}, person {index}"
            people.add([_landmark(found, where, landmark) for landmark in person], frame, where)
    return len(frames)


def _inside(value: Any) -> Any:
    """What an object has for its landmarks, world landmarks not among them; other values as they are."""
    while isinstance(value, dict):
        key = next((key for key in _LANDMARKS if key in value), None)
        if key is None:
            return value
        value = value[key]
    return value


def _is_person(value: Any) -> bool:
    return isinstance(value, list) and len(value) == _COUNT and all(isinstance(v, dict) and "x" in v for v in value)


def _landmark(found: Found, where: str, landmark: dict[str, Any]) -> tuple[float, float, float]:
    seen = next((landmark[key] for key in _SEEN if key in landmark), 1.0)
    values = landmark.get("x"), landmark.get("y"), seen
    if not all(isinstance(v, int | float) or v is None for v in values):
        raise SourceError(f"{found.path}: {where}: landmarks must have numbers x, y, visibility, got {landmark!r:.60}")
    x, y, c = (np.nan if v is None else float(v) for v in values)
    return x, y, c


def _columns(found: Found) -> dict[str, Any] | None:
    """What the columns of a CSV are; None where they are not MediaPipe's.

    long: names of the columns frame (None: none), landmark, x, y, seen (None). wide: of landmarks 0 .. 32 [x, y, seen].
    """
    head = found.head.splitlines()
    header = next(csv.reader(head[:1], delimiter=_delimiter(head)), []) if head else []
    at = {name.strip().lower(): index for index, name in enumerate(header)}
    frame = next((at[key.lower()] for key in _FRAME if key.lower() in at), None)
    person = next((at[key] for key in ("person", "person_id", "pose_id", "track_id") if key in at), None)
    if "x" in at and "y" in at:
        number = next((at[key] for key in _NUMBER if key in at), None)
        seen = next((at[key] for key in _SEEN if key in at), None)
        return None if number is None else {
            "frame": frame, "person": person, "long": (number, at["x"], at["y"], seen)
        }  # fmt: skip
    found_columns: dict[int, dict[str, int]] = {}
    bases = []
    for name, index in at.items():
        match = re.fullmatch(r"([xyv])_?(\d+)|(\d+)_([xyv])|(.+?)[_. -](x|y|v|visibility|confidence|score)", name)
        if not match:
            continue
        if match[5]:
            landmark = _INDEX.get(canonical_name(re.sub(r"^(landmark|pose)[_. -]", "", match[5])))
            digits = re.fullmatch(r"(?:landmark|lm|kp|point)?[_. -]?(\d+)", match[5])
            if landmark is None and digits:
                landmark = int(digits[1])
                bases.append(landmark)
        else:
            landmark = int(match[2] or match[3])
            bases.append(landmark)
        if landmark is not None:
            kind = (match[1] or match[4] or match[6])[0]
            found_columns.setdefault(landmark, {})[{"c": "v", "s": "v"}.get(kind, kind)] = index
    base = min(bases, default=0)
    whole = {number - base: c for number, c in found_columns.items() if {"x", "y"} <= set(c)}
    if base > 1 or set(whole) != set(range(_COUNT)):
        return None
    return {"frame": frame, "person": person, "wide": [whole[number] for number in range(_COUNT)]}


def _delimiter(lines: list[str]) -> str:
    first = lines[0] if lines else ""
    return max((",", ";", "\t"), key=first.count)


def _read_csv(found: Found, people: People) -> int:
    columns = _columns(found)
    if columns is None:
        raise SourceError(f"{found.path}: columns must be x, y, visibility of {_COUNT} landmarks, got {found.head:.80}")
    text = read_bytes(found.first, LARGEST_FILE).decode("utf-8-sig", errors="replace").splitlines()
    rows = [row for _, row in csv_rows(text, _delimiter(text), found.path)][1:]
    frames: dict[int, None] = {}
    one: dict[tuple[int, int], np.ndarray] = {}

    def cell(row: list[str], column: int | None, line: int, missing: float) -> float:
        if column is None:
            return missing
        text = row[column].strip() if column < len(row) else ""
        try:
            return float(text) if text else np.nan
        except ValueError:
            raise SourceError(f"{found.path}: line {line}: must be a number, got {text!r:.40}") from None

    def key_of(row: list[str], line: int, order: int) -> tuple[int, int]:
        numbers = [cell(row, columns[name], line, default) for name, default in (("frame", order), ("person", -1))]
        if not all(abs(number) < 1 << 53 for number in numbers) or numbers[0] < 0:
            raise SourceError(f"{found.path}: line {line}: frame and person must be whole numbers, got {numbers}")
        return int(numbers[0]), int(numbers[1])

    order = 0
    for line, row in enumerate(rows, 2):
        if not any(text.strip() for text in row):
            continue
        if "wide" in columns:
            key = key_of(row, line, order)
            one[key] = np.array(
                [[cell(row, c["x"], line, 0), cell(row, c["y"], line, 0), cell(row, c.get("v"), line, 1.0)]
                 for c in columns["wide"]]
            )  # fmt: skip
            order += 1
        else:
            number, x, y, seen = columns["long"]
            text_number = row[number].strip() if number < len(row) else ""
            landmark = whole_number(text_number)
            if landmark is None:
                landmark = _INDEX.get(canonical_name(text_number), -1)
            if not 0 <= landmark < _COUNT:
                raise SourceError(f"{found.path}: line {line}: landmark must be of the {_COUNT}, got {text_number!r}")
            # without a column of frames, each first landmark begins one
            order += int(landmark == 0)
            key = key_of(row, line, max(order - 1, 0))
            joints = one.setdefault(key, np.full((_COUNT, 3), np.nan))
            joints[landmark] = cell(row, x, line, 0), cell(row, y, line, 0), cell(row, seen, line, 1.0)
        frames[key[0]] = None
    for (frame, person), joints in one.items():
        # an empty cell is a keypoint that was not found
        joints[np.isnan(joints).any(1)] = 0
        people.add(joints, frame, f"frame {frame}", person=person)
    return len(frames)
