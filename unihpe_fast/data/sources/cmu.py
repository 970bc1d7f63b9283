"""CMU motion capture (mocap.cs.cmu.edu) as BVH conversions or the original ASF/AMC: real motion, no photographs.

Reads the "MotionBuilder-friendly" and the "Daz-friendly" BVH conversions by B. Hahne (cgspeed, 2010) and the originals.
The joint mapping, units and repairs were checked against the originals by forward kinematics. Each clip is filmed by
a rig of synthetic Human3.6M-like cameras; 2D keypoints are exact projections.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.camera import Camera, project
from unihpe_fast.data.formats.asf_amc import read_amc, read_asf
from unihpe_fast.data.formats.bvh import Bvh, read_bvh
from unihpe_fast.data.records import Sample
from unihpe_fast.data.rig import camera_rig
from unihpe_fast.data.skeleton import NUM_JOINTS
from unihpe_fast.data.sources import Reading, Request, Tally

LICENCE = (
    "Motion: CMU Graphics Lab Motion Capture Database, free for all uses except direct resale. The data used in this "
    "project was obtained from mocap.cs.cmu.edu. The database was created with funding from NSF EIA-0196217."
)
# faster than any joint of a person: a marker or Euler-angle glitch
MAX_SPEED = 15_000.0  # mm/s
GLITCH_GAP = 0.25  # seconds
INCH = 25.4  # mm
NATIVE_FPS = 120.0
# captured at 60 fps, though the headers of the conversions say 120 (index of the database)
SLOW_SUBJECTS = {60: 60.0, 61: 60.0}

# the joints of H36M-17 as nodes of each skeleton; two nodes: the point midway
Mapping = tuple[tuple[str, ...], ...]
MOTIONBUILDER: Mapping = (
    ("LeftUpLeg", "RightUpLeg"), ("RightUpLeg",), ("RightLeg",), ("RightFoot",), ("LeftUpLeg",), ("LeftLeg",),
    ("LeftFoot",), ("Spine",), ("Neck",), ("Neck1",), ("Head", "Head_end"), ("LeftArm",), ("LeftForeArm",),
    ("LeftHand",), ("RightArm",), ("RightForeArm",), ("RightHand",),
)  # fmt: skip
DAZ: Mapping = (
    ("lThigh", "rThigh"), ("rThigh",), ("rShin",), ("rFoot",), ("lThigh",), ("lShin",), ("lFoot",), ("abdomen",),
    ("lShldr", "rShldr"), ("neck",), ("head",), ("lShldr",), ("lForeArm",), ("lHand",), ("rShldr",), ("rForeArm",),
    ("rHand",),
)  # fmt: skip
# the bones that END at the joints
ACCLAIM: Mapping = (
    ("lhipjoint", "rhipjoint"), ("rhipjoint",), ("rfemur",), ("rtibia",), ("lhipjoint",), ("lfemur",), ("ltibia",),
    ("lowerback",), ("thorax",), ("lowerneck",), ("upperneck", "head"), ("lclavicle",), ("lhumerus",), ("lradius",),
    ("rclavicle",), ("rhumerus",), ("rradius",),
)  # fmt: skip
# MotionBuilder: frame 0 is an added T-pose; Daz: frame 0 too, and the next few may jump from it
MOTIONBUILDER_FIRST, DAZ_FIRST = 1, 10


@dataclass(frozen=True)
class Options:
    subjects: str = ""
    """CMU subject numbers, comma-separated, e.g. 02,05; empty: all"""
    views: int = 8
    """cameras around each clip"""
    fps: float = 20.0
    """frames a second that are kept: the nearest to the wanted times, none is interpolated; a slower clip keeps all"""


@dataclass(frozen=True)
class ClipFile:
    """A motion file that was found. fps: true frame rate where the manifest gives it."""

    path: Path
    subject: int
    trial: int
    action: str
    fps: float | None

    @property
    def name(self) -> str:
        return f"{self.subject:02d}_{self.trial:02d}"


@dataclass(frozen=True)
class Clip:
    """joints: [F, 17, 3] float64 mm, world with Z up; first: number of the first one in the file; fps: true rate."""

    file: ClipFile
    joints: np.ndarray
    first: int
    fps: float


def read(inputs: Sequence[Path], options: Options, request: Request) -> Reading:
    """inputs: motion files, or folders that are searched for them. See data/sources/__init__.py."""
    if options.views < 1:
        raise ValueError(f"views: want at least 1, got {options.views}")
    if not 0 < options.fps < float("inf"):
        raise ValueError(f"fps: want a positive number, got {options.fps}")
    tally = Tally()
    clips = _choose(find_clips(inputs), options.subjects, tally)
    return Reading(
        dataset="cmu",
        licence=LICENCE,
        files=[path for clip in clips for path in (clip.path, *_skeleton_files(clip.path))],
        samples=_samples(clips, options, request.seed, tally),
        tally=tally,
        render=True,
    )


def find_clips(inputs: Sequence[Path]) -> list[ClipFile]:
    """Every BVH and AMC file (plain or .gz) of the inputs, by subject and trial.

    Who and what is on it comes from a `manifest.csv` (columns file, subject, trial, description, fps_true) beside it or
    one folder up, otherwise from a name like 02_01.bvh.
    """
    if not inputs:
        raise ValueError("no input: want CMU motion files or folders of them")
    paths: dict[Path, Path] = {}
    for given in inputs:
        if not given.exists():
            raise FileNotFoundError(f"{given}: no such file or folder")
        found = [given] if given.is_file() else [path for path in given.rglob("*") if _kind(path)]
        if not found or not _kind(found[0]):
            raise ValueError(f"{given}: want .bvh or .amc files, plain or .gz, found none")
        paths |= {path.resolve(): path for path in found}
    manifests: dict[Path, dict[Path, ClipFile]] = {}
    clips = []
    for resolved, path in paths.items():
        for folder in (resolved.parent, resolved.parent.parent):
            if folder not in manifests:
                manifests[folder] = _read_manifest(folder / "manifest.csv")
        listed = manifests[resolved.parent].get(resolved) or manifests[resolved.parent.parent].get(resolved)
        if listed:
            clips.append(ClipFile(path, listed.subject, listed.trial, listed.action, listed.fps))
        elif match := re.match(r"(\d+)_(\d+)\.", path.name):
            clips.append(ClipFile(path, int(match[1]), int(match[2]), "", None))
        else:
            raise ValueError(
                f"{path}: no manifest.csv lists it and its name is not like 02_01.bvh: whose motion is it?"
            )
    return sorted(clips, key=lambda clip: (clip.subject, clip.trial, _kind(clip.path), str(clip.path)))


def read_clip(file: ClipFile) -> Clip:
    """Parse one motion file into H36M-17 joints; ValueError or OSError naming the file when it cannot be."""
    if _kind(file.path) == "amc":
        joints, header_fps = _read_acclaim(file.path), NATIVE_FPS
        first = 1
    else:
        bvh = read_bvh(file.path)
        header_fps = 1 / bvh.frame_time
        joints, first = _bvh_joints(bvh)
    fps = file.fps or SLOW_SUBJECTS.get(file.subject) or header_fps
    # Y up to Human3.6M's Z up
    joints = np.stack([joints[..., 0], -joints[..., 2], joints[..., 1]], axis=-1)
    return Clip(file, joints, first, fps)


def glitched(joints: np.ndarray, fps: float) -> np.ndarray:
    """[F] bool: frames that a joint reaches or leaves faster than MAX_SPEED. joints: [F, 17, 3] mm at the true rate.

    Of two such jumps within GLITCH_GAP the second undoes the first (a knee that snaps backward and forward again), so
    the frames between them are wrong as well.
    """
    steps = np.flatnonzero((np.linalg.norm(np.diff(joints, axis=0), axis=-1) * fps > MAX_SPEED).any(-1))
    bad = np.zeros(len(joints), dtype=bool)
    bad[steps] = bad[steps + 1] = True
    for first, second in pairwise(steps):
        if second - first <= GLITCH_GAP * fps:
            bad[first : second + 1] = True
    return bad


def resample(count: int, native: float, fps: float) -> np.ndarray:
    """Indices of the frames nearest to the times k / fps, k = 0, 1, .., of a clip of `count` frames.

    An exact rational stride, so that long clips do not drift; all frames where the clip is slower than `fps`.
    """
    # a frame time is written with few digits: .0083333 is 120 frames a second
    stride = max(Fraction(native).limit_denominator(1000) / Fraction(fps).limit_denominator(1000), Fraction(1))
    kept = int((count - 1) / stride) + 1
    return np.array([int(k * stride + Fraction(1, 2)) for k in range(kept)]).clip(max=count - 1)


def _kind(path: Path) -> str:
    match = re.search(r"\.(bvh|amc)(\.gz)?$", path.name.lower())
    return match[1] if match else ""


def _read_manifest(path: Path) -> dict[Path, ClipFile]:
    """Entries by resolved path; empty where there is no manifest of this kind."""
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not {"file", "subject", "trial", "description", "fps_true"} <= set(rows.fieldnames or ()):
            return {}
        entries = {}
        for row in rows:
            clip = (path.parent / row["file"]).resolve()
            where = f"{path}, line {rows.line_num}"
            # "94 (inferred)" is subject 94
            subject, trial, fps = (re.match(r"\s*(\d+)", row[key] or "") for key in ("subject", "trial", "fps_true"))
            if not (subject and trial and fps and int(fps[1])):
                raise ValueError(f"{where}: want numbers for subject, trial and fps_true, got {row}")
            action = action_name(row["description"] or "")
            entries[clip] = ClipFile(clip, int(subject[1]), int(trial[1]), action, float(fps[1]))
    return entries


def action_name(description: str) -> str:
    """The leading words of a CMU description: "dance - small jetes, pirouette" is "dance"."""
    return re.split(r",| - | \(", description.strip())[0].strip().lower()


def _choose(clips: list[ClipFile], subjects: str, tally: Tally) -> list[ClipFile]:
    """The wanted subjects' clips, each once."""
    words = [word.strip() for word in subjects.split(",") if word.strip()]
    for word in words:
        if not word.isdecimal():
            raise ValueError(f"subjects: want numbers such as 02,05, got {word!r}")
    present = {clip.subject for clip in clips}
    wanted = {int(word) for word in words} or present
    if not wanted <= present:
        lacking, there = (", ".join(f"{n:02d}" for n in sorted(some)) for some in (wanted - present, present))
        raise ValueError(f"subjects: no clip of {lacking} in the input; there are {there}")
    chosen: dict[tuple[int, int], ClipFile] = {}
    # sorted: an AMC comes ahead of the BVH that was made from it
    for clip in clips:
        if clip.subject not in wanted:
            continue
        first = chosen.setdefault((clip.subject, clip.trial), clip)
        if first is not clip:
            tally.notes.append(f"clip {clip.name} is there twice: {first.path} is read, {clip.path} is not")
    return list(chosen.values())


