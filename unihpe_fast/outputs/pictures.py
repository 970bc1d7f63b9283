"""The pictures that a prediction was made from, read again for those formats that draw on them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from unihpe_fast.data.formats.untrusted import read_bytes
from unihpe_fast.data.images import LARGEST_SIDE, photo_size
from unihpe_fast.prediction import Prediction

LARGEST_FILE = 256 << 20  # bytes
# px of a frame of which nothing is known
UNKNOWN = (640, 480)


class PictureError(ValueError):
    """A picture that cannot be read; the message names the file."""


def read_photo(path: Path) -> np.ndarray:
    """uint8 [H, W, 3] RGB, turned as its orientation tag says. PictureError where it is no photograph."""
    data = read_bytes(path, LARGEST_FILE)
    if not data:
        raise PictureError(f"{path}: must be a picture, got an empty file")
    if data[:2] == b"\xff\xd8" or data[:4] == b"\x89PNG":
        try:
            size = photo_size(data)
        except ValueError as error:
            raise PictureError(f"{path}: {error}") from error
        if max(size) > LARGEST_SIDE * 4:
            raise PictureError(f"{path}: picture must have at most {LARGEST_SIDE * 4} px a side, got {size}")
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise PictureError(f"{path}: must be a picture, got {error.err}") from error
    if picture is None:
        raise PictureError(f"{path}: must be a picture that decodes, got {len(data)} bytes of something else")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def frame_size(prediction: Prediction, rows: list[int]) -> tuple[int, int]:
    """Width and height of a frame, px, by its rows; where they are not known, those of one that holds the keypoints."""
    width, height = prediction.size[rows[0]].tolist()
    if width > 0 and height > 0:
        return width, height
    points = prediction.joints_2d[rows].reshape(-1, 2)
    points = points[np.isfinite(points).all(1)]
    if not len(points):
        return UNKNOWN
    width, height = np.ceil(1.1 * points.max(0)).clip(min=1).astype(int).tolist()
    return width, height


@dataclass(frozen=True)
class Photos:
    """Photographs, each a frame; broken ones are passed over."""

    paths: Sequence[Path]

    def __iter__(self) -> Iterator[tuple[int, str, np.ndarray]]:
        for frame, path in enumerate(self.paths):
            try:
                yield frame, str(path), read_photo(path)
            except (PictureError, OSError):
                continue


@dataclass(frozen=True)
class VideoFrames:
    """The frames of a video file."""

    path: Path

    def __iter__(self) -> Iterator[tuple[int, str, np.ndarray]]:
        from unihpe_fast.video import open_video

        with open_video(self.path) as video:
            for frame in video:
                yield frame.index, str(self.path), frame.image
