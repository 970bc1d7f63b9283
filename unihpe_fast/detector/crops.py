"""Pictures and parts of them at the size that a network wants, and the way back to px."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Part:
    """A part of a picture, drawn anew: pixels uint8 [h, w, 3]; one of its px is `scale` [2] px of the picture, and its
    upper left corner lies at `corner` [2] px there (x, y)."""

    pixels: np.ndarray
    corner: np.ndarray
    scale: np.ndarray

    def to_picture(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 2] in px of the part -> px of the picture; both count from an upper left corner."""
        return (points * self.scale + self.corner).astype(np.float32)


def resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3]; a smaller picture has the mean of the pixels that it covers."""
    shrinks = width < picture.shape[1] or height < picture.shape[0]
    drawn = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.ascontiguousarray(drawn)


def whole(picture: np.ndarray, side: int, multiple: int) -> Part:
    """The picture with its longer side at `side` px, black to the right and below up to a multiple of `multiple`."""
    height, width = picture.shape[:2]
    scale = side / max(width, height)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    pixels = np.zeros((-(-h // multiple) * multiple, -(-w // multiple) * multiple, 3), np.uint8)
    pixels[:h, :w] = resized(picture, w, h)
    return Part(pixels, np.zeros(2), np.array([width / w, height / h]))


def square(picture: np.ndarray, center: np.ndarray, side: float, size: int) -> Part:
    """The square around `center` (x, y), `side` px of the picture, as size x size px; black outside the picture."""
    span = max(1, round(side))
    left, top = (int(v) for v in np.floor(center - span / 2 + 0.5))
    height, width = picture.shape[:2]
    x0, x1, y0, y1 = max(left, 0), min(left + span, width), max(top, 0), min(top + span, height)
    pixels = np.zeros((size, size, 3), np.uint8)
    if x1 > x0 and y1 > y0:
        seen = picture[y0:y1, x0:x1]
        # only what is in the picture is held at its own size: a square may be much larger than the picture
        edges = [round((v - start) * size / span) for v, start in ((x0, left), (x1, left), (y0, top), (y1, top))]
        c0, c1, r0, r1 = edges
        if c1 > c0 and r1 > r0:
            pixels[r0:r1, c0:c1] = resized(seen, c1 - c0, r1 - r0)
    return Part(pixels, np.array([left, top], float), np.full(2, span / size))


def around(boxes: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Centres [P, 2] and sides [P] of squares around boxes [P, 4] (left, top, right, bottom), `margin` times larger."""
    low, high = boxes[:, :2], boxes[:, 2:]
    return (low + high) / 2, margin * (high - low).max(1)
