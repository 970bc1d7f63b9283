"""Small samples for the data tests: random people in front of a camera with real lens distortion."""

from collections.abc import Iterator

import cv2
import numpy as np
import torch

from unihpe_fast.data.camera import Camera, project
from unihpe_fast.data.records import Sample

# Human3.6M's 54138969, whose two focal lengths differ and whose tangential terms are among the largest
H36M_CAMERA = np.array(
    [1145.0494384765625, 1143.7811279296875, 512.5415649414062, 515.4514770507812,
     -0.20709891617298126, 0.24777518212795258, -0.00307515193708241, -0.00142447161488235, -0.0009756988729350269]
)  # fmt: skip
SIZE = (1000, 1002)


def turned_camera(rng: np.random.Generator) -> Camera:
    """The camera in a random place of its world."""
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    return Camera("54138969", H36M_CAMERA, *SIZE, rotation=rotation, translation=rng.normal(0, 1000, 3))


def standing_person() -> np.ndarray:
    """[17, 3] float64 mm about the pelvis: a person with arms out who faces the camera (x right, y down, z away)."""
    y = [0, 0, 440, 890, 0, 440, 890, -230, -480, -590, -700, -440, -440, -440, -440, -440, -440]
    joints = np.zeros((17, 3))
    joints[:, 1] = y
    joints[[4, 5, 6], 0], joints[[1, 2, 3], 0] = 130, -130
    joints[[11, 12, 13], 0], joints[[14, 15, 16], 0] = [150, 430, 680], [-150, -430, -680]
    return joints


def random_joints(rng: np.random.Generator) -> np.ndarray:
    """[17, 3] float64 mm: joints within about a metre of a root 4 to 6 m away, near enough to the image's middle."""
    root = np.array([*rng.uniform(-350, 350, 2), rng.uniform(4000, 6000)])
    return root + rng.uniform(-700, 700, (17, 3)) * (np.arange(17) > 0)[:, None]


def pixels_of(joints: np.ndarray, camera: np.ndarray = H36M_CAMERA) -> np.ndarray:
    return project(torch.from_numpy(joints), torch.from_numpy(camera)).numpy()


def sample(rng: np.random.Generator, *, picture: bool = False, camera: Camera | None = None, **changes) -> Sample:
    """A person with all there is; `changes` replaces fields, `picture` adds one of noise."""
    joints = random_joints(rng)
    keypoints = pixels_of(joints)
    low, high = keypoints.min(0), keypoints.max(0)
    bbox = np.array([*(low + high) / 2, 1.25 * (high - low).max()])
    values = {
        "bbox": bbox,
        "keypoints_2d": np.concatenate([keypoints, np.ones((17, 1))], axis=1),
        "joints_3d": np.concatenate([joints, np.ones((17, 1))], axis=1),
        "camera": camera or turned_camera(rng),
        "subject": "S1",
        "action": "Walking",
        "camera_id": "54138969",
    }
    if picture:
        # twice the bbox, so that nothing an augmented crop can see is missing
        crop = picture_crop(bbox, 128, 2.0)
        values |= {"image": jpeg(rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)), "crop": crop}
    return Sample(**(values | changes))


def samples(count: int, seed: int = 0, **options) -> Iterator[Sample]:
    rng = np.random.default_rng(seed)
    for frame in range(count):
        yield sample(rng, frame=frame, **options)


def picture_crop(bbox: np.ndarray, side: int, margin: float) -> np.ndarray:
    """[2, 3] from full-image px to px of a `side` px picture that shows `margin` times the bbox."""
    scale = side / (margin * bbox[2])
    middle = (side - 1) / 2
    return np.array([[scale, 0, middle - scale * bbox[0]], [0, scale, middle - scale * bbox[1]]])


def jpeg(picture: np.ndarray, quality: int = 98) -> bytes:
    """Bytes of a uint8 [H, W, 3] BGR picture."""
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
