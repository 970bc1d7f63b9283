"""Detectors by name. A new one is a file with one class, and its line here."""

from importlib import import_module
from pathlib import Path

from unihpe_fast.detector.interface import Detector, DetectorError

# name -> module, class, and what is handed to it before the weights
_HOMES: dict[str, tuple[str, str, str]] = {
    "movenet": ("movenet", "MoveNet", "movenet"),
    "movenet-multipose": ("movenet", "MoveNet", "movenet-multipose"),
    "movenet-lightning": ("movenet", "MoveNet", "movenet-lightning"),
    "rtmlib": ("rtmlib", "RTMLib", "rtmlib"),
    "rtmlib-wholebody": ("rtmlib", "RTMLib", "rtmlib-wholebody"),
}
DETECTORS = tuple(_HOMES)
DEFAULT = "movenet"


def check_name(spec: str) -> None:
    """DetectorError where `NAME` or `NAME=FOLDER` names no detector; nothing is opened."""
    name = spec.partition("=")[0]
    if name not in _HOMES:
        raise DetectorError(f"--detector: name must be one of {', '.join(DETECTORS)}, got {name!r}")


def open_detector(spec: str = DEFAULT) -> Detector:
    """The detector that `NAME` or `NAME=FOLDER` names; FOLDER has its weights, else they are looked for in the cache.

    Raises DetectorError, one line that says what to do, where it is unknown, not installed or without weights.
    """
    name, equals, folder = spec.partition("=")
    check_name(spec)
    if equals and not Path(folder).is_dir():
        raise DetectorError(f"--detector {name}: folder must be one that exists, got {folder!r}")
    module, kind, variant = _HOMES[name]
    build = getattr(import_module(f"unihpe_fast.detector.{module}"), kind)
    detector: Detector = build(variant, Path(folder) if equals else None)
    return detector
