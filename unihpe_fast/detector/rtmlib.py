"""RTMPose through the package rtmlib: 26 joints with feet (Halpe26), or 133 with hands and face."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from unihpe_fast.detector.interface import COCO17_NAMES, Detections, DetectorError, check_image

HALPE26_NAMES = (
    *COCO17_NAMES, "head_top", "neck", "hip", "left_big_toe", "right_big_toe", "left_small_toe", "right_small_toe",
    "left_heel", "right_heel",
)  # fmt: skip
_FEET = ("left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel")
WHOLEBODY133_NAMES = (
    *COCO17_NAMES,
    *_FEET,
    *(f"face_{i}" for i in range(68)),
    *(f"left_hand_{i}" for i in range(21)),
    *(f"right_hand_{i}" for i in range(21)),
)
_SOLUTIONS = {
    "rtmlib": ("BodyWithFeet", "halpe26", HALPE26_NAMES),
    "rtmlib-wholebody": ("Wholebody", "wholebody133", WHOLEBODY133_NAMES),
}


class RTMLib:
    """name: `rtmlib` (Halpe26) or `rtmlib-wholebody` (133 joints).

    folder: has two .onnx files, one whose name begins with yolox or rtmdet and one of the keypoints; None: rtmlib
    fetches its own ("balanced") and keeps them. Raises DetectorError where rtmlib, its weights or the files are
    not there.
    """

    licence = "rtmlib: Apache-2.0; its weights: Apache-2.0 by OpenMMLab, trained on data sets with terms of their own"

    def __init__(self, name: str = "rtmlib", folder: Path | None = None) -> None:
        solution, self.layout, self.keypoint_names = _SOLUTIONS[name]
        self.name = name
        try:
            import rtmlib
        except ImportError as error:
            raise DetectorError(f"{name}: {error}; pip install 'unihpe-fast[rtmlib]' brings it") from error
        files = _files(folder) if folder else {}
        # it prints what it loads; Any: it has no types
        kind: Any = getattr(rtmlib, solution)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self._model = kind(**files, mode="balanced", backend="onnxruntime", device="cpu")
        except Exception as error:  # of urllib, zipfile and onnxruntime, as it comes
            raise DetectorError(f"{name}: weights could not be had ({type(error).__name__}: {error})") from error
        _size_from_graph(self._model.det_model, rows_first=True)
        _size_from_graph(self._model.pose_model, rows_first=False)

    def __call__(self, image: np.ndarray) -> Detections:
        """People of image uint8 [H, W, 3] RGB, as many as there are. Raises ValueError for anything else."""
        check_image(image)
        bgr = np.ascontiguousarray(image[..., ::-1])
        boxes = np.asarray(self._model.det_model(bgr), np.float32).reshape(-1, 4)
        # without boxes rtmlib would take the whole picture for a person
        if not len(boxes):
            return Detections.none(len(self.keypoint_names))
        keypoints, scores = self._model.pose_model(bgr, bboxes=boxes)
        keypoints = np.asarray(keypoints, np.float32)
        wanted = (len(boxes), len(self.keypoint_names), 2)
        if keypoints.shape != wanted:
            raise DetectorError(f"{self.name}: keypoints must be {list(wanted)}, got {list(keypoints.shape)}")
        confidence = np.clip(np.asarray(scores, np.float32), 0, 1)
        score = confidence.mean(1)
        order = np.argsort(-score, kind="stable")
        return Detections(keypoints[order], confidence[order], boxes[order], score[order])


def _files(folder: Path) -> dict[str, str]:
    found = sorted(folder.glob("*.onnx"))
    boxes = [file for file in found if file.name.lower().startswith(("yolox", "rtmdet"))]
    poses = [file for file in found if file not in boxes]
    if len(boxes) != 1 or len(poses) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DetectorError(
            f"{folder}: folder must have one yolox*.onnx or rtmdet*.onnx and one of keypoints, got {names}"
        )
    return {"det": str(boxes[0]), "pose": str(poses[0])}


def _size_from_graph(model: Any, *, rows_first: bool) -> None:
    """The input's size as the graph states it: of a file that a user names, rtmlib knows the default alone."""
    height, width = model.session.get_inputs()[0].shape[2:]
    if isinstance(height, int) and isinstance(width, int):
        model.model_input_size = (height, width) if rows_first else (width, height)
