"""Motion capture as BVH files of any maker or Acclaim's ASF/AMC: real motion, no photographs.

data/bvh_people.py finds joints, unit and up axis of a BVH, and what was found is said aloud. Each clip is filmed by a
rig of synthetic Human3.6M-like cameras; 2D keypoints are exact projections.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import groupby, pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.bounds import LARGEST_MM, LARGEST_RATE, LEAST_RATE
from unihpe_fast.data.bvh_people import INCH, Mapping, Setup, bvh_people, parse_joints
from unihpe_fast.data.camera import Camera, project
from unihpe_fast.data.formats.asf_amc import read_amc, read_asf
from unihpe_fast.data.formats.bvh import read_bvh
from unihpe_fast.data.formats.motion_manifest import ClipFile, clip_file, read_manifest
from unihpe_fast.data.plausible import IMPLAUSIBLE
from unihpe_fast.data.records import Sample
from unihpe_fast.data.rig import camera_rig
from unihpe_fast.data.skeleton import JOINT_NAMES, NUM_JOINTS
from unihpe_fast.data.sources import Reading, Request, Tally

# faster than any joint of a person: a marker or Euler-angle glitch
MAX_SPEED = 15_000.0  # mm/s
GLITCH_GAP = 0.25  # seconds
NATIVE_FPS = 120.0
# the bones that END at the joints
ACCLAIM: Mapping = (
    ("lhipjoint", "rhipjoint"), ("rhipjoint",), ("rfemur",), ("rtibia",), ("lhipjoint",), ("lfemur",), ("ltibia",),
    ("lowerback",), ("thorax",), ("lowerneck",), ("upperneck", "head"), ("lclavicle",), ("lhumerus",), ("lradius",),
    ("rclavicle",), ("rhumerus",), ("rradius",),
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    subjects: str = ""
    """subjects by number or name, comma-separated, e.g. 02,05; empty: all"""
    views: int = 8
    """cameras around each clip"""
    fps: float = 20.0
    """frames a second that are kept: the nearest to the wanted times, none is interpolated; a slower clip keeps all"""
    unit: Literal["auto", "mm", "cm", "m", "inch", "cmu"] = "auto"
    """of length in BVH files; auto: the one in which the legs are a person's"""
    up: Literal["auto", "x", "y", "z", "-x", "-y", "-z"] = "auto"
    """the axis that points up in BVH files; auto: the one that people stand along"""
    joints: str = ""
    """nodes of a BVH that stand for joints of Human3.6M, where their names are not known or wrong, e.g.
    left_knee=LKnee,head=Head+Head_end"""
    skeleton: Path | None = None
    """the .asf file of all .amc files; by default 02_01.amc has 02.asf beside it, or the folder's only one"""
    name: str = "motion"
    """of the dataset, kept in the file"""
    licence: str = "Not said: see the terms of those who made the motion files."
    """terms of use, kept in the file"""


@dataclass(frozen=True)
class Clip:
    """joints: [F, 17, 3] float64 mm, world with Z up; first: number of the first one in the file; fps: true rate.

    reading: how the file was understood; up: the axis that was taken for up; sure: the file shows that it is.
    """

    file: ClipFile
    joints: np.ndarray
    first: int
    fps: float
    reading: str = ""
    up: str = "z"
    sure: bool = True


def read(inputs: Sequence[Path], options: Options, request: Request) -> Reading:
    """inputs: motion files, or folders that are searched for them. See data/sources/__init__.py."""
    return read_motion(inputs, options, request)


def read_motion(
    inputs: Sequence[Path], options: Options, request: Request, *, kinds: Sequence[str] = (), slow: Sequence[str] = ()
) -> Reading:
    """`read`, for a dataset whose files are known. kinds: of the skeletons that it may have; empty: any. slow: subjects
    who were captured at 60 frames a second whatever their files say.
    """
    if options.views < 1:
        raise ValueError(f"views: want at least 1, got {options.views}")
    if not LEAST_RATE <= options.fps <= LARGEST_RATE:
        raise ValueError(f"fps: want a positive number from {LEAST_RATE:g} to {LARGEST_RATE:g}, got {options.fps}")
    reader = ClipReader(Setup(options.unit, options.up, parse_joints(options.joints)), options.skeleton, kinds, slow)
    tally = Tally()
    clips = _choose(find_clips(inputs, tally.notes), options.subjects, tally)
    return Reading(
        dataset=options.name,
        licence=options.licence,
        files=[path for clip in clips for path in (clip.path, *_skeleton_files(clip.path, options.skeleton))],
        samples=_samples(clips, options, reader, request.seed, tally),
        tally=tally,
        render=True,
    )


