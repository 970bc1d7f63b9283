"""Human3.6M (Ionescu et al. 2014): VideoPose3D's npz files, or the h5 tree of Martinez et al. (2017).

Inputs, in any order: data_3d_h36m.npz or the folder of the tree; for 2D points that are not to be the exact projections
also a data_2d_h36m_*.npz, or a folder of detections; for cameras other than this package's, metadata.xml. The joints
are kept in every camera that is asked for; 2D points are those of the file, or the projection by the camera's own lens
model. A sample's `frame` is the 0-based index in the video.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.camera import Camera, project
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.npz import open_npz
from unihpe_fast.data.joint_sets import H36M32, to_h36m17
from unihpe_fast.data.records import Sample
from unihpe_fast.data.skeleton import NUM_JOINTS
from unihpe_fast.data.sources import Reading, Request, Tally
from unihpe_fast.data.sources.h36m import npz as npz_files
from unihpe_fast.data.sources.h36m import tree as tree_files
from unihpe_fast.data.sources.h36m.cameras import CAMERA_IDS, SUBJECTS, Rigs, packaged_cameras, read_metadata
from unihpe_fast.data.sources.h36m.photos import frame_photos, no_photos
from unihpe_fast.data.sources.h36m.takes import (
    DAMAGED,
    DAMAGED_CAMERA,
    NUM_RAW_JOINTS,
    TAKES,
    TEST,
    TRAIN,
    Points,
    Take,
)

LICENCE = (
    "Human3.6M: academic, non-commercial use only, by the licence of http://vision.imar.ro/human3.6m, where the data "
    "is given out to registered users; neither the data nor what is made of it may be passed on"
)
GROUPS = {"train": TRAIN, "test": TEST, "all": TRAIN + TEST}


@dataclass(frozen=True)
class Options:
    subjects: str = "train"
    """train (S1 S5 S6 S7 S8), test (S9 S11), all, or names, comma-separated, e.g. S9,S11"""
    cameras: str = ""
    """of 54138969, 55011271, 58860488 and 60457274, comma-separated; empty: all"""
    step: int = 1
    """keep the frames whose 0-based index is a multiple of this; the image-based protocols have 5"""
    detections: str = ""
    """folder of 2D detections in each subject's of an h5 tree, e.g. StackedHourglass; empty: no detections"""
    s11_directions: bool = False
    """keep S11's Directions in the three cameras whose videos are whole, as the image-based protocols do"""


@dataclass
class _Found:
    """What the inputs hold. flat: takes of which there are 2D points alone. subjects: all there are, wanted or not."""

    subjects: set[str] = field(default_factory=set)
    takes: list[Take] = field(default_factory=list)
    flat: list[Take] = field(default_factory=list)
    points: Points | None = None
    rigs: Rigs = field(default_factory=packaged_cameras)
    files: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class _Shot:
    """A take in one camera. photo: from a 0-based frame to its file, None where there are no photographs."""

    camera_id: str
    camera: Camera
    frames: range
    photo: Callable[[int], Path] | None


def read(inputs: Sequence[Path], options: Options, request: Request) -> Reading:
    """inputs: see the module. See data/sources/__init__.py."""
    subjects, cameras = _subjects(options.subjects), _cameras(options.cameras)
    if options.step < 1:
        raise ValueError(f"step: want at least 1, got {options.step}")
    tally = Tally()
    found = _find(inputs, options.detections, subjects)
    plan = []
    for take in _choose(found, subjects, tally):
        whole = [camera_id for camera_id in cameras if not _damaged(take, camera_id, options.s11_directions)]
        frames = len(range(0, take.frames, options.step))
        tally.skip(take.subject, take.action, "damaged video", frames * (len(cameras) - len(whole)))
        if whole:
            plan.append((take, _shots(take, whole, found, options.step, request.images)))
    if request.images is not None and plan:
        _note_photos(request.images, plan, tally)
    return Reading(
        dataset="h36m",
        licence=LICENCE,
        files=found.files,
        samples=_samples(plan, found.points, tally),
        tally=tally,
        total=sum(len(shot.frames) for _, shots in plan for shot in shots),
    )


def _subjects(text: str) -> list[str]:
    names = GROUPS.get(text) or tuple(word.strip() for word in text.split(",") if word.strip())
    wrong = [name for name in names if name not in SUBJECTS]
    if wrong or not names:
        raise ValueError(f"subjects: want {', '.join(GROUPS)} or names such as S9,S11, got {text!r}")
    return list(dict.fromkeys(names))


