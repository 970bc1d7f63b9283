"""Reader of Acclaim skeletons (ASF) with motion (AMC), the original form of the CMU data, and forward kinematics."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unihpe_fast.data.formats.motion import euler_matrix, parse_numbers, read_lines
from unihpe_fast.data.formats.untrusted import whole_number

ROOT = "root"
_DOFS = {"rx": 0, "ry": 1, "rz": 2}
_ROOT_DOFS = {"TX": 0, "TY": 1, "TZ": 2, "RX": 3, "RY": 4, "RZ": 5}


@dataclass(frozen=True)
class Bone:
    """direction: [3] unit vector in the world at rest; length in the file's unit; axis: [3, 3], the bone's own frame.

    dof: which of rx, ry, rz (0, 1, 2) the motion gives, in the motion's order.
    """

    direction: np.ndarray
    length: float
    axis: np.ndarray
    dof: tuple[int, ...]


@dataclass(frozen=True)
class Skeleton:
    """A parsed ASF file.

    bones: by name, without the root. parents: bone -> bone or "root", parents before children.
    order: where each of the root's six motion values belongs in TX TY TZ RX RY RZ. axis: [3, 3] and position: [3] of
    the root. unit: the length by which the file's numbers are divided to give inches (`:units length`).
    """

    path: Path
    bones: dict[str, Bone]
    parents: dict[str, str]
    order: tuple[int, ...]
    axis: np.ndarray
    position: np.ndarray
    unit: float


@dataclass(frozen=True)
class Motion:
    """A parsed AMC file: values of each bone (and "root") [F, its number of dofs]; degrees and the ASF's unit."""

    path: Path
    skeleton: Skeleton
    values: dict[str, np.ndarray]

    def end_points(self) -> dict[str, np.ndarray]:
        """Forward kinematics: where each bone ends, [F, 3] float64, with "root" itself.

        With C = Rz Ry Rx of the bone's axis and M = Rz Ry Rx of its dofs: global = parent's global @ C M C^-1 and
        end = start + global @ direction * length.
        """
        skeleton = self.skeleton
        root = np.empty_like(self.values[ROOT])
        root[:, skeleton.order] = self.values[ROOT]
        rotation = skeleton.axis @ euler_matrix(root[:, :2:-1], "ZYX") @ skeleton.axis.T
        globals_ = {ROOT: rotation}
        ends = {ROOT: root[:, :3] + skeleton.position}
        for name, parent in skeleton.parents.items():
            bone = skeleton.bones[name]
            angles = np.zeros((len(root), 3))
            if bone.dof:
                angles[:, bone.dof] = self.values[name]
            local = bone.axis @ euler_matrix(angles[:, ::-1], "ZYX") @ bone.axis.T
            globals_[name] = globals_[parent] @ local
            ends[name] = ends[parent] + globals_[name] @ (bone.direction * bone.length)
        return ends


def read_asf(path: Path) -> Skeleton:
    """Parse an .asf or .asf.gz file; ValueError naming file and line where it is malformed."""
    sections: dict[str, list[tuple[int, list[str]]]] = {}
    current: list[tuple[int, list[str]]] = []
    for number, line in enumerate(read_lines(path), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if words[0].startswith(":"):
            current = sections.setdefault(words[0].lower(), [])
            words = words[1:]
        if words:
            current.append((number, words))
    for wanted in (":units", ":root", ":bonedata", ":hierarchy"):
        if not sections.get(wanted):
            raise ValueError(f"{path}: no {wanted} section, the file is cut short or no ASF")

    units = {words[0]: words[1:] for _, words in sections[":units"]}
    if units.get("angle") != ["deg"]:
        raise ValueError(f"{path}: want ':units angle deg', got {' '.join(units.get('angle', ['nothing']))!r}")
    (unit,) = _numbers(units.get("length", []), 1, f"{path}: ':units length'")
    if unit <= 0:
        raise ValueError(f"{path}: ':units length': want a positive number, got {unit}")
    root = {words[0]: (number, words[1:]) for number, words in sections[":root"]}
    number, order = root.get("order", (0, []))
    if sorted(order) != sorted(_ROOT_DOFS):
        raise ValueError(f"{path}, line {number}: the root's order is to hold {' '.join(_ROOT_DOFS)}, got {order}")
    bones = _parse_bones(path, sections[":bonedata"])
    return Skeleton(
        path,
        bones,
        _parse_hierarchy(path, sections[":hierarchy"], bones),
        tuple(_ROOT_DOFS[name] for name in order),
        _axis([*root.get("orientation", (0, ["0"] * 3))[1], "XYZ"], f"{path}: the root's orientation"),
        np.array(_numbers(root.get("position", (0, ["0"] * 3))[1], 3, f"{path}: the root's position")),
        unit,
    )


def read_amc(path: Path, skeleton: Skeleton) -> Motion:
    """Parse an .amc or .amc.gz file of that skeleton; ValueError naming file and line or bone where it is malformed.

    Every frame must give every bone that has degrees of freedom, and frames must be numbered 1, 2, 3 ...
    """
    lines = read_lines(path)
    if ":DEGREES" not in (line.strip() for line in lines):
        raise ValueError(f"{path}: no :DEGREES line, the file is cut short or no AMC in degrees")
    widths = {ROOT: 6} | {name: len(bone.dof) for name, bone in skeleton.bones.items() if bone.dof}
    values: dict[str, list[list[float]]] = {name: [] for name in widths}
    frames = 0
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0][0] in "#:":
            continue
        where = f"{path}, line {number}"
        if len(words) == 1 and words[0].isdecimal():
            _check_complete(values, frames, f"{where}: frame {frames}")
            frames += 1
            if whole_number(words[0]) != frames:
                raise ValueError(f"{where}: want frame {frames}, got {words[0]}")
        elif words[0] not in widths:
            raise ValueError(f"{where}: {words[0]!r} is no moving bone of {skeleton.path.name}")
        elif len(values[words[0]]) != frames - 1:
            raise ValueError(f"{where}: bone {words[0]!r} comes twice in frame {frames}, or ahead of the first frame")
        else:
            values[words[0]].append(_numbers(words[1:], widths[words[0]], f"{where}: bone {words[0]!r}"))
    if frames == 0:
        raise ValueError(f"{path}: no frames")
    _check_complete(values, frames, f"{path}: the last frame, {frames}")
    return Motion(path, skeleton, {name: np.array(rows, dtype=np.float64) for name, rows in values.items()})


