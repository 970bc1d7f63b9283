"""Small motion files for the tests: a person with every joint a CMU conversion has, posed by given channel values."""

import gzip
from pathlib import Path

import numpy as np

# name, parent, offset; the hip-to-chest part of cgspeed's MotionBuilder hierarchy with a plausible person's numbers
MOTIONBUILDER = (
    ("Hips", None, (0, 0, 0)),
    ("LHipJoint", "Hips", (0, 0, 0)),
    ("LeftUpLeg", "LHipJoint", (1.7, -1.8, 0.6)),
    ("LeftLeg", "LeftUpLeg", (2.6, -7.1, 0)),
    ("LeftFoot", "LeftLeg", (2.5, -6.8, 0)),
    ("RHipJoint", "Hips", (0, 0, 0)),
    ("RightUpLeg", "RHipJoint", (-1.6, -1.8, 0.6)),
    ("RightLeg", "RightUpLeg", (-2.6, -7.1, 0)),
    ("RightFoot", "RightLeg", (-2.5, -6.8, 0)),
    ("LowerBack", "Hips", (0, 0, 0)),
    ("Spine", "LowerBack", (0.02, 2.0, -0.2)),
    ("Spine1", "Spine", (0.03, 2.1, -0.03)),
    ("Neck", "Spine1", (0, 0, 0)),
    ("Neck1", "Neck", (-0.05, 1.7, 0.2)),
    ("Head", "Neck1", (0.1, 1.8, -0.3)),
    ("LeftShoulder", "Spine1", (0, 0, 0)),
    ("LeftArm", "LeftShoulder", (3.5, 0.8, -0.2)),
    ("LeftForeArm", "LeftArm", (5.2, 0, 0)),
    ("LeftHand", "LeftForeArm", (3.4, 0, 0)),
    ("RightShoulder", "Spine1", (0, 0, 0)),
    ("RightArm", "RightShoulder", (-3.4, 0.8, -0.2)),
    ("RightForeArm", "RightArm", (-5.2, 0, 0)),
    ("RightHand", "RightForeArm", (-3.4, 0, 0)),
)
HEAD_END = (0.0, 1.8, 0.1)
CHANNELS = 6 + 3 * (len(MOTIONBUILDER) - 1)


def motionbuilder_text(motion: np.ndarray, frame_time: str = ".0083333") -> str:
    """BVH text; motion: [F, CHANNELS], the root's translation in file units, then degrees, joint by joint."""
    lines = ["HIERARCHY"]

    def add(name: str, depth: int) -> None:
        offset = next(offset for joint, _, offset in MOTIONBUILDER if joint == name)
        indent = "\t" * depth
        channels = "Zrotation Yrotation Xrotation"
        lines.extend(
            [
                f"{indent}{'JOINT' if depth else 'ROOT'} {name}",
                f"{indent}{{",
                f"{indent}\tOFFSET {offset[0]} {offset[1]} {offset[2]}",
                f"{indent}\tCHANNELS {3 if depth else 6} {'' if depth else 'Xposition Yposition Zposition '}{channels}",
            ]
        )
        children = [joint for joint, parent, _ in MOTIONBUILDER if parent == name]
        for child in children:
            add(child, depth + 1)
        if not children:
            end = HEAD_END if name == "Head" else (0, -1, 0)
            lines.extend([f"{indent}\tEnd Site", f"{indent}\t{{", f"{indent}\t\tOFFSET {end[0]} {end[1]} {end[2]}"])
            lines.append(f"{indent}\t}}")
        lines.append(f"{indent}}}")

    add("Hips", 0)
    lines += ["MOTION", f"Frames: {len(motion)}", f"Frame Time: {frame_time}"]
    lines += [" ".join(f"{value:.6f}" for value in row) for row in motion]
    return "\n".join(lines) + "\n"


def standing(frames: int) -> np.ndarray:
    """[frames, CHANNELS]: upright at the origin, arms out, a slow turn of the whole body; frame 0 is the T-pose."""
    motion = np.zeros((frames, CHANNELS))
    motion[:, 1] = 15.7 + 1.8  # hips above the floor
    motion[1:, 4] = np.arange(1, frames)  # one degree of yaw a frame
    return motion


def write_clip(path: Path, motion: np.ndarray, **kwargs: str) -> Path:
    data = motionbuilder_text(motion, **kwargs).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
