"""The picture with the 2D keypoints, and the poses in 3D beside it: a PNG a photo, an MP4 a video."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from unihpe_fast.data.skeleton import BONES, LEFT, RIGHT
from unihpe_fast.fileio import atomic_path
from unihpe_fast.outputs import Pictures
from unihpe_fast.outputs.pictures import frame_size
from unihpe_fast.prediction import Prediction

# RGB: the person's left, right and middle; the same in both panels
COLOURS = {"left": (43, 138, 62), "right": (217, 72, 15), "middle": (11, 107, 203)}
PAPER, GRID, TEXT = (250, 250, 251), (222, 227, 232), (93, 104, 115)
# the view in 3D: turned about the vertical axis and seen from a little above, degrees; half its height is so many mm
YAW, PITCH, REACH = 30.0, 12.0, 1150.0
# px: pictures are drawn at most so high, and at least so high that lines can be told apart
HIGHEST, LOWEST = 720, 240
# people side by side before they stand in several rows, and the px that a word about one needs
IN_A_ROW, WORD = 6, 90
Frame = tuple[int, str, NDArray[np.uint8]]
"""Number of the frame, its source, uint8 RGB [H, W, 3]."""

# frames a second of an overlay where the input does not say
FPS = 25.0


def draw_overlay(
    image: NDArray[np.uint8] | None,
    keypoints_2d: NDArray[np.floating],
    confidence: NDArray[np.floating],
    joints_3d: NDArray[np.floating],
    *,
    size: tuple[int, int],
    labels: list[str] | None = None,
    room: int = 1,
) -> NDArray[np.uint8]:
    """uint8 RGB [h, w, 3]: the picture on the left, a view in 3D of each person on the right.

    image: uint8 RGB [H, W, 3], None: blank. keypoints_2d: [P, 17, 2] px of the image. confidence: [P, 17]; 0 is not
    drawn. joints_3d: [P, 17, 3] mm, root-relative, camera axes; NaN is not drawn. size: (W, H) px. labels: one a
    person. room: for how many people there is a place at least, so that the frames of a video are of one size.
    """
    width, height = size
    scale = min(max(height, LOWEST), HIGHEST) / height
    # sides are even: video encoders want them so
    shape = (2 * round(height * scale / 2), 2 * max(1, round(width * scale / 2)))
    if image is None:
        left = np.full((*shape, 3), PAPER, np.uint8)
    else:
        left = cv2.resize(np.ascontiguousarray(image), shape[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8)
    for person, points in enumerate(keypoints_2d):
        seen = (confidence[person] > 0) & np.isfinite(points).all(-1)
        _draw_bones(left, np.where(seen[:, None], points * scale, 0), seen, shape[0])
        if labels and seen.any():
            corner = np.maximum((points[seen] * scale).min(0) - 6, (2, 12)).astype(int)
            _write(left, labels[person], (int(corner[0]), int(corner[1])), (255, 255, 255))
    return np.concatenate([left, _view(joints_3d, shape[0], labels, room)], axis=1)


def _places(room: int, height: int) -> tuple[int, int, int]:
    """Rows and columns of places for people, and the width of a column, px: narrower and smaller as people are many."""
    if room <= IN_A_ROW:
        return 1, max(1, room), round(height * (1 if room <= 1 else 0.76 if room <= 3 else 0.5))
    rows = int(np.ceil(np.sqrt(room / IN_A_ROW)))
    return rows, IN_A_ROW * rows, max(1, round(0.5 * height / rows))


def _view(joints_3d: NDArray[np.floating], height: int, labels: list[str] | None, room: int) -> NDArray[np.uint8]:
    """uint8 RGB [height, height or more, 3]: the people side by side, near the ground of each."""
    rows, columns, column = _places(max(room, len(joints_3d)), height)
    view = np.full((height, max(height, column * columns) // 2 * 2, 3), PAPER, np.uint8)
    yaw, pitch = np.radians([YAW, PITCH])
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    tilt = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    share = height / rows
    px = share / 2 / REACH
    # words that would stand over each other are left out
    worded = view.shape[1] / columns >= WORD
    for person, joints in enumerate(joints_3d):
        place = np.array([person % columns, person // columns])
        middle = np.array([view.shape[1] * (place[0] + 0.5) / columns, share * (place[1] + 0.47)])
        known = np.isfinite(joints).all(-1)
        if not known.any():
            if worded:
                _write(view, "no 3D pose", (int(middle[0]) - 40, int(middle[1])), TEXT)
            continue
        ground = joints[known, 1].max()
        for at in np.linspace(-600, 600, 5):
            for ends in ([[at, ground, -600], [at, ground, 600]], [[-600, ground, at], [600, ground, at]]):
                a, b = (np.array(ends) @ turn.T @ tilt.T)[:, :2] * px + middle
                cv2.line(view, _px(a), _px(b), GRID, 1, cv2.LINE_AA, 4)
        points = (np.where(known[:, None], joints, 0) @ turn.T @ tilt.T)[:, :2] * px + middle
        _draw_bones(view, points, known, share)
        if labels and worded:
            corner = (int(middle[0] - 5 * len(labels[person])), int(share * (place[1] + 1)) - 10)
            _write(view, labels[person], corner, TEXT)
    return view


def _draw_bones(
    canvas: NDArray[np.uint8], points: NDArray[np.floating], known: NDArray[np.bool_], height: float
) -> None:
    """height: px of the place that the person has."""
    thick = max(2 if height >= LOWEST else 1, round(height / 160))
    for a, b in BONES:
        if known[a] and known[b]:
            side = "left" if b in LEFT else "right" if b in RIGHT else "middle"
            cv2.line(canvas, _px(points[a]), _px(points[b]), COLOURS[side], thick, cv2.LINE_AA, 4)
    for joint in np.flatnonzero(known):
        cv2.circle(canvas, _px(points[joint]), max(1, thick) << 4, (255, 255, 255), -1, cv2.LINE_AA, 4)
        cv2.circle(canvas, _px(points[joint]), max(1, thick) << 4, (60, 66, 72), 1, cv2.LINE_AA, 4)


def _px(point: NDArray[np.floating]) -> tuple[int, int]:
    """Sixteenths of a px, inside of what OpenCV counts in, for lines that do not jump."""
    x, y = np.clip(np.round(point * 16), -(2**20), 2**20).astype(int)
    return int(x), int(y)


def _write(canvas: NDArray[np.uint8], text: str, corner: tuple[int, int], colour: tuple[int, int, int]) -> None:
    for thickness, ink in ((3, (0, 0, 0) if colour == (255, 255, 255) else PAPER), (1, colour)):
        cv2.putText(canvas, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.5, ink, thickness, cv2.LINE_AA)


def write(prediction: Prediction, path: Path, pictures: Pictures | None = None) -> list[Path]:
    """Write the overlay of every frame: one MP4 for the frames of a video, else a PNG a photograph, named after it.

    pictures: those of the inputs, in order; None: the keypoints stand on an empty ground. Frames in which nobody was
    found are part of a video, and are left out elsewhere. Each file is whole or not there. Returns what was written.
    """
    prediction = prediction.flat()
    rows_of = prediction.frames()
    people = len(set(prediction.person.tolist()))
    frames: Iterable[Frame] = _blank_frames(prediction, rows_of) if pictures is None else pictures
    if not prediction.is_sequence:
        return [
            _write_png(path, _overlay(prediction, rows_of[key], image, people, 1), source, frame, len(rows_of))
            for frame, source, image in frames
            if (key := (str(source), frame)) in rows_of
        ]
    video = path.with_name(path.name + ".mp4")
    room = max(map(len, rows_of.values()), default=1)
    with OverlayVideo(video, prediction.fps or FPS) as out:
        for frame, source, image in frames:
            out.add(_overlay(prediction, rows_of.get((str(source), frame), []), image, people, room))
    return [video]


def _blank_frames(prediction: Prediction, rows_of: dict[tuple[str, int], list[int]]) -> Iterator[Frame]:
    """An empty ground of the right shape for each frame that has a person."""
    for (source, frame), rows in rows_of.items():
        size = np.array(frame_size(prediction, rows), float)
        width, height = np.maximum(2, np.round(size * min(1.0, HIGHEST / size.max()))).astype(int)
        yield frame, source, np.full((height, width, 3), PAPER, np.uint8)


def _overlay(
    prediction: Prediction, rows: list[int], image: NDArray[np.uint8], people: int, room: int
) -> NDArray[np.uint8]:
    labels = [f"person {person}" for person in prediction.person[rows].tolist()] if people > 1 else None
    height, width = image.shape[:2]
    size = prediction.size[rows[0]].tolist() if rows and prediction.size[rows[0]].all() else (width, height)
    return draw_overlay(
        image,
        prediction.joints_2d[rows],
        prediction.confidence[rows],
        prediction.joints_3d[rows],
        size=(size[0], size[1]),
        labels=labels,
        room=room,
    )


def _write_png(path: Path, overlay: NDArray[np.uint8], source: str, frame: int, count: int) -> Path:
    name = path.with_name(path.name + (".png" if count == 1 else f"_{Path(source).stem}_{frame}.png"))
    done, png = cv2.imencode(".png", overlay[..., ::-1])
    if not done:
        raise ValueError(f"{name}: the picture must be one that OpenCV can encode, got {overlay.shape}")
    with atomic_path(name) as temporary:
        temporary.write_bytes(png.tobytes())
    return name


class OverlayVideo:
    """An MP4 that grows a frame at a time in constant memory, and that appears under its name when it is whole.

    Frames of another size than the first are fitted into it. OSError where not every frame came to the disk: OpenCV
    does not say that it is full.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        self._temporary = path.with_name(f".{path.stem}.tmp.mp4")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._count = 0

    def add(self, overlay: NDArray[np.uint8]) -> None:
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._size = (overlay.shape[1], overlay.shape[0])
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._temporary), codec, self._fps, self._size)
            if not self._writer.isOpened():
                raise OSError(f"{self._path}: OpenCV cannot write an MP4 there")
        if overlay.shape[1::-1] != self._size:
            overlay = _fitted(overlay, self._size)
        self._writer.write(np.ascontiguousarray(overlay[..., ::-1]))
        self._count += 1

    def close(self) -> None:
        """Give the file its name; without a frame there is none."""
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        try:
            written = _frames_of(self._temporary)
            if written != self._count:
                raise OSError(f"{self._path}: {self._count} frames must be written, got {written}; is the disk full?")
            with atomic_path(self._path) as temporary:
                self._temporary.replace(temporary)
        finally:
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> "OverlayVideo":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
            return
        if self._writer is not None:
            self._writer.release()
        self._temporary.unlink(missing_ok=True)


def _frames_of(path: Path) -> int:
    """How many frames a video says that it has, 0 for what is none."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    return count


def _fitted(overlay: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    scale = min(size[0] / overlay.shape[1], size[1] / overlay.shape[0])
    small = cv2.resize(
        overlay, (int(overlay.shape[1] * scale), int(overlay.shape[0] * scale)), interpolation=cv2.INTER_AREA
    )
    whole = np.full((size[1], size[0], 3), PAPER, np.uint8)
    whole[: small.shape[0], : small.shape[1]] = small
    return whole