def find_clips(inputs: Sequence[Path], notes: list[str] | None = None) -> list[ClipFile]:
    """Every BVH and AMC file (plain or .gz) of the inputs, by subject and trial. notes: takes what is to be said.

    Who and what is on it comes from a `manifest.csv` (columns file, subject, trial, description, fps_true) beside it or
    one folder up, otherwise from a name like 02_01.bvh or walk1_subject5.bvh; where that does not tell either, the
    folder's name stands for the person.
    """
    if not inputs:
        raise ValueError("no input: want motion files or folders of them")
    notes = [] if notes is None else notes
    paths: dict[Path, Path] = {}
    for given in inputs:
        if not given.exists():
            raise FileNotFoundError(f"{given}: no such file or folder")
        found = [given] if given.is_file() else [path for path in given.rglob("*") if _kind(path)]
        if not found or not _kind(found[0]):
            raise ValueError(f"{given}: want .bvh or .amc files, plain or .gz, found none")
        paths |= {path.resolve(): path for path in found}
    manifests: dict[Path, dict[Path, ClipFile]] = {}
    clips, nameless = [], Counter[str]()
    for resolved, path in paths.items():
        for folder in (resolved.parent, resolved.parent.parent):
            if folder not in manifests:
                manifests[folder] = read_manifest(folder / "manifest.csv", notes)
        listed = manifests[resolved.parent].get(resolved) or manifests[resolved.parent.parent].get(resolved)
        if listed:
            clips.append(replace(listed, path=path))
        elif match := re.match(r"(\d+)_(\d+)\.", path.name):
            clips.append(clip_file(path, int(match[1]), int(match[2]), "", None))
        else:
            stem = re.sub(r"\.(bvh|amc)(\.gz)?$", "", path.name, flags=re.IGNORECASE)
            person = re.search(r"subject\d+", stem.lower())
            subject = person[0] if person else resolved.parent.name
            nameless[subject] += not person
            words = re.sub(r"subject\d+|[\d_.-]+", " ", stem.lower()).split()
            clips.append(ClipFile(path, subject, stem, " ".join(words), None))
    for subject, count in nameless.items():
        if count:
            notes.append(
                f"{count} clips of {subject}: no manifest.csv lists them and their names are not like 02_01.bvh: "
                "they are taken for one person's"
            )

    def place(clip: ClipFile) -> tuple[object, ...]:
        numbers = [int(number) for number in re.findall(r"\d+", clip.name)]
        return not clip.subject.isdecimal(), int(clip.subject) if clip.subject.isdecimal() else 0, clip.subject, numbers

    return sorted(clips, key=lambda clip: (*place(clip), _kind(clip.path), str(clip.path)))


@dataclass(frozen=True)
class ClipReader:
    """How the files are to be read. skeleton: the .asf of all .amc files; kinds, slow: as in `read_motion`."""

    setup: Setup = field(default_factory=Setup)
    skeleton: Path | None = None
    kinds: Sequence[str] = ()
    slow: Sequence[str] = ()

    def read(self, file: ClipFile, up: str = "") -> Clip:
        """One motion file as H36M-17 joints; ValueError or OSError naming the file when it cannot be.

        up: the axis that is known to be up, of UPWARD; empty: it is found out.
        """
        if _kind(file.path) == "amc":
            joints = _read_acclaim(file.path, self.skeleton)
            # Y up to Human3.6M's Z up
            joints = _plausible(np.stack([joints[..., 0], -joints[..., 2], joints[..., 1]], axis=-1), file.path, 1)
            return Clip(file, joints, 1, file.fps or self._slow(file) or NATIVE_FPS)
        bvh = read_bvh(file.path)
        people = bvh_people(bvh, replace(self.setup, up=up) if up else self.setup)
        if self.kinds and people.kind not in self.kinds:
            raise ValueError(
                f"{file.path}: skeleton must be {' or '.join(self.kinds)}, got {people.kind}: the source motion does"
            )
        fps = file.fps or self._slow(file) or 1 / bvh.frame_time
        joints = _plausible(people.joints, file.path, people.first)
        return Clip(file, joints, people.first, fps, people.reading, people.up, people.sure)

    def _slow(self, file: ClipFile) -> float:
        return 60.0 if file.subject in self.slow else 0.0


def _plausible(joints: np.ndarray, path: Path, first: int) -> np.ndarray:
    """The joints [F, 17, 3] mm; ValueError naming the first that lies further from the origin than people walk.

    first: the number of the first frame.
    """
    far = ~(np.abs(joints) <= LARGEST_MM).all(-1)
    if far.any():
        frame, joint = np.argwhere(far)[0].tolist()
        found = f"{np.abs(joints[frame, joint]).max():.3g} mm"
        raise ValueError(
            f"{path}: frame {frame + first}: joint {JOINT_NAMES[joint]} must lie within {LARGEST_MM:.0e} mm of the"
            f" origin, got {found}: another unit?"
        )
    return joints


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


