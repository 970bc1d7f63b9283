"""MPI-INF-3DHP (Mehta et al. 2017) as distributed: the training set S1 .. S8, or the test set TS1 .. TS6.

The photographs are the videos' frames, S1/Seq1/imageFrames/video_0/frame_000001.jpg, and the test set's
TS1/imageSequence/img_000001.jpg. A sample's `frame` is the 0-based index. The box is that of the 2D joints.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.camera import Camera, unknown_camera
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.skeletool import read_calibration
from unihpe_fast.data.records import Sample
from unihpe_fast.data.skeleton import NUM_JOINTS
from unihpe_fast.data.sources import Reading, Request, Tally
from unihpe_fast.data.sources.mpi_inf_3dhp.files import (
    ACTIVITIES,
    CAMERAS,
    Poses,
    fit_camera,
    read_test,
    read_train,
    train_variables,
)

LICENCE = (
    "MPI-INF-3DHP: for non-commercial scientific research, by the licence that comes with it. See "
    "vcai.mpi-inf.mpg.de/3dhp-dataset."
)
TEST_SIZES = {f"TS{k}": (2048, 2048) if k <= 4 else (1920, 1080) for k in range(1, 7)}
TEST_FOLDERS = ("", "mpi_inf_3dhp_test_set", "test")
TRAIN_FOLDERS = ("", "train")
TRUE_SIZE, UNIVERSAL = "annot3", "univ_annot3"


@dataclass(frozen=True)
class Options:
    joints: Literal["annot3", "univ_annot3"] | None = None
    """3D joints of the true size, or of a person scaled to one size; by default annot3 for the training set, on which
    SPIN and mmpose train, and univ_annot3 for the test set, by which its protocol scores"""
    cameras: str = "0,1,2,4,5,6,7,8"
    """training set: numbers of the cameras, comma-separated; the default are those that SPIN and mmpose take"""
    step: int = 10
    """training set: keep the frames whose 0-based index is a multiple of this; the default is SPIN's"""


@dataclass(frozen=True)
class Shot:
    """What one camera saw, and the file of each frame; None: there are no photographs."""

    poses: Poses
    camera: Camera
    camera_id: str
    subject: str
    actions: Sequence[str]
    photo: Callable[[int], Path] | None


def read(inputs: Sequence[Path], options: Options, request: Request) -> Reading:
    """inputs: the folder of the training or of the test set, or some of their folders S1 or TS1.

    request.images: the folder that holds S1 .. S8, or mpi_inf_3dhp_test_set or TS1 .. TS6. See
    data/sources/__init__.py.
    """
    cameras = _cameras(options.cameras)
    if options.step < 1:
        raise ValueError(f"step: want at least 1, got {options.step}")
    train, test = _find(inputs)
    tally = Tally()
    if test:
        return _read_test(test, options.joints or UNIVERSAL, request.images, tally)
    key = options.joints or TRUE_SIZE
    sequences = [_Sequence(path, key, cameras, options.step, request.images) for path in train]
    return Reading(
        dataset="mpi-inf-3dhp",
        licence=LICENCE,
        files=[path for sequence in sequences for path in (sequence.path, sequence.calibration)],
        samples=(
            sample for sequence in sequences for shot in sequence.shots() for sample in film(shot, tally, inside=True)
        ),
        tally=tally,
    )


def film(shot: Shot, tally: Tally, *, inside: bool) -> Iterator[Sample]:
    """The samples of a shot; what is left out is counted. inside: leave out those with a joint outside the image."""
    pixels, joints = shot.poses.pixels, shot.poses.joints
    size = np.array([shot.camera.width, shot.camera.height])
    broken = ~(np.isfinite(pixels).all((1, 2)) & np.isfinite(joints).all((1, 2)))
    # NaN compares false everywhere below: nothing broken is reported twice
    reasons: dict[str, Any] = {
        "joints not finite": broken,
        "2D joints all in one place": (np.ptp(pixels, axis=1) <= 0).all(1),
        "joint behind the camera": (joints[..., 2] <= 0).any(1),
        # pixel centres are integers: the image spans -0.5 .. size - 0.5
        "joint outside the image": ((pixels < -0.5) | (pixels > size - 0.5)).any((1, 2)) & inside,
    }
    ones = np.ones((NUM_JOINTS, 1), np.float32)
    for row, action in enumerate(shot.actions):
        reason = next((reason for reason, wrong in reasons.items() if wrong[row]), None)
        if reason is not None:
            tally.skip(shot.subject, action, reason)
            continue
        frame = int(shot.poses.frames[row])
        keypoints = np.concatenate([pixels[row], ones], axis=1)
        yield Sample(
            joints_3d=np.concatenate([joints[row], ones], axis=1),
            keypoints_2d=keypoints,
            bbox=square_bbox(keypoints),
            camera=shot.camera,
            photo=None if shot.photo is None else shot.photo(frame),
            subject=shot.subject,
            action=action,
            camera_id=shot.camera_id,
            frame=frame,
        )


