"""`python -m unihpe_fast.predict INPUT.. [--out DIR]`: photographs, videos and files of 2D keypoints to 3D poses."""

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import tyro

from unihpe_fast.data.formats.keypoints import FORMATS as KEYPOINT_FORMATS
from unihpe_fast.data.formats.keypoints import Keypoints, ReadOptions, read_keypoints
from unihpe_fast.data.joint_sets import KEYPOINT_NAMES
from unihpe_fast.data.progress import Counting
from unihpe_fast.detector import DetectorError, check_name
from unihpe_fast.engine.faults import CheckpointError
from unihpe_fast.engine.report import axes_line
from unihpe_fast.inputs import Input, distinct, find_all
from unihpe_fast.lifting import guess_size
from unihpe_fast.live import live
from unihpe_fast.outputs import DEFAULT, FORMATS, OutputError, Pictures, write
from unihpe_fast.outputs.keypoints import SavedKeypoints
from unihpe_fast.outputs.overlay import draw_overlay
from unihpe_fast.outputs.pictures import Photos, VideoFrames
from unihpe_fast.prediction import Prediction
from unihpe_fast.predictor import ASSUMED_FPS, DEFAULT_MODEL, Predictor
from unihpe_fast.terminal import Terminal
from unihpe_fast.video import open_video

KEYPOINTS_SUFFIX = "_keypoints.json"


@dataclass(frozen=True)
class Arguments:
    """Turn photographs, videos, webcams and files of 2D keypoints into 3D poses, and write them into a folder."""

    inputs: tyro.conf.Positional[tuple[str, ...]]
    """each a file or folder of keypoints, a photograph, a folder of photographs, a video, or the number of a webcam"""
    out: Path = Path("predictions")
    """folder to write to"""
    run: Path | None = None
    """run folder of a model that you trained; without it and --model, the model that comes with the package"""
    model: str | None = None
    """name of a model that comes with the package, or a file of python -m unihpe_fast.export"""
    detector: str = "movenet"
    """2D detector for pictures, NAME or NAME=FOLDER with its weights"""
    write: tuple[str, ...] = DEFAULT
    """formats of the results"""
    format: str = ""
    """format of keypoint files; by default their content tells"""
    layout: str = ""
    """keypoint layout of keypoint files, where they do not say it: coco17, halpe26, body25, .."""
    joints: str = ""
    """names of keypoints in the file and ours, theirs=ours,.., e.g. snout=nose,hip_l=left_hip"""
    size: str = ""
    """width,height of the pictures in px, instead of what keypoint files say"""
    camera: str = ""
    """f,cx,cy or fx,fy,cx,cy in px; by default a focal length of the picture's diagonal"""
    fps: float | None = None
    """frames a second, instead of what keypoint files say"""
    photographs: bool = False
    """the pictures of keypoint files are photographs and no video, however they are numbered"""
    level: bool = False
    """take the camera's roll out: the trunks of all people stand upright in the median. A model trained with
    --data.level gives levelled poses without it"""
    smooth: float | Literal["off"] = 6.0
    """cutoff of the smoothing of videos, Hz, or off"""
    max_gap: int = 10
    """longest gap, in frames, that is filled where a person is missing for a while"""
    min_confidence: float = 0.1
    """keypoints less sure than this are absent"""
    save_keypoints: bool = False
    """write what the detector found, as JSON that this command reads"""
    overwrite: bool = False
    """replace results that are there already"""
    device: str = "auto"
    """where to run"""


