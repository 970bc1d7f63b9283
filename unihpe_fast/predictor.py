"""`Predictor`: keypoints, photographs and videos to 3D, on arrays."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from unihpe_fast.config import Axes, ConfigError, RunConfig
from unihpe_fast.data.augment import People
from unihpe_fast.data.augment import roll as roll_people
from unihpe_fast.data.bounds import LARGEST_PX
from unihpe_fast.data.collate import box_context, crop_units, input_crop
from unihpe_fast.data.formats.keypoints import Keypoints
from unihpe_fast.data.images import normalized
from unihpe_fast.data.joint_sets import KEYPOINT_NAMES, joint_map, to_h36m17
from unihpe_fast.detector.interface import Detections, Detector
from unihpe_fast.engine.checkpoint import load_model
from unihpe_fast.engine.packaged import read_card, shipped
from unihpe_fast.engine.runtime import choose_runtime
from unihpe_fast.lifting import (
    FEWEST_JOINTS,
    SMALLEST_BOX,
    boxes,
    camera_roll,
    camera_vectors,
    fit_root,
    liftable,
    people_last,
    people_of,
)
from unihpe_fast.models.folded import FoldedLifter
from unihpe_fast.models.unihpe import UniHPE
from unihpe_fast.outputs.pictures import PictureError, read_photo
from unihpe_fast.prediction import Prediction, concatenate
from unihpe_fast.sequences import identities, steady
from unihpe_fast.video import Tracker

# the model that comes with the package
DEFAULT_MODEL = "lifting"
# of keypoint files that do not say theirs
ASSUMED_FPS = 30.0
# names are matched once for all the calls with the same ones
_map_of = lru_cache(maxsize=64)(joint_map)
Array = np.ndarray | Tensor
# is told frame, detections, numbers of the people [P], width and height of the picture, and its path, "" in a video
Keep = Callable[[int, Detections, np.ndarray, tuple[int, int], str], None]


class Predictor:
    """A trained model, and a detector of 2D keypoints, that turn people in pictures into 3D poses.

    model: the name of one that comes with the package, a run folder, a file of `python -m unihpe_fast.export`, or a
    UniHPE in evaluation mode. detector: `Detector`, or the name of one (`unihpe_fast.detector.DETECTORS`); it is opened
    when a picture first needs it. device: "auto", "cpu", "cuda".. min_confidence: keypoints less sure than that are
    absent. confidence: whether the model knows 0 and 1 only ("binary") or a detector's own ("graded"); None: what its
    file says, else "binary". batch_size: people that go through the model at once. dtype: of the model's products;
    "auto": bfloat16 where the device multiplies it in hardware, which moves joints by 0.7 mm in the mean.
    axes: of the model's poses (see Prediction); None: what its run or file says, "camera" for a UniHPE. The weights are
    those that the model has now.

    Raises CheckpointError for a model that cannot be used, ValueError for other options.
    """

    def __init__(
        self,
        model: str | Path | UniHPE = DEFAULT_MODEL,
        *,
        detector: str | Detector = "movenet",
        device: str = "auto",
        min_confidence: float = 0.1,
        confidence: Literal["binary", "graded"] | None = None,
        batch_size: int = 1024,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        axes: Axes | None = None,
    ) -> None:
        if not 0 <= min_confidence <= 1:
            raise ValueError(f"Predictor: min_confidence must be 0 to 1, got {min_confidence}")
        if batch_size < 1:
            raise ValueError(f"Predictor: batch_size must be at least 1, got {batch_size}")
        if dtype not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"Predictor: dtype must be auto, float32 or bfloat16, got {dtype!r}")
        if axes not in (None, "camera", "level"):
            raise ValueError(f"Predictor: axes must be camera or level, got {axes!r}")
        try:
            runtime = choose_runtime(RunConfig(device=device, dtype=dtype, compile="off"))
        except ConfigError as error:
            raise ValueError(f"Predictor: {str(error).removeprefix('--run.')}") from error
        self.device, self.dtype = runtime.device, runtime.dtype
        network, stated = (model, None) if isinstance(model, UniHPE) else load_model(model)
        self.model = network.to(self.device)
        self.axes: Axes = axes or (stated.data.axes if stated else "camera")
        if not {"image", "pose2d"} & set(self.model.modalities):
            raise ValueError(f"Predictor: model must read images or 2D poses, got one of {self.model.modalities}")
        self._lifter = FoldedLifter(self.model, self.dtype) if FoldedLifter.fits(self.model) else None
        self.graded = (confidence or _stated_confidence(model)) == "graded"
        self.min_confidence, self.batch_size = min_confidence, batch_size
        self._detector = detector

    @property
    def detector(self) -> Detector:
        """The detector, opened; DetectorError, whose one line says what to do, where that cannot be done."""
        if isinstance(self._detector, str):
            from unihpe_fast.detector import open_detector

            self._detector = open_detector(self._detector)
        return self._detector

    def lift(
        self,
        keypoints_2d: Array,
        confidence: Array | None = None,
        *,
        layout: str | Sequence[str] = "coco17",
        size: Any = None,
        camera: Any = None,
        level: bool = False,
    ) -> Prediction:
        """3D poses of people whose 2D keypoints are known; NumPy or torch in, NumPy out.

        keypoints_2d: [.., K, 2] px of the full image (x right, y down), or [.., K, 3] with a confidence. confidence:
        [.., K]; absent keypoints have 0, or coordinates that are NaN or beyond 1e6 px. layout: a name of
        KEYPOINT_NAMES, or the K names of the keypoints. size: width and height of the full image in px, for all or
        [.., 2]; needed unless there is a camera. camera: f, cx, cy or fx, fy, cx, cy or nine numbers of
        data/camera.py, for all or [.., n]; without one, a focal length of sqrt(w^2 + h^2). level: the people were taken
        by one camera, whose roll is taken out first; poses are in the level camera's axes then.

        Returns a Prediction with the leading shape of keypoints_2d; people of whom too little is seen have NaN. Raises
        ValueError for shapes and values that cannot be used.
        """
        joints, lead, name = self._joints(keypoints_2d, confidence, layout)
        sizes, cameras = _pictures(size, camera, lead)
        return self._predict(joints, sizes, cameras, lead, name, level=level)

    def clip(
        self,
        keypoints_2d: Array,
        confidence: Array | None = None,
        *,
        fps: float,
        layout: str | Sequence[str] = "coco17",
        size: Any = None,
        camera: Any = None,
        level: bool = False,
        smooth: float | None = 6.0,
        max_gap: int = 10,
    ) -> Prediction:
        """3D poses of a video's frames whose 2D keypoints are known: what `lift` says, gaps filled and smoothed.

        keypoints_2d: [T, K, 2 or 3] px of one person, or [T, P, K, 2 or 3] of P people who are the same in all frames;
        frames without a person have NaN or confidence 0. fps: frames a second. smooth: Hz of the zero-lag Butterworth
        filter, None: no filter. max_gap: longest gap, in frames, that is filled. The others as in `lift`.

        Returns a row a person in a frame, by frame and person, which every format of `unihpe_fast.outputs` takes.
        Raises ValueError as `lift` does, and where nobody can be lifted.
        """
        if not 0 < fps < 1e5:
            raise ValueError(f"clip: fps must be frames a second above 0, got {fps}")
        lifted = self.lift(keypoints_2d, confidence, layout=layout, size=size, camera=camera, level=level)
        if len(lifted.shape) not in (1, 2):
            raise ValueError(f"clip: keypoints_2d must be [T, K, 2] or [T, P, K, 2], got people {list(lifted.shape)}")
        frames = np.arange(lifted.shape[0])
        people = lifted.shape[1] if len(lifted.shape) == 2 else 1
        rows = replace(
            lifted.flat(),
            person=np.tile(np.arange(people), len(frames)),
            frame=np.repeat(frames, people),
            time=np.repeat(frames / fps, people),
            fps=float(fps),
        )
        return _finished(rows, smooth, max_gap, None)

    def image(self, image: np.ndarray, *, camera: Any = None, level: bool = False) -> Prediction:
        """3D poses of the people that the detector finds in a picture: uint8 [H, W, 3] RGB -> P rows, the surest first.

        A model with an image encoder looks at the picture too: its embedding and that of the keypoints are fused.
        """
        return self.detected(image, self.detect(image), camera=camera, level=level)

    def detect(self, image: np.ndarray) -> Detections:
        """The 2D keypoints of the people in a picture, uint8 [H, W, 3] RGB."""
        return self.detector(image)

    def detected(
        self, image: np.ndarray | None, found: Detections, *, camera: Any = None, size: Any = None, level: bool = False
    ) -> Prediction:
        """3D poses of the people that `detect` found; image: None where the model does not look at it."""
        names = self.detector.keypoint_names
        size = size if image is None else (image.shape[1], image.shape[0])
        joints, lead, _ = self._joints(found.keypoints_2d, found.confidence, names)
        sizes, cameras = _pictures(size, camera, lead)
        return self._predict(joints, sizes, cameras, lead, self.detector.layout, level=level, image=image)

    def keypoints(
        self,
        found: Keypoints,
        *,
        source: str = "",
        size: tuple[int, int] | None = None,
        camera: Any = None,
        fps: float | None = None,
        level: bool = False,
        smooth: float | None = None,
        max_gap: int = 0,
        left_out: Counter[str] | None = None,
    ) -> Prediction:
        """3D poses of the people in a file of keypoints (`read_keypoints`), a row each in the file's order.

        size: of the pictures where the file does not say it. fps: frames a second, instead of the file's own; 30 where
        neither says it. The rows of a sequence are tracked, gaps of up to max_gap frames filled, and smoothed with a
        cutoff of `smooth` Hz. left_out: counts what has no row, by reason. Raises ValueError as `lift` does.
        """
        sizes = np.where(found.size > 0, found.size, 0 if size is None else np.array(size))
        known = size is not None or bool((sizes > 0).all())
        # each photograph has a roll of its own, and so has each video
        groups = [np.arange(len(found))] if found.sequence or not level else _alike(found)
        parts = [
            self.lift(
                found.keypoints_2d[rows],
                layout=found.names,
                size=sizes[rows] if known else None,
                camera=camera,
                level=level,
            )
            for rows in groups
        ]
        predicted = parts[0] if len(parts) == 1 else concatenate(parts).select(np.argsort(np.concatenate(groups)))
        rate = (fps or found.fps or ASSUMED_FPS) if found.sequence else None
        time = found.frame / rate if rate else np.full(len(found), np.nan)
        names = [source if found.sequence or not name else name for name in found.picture]
        predicted = replace(
            predicted,
            person=identities(found),
            frame=found.frame,
            time=time,
            source=np.array(names, dtype=object),
            fps=rate,
            layout=found.layout,
        )
        return _finished(predicted, smooth, max_gap, left_out)

    def photos(
        self,
        paths: Iterable[Path],
        *,
        camera: Any = None,
        level: bool = False,
        left_out: Counter[str] | None = None,
        progress: Callable[[int], None] | None = None,
        keep: Keep | None = None,
    ) -> Prediction:
        """3D poses of the people in photographs, each a frame; people are numbered within theirs, the surest first.

        A photograph that is broken or has no person is counted in left_out, named. Raises DetectorError, and
        ValueError where there is no person in any.
        """
        left_out = Counter() if left_out is None else left_out
        parts = []
        for frame, path in enumerate(paths):
            try:
                image = read_photo(path)
                found = self.detect(image)
                predicted = self.detected(image, found, camera=camera, level=level)
                if keep:
                    keep(frame, found, np.arange(len(found)), (image.shape[1], image.shape[0]), path.name)
            except (OSError, PictureError) as error:
                left_out[str(error)] += 1
                predicted = None
            if predicted is not None and not len(predicted):
                left_out[f"{path}: no person found"] += 1
            elif predicted is not None:
                names = np.full(len(predicted), str(path), dtype=object)
                parts.append(replace(predicted, frame=np.full(len(predicted), frame), source=names))
            if progress:
                progress(1)
        if not parts:
            raise ValueError(f"people must be at least one, got none: {'; '.join(left_out)}")
        return _finished(concatenate(parts), None, 0, left_out)

    def video(
        self,
        video: Iterable[Any],
        *,
        fps: float,
        source: str = "",
        camera: Any = None,
        level: bool = False,
        smooth: float | None = None,
        max_gap: int = 0,
        left_out: Counter[str] | None = None,
        progress: Callable[[int], None] | None = None,
        keep: Keep | None = None,
    ) -> Prediction:
        """3D poses of the people in the frames of a video (`unihpe_fast.video.open_video`), tracked.

        Frames have an index, a time in s and an image. One frame at a time is held. keep: is told of every
        frame. Gaps, smoothing and left_out as in `keypoints`. Raises ValueError where there
        is no person in any frame.
        """
        left_out = Counter() if left_out is None else left_out
        if level and self.looks_at_pictures:
            raise ValueError(
                "level must be False for the video of a model that looks at pictures, got True: the camera's roll is "
                "known at the end only, and the pictures are gone then"
            )
        tracker, rows, parts = Tracker(), [], []
        size = (0, 0)
        for frame in video:
            size = (frame.image.shape[1], frame.image.shape[0])
            found = self.detect(frame.image)
            people = tracker.update(found, frame.index)
            if keep:
                keep(frame.index, found, people, size, "")
            if not len(found):
                left_out["frames without a person"] += 1
            elif self.looks_at_pictures:
                parts.append(self.placed(frame, found, people, camera=camera))
            else:
                rows.append((found.keypoints_2d, found.confidence, people, frame.index, frame.time))
            if progress:
                progress(1)
        if rows:
            counts = [len(row[2]) for row in rows]
            predicted = self.lift(
                np.concatenate([row[0] for row in rows]),
                np.concatenate([row[1] for row in rows]),
                layout=self.detector.keypoint_names,
                size=size,
                camera=camera,
                level=level,
            )
            placed = replace(
                predicted,
                person=np.concatenate([row[2] for row in rows]),
                frame=np.repeat([row[3] for row in rows], counts),
                time=np.repeat([float(row[4]) for row in rows], counts),
                layout=self.detector.layout,
            )
            parts = [placed]
        if not parts:
            raise ValueError(f"{source}: people must be at least one, got none in any frame")
        whole = concatenate(parts)
        whole = replace(whole, source=np.full(len(whole), source, dtype=object), fps=fps)
        return _finished(whole, smooth, max_gap, left_out)

    def placed(self, frame: Any, found: Detections, people: np.ndarray, *, camera: Any = None) -> Prediction:
        """3D poses of the people that were found in one frame of a video, with their numbers and the frame's time."""
        count = len(people)
        return replace(
            self.detected(frame.image, found, camera=camera),
            person=people,
            frame=np.full(count, frame.index),
            time=np.full(count, float(frame.time)),
        )

    @property
    def looks_at_pictures(self) -> bool:
        """Whether the model has an image encoder."""
        return "image" in self.model.modalities

    def _joints(
        self, keypoints_2d: Array, confidence: Array | None, layout: str | Sequence[str]
    ) -> tuple[np.ndarray, tuple[int, ...], str]:
        """[N, 17, 3] float32 px and confidence of H36M-17, the leading shape, and what the layout is called."""
        if isinstance(layout, str) and layout not in KEYPOINT_NAMES:
            raise ValueError(f"lift: layout must be one of {', '.join(KEYPOINT_NAMES)} or names, got {layout!r}")
        names = KEYPOINT_NAMES[layout] if isinstance(layout, str) else tuple(layout)
        points = _numpy("keypoints_2d", keypoints_2d)
        columns = (2, 3) if confidence is None else (2,)
        if points.ndim < 2 or points.shape[-2] != len(names) or points.shape[-1] not in columns:
            wanted = " or ".join(f"[.., {len(names)}, {n}]" for n in columns)
            raise ValueError(f"lift: keypoints_2d must be {wanted} for this layout, got {list(points.shape)}")
        lead = points.shape[:-2]
        if confidence is not None:
            sure = _numpy("confidence", confidence)
            if sure.shape != points.shape[:-1]:
                raise ValueError(f"lift: confidence must be {list(points.shape[:-1])}, got {list(sure.shape)}")
        else:
            sure = points[..., 2] if points.shape[-1] == 3 else np.ones(points.shape[:-1])
        joints = people_last(points[..., :2].reshape(-1, len(names), 2), sure.reshape(-1, len(names)))
        # NaN and what is beyond the bounds of data/bounds.py are not known
        known = (np.abs(joints) < LARGEST_PX).all(-1) & (joints[..., 2] >= max(self.min_confidence, 1e-12))
        np.copyto(joints, 0, where=~known[..., None])
        return to_h36m17(joints, _map_of(names)), lead, layout if isinstance(layout, str) else ""

    def _predict(
        self,
        joints: np.ndarray,
        size: np.ndarray,
        camera: np.ndarray,
        lead: tuple[int, ...],
        layout: str,
        *,
        level: bool,
        image: np.ndarray | None = None,
    ) -> Prediction:
        usable = liftable(joints)
        roll = camera_roll(joints[usable]) if level else 0.0
        # in the memory order of the joints
        poses = np.full_like(joints, np.nan)
        root = np.full((len(joints), 3), np.nan, np.float32)
        # a batch at a time all the way: what is known of a person on the way is ten times its pose
        for start in range(0, len(joints), self.batch_size):
            rows = slice(start, start + self.batch_size)
            good = usable[rows]
            people = people_of(joints[rows], camera[rows], size[rows], good)
            if roll:
                people = roll_people(people, np.full(len(good), roll))
                people = replace(people, bbox=boxes(people.keypoints_2d, good))
            picture = None if roll else image
            if good.all():
                poses[rows] = self._forward(people, picture)
            elif good.any():
                poses[rows][good] = self._forward(people.select(good), picture)
            # a levelled pose does not say how it was pitched before the camera
            if self.axes == "camera":
                root[rows] = fit_root(poses[rows], people.keypoints_2d, camera[rows])
        seen = joints[..., 2] > 0
        prediction = Prediction(
            joints_3d=poses,
            joints_2d=np.where(seen[..., None], joints[..., :2], np.nan).astype(np.float32),
            confidence=np.where(seen, joints[..., 2], 0).astype(np.float32),
            root=root,
            roll=np.full(len(joints), roll, np.float32),
            person=np.arange(len(joints)) if len(lead) == 1 else np.zeros(len(joints), np.int64),
            frame=np.zeros(len(joints), np.int64),
            time=np.full(len(joints), np.nan),
            source=np.full(len(joints), "", dtype=object),
            size=size,
            camera=camera,
            layout=layout,
            axes=self.axes,
        )
        return prediction.shaped(lead)

    def _forward(self, people: People, image: np.ndarray | None) -> np.ndarray:
        """[n, 17, 3] mm of people who can be lifted; confidences become 0 and 1 where the model knows these only."""
        model = self.model
        keypoints = crop_units(people).astype(np.float32)
        if not self.graded:
            keypoints[..., 2] = keypoints[..., 2] > 0
        box = torch.from_numpy(box_context(people).astype(np.float32)).to(self.device)
        keypoints_2d = torch.from_numpy(keypoints).to(self.device)
        pixels = self._crops(people.bbox, image) if self.looks_at_pictures and image is not None else None
        if pixels is None and self._lifter is not None:
            return self._lifter(keypoints_2d, box).cpu().numpy()
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32):
            embeddings: dict[str, Tensor] = {}
            if pixels is not None:
                embeddings["image"] = model.encode_image(pixels.to(self.device), box)
            if "pose2d" in model.modalities:
                embeddings["pose2d"] = model.encode_pose2d(keypoints_2d, box)
            if not embeddings:
                raise ValueError("lift: model must read 2D poses, got one that reads images only: give it pictures")
            pose = model.decode(model.fuse(**embeddings), tuple(embeddings))
            if "pose2d" in embeddings:
                pose = model.to_rays(pose, keypoints_2d, box)
        return pose.float().cpu().numpy()

    def _crops(self, bbox: np.ndarray, image: np.ndarray) -> Tensor:
        """[n, 3, S, S] float32, the network's input for each bbox [n, 3] of a picture."""
        import cv2

        side = self.model.image_encoder.image_size
        crops = [
            cv2.warpAffine(
                image, matrix, (side, side), flags=cv2.INTER_AREA if matrix[0, 0] < 0.5 else cv2.INTER_LINEAR
            )
            for matrix in input_crop(bbox, side)
        ]
        return normalized(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2))


