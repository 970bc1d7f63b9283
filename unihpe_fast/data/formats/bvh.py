"""Reader of BVH motion files, strict about what they say and lenient about how, and forward kinematics of all frames.

The dialects of the makers are read: joints that move as well as turn (Axis Neuron, Bandai-Namco), braces on the line of
their joint, keywords in any case, blank lines anywhere, a byte order mark.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unihpe_fast.data.bounds import LARGEST_RATE, LEAST_RATE
from unihpe_fast.data.formats.motion import LARGEST_NUMBER, euler_matrix, parse_numbers, read_lines
from unihpe_fast.data.formats.untrusted import whole_number

_POSITION = {"xposition": 0, "yposition": 1, "zposition": 2}
_ROTATION = {"xrotation": "X", "yrotation": "Y", "zrotation": "Z"}
# seconds between two frames; a frame rate written in this place is longer
SHORTEST_FRAME, LONGEST_FRAME = 1 / LARGEST_RATE, 1 / LEAST_RATE


@dataclass(frozen=True)
class Bvh:
    """A parsed file, in its own unit of length.

    names, parents: J nodes, parents first (-1: the root); the end site of joint X is called "X_end".
    offsets: [J, 3], rest position in the parent's frame. rotation: J strings, the axes of a node's rotation channels in
    listed order. turning, moving: for each node the columns of its rotation channels in listed order, and of its
    X, Y and Z position channels (empty: none). motion: [F, C] channel values (degrees, lengths). frame_time: seconds.
    """

    path: Path
    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: np.ndarray
    rotation: tuple[str, ...]
    turning: tuple[tuple[int, ...], ...]
    moving: tuple[tuple[int, ...], ...]
    motion: np.ndarray
    frame_time: float

    def index(self, name: str) -> int:
        if name not in self.names:
            raise ValueError(f"{self.path}: no joint {name!r} in the hierarchy")
        return self.names.index(name)

    def positions(self, offsets: np.ndarray | None = None, rest: bool = False) -> np.ndarray:
        """Forward kinematics: [F, J, 3] float64. `offsets` replaces the file's own; rest: all rotations are none and
        nothing moves, [1, J, 3].

        A node's rotation is the product of its channels in listed order, applied to column vectors;
        global = parent's global @ local, position = parent's position + parent's global @ offset. Where a node has
        position channels they stand in place of its offset, as MotionBuilder, Blender and Axis Neuron write them: a
        root's channels say where it is, not how far from its OFFSET.
        """
        offsets = self.offsets if offsets is None else offsets
        frames = 1 if rest else len(self.motion)
        positions = np.zeros((frames, len(self.names), 3))
        globals_: list[np.ndarray] = []
        for node, parent in enumerate(self.parents):
            axes, place = self.rotation[node], offsets[node][:, None]
            local = np.eye(3)
            if not rest:
                local = euler_matrix(self.motion[:, list(self.turning[node])], axes)
                if self.moving[node]:
                    place = self.motion[:, list(self.moving[node]), None]
            if parent < 0:
                positions[:, node] = place[..., 0]
                globals_.append(local)
            else:
                positions[:, node] = positions[:, parent] + (globals_[parent] @ place)[..., 0]
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
    """Parse a .bvh or .bvh.gz file; ValueError naming file and line where it is malformed."""
    lines = read_lines(path)
    start = next((i for i, line in enumerate(lines) if line.strip().upper() == "MOTION"), None)
    if start is None:
        raise ValueError(f"{path}: no MOTION line, the file is cut short or no BVH")
    hierarchy = _parse_hierarchy(path, lines[:start])
    first, frames, frame_time = _parse_motion_header(path, lines, start)

    turning, moving, axes, width = [], [], [], 0
    for channels in hierarchy.channels:
        columns = {name.lower(): width + number for number, name in enumerate(channels or ())}
        turning.append(tuple(column for name, column in columns.items() if name in _ROTATION))
        axes.append("".join(_ROTATION[name] for name in columns if name in _ROTATION))
        moving.append(tuple(columns[name] for name in _POSITION if name in columns))
        width += len(columns)
    return Bvh(
        path,
        tuple(hierarchy.names),
        tuple(hierarchy.parents),
        np.array(hierarchy.offsets, dtype=np.float64),
        tuple(axes),
        tuple(turning),
        tuple(moving),
        _parse_frames(path, lines, first, frames, width),
        frame_time,
    )


def _parse_hierarchy(path: Path, lines: list[str]) -> _Hierarchy:
    tree = _Hierarchy([], [], [], [])
    # opened: the node that the next "{" belongs to; stack: the nodes whose braces are open
    stack: list[int] = []
    opened: int | None = None
    for number, words in _statements(lines):
        where = f"{path}, line {number}"
        text = " ".join(words)
        keyword = words[0].upper()
        if keyword == "HIERARCHY":
            continue
        if opened is not None and words != ["{"]:
            raise ValueError(f"{where}: want '{{' after {tree.names[opened]!r}, got {text!r}")
        match [keyword, *words[1:]]:
            case ["ROOT" | "JOINT" | "END", _, *_]:
                if (keyword == "ROOT") == bool(tree.names):
                    raise ValueError(f"{where}: want one ROOT, before everything else, got {text!r}")
                # names of 3ds Max's bipeds have spaces
                name = " ".join(words[1:])
                if keyword != "ROOT" and not stack:
                    raise ValueError(f"{where}: {name!r} stands outside the root")
                name = f"{tree.names[stack[-1]]}_end" if keyword == "END" else name
                if name in tree.names:
                    raise ValueError(f"{where}: joint {name!r} comes twice")
                opened = len(tree.names)
                tree.names.append(name)
                tree.parents.append(stack[-1] if stack else -1)
                tree.offsets.append(None)
                tree.channels.append(() if keyword == "END" else None)
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
                _check_channels(channels, f"{where}: channels of {tree.names[stack[-1]]!r}")
                tree.channels[stack[-1]] = tuple(channels)
            case _:
                raise ValueError(f"{where}: cannot read {text!r} here")
    if stack or opened is not None:
        raise ValueError(f"{path}: the hierarchy ends inside {tree.names[stack[-1] if stack else -1]!r}")
    if not tree.names:
        raise ValueError(f"{path}: no ROOT in the hierarchy")
    return tree


def _statements(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """(line number, words) with every brace by itself, wherever on a line it stands."""
    for number, line in enumerate(lines, 1):
        for part in re.split(r"([{}])", line):
            if words := part.split():
                yield number, words


def _check_channels(channels: list[str], where: str) -> None:
    """Any number of rotations in any order; positions three or none."""
    names = [channel.lower() for channel in channels]
    for channel, name in zip(channels, names, strict=True):
        if name not in _POSITION and name not in _ROTATION:
            raise ValueError(f"{where}: want Xposition .. Zrotation, got {channel!r}")
    if len(set(names)) != len(names):
        raise ValueError(f"{where}: want {len(names)} different ones, got {' '.join(channels)}")
    if sum(name in _POSITION for name in names) not in (0, 3):
        raise ValueError(f"{where}: want all three positions or none, got {' '.join(channels)}")


def _parse_motion_header(path: Path, lines: list[str], start: int) -> tuple[int, int, float]:
    """The 0-based line that the frames begin at, how many there are, and the seconds of one."""
    filled = [number for number in range(start + 1, len(lines)) if lines[number].strip()][:2]
    header = [" ".join(lines[number].split()).lower() for number in filled]
    if len(header) < 2 or not header[0].startswith("frames:") or not header[1].startswith("frame time:"):
        raise ValueError(f"{path}, line {start + 2}: want 'Frames:' and 'Frame Time:' after MOTION")
    frames = header[0].removeprefix("frames:").strip()
    if not whole_number(frames):
        raise ValueError(f"{path}, line {filled[0] + 1}: want a number of frames, got {frames!r}")
    where = f"{path}, line {filled[1] + 1}"
    (frame_time,) = parse_numbers([header[1].removeprefix("frame time:").strip()], where)
    if frame_time < SHORTEST_FRAME:
        raise ValueError(f"{where}: want a positive frame time of at least {SHORTEST_FRAME:g} s, got {frame_time}")
    if frame_time > LONGEST_FRAME:
        raise ValueError(
            f"{where}: Frame Time must be the seconds of a frame, at most {LONGEST_FRAME:g}, got {frame_time:g} (the"
            f" frame rate? that would be {1 / frame_time:.7f})"
        )
    return filled[1] + 1, int(frames), frame_time


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
    if not (np.abs(motion) <= LARGEST_NUMBER).all():
        for number, words in rows:
            parse_numbers(words, f"{path}, line {number}")
    return motion