def _bvh_joints(bvh: Bvh) -> tuple[np.ndarray, int]:
    """[F, 17, 3] mm, Y up, and the number of the first frame."""
    if "LeftUpLeg" in bvh.names:
        mapping, scale, first = MOTIONBUILDER, INCH / 0.45, MOTIONBUILDER_FIRST
        offsets = _restore_thorax(bvh)
    elif "lThigh" in bvh.names:
        mapping, scale, first, offsets = DAZ, 10.0, DAZ_FIRST, bvh.offsets
    else:
        raise ValueError(f"{bvh.path}: neither LeftUpLeg nor lThigh is a joint: no CMU skeleton that is known")
    if len(bvh.motion) <= first:
        raise ValueError(f"{bvh.path}: {len(bvh.motion)} frames; the first {first} are no motion, want more")
    nodes = [[bvh.index(name) for name in names] for names in mapping]
    positions = bvh.positions(offsets)[first:] * scale
    return np.stack([positions[:, joint].mean(1) for joint in nodes], axis=1), first


def _restore_thorax(bvh: Bvh) -> np.ndarray:
    """The conversion lost Acclaim's thorax bone: neck and collars sit on the joint below. Returns repaired offsets.

    The bone is about as long as Spine1's; the rest differs from the originals by 0.5 to 4 mm (11 mm for subject 11).
    """
    offsets = bvh.offsets.copy()
    for name in ("Neck", "LeftShoulder", "RightShoulder"):
        if not offsets[bvh.index(name)].any():
            offsets[bvh.index(name)] = [0, np.linalg.norm(offsets[bvh.index("Spine1")]), 0]
    return offsets


