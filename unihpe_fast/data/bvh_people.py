"""BVH skeletons of all makers as the 17 joints of Human3.6M: which node is which joint, the unit, and where up is.

Known by their names: CMU's conversions (cgspeed's for MotionBuilder, Daz and 3ds Max), ACCAD, LAFAN1, Mixamo,
Bandai-Namco, 3ds Max's bipeds, Axis Neuron, and Acclaim's names. A BVH says neither its unit nor its up axis; both are
found from the skeleton, and `Setup` overrules what is found.
"""

import re
from dataclasses import dataclass, replace

import numpy as np

from unihpe_fast.data.formats.bvh import Bvh
from unihpe_fast.data.skeleton import JOINT_NAMES, LEFT, NUM_JOINTS, RIGHT

INCH = 25.4
# mm; CMU's files count in inches divided by 0.45
UNITS = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "inch": INCH, "cmu": INCH / 0.45}
# mm, hip to ankle of a grown person and of people from 1.0 to 2.2 m
LEG, SHORTEST_LEG, LONGEST_LEG = 830.0, 390.0, 1300.0
# rows that take file coordinates to a right-handed world with Z up
UPWARD = {
    "x": ((0, 1, 0), (0, 0, 1), (1, 0, 0)),
    "y": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "z": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "-x": ((0, 1, 0), (0, 0, -1), (-1, 0, 0)),
    "-y": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
    "-z": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
}
# the cosine to an axis from which on a body stands along it
ALONG = np.cos(np.radians(45.0))
# from the head joint to H36M-17's head, as a share of the thigh, where the file has no end site (Human3.6M's S1)
HEAD_SHARE = 0.26

# the joints of H36M-17 as nodes of each skeleton; several nodes: the point midway
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
# MotionBuilder: frame 0 is an added T-pose; Daz: frame 0 too, and the next few may jump from it
MOTIONBUILDER_FIRST, DAZ_FIRST = 1, 10
# Where the child of a Daz bone lies in the bone's frame, right side (left: x mirrored). The conversion's own directions
# put forearms some 20 degrees, thighs 7 and upper arms 5 off the original AMC of the same take; these, fitted on takes
# that exist in both forms, leave 0.6 to 2.7 degrees
DAZ_DIRECTIONS = {
    "Hand": (-0.989, -0.145, 0.001), "ForeArm": (-0.989, -0.146, 0.002), "Shin": (-0.006, -0.996, -0.09),
    "Foot": (-0.01, -0.997, -0.08),
}  # fmt: skip

# the names of limb joints without side, prefix and punctuation, in lower case
LIMBS = {
    "hip": ("upleg", "thigh", "upperleg", "hip", "upperlegs"),
    "knee": ("leg", "calf", "shin", "lowerleg", "knee", "lowleg"),
    "ankle": ("foot", "ankle"),
    "shoulder": ("arm", "upperarm", "uparm", "shldr"),
    "elbow": ("forearm", "lowerarm", "lowarm", "elbow"),
    "wrist": ("hand", "wrist"),
}  # fmt: skip
# Acclaim's bones as joints: a joint stands where the bone begins, or with some converters where it ends
ACCLAIM_BEGIN = dict(zip(LIMBS, ("femur", "tibia", "foot", "humerus", "radius", "wrist"), strict=True))
ACCLAIM_END = dict(zip(LIMBS, ("hipjoint", "femur", "tibia", "clavicle", "humerus", "radius"), strict=True))
HEADS = ("head",)
HEAD_TOPS = ("headtopend", "headtop", "headend", "headnub", "headsite")


@dataclass(frozen=True)
class Setup:
    """What a user says about the files; empty or "auto": it is found out.

    unit: one of UNITS. up: one of UPWARD. joints: joint of H36M-17 -> names of nodes, several for the point midway.
    """

    unit: str = "auto"
    up: str = "auto"
    joints: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class BvhPeople:
    """joints: [F, 17, 3] float64 mm, Z up; first: number of the first frame; kind: whose skeleton it is; unit, up: as
    they were taken, keys of UNITS and UPWARD; sure: somebody stands along that axis, or the user said so.
    """

    joints: np.ndarray
    first: int
    kind: str
    unit: str
    up: str
    sure: bool

    @property
    def reading(self) -> str:
        return f"{self.kind} skeleton, 1 unit = {UNITS[self.unit]:g} mm ({self.unit}), up is {self.up}"


@dataclass(frozen=True)
class _Skeleton:
    """nodes: for each joint of H36M-17 the nodes of which it is the middle. offsets: those of the file, mended."""

    kind: str
    nodes: list[list[int]]
    offsets: np.ndarray
    first: int = 0
    cmu: bool = False


