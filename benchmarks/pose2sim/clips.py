"""The two clips of four calibrated cameras that pose2sim's wheel ships (BSD-3), and what detectors see in them."""

import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from unihpe_fast.fileio import atomic_path

VERSION = "0.10.49"
CLIPS = {"single": "Demo_SinglePerson", "multi": "Demo_MultiPerson"}
CAMERAS = ("cam01", "cam02", "cam03", "cam04")


@dataclass(frozen=True)
class Calibration:
    """matrix [3, 3] px, distortion k1 k2 p1 p2, and rotation [3, 3] with translation [3] mm: world to camera."""

    matrix: np.ndarray
    distortion: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray

    @property
    def projection(self) -> np.ndarray:
        """[3, 4], world mm to px without distortion."""
        return self.matrix @ np.column_stack([self.rotation, self.translation])

    def undistort(self, points: np.ndarray) -> np.ndarray:
        """px [..., 2] as the lens draws them -> px [..., 2] of a pinhole with the same matrix."""
        if not points.size:
            return points
        flat = np.ascontiguousarray(points, np.float64).reshape(-1, 1, 2)
        return cv2.undistortPoints(flat, self.matrix, self.distortion, P=self.matrix).reshape(points.shape)

    def project(self, points: np.ndarray) -> np.ndarray:
        """World mm [..., 3] -> px [..., 2] of a pinhole."""
        x = (points @ self.rotation.T + self.translation) @ self.matrix.T
        return x[..., :2] / x[..., 2:]


def download_wheel(folder: Path) -> Path:
    """pose2sim's wheel, alone: its dependencies are heavy and none is needed for its videos."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"pose2sim-{VERSION}-py3-none-any.whl"
    if not (folder / name).is_file():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), f"pose2sim=={VERSION}"]
        subprocess.run(command, check=True)
    return folder / name


def unpack(wheel: Path, folder: Path) -> None:
    """Its videos and calibrations, as `folder`/CLIP/cam01.mp4 .. and `folder`/CLIP/calibration.xml."""
    with zipfile.ZipFile(wheel) as archive:
        for clip, name in CLIPS.items():
            files = {f"videos/{camera}.mp4": f"{camera}.mp4" for camera in CAMERAS}
            files["calibration/Calib.qca.txt"] = "calibration.xml"
            for source, target in files.items():
                with atomic_path(folder / clip / target) as temporary:
                    temporary.write_bytes(archive.read(f"Pose2Sim/{name}/{source}"))


def read_calibration(path: Path) -> list[Calibration]:
    """The cameras of a Qualisys calibration, in the file's order.

    Its lengths are 1/64 px, its rotation takes the world to the camera, its translation is where the camera is, and its
    camera looks along -z with y up.
    Its distortion is OpenCV's as it stands; pose2sim divides that by 64 too.
    """
    found = []
    for camera in ET.parse(path).getroot().iterfind("cameras/camera"):
        place, inner, view = (camera.find(name) for name in ("transform", "intrinsic", "fov_video"))
        if place is None or inner is None or view is None:
            raise ValueError(f"{path}: camera must have transform, intrinsic and fov_video, got {camera.attrib}")

        def number(element: ET.Element, name: str) -> float:
            return float(element.attrib[name])

        fx, fy = (number(inner, f"focalLength{axis}") / 64 for axis in "UV")
        cx, cy = (number(inner, f"centerPoint{axis}") / 64 for axis in "UV")
        cx, cy = cx - number(view, "left"), cy - number(view, "top")
        names = ("radialDistortion1", "radialDistortion2", "tangentalDistortion1", "tangentalDistortion2")
        world = np.array([[number(place, f"r{i}{j}") for j in (1, 2, 3)] for i in (1, 2, 3)])
        turn = np.diag([1.0, -1.0, -1.0]) @ world
        center = np.array([number(place, axis) for axis in "xyz"])
        matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        distortion = np.array([number(inner, name) for name in names])
        found.append(Calibration(matrix, distortion, turn, -turn @ center))
    return found


def frames(path: Path) -> Iterator[np.ndarray]:
    """uint8 [H, W, 3] RGB."""
    video = cv2.VideoCapture(str(path))
    while True:
        read, image = video.read()
        if not read:
            return
        yield np.ascontiguousarray(image[..., ::-1])


@dataclass(frozen=True)
class Seen:
    """What a detector saw in one frame of one camera: P people.

    keypoints_2d [P, 17, 2] px as the lens draws them, COCO; confidence [P, 17]; joints_3d [P, 17, 3] mm, where the
    detector gives them.
    """

    keypoints_2d: np.ndarray
    confidence: np.ndarray
    joints_3d: np.ndarray


def watch(path: Path, detect: Callable[[np.ndarray], Seen], cache: Path) -> list[Seen]:
    """What `detect` sees in each frame of a video; kept in `cache`, so that another lifter is scored in seconds."""
    if cache.is_file():
        with np.load(cache) as data:
            starts = np.concatenate([[0], np.cumsum(data["count"])])
            return [
                Seen(*(data[name][a:b] for name in ("keypoints_2d", "confidence", "joints_3d")))
                for a, b in pairwise(starts)
            ]
    seen = [detect(image) for image in frames(path)]
    columns = {name: np.concatenate([getattr(s, name) for s in seen]) for name in Seen.__dataclass_fields__}
    with atomic_path(cache) as temporary, temporary.open("wb") as file:
        np.savez(file, count=[len(s.confidence) for s in seen], **columns)
    return seen