def _skeleton_files(path: Path) -> list[Path]:
    """The skeleton of an AMC stands beside it: 02_01.amc needs 02.asf, plain or .gz. A BVH has its own."""
    if _kind(path) == "bvh":
        return []
    name = path.name.split("_")[0] + ".asf"
    for candidate in (path.with_name(name), path.with_name(f"{name}.gz")):
        if candidate.is_file():
            return [candidate]
    raise FileNotFoundError(f"{path}: its skeleton {name} is not beside it")


def _read_acclaim(path: Path) -> np.ndarray:
    """[F, 17, 3] mm, Y up."""
    skeleton = read_asf(_skeleton_files(path)[0])
    ends = read_amc(path, skeleton).end_points()
    missing = sorted({name for names in ACCLAIM for name in names} - set(ends))
    if missing:
        raise ValueError(f"{skeleton.path}: no bone {', '.join(missing)}")
    joints = [np.mean([ends[name] for name in names], axis=0) for names in ACCLAIM]
    return np.stack(joints, axis=1) * (INCH / skeleton.unit)


def _samples(clips: list[ClipFile], options: Options, seed: int, tally: Tally) -> Iterator[Sample]:
    for file in clips:
        clip = read_clip(file)
        kept = resample(len(clip.joints), clip.fps, options.fps)
        bad = glitched(clip.joints, clip.fps)[kept]
        subject, action = f"{file.subject:02d}", file.action
        reason = f"joint faster than {MAX_SPEED / 1000:.0f} m/s"
        tally.skip(subject, action, reason, int(bad.sum()) * options.views)
        kept = kept[~bad]
        if not len(kept):
            continue
        rng = np.random.default_rng([seed, file.subject, file.trial])
        for camera in camera_rig(clip.joints[kept], options.views, rng, file.name):
            yield from film(clip, kept, camera, tally)