def _finished(predicted: Prediction, smooth: float | None, max_gap: int, left_out: Counter[str] | None) -> Prediction:
    """Without people of whom too little is seen; steady, where the rows are frames of a video."""
    good = np.isfinite(predicted.joints_3d).all((1, 2))
    if left_out is not None and not good.all():
        left_out[f"people with fewer than {FEWEST_JOINTS} joints or smaller than {SMALLEST_BOX:.0f} px"] += int(
            (~good).sum()
        )
    if not good.any():
        raise ValueError(
            f"people must show {FEWEST_JOINTS} joints and {SMALLEST_BOX:.0f} px, got none of {len(good)} that do"
        )
    predicted = predicted.select(good)
    if not predicted.is_sequence:
        return predicted
    return steady(predicted, max_gap=max_gap, cutoff=smooth)


def _alike(found: Keypoints) -> list[np.ndarray]:
    """The rows of each photograph, or of each of several videos."""
    keys: dict[Any, list[int]] = {}
    for row, key in enumerate(found.picture):
        keys.setdefault(key or int(found.frame[row]), []).append(row)
    return [np.array(rows) for rows in keys.values()]


def _stated_confidence(model: str | Path | UniHPE) -> str:
    if isinstance(model, UniHPE):
        return "binary"
    path = shipped().get(str(model), Path(model)) if not Path(model).exists() else Path(model)
    return read_card(path).confidence if path.is_file() else "binary"


def _numpy(name: str, values: Array) -> np.ndarray:
    found = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if found.dtype.kind not in "fiu":
        raise ValueError(f"lift: {name} must be numbers, got {found.dtype}")
    return found


def _pictures(size: Any, camera: Any, lead: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Sizes [N, 2] int64 and camera vectors [N, 9] of N people, whose leading shape is `lead`."""
    count = int(np.prod(lead))
    if size is None and camera is None:
        raise ValueError("lift: size must be the width and height of the picture in px, or camera given, got neither")
    sizes = np.zeros((count, 2), np.int64)
    if size is not None:
        given = _numpy("size", size)
        if given.shape not in ((2,), (*lead, 2)) or not ((given >= 1).all() and (given < 1 << 20).all()):
            raise ValueError(f"lift: size must be width, height in px for all or {[*lead, 2]}, got {size!r:.80}")
        sizes[:] = given.reshape(-1, 2).round()
    if camera is not None:
        given = _numpy("camera", camera)
        camera = given.reshape(-1, given.shape[-1]) if given.ndim > 1 and given.shape[:-1] == lead else given
    return sizes, camera_vectors(camera, sizes)
