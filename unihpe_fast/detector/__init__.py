"""2D keypoints of the people in a picture: `open_detector("movenet")(image)`."""

from unihpe_fast.detector.interface import COCO17_NAMES, Detections, Detector, DetectorError
from unihpe_fast.detector.registry import DEFAULT, DETECTORS, check_name, open_detector

__all__ = [
    "COCO17_NAMES",
    "DEFAULT",
    "DETECTORS",
    "Detections",
    "Detector",
    "DetectorError",
    "check_name",
    "open_detector",
]
