"""What a detector found, as JSON in the layout of mmpose's demos, which `predict` and `prepare keypoints` read.

Beyond that layout it says what theirs leaves open: the mean `fps` in `meta_info`, and of each frame `image_size` and,
where it is a photograph, `image_name`. Frames of a varying rate are read back evenly spaced.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unihpe_fast.detector.interface import Detections
from unihpe_fast.fileio import atomic_path


class SavedKeypoints:
    """Collects the detections of one input, frame by frame, in a temporary file: an hour of video is 100 MB of them."""

    def __init__(self) -> None:
        self._frames = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115, it lives as long as this
        self._count = 0

    def add(self, frame: int, found: Detections, people: np.ndarray, size: tuple[int, int], picture: str) -> None:
        """people: [P] the number of each person found. size: width, height, px. picture: its file name, or ""."""
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
        self._frames.write(",\n" if self._count else "\n")
        record = {"frame_id": frame, **({"image_name": picture} if picture else {}), "image_size": size}
        json.dump({**record, "instances": instances}, self._frames, allow_nan=False)
        self._count += 1

    def write(self, path: Path, names: Sequence[str], fps: float | None) -> list[Path]:
        """The file, whole or not at all. names: of the K keypoints. fps: frames a second, None of photographs."""
        meta: dict[str, Any] = {"keypoint_id2name": {str(number): name for number, name in enumerate(names)}}
        if fps:
            meta["fps"] = fps
        self._frames.seek(0)
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(f'{{"meta_info": {json.dumps(meta)}, "instance_info": [')
            shutil.copyfileobj(self._frames, file)
            file.write("\n]}\n")
        return [path]
