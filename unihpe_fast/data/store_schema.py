"""What a prepared file holds: one HDF5 file a dataset split.

attributes    format, schema_version, dataset, split, joint_set, unit, source_files (JSON: name -> bytes), licence,
              caveat (how the samples differ from the published protocol; older files have none)
keypoints_2d  [N, 17, 3] float32   px of the full image, confidence
joints_3d     [N, 17, 4] float32   camera-space mm, validity; the root is at the origin where its place is unknown
bbox          [N, 3] float32       centre x, y and side, px of the full image
camera        [N] int32            row of cameras/*, -1 where there is none
image         [N] bytes            JPEG of the crop with margin
crop          [N, 2, 3] float32    full-image px to px of that JPEG
present       [N, 3] bool          which of image, keypoints_2d, joints_3d the sample has; absent ones are zero, empty
subject, action, camera_id  [N] int32, rows of names/*; frame [N] int64
image_crc32   [N] uint32           CRC-32 of the bytes of image; older files have none
cameras/      vector [C, 9] float64 of data/camera.py, NaN where only the size is known; size [C, 2] int32 width and
              height; rotation [C, 3, 3], translation [C, 3] float64 world to camera, NaN where unknown; name [C] text
names/        subject, action, camera_id: text

All that HDF5 itself can keep a checksum of has one: its structure, and the columns of numbers (fletcher32). It has none
for pictures and texts: the former have image_crc32, the latter an attribute crc32. Files without, as they were written
before, are read as well.
"""

import zlib
from collections.abc import Iterable

import h5py
import numpy as np

from unihpe_fast.data.bounds import LARGEST_DISTORTION, LARGEST_FOCAL, LARGEST_MM, LARGEST_PX, LEAST_FOCAL
from unihpe_fast.data.camera import CAMERA_SIZE
from unihpe_fast.data.records import MODALITIES
from unihpe_fast.data.skeleton import JOINT_SET, NUM_JOINTS

# attributes that say whether a reader can understand the file
FIXED_ATTRIBUTES = {"format": "unihpe-fast prepared file", "schema_version": 1, "joint_set": JOINT_SET, "unit": "mm"}
# column -> dtype and shape of one sample, or of one camera
ROWS: dict[str, tuple[type, tuple[int, ...]]] = {
    "keypoints_2d": (np.float32, (NUM_JOINTS, 3)),
    "joints_3d": (np.float32, (NUM_JOINTS, 4)),
    "bbox": (np.float32, (3,)),
    "crop": (np.float32, (2, 3)),
    "camera": (np.int32, ()),
    "present": (np.bool_, (len(MODALITIES),)),
    "subject": (np.int32, ()),
    "action": (np.int32, ()),
    "camera_id": (np.int32, ()),
    "frame": (np.int64, ()),
}
CAMERAS: dict[str, tuple[type, tuple[int, ...]]] = {
    "vector": (np.float64, (CAMERA_SIZE,)),
    "size": (np.int32, (2,)),
    "rotation": (np.float64, (3, 3)),
    "translation": (np.float64, (3,)),
}
NAMES = ("subject", "action", "camera_id")
JPEG = h5py.vlen_dtype(np.uint8)
TEXT = h5py.string_dtype()
# of the bytes of each image, and the attribute of a text column
IMAGE_SUM, TEXT_SUM = "image_crc32", "crc32"
# attributes that are text where they are there
TEXT_ATTRIBUTES = ("dataset", "split", "source_files", "licence", "caveat")

WANTED = {
    "keypoints_2d": f"px within {LARGEST_PX:.0e} and confidences in [0, 1]",
    "joints_3d": f"mm within {LARGEST_MM:.0e} and validities 0 or 1",
    "bbox": f"a centre and a positive side within {LARGEST_PX:.0e} px",
    "crop": "a finite, invertible affine map",
    "vector": (
        f"finite numbers with positive focal lengths from {LEAST_FOCAL:g} to {LARGEST_FOCAL:.0e} px and a principal"
        f" point within {LARGEST_PX:.0e} px, or NaN throughout where only the size is known"
    ),
    "size": "a positive width and height",
    "rotation": "a rotation, or NaN throughout where it is unknown",
    "translation": f"mm within {LARGEST_MM:.0e}, or NaN throughout where it is unknown",
}


def text_sum(texts: Iterable[str]) -> int:
    """CRC-32 of a column of texts."""
    return zlib.crc32("\0".join(texts).encode("utf-8", "surrogateescape"))


def _within(values: np.ndarray, largest: float) -> np.ndarray:
    """[N]: no number of the row is larger."""
    return (np.abs(values) <= largest).all(tuple(range(1, values.ndim)))


@np.errstate(invalid="ignore", over="ignore")  # of numbers that are refused
def wrong_rows(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """For each sample column that WANTED says something about, which rows [N] are not like that."""
    confidence, validity = rows["keypoints_2d"][..., 2], rows["joints_3d"][..., 3]
    right = {
        "keypoints_2d": (confidence >= 0).all(1) & (confidence <= 1).all(1) & _within(rows["keypoints_2d"], LARGEST_PX),
        "joints_3d": ((validity == 0) | (validity == 1)).all(1) & _within(rows["joints_3d"], LARGEST_MM),
        "bbox": (rows["bbox"][:, 2] > 0) & _within(rows["bbox"], LARGEST_PX),
        "crop": ~rows["present"][:, 0] | (np.abs(np.linalg.det(rows["crop"][..., :2])) > 1e-12),
    }
    return {key: ~(ok & np.isfinite(rows[key]).all(tuple(range(1, rows[key].ndim)))) for key, ok in right.items()}


@np.errstate(invalid="ignore", over="ignore")  # of numbers that are refused
def wrong_cameras(cameras: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """For each camera column that WANTED says something about, which rows [C] are not like that."""
    vector, rotation, translation = cameras["vector"], cameras["rotation"], cameras["translation"]
    focal = (vector[:, :2] >= LEAST_FOCAL) & (vector[:, :2] <= LARGEST_FOCAL)
    right = {
        "vector": focal.all(1) & _within(vector[:, 2:4], LARGEST_PX) & _within(vector[:, 4:], LARGEST_DISTORTION),
        # as exact as files in float32 have it
        "rotation": (np.abs(rotation @ rotation.swapaxes(1, 2) - np.eye(3)) < 1e-3).all((1, 2)),
        "translation": _within(translation, LARGEST_MM),
    }
    unknown = {key: np.isnan(cameras[key]).all(tuple(range(1, cameras[key].ndim))) for key in right}
    return {key: ~(ok | unknown[key]) for key, ok in right.items()} | {"size": ~(cameras["size"] > 0).all(1)}
