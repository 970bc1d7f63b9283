"""The people of pose2sim's clips as a prepared file, for models that look at pictures.

    python -m benchmarks.pose2sim.pictures real-motion/pose2sim.h5

Who counts and with which truth is the rule at the head of `benchmarks/pose2sim`, for the truth from BlazePose: that
from MoveNet has biases which an image encoder with MoveNet's backbone may share. Joints are in the camera's axes, boxes
are around them, and the pictures are without the lens's distortion.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from benchmarks.pose2sim import BUILD, Truth, cameras_and_truth, counted_views, see
from benchmarks.pose2sim.clips import CAMERAS, VERSION, Calibration, Seen, frames
from unihpe_fast.data.bbox import crop_map, square_bbox
from unihpe_fast.data.camera import Camera
from unihpe_fast.data.images import JPEG_QUALITY, enlargement, reduction
from unihpe_fast.data.records import Sample
from unihpe_fast.data.store import write_store

# px a side: a network input of 128 px with the margin around it
CROP_SIZE = 160
LICENCE = f"The clips of pose2sim {VERSION}, BSD-3-Clause."


def cut(image: np.ndarray, truth: Truth, camera: Calibration, *, name: str, clip: str) -> Sample:
    """A person in one camera's picture, uint8 [H, W, 3] RGB without distortion."""
    keypoints = np.column_stack([camera.project(truth.h36m[:, :3]), truth.h36m[:, 3]])
    joints = np.column_stack([truth.h36m[:, :3] @ camera.rotation.T + camera.translation, truth.h36m[:, 3]])
    keypoints[truth.h36m[:, 3] == 0], joints[truth.h36m[:, 3] == 0] = 0, 0
    bbox = square_bbox(keypoints)
    crop = crop_map(bbox, CROP_SIZE)
    step = reduction(crop)
    height, width = image.shape[:2]
    small = cv2.resize(image, (width // step, height // step), interpolation=cv2.INTER_AREA)
    picture = cv2.warpAffine(small, crop @ enlargement(step), (CROP_SIZE, CROP_SIZE))
    jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    vector = np.concatenate([camera.matrix[[0, 1, 0, 1], [0, 1, 2, 2]], np.zeros(5)])
    return Sample(
        bbox=bbox.astype(np.float32),
        keypoints_2d=keypoints.astype(np.float32),
        joints_3d=joints.astype(np.float32),
        camera=Camera(f"{clip} {name}", vector, width, height, camera.rotation, camera.translation),
        image=jpeg,
        crop=crop,
        subject=clip,
        action=clip,
        camera_id=name,
        frame=truth.frame,
    )


def of_clip(clip: str, folder: Path, seen: dict[str, list[list[Seen]]]) -> Iterator[Sample]:
    """The views of a clip that count, by camera and frame. seen: what `see` returns of it."""
    cameras, found = cameras_and_truth(folder / clip / "calibration.xml", seen["blazepose"])
    wanted: dict[int, dict[int, list[Truth]]] = defaultdict(lambda: defaultdict(list))
    for truth, number, _, _ in counted_views(found, seen["movenet"], seen["blazepose"], cameras):
        wanted[number][truth.frame].append(truth)
    for number, name in enumerate(CAMERAS):
        camera = cameras[number]
        for frame, image in enumerate(frames(folder / clip / f"{name}.mp4")):
            if people := wanted[number].get(frame):
                straight = cv2.undistort(image, camera.matrix, camera.distortion)
                yield from (cut(straight, truth, camera, name=name, clip=clip) for truth in people)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the prepared file to write")
    options = parser.parse_args()
    samples = chain.from_iterable(of_clip(clip, BUILD, seen) for clip, seen in see(BUILD).items())
    written = write_store(options.file, samples, dataset="pose2sim", split="val", licence=LICENCE)
    print(f"{written.samples} samples in {options.file}")


if __name__ == "__main__":
    main()
