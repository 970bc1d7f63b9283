"""Writes examples/walk.json: a person who walks in a circle before a camera of 1280 x 720 px, 30 frames a second.

The person is a stick figure whose joints turn by sines; the file is laid out as AlphaPose lays out its results, with
17 keypoints of COCO, noise of a pixel, and a hidden arm now and then.
"""

import json
from pathlib import Path

import numpy as np

FPS, FRAMES, SIZE, FOCAL = 30, 90, (1280, 720), 1000.0
HIP, THIGH, SHIN, TRUNK, SHOULDER, UPPER_ARM, FOREARM, NECK = 0.12, 0.44, 0.43, 0.5, 0.18, 0.29, 0.26, 0.2


def swung(length: float, angle: float) -> np.ndarray:
    """A bone that hangs down, swung forwards by `angle` radians; the axes are left, down, forwards."""
    return length * np.array([0, np.cos(angle), np.sin(angle)])


def person(phase: float) -> np.ndarray:
    """[17, 3] m, COCO's keypoints about the pelvis; the axes are left, down, forwards."""
    joints = {}
    neck = np.array([0, -TRUNK, 0.02])
    for side, sign, turn in (("l", 1, phase), ("r", -1, phase + np.pi)):
        hip, thigh = np.array([sign * HIP, 0, 0]), 0.45 * np.sin(turn)
        knee = hip + swung(THIGH, thigh)
        ankle = knee + swung(SHIN, thigh - 0.15 - 0.7 * max(0.0, np.sin(turn - 1.9)))
        shoulder, arm = neck + np.array([sign * SHOULDER, 0.03, 0]), -0.4 * np.sin(turn)
        elbow = shoulder + swung(UPPER_ARM, arm) + [sign * 0.05, 0, 0]
        wrist = elbow + swung(FOREARM, arm + 0.4)
        joints[side] = shoulder, elbow, wrist, hip, knee, ankle
    nose = neck + np.array([0, -NECK, 0.11])
    face = [
        nose + np.array([sign * x, y, z])
        for x, y, z in ((0.03, -0.035, -0.02), (0.075, -0.02, -0.1))
        for sign in (1, -1)
    ]
    limbs = [joint for pair in zip(joints["l"], joints["r"], strict=True) for joint in pair]
    return np.stack([nose, *face, *limbs])


def placed(frame: int) -> tuple[np.ndarray, np.ndarray]:
    """The keypoints [17, 3] m in camera axes (x right, y down, z away), and [17, 2] px, of a frame."""
    heading = 2 * np.pi * frame / FRAMES
    left, forwards = (np.array([-np.cos(heading), 0, np.sin(heading)]), np.array([np.sin(heading), 0, np.cos(heading)]))
    place = np.array([-0.7 * np.cos(heading), 0.1, 4.6 + 0.7 * np.sin(heading)])
    points = person(2 * np.pi * frame / FPS) @ np.stack([left, [0, 1, 0], forwards]) + place
    return points, FOCAL * points[:, :2] / points[:, 2:] + np.array(SIZE) / 2


def main() -> None:
    rng = np.random.default_rng(0)
    records = []
    for frame in range(FRAMES):
        pixels = placed(frame)[1] + rng.normal(0, 1, (17, 2))
        confidence = rng.uniform(0.7, 0.98, 17)
        # a wrist behind the body
        confidence[9 + frame // 15 % 2] *= 1 if frame % 15 < 11 else 0.08
        flat = np.concatenate([pixels.round(1), confidence[:, None].round(3)], axis=1).ravel().tolist()
        records.append({"image_id": f"{frame}.jpg", "category_id": 1, "keypoints": flat, "score": 2.8, "idx": 1})
    lines = ",\n".join(json.dumps(record, separators=(",", ":")) for record in records)
    Path(__file__).with_name("walk.json").write_text(f"[{lines}]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