def _check_complete(values: dict[str, list[list[float]]], frames: int, where: str) -> None:
    missing = [name for name, rows in values.items() if len(rows) != frames]
    if missing:
        raise ValueError(f"{where} lacks bone {', '.join(missing)}")


def _numbers(words: list[str], count: int, where: str) -> list[float]:
    if len(words) != count:
        raise ValueError(f"{where} has {len(words)} values, want {count}")
    return parse_numbers(words, where)


def _axis(words: list[str], where: str) -> np.ndarray:
    """[3, 3] of "x y z XYZ": Rz Ry Rx."""
    if words[3:] != ["XYZ"]:
        raise ValueError(f"{where}: want three angles and 'XYZ', got {' '.join(words)!r}")
    return euler_matrix(np.array(parse_numbers(words[2::-1], where)), "ZYX")


def _parse_bones(path: Path, lines: list[tuple[int, list[str]]]) -> dict[str, Bone]:
    bones: dict[str, Bone] = {}
    fields: dict[str, list[str]] = {}
    for number, words in lines:
        where = f"{path}, line {number}"
        if words == ["begin"]:
            fields = {}
        elif words == ["end"]:
            name = " ".join(fields.get("name", []))
            missing = [key for key in ("name", "direction", "length", "axis") if key not in fields]
            if missing:
                raise ValueError(f"{where}: bone {name!r} has no {', '.join(missing)}")
            if name in bones or name == ROOT:
                raise ValueError(f"{where}: bone {name!r} comes twice")
            where += f": {{}} of bone {name!r}"
            dof = fields.get("dof", [])
            if not set(dof) <= set(_DOFS) or len(set(dof)) != len(dof):
                raise ValueError(f"{where.format('dof')}: want some of rx ry rz, got {' '.join(dof)!r}")
            bones[name] = Bone(
                np.array(_numbers(fields["direction"], 3, where.format("direction"))),
                _numbers(fields["length"], 1, where.format("length"))[0],
                _axis(fields["axis"], where.format("axis")),
                tuple(_DOFS[key] for key in dof),
            )
        else:
            fields[words[0]] = words[1:]
    return bones


def _parse_hierarchy(path: Path, lines: list[tuple[int, list[str]]], bones: dict[str, Bone]) -> dict[str, str]:
    parents: dict[str, str] = {}
    for number, (parent, *children) in lines:
        if parent in ("begin", "end"):
            continue
        for name in (parent, *children):
            if name != ROOT and name not in bones:
                raise ValueError(f"{path}, line {number}: {name!r} is no bone of the file")
        if parent != ROOT and parent not in parents:
            raise ValueError(f"{path}, line {number}: {parent!r} has children before it has a parent")
        for child in children:
            if child in parents or child == ROOT:
                raise ValueError(f"{path}, line {number}: {child!r} has two parents")
            parents[child] = parent
    orphans = set(bones) - set(parents)
    if orphans:
        raise ValueError(f"{path}: the hierarchy leaves out {', '.join(sorted(orphans))}")
    return parents
