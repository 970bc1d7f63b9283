"""From people's 2D joints to a model's input and back: cameras, roll, and where a lifted person stands."""

import numpy as np

from unihpe_fast.data.augment import People
from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.camera import CAMERA_SIZE
from unihpe_fast.data.skeleton import NUM_JOINTS, ROOT

# joints of H36M-17 and px of their box that a person needs to be lifted
FEWEST_JOINTS = 6
SMALLEST_BOX = 8.0
_THORAX = 8
# a trunk that leans further is a person who bends, not a camera that is turned
_MOST_ROLL = np.radians(45)


def camera_vectors(camera: object, size: np.ndarray) -> np.ndarray:
    """[N, 9] float64 of data/camera.py for N pictures of size [N, 2].

    camera: None for the one assumed of an unknown camera, of focal length sqrt(w^2 + h^2) and its axis in the middle
    of the picture (NaN where the size is unknown); f, cx, cy or fx, fy, cx, cy in px; or nine numbers; each one for
    all or [N, ..]. Raises ValueError for anything else.
    """
    sides = np.asarray(size, np.float64)
    vectors = np.zeros((len(sides), CAMERA_SIZE))
    if camera is None:
        vectors[:, :2] = np.linalg.norm(sides, axis=1, keepdims=True)
        vectors[:, 2:4] = sides / 2
        vectors[(sides <= 0).any(1)] = np.nan
        return vectors
    given = np.asarray(camera, np.float64)
    kinds = {3: [0, 0, 1, 2], 4: [0, 1, 2, 3], CAMERA_SIZE: list(range(CAMERA_SIZE))}
    count = given.shape[-1] if given.ndim in (1, 2) else 0
    if count not in kinds or given.shape[:-1] not in ((), (1,), (len(sides),)):
        raise ValueError(
            f"camera must be f, cx, cy or fx, fy, cx, cy or {CAMERA_SIZE} numbers, for all or each of {len(sides)} "
            f"people, got shape {list(given.shape)}"
        )
    vectors[:, : len(kinds[count])] = given[..., kinds[count]]
    if not np.isfinite(vectors).all() or not (vectors[:, :2] > 0).all():
        raise ValueError(f"camera must be finite with a focal length above 0 px, got {given.tolist()}")
    return vectors


