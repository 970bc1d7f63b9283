"""Reader of BVH motion files, strict about their structure, and forward kinematics over all frames at once."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unihpe_fast.data.formats.motion import euler_matrix, parse_numbers, read_lines

_POSITION = {"Xposition": 0, "Yposition": 1, "Zposition": 2}
_ROTATION = {"Xrotation": "X", "Yrotation": "Y", "Zrotation": "Z"}


@dataclass(frozen=True)
class Bvh:
    """A parsed file, in its own unit of length.

    names, parents: J nodes, parents first (-1: the root); the end site of joint X is called "X_end".
    offsets: [J, 3], rest position in the parent's frame. rotation: J strings, the axes of a node's rotation channels in
    listed order. motion: [F, C] channel values (degrees); columns: [J] the first rotation column of each node.
    root: [F, 3], the root's translation. frame_time: seconds.
    """

    path: Path
    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: np.ndarray
    rotation: tuple[str, ...]
    columns: tuple[int, ...]
    motion: np.ndarray
    root: np.ndarray
    frame_time: float

    def index(self, name: str) -> int:
        if name not in self.names:
            raise ValueError(f"{self.path}: no joint {name!r} in the hierarchy")
        return self.names.index(name)

    def positions(self, offsets: np.ndarray | None = None) -> np.ndarray:
        """Forward kinematics: [F, J, 3] float64. `offsets` replaces the file's own.

        A node's rotation is the product of its channels in listed order, applied to column vectors;
        global = parent's global @ local, position = parent's position + parent's global @ offset.
        """
        offsets = self.offsets if offsets is None else offsets
        positions = np.empty((len(self.motion), len(self.names), 3))
        globals_: list[np.ndarray] = []
        for node, parent in enumerate(self.parents):
            axes, column = self.rotation[node], self.columns[node]
            local = euler_matrix(self.motion[:, column : column + len(axes)], axes)
            if parent < 0:
                positions[:, node] = self.root + offsets[node]
                globals_.append(local)
            else:
                positions[:, node] = positions[:, parent] + globals_[parent] @ offsets[node]
                globals_.append(globals_[parent] @ local)
        return positions


@dataclass
class _Hierarchy:
    names: list[str]
    parents: list[int]
    offsets: list[list[float] | None]
    # None: not given yet; end sites have none
    channels: list[tuple[str, ...] | None]


def read_bvh(path: Path) -> Bvh:
    """Parse a .bvh or .bvh.gz file; ValueError naming file and line where it is malformed.

    Only the root may have position channels, ahead of its rotation channels (true of every converter's CMU files).
    """
    lines = read_lines(path)
    start = next((i for i, line in enumerate(lines) if line.strip() == "MOTION"), None)
    if start is None:
        raise ValueError(f"{path}: no MOTION line, the file is cut short or no BVH")
    hierarchy = _parse_hierarchy(path, lines[:start])
    frames, frame_time = _parse_motion_header(path, lines, start)

    columns, axes, width = [], [], 0
    nodes = [channels or () for channels in hierarchy.channels]
    for channels in nodes:
        positions = sum(name in _POSITION for name in channels)
        columns.append(width + positions)
        axes.append("".join(_ROTATION[name] for name in channels[positions:]))
        width += len(channels)
    motion = _parse_frames(path, lines, start + 3, frames, width)
    order = [_POSITION[name] for name in nodes[0][:3]]
    root = np.empty((frames, 3))
    root[:, order] = motion[:, :3]
    return Bvh(
        path,
        tuple(hierarchy.names),
        tuple(hierarchy.parents),
        np.array(hierarchy.offsets, dtype=np.float64),
        tuple(axes),
        tuple(columns),
        motion,
        root,
        frame_time,
    )


def _parse_hierarchy(path: Path, lines: list[str]) -> _Hierarchy:
    tree = _Hierarchy([], [], [], [])
    # opened: the node that the next "{" belongs to; stack: the nodes whose braces are open
    stack: list[int] = []
    opened: int | None = None
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        words = line.split()
        if not words or words == ["HIERARCHY"]:
            continue
        if opened is not None and words != ["{"]:
            raise ValueError(f"{where}: want '{{' after {tree.names[opened]!r}, got {line.strip()!r}")
        match words:
            case ["ROOT" | "JOINT" | "End", name]:
                if (words[0] == "ROOT") == bool(tree.names):
                    raise ValueError(f"{where}: want one ROOT, before everything else, got {line.strip()!r}")
                if words[0] != "ROOT" and not stack:
                    raise ValueError(f"{where}: {name!r} stands outside the root")
                name = f"{tree.names[stack[-1]]}_end" if words[0] == "End" else name
                if name in tree.names:
                    raise ValueError(f"{where}: joint {name!r} comes twice")
                opened = len(tree.names)
                tree.names.append(name)
                tree.parents.append(stack[-1] if stack else -1)
                tree.offsets.append(None)
                tree.channels.append(() if words[0] == "End" else None)
            case ["{"] if opened is not None:
                stack.append(opened)
                opened = None
            case ["}"] if stack:
                node = stack.pop()
                if tree.offsets[node] is None:
                    raise ValueError(f"{where}: joint {tree.names[node]!r} has no OFFSET")
                if tree.channels[node] is None:
                    raise ValueError(f"{where}: joint {tree.names[node]!r} has no CHANNELS")
            case ["OFFSET", *values] if stack:
                if len(values) != 3:
                    raise ValueError(f"{where}: OFFSET of {tree.names[stack[-1]]!r} has {len(values)} values, want 3")
                tree.offsets[stack[-1]] = parse_numbers(values, where)
            case ["CHANNELS", count, *channels] if stack and tree.channels[stack[-1]] is None:
                if count != str(len(channels)):
                    raise ValueError(
                        f"{where}: {tree.names[stack[-1]]!r} says {count} channels and lists {len(channels)}"
                    )
                _check_channels(channels, stack[-1] == 0, f"{where}: channels of {tree.names[stack[-1]]!r}")
                tree.channels[stack[-1]] = tuple(channels)
            case _:
                raise ValueError(f"{where}: cannot read {line.strip()!r} here")
    if stack or opened is not None:
        raise ValueError(f"{path}: the hierarchy ends inside {tree.names[stack[-1] if stack else -1]!r}")
    if not tree.names:
        raise ValueError(f"{path}: no ROOT in the hierarchy")
    return tree


def _check_channels(channels: list[str], root: bool, where: str) -> None:
    positions = 3 if root else 0
    wanted = [set(_POSITION)] * positions + [set(_ROTATION)] * 3
    if len(channels) != len(wanted) or len(set(channels)) != len(channels):
        raise ValueError(f"{where}: want {len(wanted)} different ones, got {' '.join(channels)}")
    for channel, allowed in zip(channels, wanted, strict=True):
        if channel not in allowed:
            raise ValueError(f"{where}: want {'3 positions, then ' if root else ''}3 rotations, got {channel!r}")


def _parse_motion_header(path: Path, lines: list[str], start: int) -> tuple[int, float]:
    header = [" ".join(line.split()) for line in lines[start + 1 : start + 3]]
    if len(header) < 2 or not header[0].startswith("Frames:") or not header[1].startswith("Frame Time:"):
        raise ValueError(f"{path}, line {start + 2}: want 'Frames:' and 'Frame Time:' after MOTION")
    frames = header[0].removeprefix("Frames:").strip()
    if not frames.isdecimal() or int(frames) == 0:
        raise ValueError(f"{path}, line {start + 2}: want a number of frames, got {frames!r}")
    where = f"{path}, line {start + 3}"
    (frame_time,) = parse_numbers([header[1].removeprefix("Frame Time:").strip()], where)
    if frame_time <= 0:
        raise ValueError(f"{where}: want a positive frame time, got {frame_time}")
    return int(frames), frame_time


def _parse_frames(path: Path, lines: list[str], start: int, frames: int, width: int) -> np.ndarray:
    """[frames, width] float64 of the lines from `start` (0-based) on."""
    rows = [(number, words) for number, line in enumerate(lines[start:], start + 1) if (words := line.split())]
    if len(rows) != frames:
        raise ValueError(f"{path}: the header says {frames} frames and {len(rows)} follow, the file is cut or damaged")
    for number, words in rows:
        if len(words) != width:
            raise ValueError(f"{path}, line {number}: want {width} channel values, got {len(words)}")
    try:
        motion = np.array([words for _, words in rows], dtype=np.float64)
    except ValueError:
        motion = np.full((1, 1), np.nan)
    if not np.isfinite(motion).all():
        for number, words in rows:
            parse_numbers(words, f"{path}, line {number}")
    return motion