def parse_joints(text: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """ "left_knee=LeftLeg,head=Head+Head_end" as `Setup.joints`; ValueError naming what cannot be."""
    pairs = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, equals, nodes = word.partition("=")
        if not equals or name.strip() not in JOINT_NAMES:
            raise ValueError(
                f"joints: must be NAME=NODE or NAME=NODE+NODE with NAME of {', '.join(JOINT_NAMES)}, got {word!r}"
            )
        pairs.append((name.strip(), tuple(node.strip() for node in nodes.split("+"))))
    return tuple(pairs)


def bvh_people(bvh: Bvh, setup: Setup = Setup()) -> BvhPeople:
    """The person of a file. ValueError naming it where its skeleton, unit or up axis cannot be told."""
    skeleton = _skeleton(bvh, setup)
    if len(bvh.motion) <= skeleton.first:
        raise ValueError(f"{bvh.path}: {len(bvh.motion)} frames; the first {skeleton.first} are no motion, want more")

    def middle(positions: np.ndarray) -> np.ndarray:
        return np.stack([positions[:, nodes].mean(1) for nodes in skeleton.nodes], axis=1)

    joints = middle(bvh.positions(skeleton.offsets)[skeleton.first :])
    unit = _unit(bvh, joints, skeleton.cmu) if setup.unit == "auto" else setup.unit
    rest = middle(bvh.positions(skeleton.offsets, rest=True))[0]
    up, sure = _up(bvh, joints, rest) if setup.up == "auto" else (setup.up, True)
    turned = joints @ np.array(UPWARD[up], np.float64).T * UNITS[unit]
    return BvhPeople(turned, skeleton.first, skeleton.kind, unit, up, sure)


def _skeleton(bvh: Bvh, setup: Setup) -> _Skeleton:
    names = set(bvh.names)
    if {"lThigh", "lShldr", "abdomen"} <= names:
        found = _Skeleton("Daz", _nodes(bvh, DAZ), _daz_offsets(bvh), DAZ_FIRST, cmu=False)
    elif {"LHipJoint", "LowerBack", "Neck1"} <= names:
        offsets = _restore_thorax(bvh)
        found = _Skeleton("CMU MotionBuilder", _nodes(bvh, MOTIONBUILDER), offsets, MOTIONBUILDER_FIRST, cmu=True)
    else:
        found = _named_skeleton(bvh, dict(setup.joints))
    for name, nodes in setup.joints:
        found.nodes[JOINT_NAMES.index(name)] = [bvh.index(node) for node in nodes]
    return found


def _nodes(bvh: Bvh, mapping: Mapping) -> list[list[int]]:
    return [[bvh.index(name) for name in names] for names in mapping]


def _restore_thorax(bvh: Bvh) -> np.ndarray:
    """The conversion lost Acclaim's thorax bone: neck and collars sit on the joint below. Returns repaired offsets.

    The bone is about as long as Spine1's; the rest differs from the originals by 0.5 to 4 mm (11 mm for subject 11).
    """
    offsets = bvh.offsets.copy()
    for name in ("Neck", "LeftShoulder", "RightShoulder"):
        if not offsets[bvh.index(name)].any():
            offsets[bvh.index(name)] = [0, np.linalg.norm(offsets[bvh.index("Spine1")]), 0]
    return offsets


def _daz_offsets(bvh: Bvh) -> np.ndarray:
    """The file's offsets, limbs turned as `DAZ_DIRECTIONS` says, their lengths kept."""
    offsets = bvh.offsets.copy()
    for name, direction in DAZ_DIRECTIONS.items():
        for side, mirror in (("r", 1.0), ("l", -1.0)):
            node = bvh.index(side + name)
            turned = np.array(direction) * [mirror, 1, 1]
            offsets[node] = turned / np.linalg.norm(turned) * np.linalg.norm(offsets[node])
    return offsets


def _plain(name: str) -> str:
    """ "mixamorig:LeftUpLeg" is "leftupleg", "Bip01 L Thigh" is "lthigh", "joint_Root" is "root"."""
    name = re.sub(
        r"^(bip\d*|joint|character\d*|mixamorig\d*|skel|def)(?=[ _.:-])|^bip\d+(?=\w)", "", name.split(":")[-1].lower()
    )
    return re.sub(r"[^a-z0-9]", "", name)


def _side_and_part(name: str) -> tuple[str, str]:
    """ "UpperLeg_L" and "LeftUpperLeg" are ("left", "upperleg"); the side is empty where the name has none."""
    text = name.split(":")[-1]
    if match := re.fullmatch(r"(.+?)[ _.-](L|R|l|r|Left|Right|left|right)", text):
        return {"l": "left", "r": "right"}[match[2][0].lower()], _plain(match[1])
    plain = _plain(text)
    for side in ("left", "right"):
        if plain.startswith(side):
            return side, plain.removeprefix(side)
    if plain[:1] in ("l", "r") and plain[1:]:
        return {"l": "left", "r": "right"}[plain[0]], plain[1:]
    return "", plain


def _named_skeleton(bvh: Bvh, given: dict[str, tuple[str, ...]]) -> _Skeleton:
    """Any skeleton whose limbs have names that are known; the trunk is read from the hierarchy."""
    parts: dict[tuple[str, str], int] = {}
    for node, name in enumerate(bvh.names):
        if not name.endswith("_end"):
            parts.setdefault(_side_and_part(name), node)
    kind, limbs = _limb_names(bvh, parts)
    nodes: list[list[int]] = [[] for _ in range(NUM_JOINTS)]
    for joint in (*LEFT, *RIGHT):
        side, limb = JOINT_NAMES[joint].split("_")
        if JOINT_NAMES[joint] in given:
            nodes[joint] = [bvh.index(name) for name in given[JOINT_NAMES[joint]]]
            continue
        candidates = [parts[side, word] for word in limbs[limb] if (side, word) in parts]
        if not candidates:
            words = ", ".join(f"{side} {word}" for word in limbs[limb])
            raise ValueError(
                f"{bvh.path}: no joint {JOINT_NAMES[joint]!r} in the hierarchy (looked for {words}); "
                f"--joints {JOINT_NAMES[joint]}=.. says which of {', '.join(bvh.names)} it is"
            )
        nodes[joint] = candidates[:1]
    nodes[0] = nodes[1] + nodes[4]
    nodes[8] = nodes[11] + nodes[14]
    return _trunk(bvh, kind, nodes)


def _limb_names(bvh: Bvh, parts: dict[tuple[str, str], int]) -> tuple[str, dict[str, tuple[str, ...]]]:
    """What kind of skeleton it is, and under which names the limbs are looked for."""
    if ("left", "femur") in parts and ("left", "tibia") in parts:
        thigh, shin = (np.linalg.norm(bvh.offsets[parts["left", bone]]) for bone in ("femur", "tibia"))
        # where a joint stands at the end of its bone, a femur's offset is a thigh, not a hip
        names = ACCLAIM_END if thigh > 0.6 * shin else ACCLAIM_BEGIN
        return "Acclaim", {limb: (name, "hand") if name == "wrist" else (name,) for limb, name in names.items()}
    # Biovision's and 3ds Max's LeftShoulder is the shoulder joint, MotionBuilder's is the collar
    collar = ("left", "collar") in parts or ("left", "clavicle") in parts
    shoulder = (*LIMBS["shoulder"], "shoulder") if collar else LIMBS["shoulder"]
    plain = {_plain(name) for name in bvh.names}
    first = bvh.names[0].lower()
    if any(name.lower().startswith("mixamorig") for name in bvh.names):
        kind = "Mixamo"
    elif ("left", "upperleg") in parts:
        kind = "Bandai-Namco"
    elif collar or ("left", "thigh") in parts or first.startswith("bip"):
        kind = "3ds Max"
    elif "tospine" in plain:
        kind = "ACCAD"
    elif all(bvh.moving[node] for node in range(len(bvh.names)) if bvh.rotation[node]):
        kind = "Axis Neuron"
    elif "spine2" in plain and ("left", "toe") in parts:
        kind = "LAFAN1"
    else:
        kind = "MotionBuilder"
    return kind, LIMBS | {"shoulder": shoulder}


def _trunk(bvh: Bvh, kind: str, nodes: list[list[int]]) -> _Skeleton:
    """Spine, neck and head of a skeleton whose other joints are known."""
    names = [_plain(name) for name in bvh.names]
    heads = [node for node, name in enumerate(names) if name in HEADS and not bvh.names[node].endswith("_end")]
    if not heads:
        raise ValueError(f"{bvh.path}: no joint 'head' in the hierarchy; --joints neck=..,head=.. says which it is")
    head = heads[0]
    nodes[9] = [head]
    children = [node for node, parent in enumerate(bvh.parents) if parent == head]
    tops = [node for node in children if names[node] in HEAD_TOPS] or [
        n for n in children if bvh.names[n].endswith("_end")
    ]
    nodes[7] = _spine(bvh, nodes)
    offsets = bvh.offsets.copy()
    if tops:
        nodes[10] = tops[:1]
        thigh = np.linalg.norm(offsets[nodes[2][0]])
        # LAFAN1's end sites are at their joints: the head goes on as the neck does
        if np.linalg.norm(offsets[tops[0]]) < HEAD_SHARE / 4 * thigh:
            offsets[tops[0]] = offsets[head] / max(np.linalg.norm(offsets[head]), 1e-9) * HEAD_SHARE * thigh
    else:
        nodes[10] = [head]
    return _Skeleton(kind, nodes, offsets, cmu=kind == "Acclaim")


def _spine(bvh: Bvh, nodes: list[list[int]]) -> list[int]:
    """The joint of the trunk nearest to half way between pelvis and thorax, or the point midway where there is none."""
    # of some frames: the rest pose need not be a person's
    poses = replace(bvh, motion=bvh.motion[:: max(len(bvh.motion) // 20, 1)]).positions()
    low, high = (poses[:, nodes[joint]].mean(1) for joint in (0, 8))
    node, shares = nodes[9][0], {}
    while (node := bvh.parents[node]) >= 0:
        below, above = (np.linalg.norm(poses[:, node] - end, axis=1) for end in (low, high))
        shares[node] = float(np.median(below / np.maximum(below + above, 1e-9)))
    nearest = min(shares, key=lambda node: abs(shares[node] - 0.5), default=-1)
    return [nearest] if 0.2 < shares.get(nearest, 0) < 0.8 else [*nodes[0], *nodes[8]]


def _unit(bvh: Bvh, joints: np.ndarray, cmu: bool) -> str:
    """The unit in which the legs are nearest to a grown person's; CMU's only for the skeletons of its conversions."""

    def bone(one: int, two: int) -> float:
        return float(np.median(np.linalg.norm(joints[:, one] - joints[:, two], axis=1)))

    leg = (bone(1, 2) + bone(2, 3) + bone(4, 5) + bone(5, 6)) / 2
    sizes = {unit: leg * size for unit, size in UNITS.items() if cmu or unit != "cmu"}
    likely = {unit: size for unit, size in sizes.items() if SHORTEST_LEG <= size <= LONGEST_LEG}
    if not likely:
        raise ValueError(
            f"{bvh.path}: legs of {leg:.4g} units are no person's in {', '.join(sizes)}: --unit says which it is"
        )
    return min(likely, key=lambda unit: abs(np.log(likely[unit] / LEG)))


def _up(bvh: Bvh, joints: np.ndarray, rest: np.ndarray) -> tuple[str, bool]:
    """The axis that is up, and whether the file shows it: somebody stands along it.

    It is the one that the person of the rest pose stands along. Where that pose is no person (LAFAN1's bones all lie
    along X), it is Y or Z, whichever people stand along more often. A clip in which people lie or crawl throughout
    tells nothing: then it is the rest pose's or Y, and other clips of the person must show whether that is so.
    """
    stood = {axis: float(_standing(joints, axis).mean()) for axis in UPWARD}
    resting = next((axis for axis in UPWARD if _is_person(rest) and _standing(rest[None], axis)[0]), None)
    likely = max(stood if resting else ("y", "z"), key=lambda axis: stood[axis])
    expected = resting or "y"
    if stood[expected] > (0 if resting else stood[likely] / 2):
        return expected, True
    if stood[likely] > 0.5 and _roams(joints, expected):
        return likely, True
    return expected, False


def _is_person(rest: np.ndarray) -> bool:
    """Whether the rest pose [17, 3] is one: the trunk goes on from parallel legs, the shoulders lie as the hips do."""

    def cosine(one: np.ndarray, two: np.ndarray) -> float:
        return float(one @ two / max(np.linalg.norm(one) * np.linalg.norm(two), 1e-9))

    trunk, hips, shoulders = rest[8] - rest[0], rest[4] - rest[1], rest[11] - rest[14]
    left, right = rest[6] - rest[4], rest[3] - rest[1]
    return cosine(trunk, left + right) < -0.9 and cosine(left, right) > 0.8 and cosine(hips, shoulders) > 0.8


def _standing(joints: np.ndarray, axis: str) -> np.ndarray:
    """[F] bool: the body, from the ankles to the thorax, is within 45 degrees of the axis."""
    body = joints[:, 8] - joints[:, [3, 6]].mean(1)
    up = np.array(UPWARD[axis][2], np.float64)
    return body @ up > ALONG * np.linalg.norm(body, axis=1)


def _roams(joints: np.ndarray, axis: str) -> bool:
    """Whether the body reaches higher above its lowest point, along the axis, than people who lie or crawl do."""
    height = joints @ np.array(UPWARD[axis][2], np.float64)
    leg = np.median(np.linalg.norm(joints[:, 1] - joints[:, 2], axis=1)) * 2
    return bool(height.max() - height.min() > 1.3 * leg)