class Job:
    """The command's options in the units of `Predictor`, and what it says on the way."""

    def __init__(self, arguments: Arguments, console: Terminal) -> None:
        """Raises CheckpointError, DetectorError or ValueError for options that cannot be used."""
        a = arguments
        if a.run is not None and a.model is not None:
            raise ValueError("--run and --model: must be one of them, got both")
        if a.format and a.format not in KEYPOINT_FORMATS:
            raise ValueError(f"--format: must be one of {', '.join(KEYPOINT_FORMATS)}, got {a.format!r}")
        for name in a.write:
            if name not in FORMATS:
                raise ValueError(f"--write: must be of {', '.join(FORMATS)}, got {name!r}")
        if a.smooth != "off" and not a.smooth > 0:
            raise ValueError(f"--smooth: must be Hz above 0 or off, got {a.smooth}")
        if a.max_gap < 0:
            raise ValueError(f"--max-gap: must be 0 or more, got {a.max_gap}")
        if trouble := unwritable(a.out):
            raise ValueError(f"--out: {trouble}")
        if a.fps is not None and not 0 < a.fps < 1e5:
            raise ValueError(f"--fps: must be above 0, got {a.fps}")
        self.arguments, self.console = arguments, console
        size = _numbers("--size", a.size, (2,))
        self.size = None if size is None else (int(size[0]), int(size[1]))
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"--size: must be width,height in px, got {a.size!r}")
        if a.layout and a.layout not in KEYPOINT_NAMES:
            raise ValueError(f"--layout: must be one of {', '.join(KEYPOINT_NAMES)}, got {a.layout!r}")
        check_name(a.detector)
        self.camera = _numbers("--camera", a.camera, (3, 4))
        # the focal lengths are all but the last two
        if self.camera is not None and min(self.camera[:-2]) <= 0:
            raise ValueError(f"--camera: focal lengths must be above 0 px, got {a.camera!r}")
        self.cutoff = None if a.smooth == "off" else float(a.smooth)
        self.reading = ReadOptions(a.layout or None, self.size, _pairs(a.joints), a.photographs)
        model = a.run or a.model or DEFAULT_MODEL
        if a.run is not None and not a.run.is_dir():
            raise ValueError(f"--run: must be a run folder, got {a.run}")
        self.predictor = Predictor(model, detector=a.detector, device=a.device, min_confidence=a.min_confidence)
        if self.predictor.axes == "level":
            self.say(axes_line("level"))

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def run(self, item: Input, inputs: frozenset[Path] = frozenset()) -> list[Path]:
        """Predict one input and write its results. inputs: the paths of all, which no result may replace.

        Raises ValueError or OSError, naming what cannot be used.
        """
        old = self._results(item)
        for path in old:
            if {path.resolve(), path.resolve().parent} & inputs:
                raise ValueError(f"{path}: is an input, and would be replaced by a result; --out FOLDER")
            if not self.arguments.overwrite:
                raise ValueError(f"{path}: is there already; --overwrite replaces it")
        if item.kind != "keypoints" and (unused := self._of_keypoints()):
            self.say(f"{item.name}: note: {', '.join(unused)}: for keypoint files, not used here")
        left_out: Counter[str] = Counter()
        start = time.perf_counter()
        found, frames, pictures, saved = self._predict(item, left_out)
        seconds = time.perf_counter() - start
        if found.is_sequence:
            people = number(len(np.unique(found.person)), "person", "people")
            what = f"{number(len(found), 'pose')} of {people} in {number(frames, 'frame')}"
        else:
            what = f"{number(len(found), 'person', 'people')} in {number(frames, 'picture')}"
        self.say(f"{item.name}: {what}, {seconds:.1f} s, {frames / max(seconds, 1e-6):.1f} frames/s; writing")
        written = self._write(item, found, pictures, saved, left_out)
        # of people whom this call did not find
        for path in set(old) - set(written):
            if re.search(r"_person\d+\.\w+$", path.name):
                path.unlink(missing_ok=True)
        return written

    def _of_keypoints(self) -> list[str]:
        """The options that were given and say something of keypoint files only."""
        a = self.arguments
        given = {
            "--format": a.format,
            "--layout": a.layout,
            "--joints": a.joints,
            "--size": a.size,
            "--fps": a.fps,
            "--photographs": a.photographs,
        }
        return [name for name, value in given.items() if value]

    def _write(
        self,
        item: Input,
        found: Prediction,
        pictures: Pictures | None,
        saved: SavedKeypoints | None,
        left_out: Counter[str],
    ) -> list[Path]:
        """Every file that can be written, whatever becomes of the others; an OSError then names those that were not."""
        start = time.perf_counter()
        written: list[Path] = []
        failed: list[str] = []
        stem = self.arguments.out / item.stem
        tasks: dict[str, Callable[[], list[Path]]] = {
            name: partial(write, found, stem, name, pictures) for name in self.arguments.write
        }
        if saved is not None:
            path, names = stem.with_name(stem.name + KEYPOINTS_SUFFIX), self.predictor.detector.keypoint_names
            tasks = {"keypoints": lambda: saved.write(path, names, found.fps), **tasks}
        try:
            for name, task in tasks.items():
                try:
                    written += task()
                except OutputError as error:
                    left_out[f"{name}: {error}"] += 1
                except OSError as error:
                    failed.append(f"{name}: {error}")
        finally:
            for reason, count in left_out.items():
                self.say(
                    f"{item.name}: left out: {count} {reason}" if count > 1 else f"{item.name}: left out: {reason}"
                )
            seconds = time.perf_counter() - start
            files = ", ".join(listed(written)) or "nothing"
            self.say(f"{item.name}: written in {seconds:.1f} s: {files}")
        if failed:
            raise OSError("; ".join(failed))
        return written

    def _results(self, item: Input) -> list[Path]:
        """The files of an earlier call that this one's would replace."""
        suffixes = [FORMATS[name].suffix for name in self.arguments.write]
        if self.arguments.save_keypoints and item.kind != "keypoints":
            suffixes.append(KEYPOINTS_SUFFIX)
        # those of drawings go on: _overlay.png, _overlay_im1.png
        ends = "|".join(re.escape(suffix) + ("" if "." in suffix else ".*") for suffix in suffixes)
        mine = re.compile(rf"{re.escape(item.stem)}(_person\d+)?({ends})")
        folder = self.arguments.out
        return sorted(path for path in folder.iterdir() if mine.fullmatch(path.name)) if folder.is_dir() else []

    def _predict(
        self, item: Input, left_out: Counter[str]
    ) -> tuple[Prediction, int, Pictures | None, SavedKeypoints | None]:
        a = self.arguments
        common: dict[str, Any] = {"camera": self.camera, "level": a.level, "left_out": left_out}
        if item.kind == "keypoints":
            return *self._keypoints(item, left_out), None, None
        saved = SavedKeypoints() if a.save_keypoints else None
        if item.kind == "photos":
            with Counting(item.name, len(item.paths), self.console) as counting:
                found = self.predictor.photos(
                    item.paths, progress=counting.advance, keep=saved.add if saved else None, **common
                )
            return found, len(item.paths), Photos(item.paths), saved
        if item.kind == "webcam":
            if a.level:
                raise ValueError(f"--level: must be for pictures that are recorded, got webcam {item.name}")
            seen, count = live(
                self.predictor,
                int(item.name),
                say=self.say,
                camera=self.camera,
                smooth=self.cutoff is not None,
                draw=_drawn,
                keep=saved.add if saved else None,
            )
            if seen is None:
                raise ValueError(f"{item.name}: people must be at least one, got none")
            return seen, count, None, saved
        with open_video(item.paths[0]) as video, Counting(item.name, video.num_frames, self.console) as counting:
            frames = Counter[str]()

            def advance(count: int) -> None:
                frames["read"] += count
                counting.advance(count)

            found = self.predictor.video(
                video,
                fps=video.fps,
                source=str(item.paths[0]),
                smooth=self.cutoff,
                max_gap=a.max_gap,
                progress=advance,
                keep=saved.add if saved else None,
                **common,
            )
            if video.broken:
                left_out["frames that do not decode"] += video.broken
            if video.variable_rate:
                self.say(f"{item.name}: note: the frame rate varies, {video.mean_fps:.2f} frames/s in the mean")
        return found, frames["read"], VideoFrames(item.paths[0]), saved

    def _keypoints(self, item: Input, left_out: Counter[str]) -> tuple[Prediction, int]:
        a, path = self.arguments, item.paths[0]
        found = read_keypoints(path, self.reading, a.format or None)
        left_out.update(found.skipped)
        empty = found.frames - len(np.unique(found.frame))
        if empty > 0:
            left_out["frames without a person"] += empty
        size = self._size(item, found)
        self._look_at_size(item, found)
        if found.sequence and a.fps is None and found.fps is None:
            self.say(f"{item.name}: note: the file does not say its frame rate, {ASSUMED_FPS:.0f}/s is taken; --fps F")
        predicted = self.predictor.keypoints(
            found,
            source=str(path),
            size=size,
            camera=self.camera,
            fps=a.fps,
            level=a.level,
            smooth=self.cutoff,
            max_gap=a.max_gap,
            left_out=left_out,
        )
        return predicted, found.frames

    def _size(self, item: Input, found: Keypoints) -> tuple[int, int] | None:
        """What stands in for the sizes that the file does not say."""
        if (found.size > 0).all() or self.camera is not None:
            return None
        unknown = ~(found.size > 0).all(1)
        joints = found.keypoints_2d[unknown]
        # keypoints that are hardly seen are often thought to lie beyond the picture
        sure = joints[..., 2] >= max(self.arguments.min_confidence, 1e-12)
        width, height = guess_size(joints[sure if sure.any() else joints[..., 2] > 0][:, :2])
        self.say(
            f"{item.name}: note: the file does not say the pictures' size, {width} x {height} px is taken as the "
            "smallest usual one that holds the keypoints; --size W,H"
        )
        return width, height

    def _look_at_size(self, item: Input, found: Keypoints) -> None:
        """Say where the sizes of the pictures cannot be right: what is surely seen lies in them, nearly always."""
        known = (found.size > 0).all(1)
        joints, size = found.keypoints_2d[known], found.size[known, None]
        sure = joints[..., 2] >= 0.5
        outside = sure & ((joints[..., :2] < -0.1 * size) | (joints[..., :2] > 1.1 * size)).any(-1)
        if outside.sum() > 0.1 * sure.sum():
            width, height = found.size[known][0].tolist()
            self.say(
                f"{item.name}: note: {outside.sum() / sure.sum():.0%} of the sure keypoints lie outside of pictures of "
                f"{width} x {height} px; is that their size? --size W,H"
            )