def _choose(clips: list[ClipFile], subjects: str, tally: Tally) -> list[ClipFile]:
    """The wanted subjects' clips, each once."""
    present = {clip.subject for clip in clips}
    wanted = set()
    for word in filter(None, (word.strip() for word in subjects.split(","))):
        same = {
            subject
            for subject in present
            if subject == word or (subject.isdecimal() and word.isdecimal() and int(subject) == int(word))
        }
        if not same and not word.isdecimal() and all(subject.isdecimal() for subject in present):
            raise ValueError(f"subjects: want numbers such as 02,05, got {word!r}")
        wanted |= same or {f"{int(word):02d}" if word.isdecimal() else word}
    if not wanted <= present:
        lacking, there = (", ".join(sorted(some)) for some in (wanted - present, present))
        raise ValueError(f"subjects: no clip of {lacking} in the input; there are {there}")
    chosen: dict[tuple[str, str], ClipFile] = {}
    # sorted: an AMC comes ahead of the BVH that was made from it
    for clip in clips:
        if wanted and clip.subject not in wanted:
            continue
        first = chosen.setdefault((clip.subject, clip.name), clip)
        if first is not clip:
            tally.notes.append(f"clip {clip.name} is there twice: {first.path} is read, {clip.path} is not")
    return list(chosen.values())


def _skeleton_files(path: Path, skeleton: Path | None = None) -> list[Path]:
    """The skeleton of an AMC: the given one, 02.asf of 02_01.amc beside it, walk.asf of walk.amc, or the folder's only
    one, plain or .gz. A BVH has its own.
    """
    if _kind(path) == "bvh":
        return []
    if skeleton is not None:
        if not skeleton.is_file():
            raise FileNotFoundError(f"--skeleton {skeleton}: no such file")
        return [skeleton]
    stem = re.sub(r"\.amc(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    beside = {
        file.name.lower(): file for file in path.parent.iterdir() if re.search(r"\.asf(\.gz)?$", file.name.lower())
    }
    names = [f"{name}.asf" for name in (stem, path.name.split("_")[0]) if not name.lower().endswith(".amc")]
    for name in names:
        for candidate in (name.lower(), f"{name.lower()}.gz"):
            if candidate in beside:
                return [beside[candidate]]
    # among numbered skeletons a lacking one is not replaced by another person's
    if len(beside) == 1 and not re.match(r"\d+_", path.name):
        return list(beside.values())
    there = ", ".join(sorted(file.name for file in beside.values())) or "no .asf"
    raise FileNotFoundError(
        f"{path}: its skeleton {names[-1]} is not beside it ({there} is); --skeleton FILE.asf names it"
    )


def _read_acclaim(path: Path, given: Path | None = None) -> np.ndarray:
    """[F, 17, 3] mm, Y up."""
    skeleton = read_asf(_skeleton_files(path, given)[0])
    ends = read_amc(path, skeleton).end_points()
    missing = sorted({name for names in ACCLAIM for name in names} - set(ends))
    if missing:
        raise ValueError(f"{skeleton.path}: no bone {', '.join(missing)}")
    joints = [np.mean([ends[name] for name in names], axis=0) for names in ACCLAIM]
    return np.stack(joints, axis=1) * (INCH / skeleton.unit)


def _samples(clips: list[ClipFile], options: Options, reader: ClipReader, seed: int, tally: Tally) -> Iterator[Sample]:
    for clip in _clips(clips, reader, tally):
        file = clip.file
        kept = resample(len(clip.joints), clip.fps, options.fps)
        bad = glitched(clip.joints, clip.fps)[kept]
        reason = f"joint faster than {MAX_SPEED / 1000:.0f} m/s"
        tally.skip(file.subject, file.action, reason, int(bad.sum()) * options.views)
        kept = kept[~bad]
        if not len(kept):
            continue
        rng = np.random.default_rng([seed, *_numbers(file)])
        for camera in camera_rig(clip.joints[kept], options.views, rng, file.name):
            yield from film(clip, kept, camera, tally)


def _numbers(file: ClipFile) -> list[int]:
    """That a clip's cameras are drawn from: CMU's subject and trial, of other names their checksum."""
    if match := re.fullmatch(r"(\d+)_(\d+)", file.name):
        return [int(match[1]), int(match[2])]
    return [zlib.crc32(f"{file.subject}/{file.name}".encode())]


def _clips(files: list[ClipFile], reader: ClipReader, tally: Tally) -> Iterator[Clip]:
    """The clips, subject by subject. One in which people lie or crawl throughout comes after the others of its subject,
    which show what is up; where none does, it is left out.
    """
    said = {""}
    for subject, own in groupby(files, lambda file: file.subject):
        ups, lying = Counter[str](), []
        for file in own:
            clip = reader.read(file)
            if clip.reading not in said:
                said.add(clip.reading)
                tally.notes.append(f"{file.path} and others alike: {clip.reading}")
            if clip.sure:
                # of an AMC, up is no question
                ups.update([clip.up] if clip.reading else [])
                yield clip
            else:
                lying.append(file)
        for file in lying:
            if ups:
                yield reader.read(file, up=ups.most_common(1)[0][0])
            else:
                clip = reader.read(file)
                tally.skip(subject, file.action, IMPLAUSIBLE, len(clip.joints))
                tally.notes.append(
                    f"{file.path}: left out, nobody is upright in any clip of {subject}: --up says what is up"
                )


def film(clip: Clip, kept: np.ndarray, camera: Camera, tally: Tally) -> Iterator[Sample]:
    """The samples of one camera; frames with a joint behind it or outside its image are counted instead."""
    subject, action = clip.file.subject, clip.file.action
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
