"""mmpose's predictions: lists of instances of a picture, of frames of a video, and what its demos save of either."""

from typing import Any

import numpy as np

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.json_records import document, records
from unihpe_fast.data.formats.keypoints.found import Found
from unihpe_fast.data.formats.keypoints.record import Keypoints, People, ReadOptions
from unihpe_fast.data.formats.keypoints.triples import identity, numbers

LARGEST_FILE = 1 << 30


def recognises(found: Found) -> bool:
    if "instance_info" in found.keys:
        return True
    record = found.record
    return isinstance(record, dict) and ("keypoint_scores" in record or {"frame_id", "instances"} <= set(record))


def read(found: Found, options: ReadOptions) -> Keypoints:
    """A file; or a folder with one a picture, which are not a video."""
    people = People(found.path)
    names: list[str] | None = None
    fps: float | None = None
    frames, sequence = 0, False
    for file in found.files[".json"]:
        listed, meta = _instances(file)
        names, fps = _names(meta) or names, _fps(meta, file) or fps
        start = frames
        of_video = [entry for entry in listed if isinstance(entry[1], dict) and "instances" in entry[1]]
        if not of_video:
            for where, instance in listed:
                _add(people, instance, start, where, "" if not found.folder else file.stem)
            frames += 1
            continue
        # what `predict --save-keypoints` adds: names of pictures, which are no video then, and their sizes
        sequence = not found.folder and not any("image_name" in entry for _, entry in of_video)
        for where, entry in of_video:
            frame = entry.get("frame_id")
            if not isinstance(frame, int) or isinstance(frame, bool) or not 0 <= frame < 1 << 53:
                raise SourceError(f"{found.path}: {where}: frame_id must be 0 or more, got {frame!r:.40}")
            if not isinstance(entry["instances"], list):
                raise SourceError(f"{found.path}: {where}: instances must be a list, got {entry['instances']!r:.40}")
            picture, size = entry.get("image_name", ""), _size(entry, f"{found.path}: {where}")
            if not isinstance(picture, str):
                raise SourceError(f"{found.path}: {where}: image_name must be a file name, got {picture!r:.40}")
            for index, instance in enumerate(entry["instances"]):
                _add(people, instance, start + frame, f"{where}: instances[{index}]", picture, size)
            frames += 1
        # the demos count from 1, the inferencer from 0
        first = min(entry["frame_id"] for _, entry in of_video)
        ours = any("image_size" in entry for _, entry in of_video)  # counted from 0, though the first may be lost
        if first == 1 and sequence and not ours:
            people.frame = [frame - 1 if frame >= start else frame for frame in people.frame]
    return people.finished(options, frames=frames, names=names, fps=fps if sequence else None, sequence=sequence)


def _instances(file: Any) -> tuple[list[tuple[str, Any]], dict[str, Any]]:
    """The records of a file, each with where it stands; and what a demo's file says of them all."""
    with file.open("rb") as opened:
        array = opened.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["
    if array:
        return [(f"[{index}]", record) for name, index, record in records(file, constants=True) if not name], {}
    content = document(file, LARGEST_FILE, "mmpose")
    info = content.get("instance_info") if isinstance(content, dict) else None
    if not isinstance(info, list):
        raise SourceError(f"{file}: instance_info must be a list, got {type(info).__name__}")
    meta = content.get("meta_info")
    return [(f"instance_info[{i}]", entry) for i, entry in enumerate(info)], meta if isinstance(meta, dict) else {}


def _names(meta: dict[str, Any]) -> list[str] | None:
    by_number = meta.get("keypoint_id2name")
    if not isinstance(by_number, dict):
        return None
    return [str(by_number[key]) for key in sorted(by_number, key=lambda k: int(k) if str(k).isdecimal() else 0)]


def _fps(meta: dict[str, Any], file: Any) -> float | None:
    fps = meta.get("fps")
    if fps is None:
        return None
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1e5:
        raise SourceError(f"{file}: meta_info: fps must be frames a second above 0, got {fps!r:.40}")
    return float(fps)


def _size(entry: dict[str, Any], where: str) -> tuple[int, int]:
    """Width and height of a frame, 0 where it does not say them."""
    size = entry.get("image_size", (0, 0))
    whole = isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int for side in size)
    if not whole or not all(0 <= side < 1 << 20 for side in size) or (size[0] > 0) != (size[1] > 0):
        raise SourceError(f"{where}: image_size must be width and height in px, got {size!r:.40}")
    return size[0], size[1]


def _add(people: People, instance: Any, frame: int, where: str, picture: str, size: tuple[int, int] = (0, 0)) -> None:
    if not isinstance(instance, dict) or "keypoints" not in instance:
        raise SourceError(f"{people.path}: {where}: must be an object with keypoints, got {instance!r:.60}")
    points = numbers(instance["keypoints"], f"{people.path}: {where}: keypoints")
    if points.ndim != 2 or points.shape[1] not in (2, 3):
        raise SourceError(f"{people.path}: {where}: keypoints must be [K, 2], got {list(points.shape)}")
    scores = np.ones(len(points))
    if "keypoint_scores" in instance:
        scores = numbers(instance["keypoint_scores"], f"{people.path}: {where}: keypoint_scores")
    if scores.shape != points.shape[:1]:
        raise SourceError(
            f"{people.path}: {where}: keypoint_scores must be [{len(points)}], as the keypoints, got "
            f"{list(scores.shape)}"
        )
    person = identity(instance.get("track_id", instance.get("instance_id")))
    joints = np.concatenate([points[:, :2], scores[:, None]], axis=1)
    people.add(joints, frame, where, person=person, picture=picture, size=size)