def film(clip: Clip, kept: np.ndarray, camera: Camera, tally: Tally) -> Iterator[Sample]:
    """The samples of one camera; frames with a joint behind it or outside its image are counted instead."""
    subject, action = f"{clip.file.subject:02d}", clip.file.action
    if camera.rotation is None or camera.translation is None:
        raise ValueError(f"camera {camera.name!r} has no place in the world")
    joints = clip.joints[kept] @ camera.rotation.T + camera.translation
    front = (joints[..., 2] > 0).all(-1)
    tally.skip(subject, action, "joint behind the camera", int((~front).sum()))
    joints, numbers = joints[front], kept[front] + clip.first
    pixels = project(torch.from_numpy(joints), torch.from_numpy(camera.vector)).numpy()
    # pixel centres are integers: the image spans -0.5 .. size - 0.5
    inside = ((pixels >= -0.5) & (pixels <= np.array([camera.width, camera.height]) - 0.5)).all((-1, -2))
    tally.skip(subject, action, "joint outside the image", int((~inside).sum()))
    ones = np.ones((int(inside.sum()), NUM_JOINTS, 1))
    joints_3d = np.concatenate([joints[inside], ones], axis=-1).astype(np.float32)
    keypoints_2d = np.concatenate([pixels[inside], ones], axis=-1).astype(np.float32)
    for sample in zip(joints_3d, keypoints_2d, square_bbox(keypoints_2d), numbers[inside], strict=True):
        yield Sample(
            joints_3d=sample[0],
            keypoints_2d=sample[1],
            bbox=sample[2],
            camera=camera,
            subject=subject,
            action=action,
            camera_id=camera.name,
            frame=int(sample[3]),
        )