def _cameras(text: str) -> list[str]:
    ids = [word.strip() for word in text.split(",") if word.strip()]
    wrong = [camera_id for camera_id in ids if camera_id not in CAMERA_IDS]
    if wrong:
        raise ValueError(f"cameras: want {', '.join(CAMERA_IDS)}, got {', '.join(wrong)}")
    return [camera_id for camera_id in CAMERA_IDS if camera_id in ids or not ids]


def _find(inputs: Sequence[Path], detections: str, subjects: Sequence[str]) -> _Found:
    """Sort the inputs by what they hold and open them."""
    found = _Found()
    joints: list[Path] = []
    points: list[npz_files.NpzPoints] = []
    roots: list[Path] = []
    metadata: list[Path] = []
    for path in inputs:
        if path.is_dir():
            roots.append(tree_files.tree_root(path))
            if there := tree_files.subjects_of(roots[-1]):
                joints.append(path)
                found.subjects |= there
                found.takes += tree_files.takes_3d(roots[-1], [subject for subject in subjects if subject in there])
            elif not tree_files.has_points(roots[-1], detections):
                raise SourceError(f"{path}: want the folder of an h5 tree, found no points of S1, S5 ..")
        elif path.suffix.lower() == ".xml":
            found.rigs, metadata = read_metadata(path), [path]
        elif path.suffix.lower() == ".npz":
            npz = open_npz(path)
            if npz_files.KEY_3D in npz.keys:
                joints.append(path)
                found.takes += npz_files.takes_3d(npz)
            elif npz_files.KEY_2D in npz.keys:
                points.append(npz_files.NpzPoints(npz))
            else:
                keys = ", ".join(sorted(npz.keys)) or "nothing"
                raise SourceError(f"{path}: want {npz_files.KEY_3D} or {npz_files.KEY_2D}, the keys are {keys}")
        elif path.exists():
            raise SourceError(f"{path}: want the folder of an h5 tree, an .npz or metadata.xml")
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
    if len(joints) != 1:
        names = ", ".join(map(str, joints)) or "none"
        raise SourceError(f"want one input with 3D joints, data_3d_h36m.npz or a folder of an h5 tree, got {names}")
    if len(points) + bool(detections) > 1:
        raise SourceError(f"want 2D points from one place, got {', '.join(str(given.files[0]) for given in points)}")
    if points:
        found.points = points[0]
        with_joints = {take.subject for take in found.takes}
        found.flat = [take for take in points[0].takes if take.subject not in with_joints]
    else:
        found.points = tree_files.tree_points(roots, subjects, detections)
    found.subjects |= {take.subject for take in (*found.takes, *found.flat)}
    found.files = [*dict.fromkeys(take.file for take in found.takes), *metadata]
    found.files += found.points.files if found.points else []
    return found


def _choose(found: _Found, subjects: Sequence[str], tally: Tally) -> list[Take]:
    """The takes of the wanted subjects; SourceError for one of whom there is none."""
    chosen = []
    for subject in subjects:
        takes = [take for take in (*found.takes, *found.flat) if take.subject == subject]
        if not takes:
            there = ", ".join(name for name in SUBJECTS if name in found.subjects)
            raise SourceError(f"subjects: there is nothing of {subject} in the input, only {there or 'nobody'}")
        # VideoPose3D's files are without the damaged one
        left_out = subject == DAMAGED[0] and DAMAGED[1] not in (take.action for take in takes)
        if len(takes) != TAKES - left_out:
            tally.notes.append(f"{subject}: {len(takes)} recordings, the dataset has {TAKES - left_out}")
        chosen += sorted(takes, key=lambda take: take.action)
    return chosen


def _damaged(take: Take, camera_id: str, keep_whole: bool) -> bool:
    return (take.subject, take.action) == DAMAGED and not (keep_whole and camera_id != DAMAGED_CAMERA)


