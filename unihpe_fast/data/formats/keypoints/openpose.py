"""OpenPose's JSON: a file a frame, `people[].pose_keypoints_2d`; 25, 18 or 15 keypoints, px or normalised."""

from typing import Any

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.json_records import document
from unihpe_fast.data.formats.keypoints.found import Found
from unihpe_fast.data.formats.keypoints.record import KEYPOINT_NAMES, Keypoints, People, ReadOptions, frame_numbers
from unihpe_fast.data.formats.keypoints.triples import identity, triples

LARGEST_FILE = 16 << 20
# the model MPI: head, neck, arms, legs as COCO-18 has them, and the chest
_MPI15 = ("head_top", *KEYPOINT_NAMES["openpose18"][1:14], "spine")


def recognises(found: Found) -> bool:
    return found.is_json and "people" in found.keys and found.head.lstrip()[:1] == "{" and "AlphaPose" not in found.head


def read(found: Found, options: ReadOptions) -> Keypoints:
    """A file, or the files of a folder; their last number is the frame where all have one, as a video's have.

    A file of a folder that cannot be read is left out: one broken frame does not end a video.
    """
    files = found.files[".json"]
    numbers = frame_numbers([file.name for file in files])
    sequence = found.folder and numbers is not None and not options.photographs
    people = People(found.path)
    for order, file in enumerate(files):
        try:
            content = _parse(file)
        except SourceError as error:
            if not found.folder:
                raise
            people.skipped[str(error)] += 1
            continue
        frame = order if numbers is None or not found.folder else numbers[order]
        picture = file.stem.removesuffix("_keypoints") if found.folder and not sequence else ""
        for index, person in enumerate(content):
            where = f"{file.name}: people[{index}]"
            if not isinstance(person, dict):
                raise SourceError(f"{found.path}: {where}: must be an object, got {type(person).__name__}")
            key = "pose_keypoints_2d" if "pose_keypoints_2d" in person else "pose_keypoints"
            if not person.get(key):
                people.skipped["people without a body"] += 1
                continue
            row = triples(person[key], f"{found.path}: {where}: {key}")
            people.add(row, frame, where, person=identity(person.get("person_id")), picture=picture)
    normal, signed = people.normalised()
    if normal:
        if signed:
            for row in people.rows:
                row[:, :2] = (row[:, :2] + 1) / 2
        # its writer divides by the width less one
        people.scale(options, edges=True)
    names = _MPI15 if people.rows and len(people.rows[0]) == len(_MPI15) else None
    return people.finished(options, frames=len(files), names=names, sequence=sequence)


def _parse(file: Any) -> list[Any]:
    content = document(file, LARGEST_FILE, "OpenPose")
    people = content.get("people") if isinstance(content, dict) else None
    if not isinstance(people, list):
        raise SourceError(f"{file}: people must be a list, got {type(people).__name__}")
    return people
