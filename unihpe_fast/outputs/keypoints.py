"""What a detector found, as JSON in the layout of mmpose's demos, which `predict` and `prepare keypoints` read."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from unihpe_fast.detector.interface import Detections
from unihpe_fast.fileio import write_text


class SavedKeypoints:
    """Collects the detections of one input, frame by frame."""

    def __init__(self) -> None:
        self._frames: list[dict[str, Any]] = []
        self._names: tuple[str, ...] = ()

    def add(self, frame: int, found: Detections, people: np.ndarray, names: tuple[str, ...]) -> None:
        """people: [P] the number of each person found. names: of the K keypoints."""
        self._names = names
        instances = [
            {
                "track_id": int(people[row]),
                "keypoints": np.round(found.keypoints_2d[row].astype(float), 3).tolist(),
                "keypoint_scores": np.round(found.confidence[row].astype(float), 4).tolist(),
                "bbox": [np.round(found.bbox[row].astype(float), 2).tolist()],
                "bbox_score": round(float(found.score[row]), 4),
            }
            for row in range(len(found))
        ]
        self._frames.append({"frame_id": frame, "instances": instances})

    def write(self, path: Path) -> list[Path]:
        """The file, whole or not at all."""
        meta = {"keypoint_id2name": {str(number): name for number, name in enumerate(self._names)}}
        write_text(path, json.dumps({"meta_info": meta, "instance_info": self._frames}, allow_nan=False) + "\n")
        return [path]
