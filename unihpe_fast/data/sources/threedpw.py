"""3DPW as it is distributed: sequenceFiles/{split}/{sequence}.pkl and imageFiles/{sequence}/image_00000.jpg.

Samples carry their camera's intrinsics only: which axis of 3DPW's world points up is not documented, and a prepared
file's world has Z up.

The published protocol scores 14 joints that Human3.6M's regressor finds among the vertices of the gendered SMPL body,
for which SMPL's model files are needed. Whoever has them hands the regressor's joints in as an .npz file (`--joints`):
one array a person, named "{sequence}_{actor}", actor 0 or 1, [F, 17, 3] metres in 3DPW's world, the rows of
J_regressor_h36m.npy, for all frames of the sequence. With smplx, where `data` is the unpickled sequence:

    model = smplx.create(models, "smpl", gender={"m": "male", "f": "female"}[data["genders"][actor]], batch_size=F)
    pose, trans = torch.tensor(data["poses"][actor]).float(), torch.tensor(data["trans"][actor]).float()
    betas = torch.tensor(data["betas"][actor][:10]).float().expand(F, 10)
    body = model(betas=betas, global_orient=pose[:, :3], body_pose=pose[:, 3:], transl=trans)
    joints[f"{data['sequence']}_{actor}"] = J_regressor_h36m @ body.vertices.detach().numpy()

Without it the joints of SMPL's skeleton (`jointPositions`) stand in, joint_sets.SMPL24, and the file says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.bounds import LARGEST_FOCAL, LEAST_FOCAL
from unihpe_fast.data.camera import Camera
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.npz import Npz, open_npz
from unihpe_fast.data.formats.safe_pickle import load_pickle
from unihpe_fast.data.formats.untrusted import checked, known_joints, photo_path, read_bytes
from unihpe_fast.data.joint_sets import OPENPOSE18, SMPL24, SMPL_H36M17, to_h36m17
from unihpe_fast.data.records import Sample
from unihpe_fast.data.sources import Reading, Request, Tally

LICENCE = (
    "3DPW (von Marcard et al., ECCV 2018), for non-commercial research after agreeing to the licence at "
    "virtualhumans.mpi-inf.mpg.de/3DPW."
)
APPROXIMATION = (
    "3DPW by the approximation of SMPL's 24 skeleton joints, not by the published protocol, whose 14 joints come from "
    "SMPL's vertices (prepare 3dpw --joints); the head is at the base of the skull, the neck is missing"
)
MAX_FILE = 1 << 30
# of the tight box around the visible 2D joints, as SPIN has it
BOX_MARGIN = 1.2
SHORT, LONG = 1080, 1920
# m; the pelvis of SMPL's skeleton and of the regressor are centimetres apart
SAME_PLACE = 0.3


@dataclass(frozen=True)
class Options:
    joints: Path | None = None
    """.npz file of Human3.6M's regressor's joints, for the published 14-joint protocol: one array a person named
    SEQUENCE_ACTOR (actor 0 or 1), [F, 17, 3] metres in world space, rows as in J_regressor_h36m.npy"""


@dataclass(frozen=True)
class Person:
    """One actor of a sequence. keypoints_2d: [F, 18, 3] px. joints_3d: [F, 17, 4] camera-space mm. valid: [F] bool."""

    sequence: str
    actor: int
    camera: Camera
    keypoints_2d: np.ndarray
    joints_3d: np.ndarray
    valid: np.ndarray


def read(inputs: Sequence[Path], options: Options, request: Request) -> Reading:
    """inputs: .pkl files or folders of them. request.images: imageFiles, or the folder that has it.

    All sequences are read at once; their joints stay in memory, 700 bytes a person and frame. See
    data/sources/__init__.py.
    """
    files = find_sequences(inputs)
    regressed = None if options.joints is None else open_npz(options.joints)
    images = request.images
    if images is not None and (images / "imageFiles").is_dir():
        images = images / "imageFiles"
    tally = Tally()
    people = [person for path in files for person in read_sequence(path, regressed, tally)]
    return Reading(
        dataset="3dpw",
        licence=LICENCE,
        files=[*files, *([options.joints] if options.joints else [])],
        samples=(sample for person in people for sample in _samples(person, images, tally)),
        tally=tally,
        total=sum(int(person.valid.sum()) for person in people),
        caveat="" if regressed else APPROXIMATION,
    )


def find_sequences(inputs: Sequence[Path]) -> list[Path]:
    """Every .pkl file of the inputs, once each; FileNotFoundError or ValueError where there is none."""
    if not inputs:
        raise ValueError("no input: want 3DPW's sequenceFiles, a split of them or .pkl files")
    found: dict[Path, Path] = {}
    for given in inputs:
        if not given.exists():
            raise FileNotFoundError(f"{given}: no such file or folder")
        paths = sorted(given.rglob("*.pkl")) if given.is_dir() else [given]
        if not paths:
            raise SourceError(f"{given}: want 3DPW's .pkl files, found none")
        found |= {path.resolve(): path for path in paths}
    return list(found.values())


def read_sequence(path: Path, regressed: Npz | None, tally: Tally) -> list[Person]:
    """The actors of one file, checked; notes go to the tally. SourceError naming the key that is wrong, or OSError."""
    data = load_pickle(read_bytes(path, MAX_FILE), str(path))
    if not isinstance(data, dict):
        raise SourceError(f"{path}: want a dict, got {type(data).__name__}")
    sequence = _value(path, data, "sequence")
    if not isinstance(sequence, str):
        raise SourceError(f"{path}: sequence: want a str, got {type(sequence).__name__}")
    poses = _array(path, "cam_poses", _value(path, data, "cam_poses"), ("F", 4, 4))
    frames = len(poses)
    camera = _camera(path, sequence, _array(path, "cam_intrinsics", _value(path, data, "cam_intrinsics"), (3, 3)))
    # the readme spells it with a capital
    key = "poses2d" if "poses2d" in data or "poses2D" not in data else "poses2D"
    keypoints = _per_actor(path, data, key, (frames, 3, 18))
    valid = _per_actor(path, data, "campose_valid", (frames,), len(keypoints))
    skeletons: list[np.ndarray] = []
    if regressed is None or "jointPositions" in data:
        skeletons = _per_actor(path, data, "jointPositions", (frames, 72), len(keypoints))
    people = []
    for actor, pixels in enumerate(keypoints):
        world = skeleton = skeletons[actor].reshape(frames, 24, 3) if skeletons else None
        if regressed is not None:
            world = _regressed(regressed, f"{sequence}_{actor}", frames, skeleton)
        assert world is not None
        joints, broken = known_joints(_to_camera(world, poses))
        pixels, broken_2d = known_joints(pixels.transpose(0, 2, 1))
        if broken + broken_2d:
            count = f"{broken} joints and {broken_2d} of poses2d"
            tally.notes.append(f"{path}: actor {actor}: {count} have numbers that are none and count as unknown")
        joints = to_h36m17(joints, SMPL24 if regressed is None else SMPL_H36M17)
        people.append(Person(sequence, actor, camera, pixels, joints, valid[actor] > 0))
    return people


def _value(path: Path, data: dict, key: str) -> Any:
    if key not in data:
        raise SourceError(f"{path}: has no {key!r}, only {', '.join(sorted(map(str, data))) or 'nothing'}")
    return data[key]


def _array(path: Path, key: str, value: Any, shape: tuple[int | str, ...]) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise SourceError(f"{path}: {key}: want an array, got {type(value).__name__}")
    return checked(value, shape, f"{path}: {key}", "fiub").astype(np.float64)


def _per_actor(path: Path, data: dict, key: str, shape: tuple[int, ...], actors: int | None = None) -> list[np.ndarray]:
    """One float64 array an actor."""
    value = _value(path, data, key)
    if isinstance(value, np.ndarray):
        value = list(value) if value.ndim else None
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= 2 or len(value) != (actors or len(value)):
        raise SourceError(f"{path}: {key}: want a list of {actors or '1 or 2'} arrays, one an actor")
    return [_array(path, f"{key}[{actor}]", part, shape) for actor, part in enumerate(value)]


def _camera(path: Path, sequence: str, matrix: np.ndarray) -> Camera:
    focal, center = matrix[[0, 1], [0, 1]], matrix[:2, 2]
    if not (np.isfinite(matrix).all() and (focal >= LEAST_FOCAL).all() and (np.abs(matrix) < LARGEST_FOCAL).all()):
        raise SourceError(
            f"{path}: cam_intrinsics: want finite numbers and focal lengths of a camera, got {matrix.tolist()}"
        )
    # the size of the image is not in the file; all are Full HD, held upright or across
    width, height = (SHORT, LONG) if center[0] < center[1] else (LONG, SHORT)
    return Camera(sequence, np.concatenate([focal, center, np.zeros(5)]), width, height)


def _regressed(archive: Npz, key: str, frames: int, skeleton: np.ndarray | None) -> np.ndarray:
    """The regressor's joints [F, 17, 3] m of one person, which must lie where the skeleton [F, 24, 3] is."""
    joints = archive.array(key, (frames, 17, 3), "f").astype(np.float64)
    if skeleton is None:
        return joints
    pelvis, left, right = skeleton[:, 0], skeleton[:, 1], skeleton[:, 2]
    where, away = archive.where(key), _apart(joints[:, 0], pelvis)
    if away > SAME_PLACE:
        wanted = "metres in world space, trans included"
        raise SourceError(f"{where}: its pelvis (row 0) is {away:.3g} m from that of jointPositions: want {wanted}")
    if _apart(joints[:, 1], left) > _apart(joints[:, 1], right):
        wanted = "the rows of J_regressor_h36m.npy, whose left leg comes first"
        raise SourceError(f"{where}: row 1 is the right hip: want {wanted}")
    return joints


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """Median distance of points [F, 3] where both are finite, 0 where none are."""
    with np.errstate(all="ignore"):
        distances = np.linalg.norm(a - b, axis=1)
    finite = distances[np.isfinite(distances)]
    return float(np.median(finite)) if len(finite) else 0.0