def _drawn(image: np.ndarray, posed: Prediction) -> np.ndarray:
    size = (image.shape[1], image.shape[0])
    return draw_overlay(image, posed.joints_2d, posed.confidence, posed.joints_3d, size=size)


def listed(files: list[Path]) -> list[str]:
    """Their names; of many of one kind, as the drawings of a hundred photographs, the first and the last."""
    kinds: dict[str, list[Path]] = {}
    for file in files:
        kinds.setdefault(file.suffix, []).append(file)
    return [
        name
        for of_kind in kinds.values()
        for name in (map(str, of_kind) if len(of_kind) < 6 else [f"{of_kind[0]} .. {of_kind[-1]} ({len(of_kind)})"])
    ]


def number(count: int, one: str, many: str = "") -> str:
    """A count with its noun in English: 1 frame, 2 frames."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def unwritable(folder: Path) -> str:
    """Why nothing can be written into a folder that may not be there yet; "" where something can."""
    # a file in the way may be far up
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path())
    if not there.is_dir():
        return f"must be a folder, got the file {there}"
    return "" if os.access(there, os.W_OK | os.X_OK) else f"must be a folder that can be written to, got {there}"


def _numbers(option: str, text: str, counts: tuple[int, ...]) -> tuple[float, ...] | None:
    if not text:
        return None
    try:
        values = tuple(float(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        values = ()
    if len(values) not in counts or not all(np.isfinite(values)):
        wanted = " or ".join(map(str, counts))
        raise ValueError(f"{option}: must be {wanted} numbers with commas between, got {text!r}")
    return values


def _pairs(text: str) -> dict[str, str]:
    pairs = [part.split("=") for part in text.split(",")] if text else []
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise ValueError(f"--joints: must be THEIRS=OURS,.., got {text!r}")
    return {theirs.strip(): ours.strip() for theirs, ours in pairs}


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, 1 for input that cannot be used, 2 for a command line that cannot, 130 for Ctrl-C.

    One input that cannot be used does not keep the others from being predicted.
    """
    parsed = tyro.cli(Arguments, args=arguments, prog="python -m unihpe_fast.predict")
    console, errors = Terminal(), Terminal(stderr=True)
    # what OpenCV cannot read or write is said in our words
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

    def complain(error: object) -> None:
        errors.print(f"error: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)

    failed = False
    try:
        if not parsed.inputs:
            raise ValueError("INPUT..: must be at least one file, folder or webcam number, got none")
        job = Job(parsed, console)
    except (CheckpointError, DetectorError, ValueError, OSError) as error:
        complain(error)
        return 2
    items: list[Input] = []
    for name in parsed.inputs:
        try:
            several, others = find_all(name, format=parsed.format or None)
            items += several
            if others:
                job.say(f"{name}: left out: {', '.join(others)}: no keypoints")
        except (ValueError, OSError) as error:
            complain(error)
            failed = True
    inputs = frozenset(path.resolve() for item in items for path in item.paths)
    without_detector = ""
    for item in distinct(items):
        try:
            job.run(item, inputs)
        except KeyboardInterrupt:
            errors.print(f"interrupted at {item.name}; files that are there are whole", markup=False, highlight=False)
            return 130
        except DetectorError as error:
            # one line for all pictures; keypoints need none
            if str(error) != without_detector:
                complain(error)
            without_detector = str(error)
        except (ValueError, OSError, MemoryError) as error:
            text = str(error) or type(error).__name__
            complain(
                text if item.name in text or any(str(path) in text for path in item.paths) else f"{item.name}: {text}"
            )
            failed = True
    if without_detector:
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