def _cameras(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    wrong = [word for word in words if word not in map(str, range(CAMERAS))]
    if wrong or not words:
        raise ValueError(f"cameras: want numbers from 0 to {CAMERAS - 1}, comma-separated, got {text!r}")
    return sorted({int(word) for word in words})


def _find(inputs: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The annotation files of the inputs: of the training set, or of the test set where a folder has only that."""
    if not inputs:
        raise ValueError("no input: want the folder of S1 .. S8, or of TS1 .. TS6")
    train: dict[Path, Path] = {}
    test: dict[Path, Path] = {}
    for given in inputs:
        if not given.is_dir():
            raise FileNotFoundError(f"{given}: no such folder")
        found = sorted(given.glob("Seq*/annot.mat"))
        for name in TRAIN_FOLDERS:
            found += sorted((given / name).glob("S*/Seq*/annot.mat"))
        train |= {path.resolve(): path for path in found}
        if not found:
            found = sorted(given.glob("annot_data.mat"))
            for name in TEST_FOLDERS:
                found += sorted((given / name).glob("TS*/annot_data.mat"))
            test |= {path.resolve(): path for path in found}
        if not found:
            raise SourceError(f"{given}: found neither S1/Seq1/annot.mat nor TS1/annot_data.mat, wanted MPI-INF-3DHP")
    if train and test:
        raise SourceError(
            f"{next(iter(test.values()))}: found beside the training set, wanted either; prepare each into its own file"
        )
    return list(train.values()), list(test.values())


class _Sequence:
    """A sequence of the training set, e.g. S1/Seq1/annot.mat; its joints are read as they are asked for."""

    def __init__(self, path: Path, key: str, cameras: Sequence[int], step: int, images: Path | None) -> None:
        self.subject, self.name = _absolute(path).parts[-3:-1]
        if not (re.fullmatch(r"S\d+", self.subject) and re.fullmatch(r"Seq\d+", self.name)):
            raise SourceError(f"{path}: found in {self.subject}/{self.name}, wanted a folder such as S1/Seq1")
        self.path, self.calibration = path, path.with_name("camera.calibration")
        self._key, self._step = key, step
        train_variables(path, key)
        known = read_calibration(self.calibration, f"{self.subject} {self.name} video_")
        missing = [str(number) for number in cameras if number not in known]
        if missing:
            raise SourceError(f"{self.calibration}: no camera {', '.join(missing)}")
        self._cameras = {number: known[number] for number in cameras}
        self._photos = None
        if images is not None:
            folder = _first_folder(images, TRAIN_FOLDERS, self.subject)
            self._photos = folder / self.subject / self.name / "imageFrames"

    def shots(self) -> Iterator[Shot]:
        for number, poses in read_train(self.path, self._key, self._cameras, self._step).items():
            yield Shot(
                poses,
                self._cameras[number],
                str(number),
                self.subject,
                [self.name] * len(poses.frames),
                None if self._photos is None else _numbered(self._photos / f"video_{number}", "frame"),
            )


def _read_test(paths: Sequence[Path], key: str, images: Path | None, tally: Tally) -> Reading:
    shots = [_test_shot(path, key, images, tally) for path in paths]
    caveat = ""
    if key != UNIVERSAL:
        caveat = f"3D joints of the true size ({key}); the published protocol of MPI-INF-3DHP scores by {UNIVERSAL}"
    return Reading(
        dataset="mpi-inf-3dhp",
        licence=LICENCE,
        files=list(paths),
        samples=(sample for shot in shots for sample in film(shot, tally, inside=False)),
        tally=tally,
        total=sum(len(shot.poses.frames) for shot in shots),
        caveat=caveat,
    )


def _test_shot(path: Path, key: str, images: Path | None, tally: Tally) -> Shot:
    subject = _absolute(path).parent.name
    if subject not in TEST_SIZES:
        raise SourceError(f"{path}: found in {subject}, wanted a folder TS1 .. TS6")
    poses, true_joints, activities, frames = read_test(path, key)
    tally.skip(subject, "", "not a valid frame", frames - len(poses.frames))
    size = TEST_SIZES[subject]
    camera = fit_camera(poses.pixels, true_joints, subject, *size)
    if camera is None:
        camera = unknown_camera(*size)
        tally.notes.append(f"{path}: no camera takes its annot3 to its annot2; only the image's size is kept")
    photo = None
    if images is not None:
        photo = _numbered(_first_folder(images, TEST_FOLDERS, subject) / subject / "imageSequence", "img")
    return Shot(poses, camera, subject, subject, [ACTIVITIES[number] for number in activities], photo)


def _absolute(path: Path) -> Path:
    """With the names that the user sees: a folder S1 may be a link to one of another name."""
    return Path(os.path.abspath(path))


def _first_folder(root: Path, names: Sequence[str], holds: str) -> Path:
    """The one of root's folders that holds another one; root itself if none does: then the photographs are missing."""
    return next((root / name for name in names if (root / name / holds).is_dir()), root)


def _numbered(folder: Path, stem: str) -> Callable[[int], Path]:
    """From a 0-based frame to its file; files are numbered from 1."""
    return lambda frame: folder / f"{stem}_{frame + 1:06d}.jpg"
