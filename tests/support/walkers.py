"""People who walk before a camera, as a prediction."""

import numpy as np
import torch

from unihpe_fast.data.camera import pinhole, project
from unihpe_fast.data.skeleton import NUM_JOINTS
from unihpe_fast.prediction import Prediction

# metres: x right, y down, z away; a person who faces the camera, whose left is at x > 0
STANDING = np.array([
    [0, 0, 0], [-0.13, 0, 0], [-0.14, 0.45, 0], [-0.14, 0.88, 0], [0.13, 0, 0], [0.14, 0.45, 0], [0.14, 0.88, 0],
    [0, -0.24, 0], [0, -0.48, 0], [0, -0.58, -0.03], [0, -0.7, -0.02], [0.15, -0.44, 0], [0.2, -0.16, 0],
    [0.22, 0.1, -0.05], [-0.15, -0.44, 0], [-0.2, -0.16, 0], [-0.22, 0.1, -0.05],
])  # fmt: skip
SIZE = (1280, 720)


def walkers(frames: int = 20, people: int = 1, *, fps: float | None = 25.0, source: str = "clip.mp4") -> Prediction:
    """[frames * people] rows; person p stands 1.5 m further to the right than person p - 1, 5 m away."""
    camera = pinhole(1100.0, *SIZE)
    joints, points, roots = [], [], []
    for frame in range(frames):
        swing = 0.3 * np.sin(frame / 4)
        pose = STANDING.copy()
        pose[[2, 3, 12, 13], 2] += swing * np.array([0.5, 1, 0.5, 1])
        pose[[5, 6, 15, 16], 2] -= swing * np.array([0.5, 1, 0.5, 1])
        for person in range(people):
            root = np.array([1500.0 * (person - (people - 1) / 2), 0, 5000.0])
            joints.append(1000 * pose)
            roots.append(root)
            points.append(project(torch.from_numpy(1000 * pose + root), torch.from_numpy(camera)).numpy())
    rows = frames * people
    return Prediction(
        joints_3d=np.array(joints, np.float32),
        joints_2d=np.array(points, np.float32),
        confidence=np.full((rows, NUM_JOINTS), 0.9, np.float32),
        root=np.array(roots, np.float32),
        roll=np.zeros(rows, np.float32),
        person=np.tile(np.arange(people), frames),
        frame=np.repeat(np.arange(frames), people),
        time=np.repeat(np.arange(frames), people) / (fps or np.nan),
        source=np.array([source] * rows),
        size=np.tile(np.array(SIZE), (rows, 1)),
        camera=np.tile(camera, (rows, 1)),
        fps=fps,
        layout="coco17",
    )


class GreyPictures:
    """A grey picture a frame, lighter with every frame."""

    def __init__(self, frames: int, source: str = "clip.mp4") -> None:
        self.frames, self.source, self.rounds = frames, source, 0

    def __iter__(self):
        self.rounds += 1
        for frame in range(self.frames):
            yield frame, self.source, np.full((SIZE[1], SIZE[0], 3), 40 + 5 * frame, np.uint8)