def _to_camera(world: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """World joints [F, J, 3] m to camera space, [F, J, 4] mm and 1, by the world-to-camera poses [F, 4, 4]."""
    with np.errstate(all="ignore"):
        joints = 1000 * (world @ poses[:, :3, :3].transpose(0, 2, 1) + poses[:, None, :3, 3])
    return np.concatenate([joints, np.ones((*joints.shape[:2], 1))], axis=2)


def _samples(person: Person, images: Path | None, tally: Tally) -> Iterator[Sample]:
    action = f"actor{person.actor}"
    tally.skip(person.sequence, action, "camera pose not valid", int((~person.valid).sum()))
    keypoints_2d = to_h36m17(person.keypoints_2d, OPENPOSE18)
    for frame in np.flatnonzero(person.valid).tolist():
        pixels = person.keypoints_2d[frame]
        seen = pixels[pixels[:, 2] > 0, :2]
        if not len(seen) or not (np.ptp(seen, axis=0) > 0).any():
            tally.skip(person.sequence, action, "too few 2D joints for a box")
            continue
        where = f"{person.sequence}: frame {frame}"
        yield Sample(
            bbox=square_bbox(pixels, BOX_MARGIN),
            keypoints_2d=keypoints_2d[frame],
            joints_3d=person.joints_3d[frame] if person.joints_3d[frame, :, 3].any() else None,
            camera=person.camera,
            photo=None if images is None else photo_path(images, f"{person.sequence}/image_{frame:05d}.jpg", where),
            subject=person.sequence,
            action=action,
            frame=frame,
        )