def people_last(points: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Points [N, K, 2] px and confidence [N, K] as one float32 [N, K, 3] whose people lie next to each other in memory.

    NumPy works along long rows several times as fast as along the two or three numbers of a joint.
    """
    joints = np.empty((3, *confidence.shape[::-1]), np.float32)
    # what is beyond float32 becomes infinite, which is as unknown
    with np.errstate(over="ignore"):
        joints[:2], joints[2] = points.transpose(2, 1, 0), confidence.T
    return joints.transpose(2, 1, 0)


def liftable(joints: np.ndarray) -> np.ndarray:
    """[N] bool, which people [N, 17, 3] px and confidence show FEWEST_JOINTS joints in a box of SMALLEST_BOX px."""
    points = _by_coordinate(joints)
    seen = points[2] > 0  # [17, N]
    low, high = (np.where(seen, points[:2], edge) for edge in (np.inf, -np.inf))
    extent = high.max(1) - low.min(1)
    return (seen.sum(0) >= FEWEST_JOINTS) & (extent.max(0) >= SMALLEST_BOX)


def _by_coordinate(joints: np.ndarray) -> np.ndarray:
    """[N, 17, C] as [C, 17, N] in memory, which people who lie next to each other have already."""
    return np.ascontiguousarray(joints.transpose(2, 1, 0))


def people_of(joints: np.ndarray, camera: np.ndarray, size: np.ndarray, usable: np.ndarray) -> People:
    """N people [N, 17, 3] px and confidence as augmentation and collation take them.

    The joints of people who are not `usable` [N] bool (see `liftable`) are taken away.
    """
    bbox = boxes(joints, usable)
    joints = joints.astype(np.float64)
    np.copyto(joints, 0, where=~usable[:, None, None])
    return People(
        keypoints_2d=joints,
        joints_3d=np.zeros((len(joints), NUM_JOINTS, 4)),
        camera=camera,
        size=np.asarray(size, np.float64),
        up=np.tile([0.0, -1.0, 0.0], (len(joints), 1)),
        bbox=bbox,
        affine=np.tile(np.eye(2, 3), (len(joints), 1, 1)),
        free=np.zeros(len(joints), bool),
    )


def boxes(joints: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """[N, 3], the box of each person [N, 17, 3] that is usable [N]; others have one of 1 px."""
    if usable.all():
        return square_bbox(joints).astype(np.float64)
    bbox = np.tile([0.0, 0.0, 1.0], (len(joints), 1))
    if usable.any():
        bbox[usable] = square_bbox(joints[usable])
    return bbox


def camera_roll(joints: np.ndarray) -> float:
    """Radians (x towards y) that stand the trunks of people [N, 17, 3] upright in the median; 0 where none is seen.

    One camera took them all, so bending people even out. A median beyond 45 degrees is taken for people who lie, and
    is 0.
    """
    seen = (joints[:, [ROOT, _THORAX], 2] > 0).all(1)
    trunk = joints[seen, _THORAX, :2] - joints[seen, ROOT, :2]
    if not len(trunk):
        return 0.0
    lean = float(np.median(np.arctan2(trunk[:, 0], -trunk[:, 1])))
    return -lean if abs(lean) <= _MOST_ROLL else 0.0


def fit_root(joints_3d: np.ndarray, keypoints: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """[N, 3] float32 mm: where root-relative poses [N, 17, 3] mm must stand to project onto [N, 17, 3] px, confidence.

    The least squares of f (X + t_x) = (u - c) (Z + t_z), which is linear in t; lens distortion is left out. NaN where
    fewer than three joints are seen, the camera [N, 9] is unknown, or the person would stand behind it.
    """
    points, pose = _by_coordinate(keypoints), _by_coordinate(joints_3d.astype(np.float64))
    seen = points[2] > 0  # [17, N]
    count = seen.sum(0)
    share = seen / np.maximum(count, 1)
    focal, center = np.ascontiguousarray(camera[:, :2].T), camera[:, 2:4].T  # [2, N]
    pixel = np.where(seen, points[:2] - center[:, None], 0)  # [2, 17, N], from the principal point
    # for each coordinate f t - (u - c) t_z = right; t_x and t_y are means, and taken out only t_z is left
    right = pixel * pose[2] - focal[:, None] * pose[:2]
    pixel_mean, right_mean = (share * pixel).sum(1), (share * right).sum(1)
    off = share * (pixel - pixel_mean[:, None])
    spread = (off * pixel).sum((0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        depth = -(off * right).sum((0, 1)) / spread
        root = np.stack([*((right_mean + depth * pixel_mean) / focal), depth], axis=1)
        # people whose joints all lie in one line of sight leave the depth open
        good = (count >= 3) & (spread > 1e-12 * (focal**2).sum(0)) & np.isfinite(root).all(1)
        good &= depth + pose[2].min(0) > 0
    root[~good] = np.nan
    return root.astype(np.float32)


def guess_size(points: np.ndarray) -> tuple[int, int]:
    """Width and height of the smallest usual picture that holds all points [.., 2] px, upright or not.

    For files that do not say it. Whoever uses it should be told: the true size is better.
    """
    far = np.ceil(np.nanmax(points.reshape(-1, 2), axis=0)).clip(min=1)
    usual = [(640, 480), (1280, 720), (1920, 1080), (2560, 1440), (3840, 2160)]
    for long, short in usual:
        for width, height in ((long, short), (short, long)):
            if far[0] <= width and far[1] <= height:
                return width, height
    return int(far[0]), int(far[1])
