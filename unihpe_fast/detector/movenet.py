"""MoveNet: multipose finds the people, thunder looks at each. Or one of the networks alone, which is quicker."""

from pathlib import Path

import numpy as np
import torch

from unihpe_fast.detector.crops import Part, around, square, whole
from unihpe_fast.detector.interface import COCO17_NAMES, Detections, check_image
from unihpe_fast.detector.movenet_fetch import LICENCE, load
from unihpe_fast.detector.movenet_nets import NUM_KEYPOINTS

# the longer side that multipose sees, px; the second try is for people who fill the picture
SIDES = (512, 256)
MIN_SCORE = 0.2
# a crop around a person's box
MARGIN = 1.25


class MoveNet:
    """`movenet`: multipose, then thunder on each box; `movenet-multipose`: it alone, up to 6 people a picture;
    `movenet-lightning`: one person, the quickest.

    folder: has the weights; None: the cache folder. Raises DetectorError where they are not there.
    """

    layout = "coco17"
    keypoint_names = COCO17_NAMES
    licence = LICENCE

    def __init__(self, name: str = "movenet", folder: Path | None = None) -> None:
        self.name = name
        single = {"movenet": "movenet-thunder", "movenet-lightning": "movenet-lightning"}.get(name)
        self._single = load(single, folder) if single else None
        self._multi = None if name == "movenet-lightning" else load("movenet-multipose", folder)

    def __call__(self, image: np.ndarray) -> Detections:
        """At most 6 people of image uint8 [H, W, 3] RGB. Raises ValueError for anything else."""
        height, width = check_image(image)
        if self._multi is None:
            return self._one(image, max(width, height))
        people = self._people(image)
        if self._single is None or not len(people):
            return people
        center, side = around(people.bbox, MARGIN)
        keypoints, confidence = self._look(
            [square(image, *where, self._size) for where in zip(center, side, strict=True)]
        )
        return Detections(keypoints, confidence, people.bbox, people.score)

    @property
    def _size(self) -> int:
        return int(self._single.size)  # type: ignore[union-attr,arg-type]

    def _people(self, image: np.ndarray) -> Detections:
        height, width = image.shape[:2]
        for longest in SIDES:
            part = whole(image, longest, 32)
            with torch.inference_mode():
                found = self._multi(torch.from_numpy(part.pixels[None]))[0].numpy()  # type: ignore[misc]
            found = found[found[:, 55] >= MIN_SCORE]
            if not len(found):
                continue
            found = found[np.argsort(-found[:, 55], kind="stable")]
            joints = found[:, :51].reshape(-1, NUM_KEYPOINTS, 3)
            size = np.array(part.pixels.shape[1::-1])
            keypoints = part.to_picture(joints[..., 1::-1] * size)
            bbox = part.to_picture(found[:, [52, 51, 54, 53]].reshape(-1, 2, 2) * size)
            # the black beyond the picture's edge is no part of anybody
            bbox = np.clip(bbox, 0, [width, height]).reshape(-1, 4).astype(np.float32)
            # a person of no extent (less than a cell of the map) cannot be looked at closer
            kept = (bbox[:, 2:] > bbox[:, :2]).all(1)
            return Detections(keypoints[kept], joints[kept, :, 2].copy(), bbox[kept], found[kept, 55].copy())
        return Detections.none(NUM_KEYPOINTS)

    def _look(self, parts: list[Part]) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints [P, 17, 2] px of the picture and confidences [P, 17] of the person in the middle of each part."""
        pixels = torch.from_numpy(np.stack([part.pixels for part in parts]))
        with torch.inference_mode():
            found = self._single(pixels).numpy()  # type: ignore[misc]
        keypoints = [p.to_picture(f[:, 1::-1] * self._size) for p, f in zip(parts, found, strict=True)]
        return np.stack(keypoints), found[..., 2].copy()

    def _one(self, image: np.ndarray, side: int) -> Detections:
        """Lightning on the whole picture, then on what it found there."""
        middle = np.array(image.shape[1::-1]) / 2
        keypoints, confidence = self._look([square(image, middle, side, self._size)])
        for last in (False, True):
            seen = confidence[0] >= MIN_SCORE
            # half of the joints: fewer are found in noise too
            if seen.sum() < NUM_KEYPOINTS // 2:
                return Detections.none(NUM_KEYPOINTS)
            box = np.concatenate([keypoints[0, seen].min(0), keypoints[0, seen].max(0)])[None]
            if last or (box[:, 2:] - box[:, :2]).max() < 1:
                break
            center, sides = around(box, MARGIN * MARGIN)  # keypoints end before hands, feet and hair do
            keypoints, confidence = self._look([square(image, center[0], sides[0], self._size)])
        return Detections(keypoints, confidence, box.astype(np.float32), confidence.mean(1))
