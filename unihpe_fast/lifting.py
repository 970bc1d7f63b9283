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


def people_of(joints: np.ndarray, camera: np.ndarray, size: np.ndarray) -> tuple[People, np.ndarray]:
    """N people [N, 17, 3] px and confidence as augmentation and collation take them, and which can be lifted [N] bool.

    A person needs FEWEST_JOINTS joints in a box of SMALLEST_BOX px; the others' joints are taken away.
    """
    joints = joints.astype(np.float64)
    seen = joints[..., 2] > 0
    extent = np.where(seen[..., None], joints[..., :2], -np.inf).max(1) - np.where(
        seen[..., None], joints[..., :2], np.inf
    ).min(1)
    usable = (seen.sum(1) >= FEWEST_JOINTS) & (extent.max(1) >= SMALLEST_BOX)
    joints[~usable] = 0
    people = People(
        keypoints_2d=joints,
        joints_3d=np.zeros((len(joints), NUM_JOINTS, 4)),
        camera=camera,
        size=np.asarray(size, np.float64),
        up=np.tile([0.0, -1.0, 0.0], (len(joints), 1)),
        bbox=boxes(joints, usable),
        affine=np.tile(np.eye(2, 3), (len(joints), 1, 1)),
        free=np.zeros(len(joints), bool),
    )
    return people, usable


def boxes(joints: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """[N, 3], the box of each person [N, 17, 3] that is usable [N]; others have one of 1 px."""
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
    weight = (keypoints[..., 2] > 0).astype(np.float64)[..., None]  # [N, 17, 1]
    focal, center = camera[:, None, :2], camera[:, None, 2:4]
    pixel = np.where(weight > 0, keypoints[..., :2], center) - center  # [N, 17, 2]
    right = weight * (pixel * joints_3d[..., 2:] - focal * joints_3d[..., :2])  # [N, 17, 2]
    # rows: f on the coordinate's own unknown, -(u - c) on the depth
    left = np.zeros((len(joints_3d), NUM_JOINTS, 2, 3))
    left[..., 0, 0], left[..., 1, 1] = focal[..., 0], focal[..., 1]
    left[..., 2] = -pixel
    left *= weight[..., None]
    rows = left.reshape(len(left), 2 * NUM_JOINTS, 3)
    normal = rows.transpose(0, 2, 1) @ rows
    good = (weight[..., 0].sum(1) >= 3) & np.isfinite(normal).all((1, 2)) & np.isfinite(right).all((1, 2))
    # people whose joints all lie in one line of sight leave the depth open
    good[good] &= np.linalg.cond(normal[good]) < 1e12
    root = np.full((len(left), 3), np.nan)
    target = rows[good].transpose(0, 2, 1) @ right[good].reshape(int(good.sum()), 2 * NUM_JOINTS, 1)
    root[good] = np.linalg.solve(normal[good], target)[..., 0]
    with np.errstate(invalid="ignore"):
        root[~(root[:, 2] + joints_3d[..., 2].min(1) > 0)] = np.nan
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