def _shots(take: Take, cameras: Sequence[str], found: _Found, step: int, images: Path | None) -> list[_Shot]:
    """The take in each camera; SourceError where there are fewer 2D points than joints."""
    shots = []
    for camera_id in cameras:
        camera, count = found.rigs[take.subject][camera_id], take.frames
        if take.load and camera.rotation is None:
            raise SourceError(f"{take.where}: no place of camera {camera_id} is known for it; give metadata.xml")
        if found.points:
            length = found.points.length(take, camera_id)
            if length < take.frames:
                where = found.points.where(take, camera_id)
                raise SourceError(f"{where}: {length} frames, want at least the {take.frames} of the 3D joints")
            count = take.frames if take.load else length
        frames = range(0, count, step)
        photo = None if images is None else frame_photos(images, take, camera_id, frames)
        shots.append(_Shot(camera_id, camera, frames, photo))
    return shots


def _note_photos(images: Path, plan: list[tuple[Take, list[_Shot]]], tally: Tally) -> None:
    """Say which recordings have no photographs; SourceError when none has."""
    lacking = [f"{take.name} {shot.camera_id}" for take, shots in plan for shot in shots if shot.photo is None]
    if len(lacking) == sum(len(shots) for _, shots in plan):
        raise no_photos(images, plan[0][0], plan[0][1][0].camera_id)
    if lacking:
        some = ", ".join(lacking[:5]) + (", .." if len(lacking) > 5 else "")
        tally.notes.append(f"{images}: no photographs of {len(lacking)} recordings: {some}")


def _samples(plan: list[tuple[Take, list[_Shot]]], points: Points | None, tally: Tally) -> Iterator[Sample]:
    """A take at a time is in memory."""
    for take, shots in plan:
        world = take.load() if take.load else None
        for shot in shots:
            yield from _film(take, shot, world, points, tally)


def _film(take: Take, shot: _Shot, world: np.ndarray | None, points: Points | None, tally: Tally) -> Iterator[Sample]:
    """The samples of a take in one camera. world: [F, 32, 3] mm, None where there are 2D points alone."""
    frames = np.array(shot.frames, dtype=np.int64)
    joints = _in_camera(world, frames, shot.camera)
    keypoints = points.read(take, shot.camera_id)[frames] if points else _projected(joints, shot.camera)
    keypoints = keypoints.astype(np.float32)
    front = ((joints[..., 2] > 0) | (joints[..., 3] == 0)).all(-1)
    tally.skip(take.subject, take.action, "joint behind the camera", int((~front).sum()))
    spread = front & (_extent(keypoints) > 0)
    tally.skip(take.subject, take.action, "fewer than two 2D joints", int((front & ~spread).sum()))
    frames, joints, keypoints = frames[spread], joints[spread].astype(np.float32), keypoints[spread]
    boxes = square_bbox(keypoints)
    for row, frame in enumerate(frames.tolist()):
        yield Sample(
            bbox=boxes[row],
            keypoints_2d=keypoints[row],
            joints_3d=None if world is None else joints[row],
            camera=shot.camera,
            photo=shot.photo(frame) if shot.photo else None,
            subject=take.subject,
            action=take.action,
            camera_id=shot.camera_id,
            frame=frame,
        )


def _in_camera(world: np.ndarray | None, frames: np.ndarray, camera: Camera) -> np.ndarray:
    """[N, 17, 4] float64: camera-space mm and validity of the joints [F, 32, 3]; zeros where there are none."""
    if world is None or camera.rotation is None or camera.translation is None:
        return np.zeros((len(frames), NUM_JOINTS, 4))
    ones = np.ones((len(frames), NUM_RAW_JOINTS, 1))
    joints = to_h36m17(np.concatenate([world[frames], ones], axis=-1), H36M32)
    joints[..., :3] = joints[..., :3] @ camera.rotation.T + camera.translation
    return joints


def _projected(joints: np.ndarray, camera: Camera) -> np.ndarray:
    """[N, 17, 3] px and confidence of joints [N, 17, 4]; of those behind the camera it means nothing."""
    pixels = project(torch.from_numpy(joints[..., :3]), torch.from_numpy(camera.vector)).numpy()
    return np.concatenate([pixels, joints[..., 3:]], axis=-1)


def _extent(keypoints: np.ndarray) -> np.ndarray:
    """[N] px: the larger side of what the found joints of [N, 17, 3] span; 0 or less where they span nothing."""
    found = keypoints[..., 2:] > 0
    low = np.where(found, keypoints[..., :2], np.inf).min(-2)
    high = np.where(found, keypoints[..., :2], -np.inf).max(-2)
    return (high - low).max(-1)
