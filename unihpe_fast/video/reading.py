"""Frames of a video file or a webcam, one at a time: what has been read is not kept."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

# frames in a row that do not decode before the rest of a file counts as lost
MOST_BROKEN = 100
# where a file does not say
DEFAULT_FPS = 30.0


class VideoError(ValueError):
    """A video or webcam that cannot be read; the message names it."""


@dataclass(frozen=True)
class Frame:
    """index: 0-based, counting those that did not decode. time: s since the first frame. image: uint8 [H, W, 3] RGB,
    turned as the file's rotation says."""

    index: int
    time: float
    image: np.ndarray


class Video:
    """An iterator over frames, and a context manager.

    name: of the file, or "webcam 0". fps: frames a second by the header, `DEFAULT_FPS` where it says nothing. size:
    width and height in px as shown. num_frames: by the header; None for webcams and where it says nothing.
    broken: how many frames so far did not decode; at the end also those that the header promised and never came.
    mean_fps: frames a second by the frames' own times, which is what counts where the rate varies. variable_rate:
    whether times between frames have differed by more than half of their mean.
    """

    def __init__(self, capture: Any, name: str, *, live: bool = False) -> None:
        self.name, self.live = name, live
        self._capture = capture
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        self.fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else DEFAULT_FPS
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.num_frames = int(count) if not live and math.isfinite(count) and count > 0 else None
        self.broken = 0
        self._index = -1
        self._read = 0
        self._time = 0.0
        self._start: float | None = None
        self._least, self._most = math.inf, 0.0
        first = self._next()
        if first is None:
            self.close()
            raise VideoError(f"{name}: video must have a frame that decodes, got none")
        self._first: Frame | None = first
        self.size = (first.image.shape[1], first.image.shape[0])

    @property
    def mean_fps(self) -> float:
        return (self._read - 1) / self._time if self._read > 1 and self._time > 0 else self.fps

    @property
    def variable_rate(self) -> bool:
        return self._read > 2 and self._most - self._least > 0.5 / self.mean_fps

    def __iter__(self) -> Iterator[Frame]:
        first, self._first = self._first, None
        if first is not None:
            yield first
        while (frame := self._next()) is not None:
            yield frame

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._capture.release()

    def _next(self) -> Frame | None:
        failed = 0
        while failed < (1 if self.live else MOST_BROKEN):
            read, image = self._capture.read()
            if read and image is not None:
                self._index += 1 + failed
                self.broken += failed
                return self._frame(image)
            # read() says the same at the end and where a frame is broken: the header knows better, if anything does
            failed += 1
            if self.num_frames is None or self._index + failed >= self.num_frames - 1:
                break
        if self.num_frames is not None and self._read:
            self.broken = max(self.broken, self.num_frames - self._read)
        return None

    def _frame(self, image: np.ndarray) -> Frame:
        now = time.monotonic() if self.live else float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
        if self._start is None:
            self._start = now if math.isfinite(now) else 0.0
        else:
            at = now - self._start
            # some containers have no times, or some that go back: the rate stands in for them
            step = at - self._time if math.isfinite(at) and at > self._time else 1 / self.fps
            self._least, self._most = min(self._least, step), max(self._most, step)
            self._time += step
        self._read += 1
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        return Frame(self._index, self._time, np.ascontiguousarray(image[..., 2::-1]))


def open_video(source: str | Path | int) -> Video:
    """A video file, or the webcam of this number. Raises VideoError, naming it, where it cannot be read."""
    if isinstance(source, int):
        capture = cv2.VideoCapture(source)
        if not capture.isOpened():
            raise VideoError(f"webcam {source}: number must be that of a camera that can be opened, got none")
        return Video(capture, f"webcam {source}", live=True)
    path = Path(source)
    if not path.is_file():
        raise VideoError(f"{path}: video must be a file that exists, got {'a folder' if path.is_dir() else 'none'}")
    # by FFmpeg alone: OpenCV's other readers take a file name with digits for a series of pictures
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        size = path.stat().st_size
        raise VideoError(f"{path}: file must be a video that FFmpeg reads, got {size} bytes that are none or cut short")
    return Video(capture, str(path))
