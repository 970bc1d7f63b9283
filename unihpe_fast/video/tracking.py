"""The same person from frame to frame: similarity of keypoints (OKS), the best pairing as a whole (Hungarian)."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from unihpe_fast.detector.interface import Detections

# COCO's keypoint evaluation
_COCO_SIGMAS = np.array(
    [.026, .025, .025, .035, .035, .079, .079, .072, .072, .062, .062, .107, .107, .087, .087, .089, .089]
)  # fmt: skip
# feet, hands, faces
_OTHER_SIGMA = 0.05
_SEEN = 0.2
_FEWEST = 3
# how far a person is thought to go on as before, frames
_COASTING = 10


def oks(one: np.ndarray, other: np.ndarray, area: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Object keypoint similarity in [0, 1] of people [P, K, 2] with others [Q, K, 2] -> [P, Q].

    area: [Q] px^2 of the others. weight: [P, Q, K], 0 for joints that do not count. K of COCO's 17 first; a pair of
    which no joint counts has 0. Source: COCO's keypoint evaluation.
    """
    count = one.shape[1]
    sigmas = np.full(count, _OTHER_SIGMA)
    sigmas[: len(_COCO_SIGMAS)] = _COCO_SIGMAS[:count]
    distance2 = np.square(one[:, None] - other[None]).sum(-1)  # [P, Q, K]
    spread = 2 * np.maximum(area, 1)[None, :, None] * np.square(2 * sigmas)
    total = weight.sum(-1)
    return (np.exp(-distance2 / spread) * weight).sum(-1) / np.maximum(total, 1e-9) * (total > 0)


@dataclass
class _Track:
    person: int
    frame: int
    keypoints: np.ndarray
    confidence: np.ndarray
    bbox: np.ndarray
    velocity: np.ndarray  # px a frame, [2]: of the whole person, steadier than its joints'


class Tracker:
    """Gives every person of a video a number that stays.

    max_gap: frames that a person may be away and still be the same. min_similarity: what a pair needs, an OKS (an IoU
    of boxes where too few joints are seen in both).
    """

    def __init__(self, max_gap: int = 30, min_similarity: float = 0.2) -> None:
        self.max_gap, self.min_similarity = max_gap, min_similarity
        self._tracks: list[_Track] = []
        self._next = 0

    def update(self, found: Detections, frame: int) -> np.ndarray:
        """int64 [P], the numbers of the people found in the frame, counted from 0 in the order of their appearance.

        frame: greater than that of the call before; raises ValueError otherwise.
        """
        if self._tracks and frame <= max(track.frame for track in self._tracks):
            raise ValueError(f"Tracker: frame must be later than the last one, got {frame}")
        self._tracks = [track for track in self._tracks if frame - track.frame <= self.max_gap + 1]
        people = np.full(len(found), -1, np.int64)
        matched: dict[int, int] = {}
        if len(found) and self._tracks:
            similarity = self._similarity(found, frame)
            for row, column in zip(*linear_sum_assignment(-similarity), strict=True):
                if similarity[row, column] >= self.min_similarity:
                    matched[int(row)] = int(column)
        for row in range(len(found)):
            old = self._tracks[matched[row]] if row in matched else None
            if old is None:
                person, velocity = self._next, np.zeros(2)
                self._next += 1
            else:
                person = old.person
                moved = _middle(found.bbox[row]) - _middle(old.bbox)
                velocity = 0.5 * old.velocity + 0.5 * moved / (frame - old.frame)
            people[row] = person
            track = _Track(person, frame, found.keypoints_2d[row], found.confidence[row], found.bbox[row], velocity)
            if old is None:
                self._tracks.append(track)
            else:
                self._tracks[matched[row]] = track
        return people

    def _similarity(self, found: Detections, frame: int) -> np.ndarray:
        """[P, tracks], the greater of two: as if people stood still, and as if they went on as before."""
        tracks = self._tracks
        keypoints = np.stack([t.keypoints for t in tracks]).astype(np.float64)
        boxes = np.stack([t.bbox for t in tracks]).astype(np.float64)
        ahead = np.stack([t.velocity * min(frame - t.frame, _COASTING) for t in tracks])
        seen = np.stack([t.confidence for t in tracks]) > _SEEN
        weight = (found.confidence[:, None] > _SEEN) & seen[None]
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        points = found.keypoints_2d.astype(np.float64)
        joints = [oks(points, keypoints + shift[:, None], area, weight) for shift in (np.zeros_like(ahead), ahead)]
        outlines = [_iou(found.bbox.astype(np.float64), boxes + np.tile(shift, 2)) for shift in (0 * ahead, ahead)]
        enough = weight.sum(-1) >= _FEWEST
        return np.where(enough, np.maximum(*joints), np.maximum(*outlines))


def _middle(bbox: np.ndarray) -> np.ndarray:
    return (bbox[:2].astype(np.float64) + bbox[2:]) / 2


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [P, 4] and [Q, 4] -> [P, Q]."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    both = np.maximum(high - low, 0).prod(-1)
    areas = [(box[:, 2:] - box[:, :2]).prod(1) for box in (one, other)]
    return both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-9)
