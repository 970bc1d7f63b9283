"""Other labs' cameras and simulated detectors: what is changed together, how often, and what stays."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.people import H36M_CAMERA, SIZE, pixels_of, standing_person
from unihpe_fast.config import AugmentConfig
from unihpe_fast.data.augment import OKS_ERRORS, People, detect, refilm
from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.camera import project

COUNT = 4000
UP = np.array([0.0, -1.0, 0.0])


def people(count: int = COUNT, free: bool = True) -> People:
    """Copies of one person, 5 m away."""
    joints = standing_person() + np.array([100.0, -50.0, 5000.0])
    pixels = pixels_of(joints)
    ones = np.ones((count, 17, 1))
    return People(
        keypoints_2d=np.concatenate([np.tile(pixels, (count, 1, 1)), ones], axis=2),
        joints_3d=np.concatenate([np.tile(joints, (count, 1, 1)), ones], axis=2),
        camera=np.tile(H36M_CAMERA, (count, 1)),
        size=np.tile(np.array(SIZE, np.float64), (count, 1)),
        up=np.tile(UP, (count, 1)),
        bbox=np.tile(square_bbox(pixels), (count, 1)),
        affine=np.tile(np.eye(2, 3), (count, 1, 1)),
        free=np.full(count, free),
    )


def distances(joints: np.ndarray) -> np.ndarray:
    return np.linalg.norm(joints[:, :, None, :3] - joints[:, None, :, :3], axis=-1)


def test_refilmed_people_are_the_same_before_other_cameras():
    given = people()
    result = refilm(given, np.ones(COUNT, bool), np.random.default_rng(0))
    new = (result.camera != given.camera).any(1)
    assert new.mean() > 0.9
    # rigid, and as upright as they were
    np.testing.assert_allclose(distances(result.joints_3d), distances(given.joints_3d), atol=1e-6)
    heights = [((p.joints_3d[:, 10, :3] - p.joints_3d[:, 3, :3]) * p.up).sum(1) for p in (given, result)]
    np.testing.assert_allclose(heights[0], heights[1], atol=1e-6)
    # camera, 2D and 3D agree, and all are in the image
    pixels = project(torch.from_numpy(result.joints_3d[..., :3]), torch.from_numpy(result.camera)).numpy()
    np.testing.assert_allclose(pixels, result.keypoints_2d[..., :2], atol=1e-6)
    assert ((pixels[new] >= 0) & (pixels[new] <= 999)).all()
    np.testing.assert_allclose(result.bbox[new], square_bbox(pixels[new]))
    # the variety that was asked for
    focal = result.camera[new, 0]
    assert focal.min() < 800
    assert focal.max() > 2000
    tilt = np.degrees(np.arcsin(result.up[new] @ [0, 0, -1.0]))
    assert 10 < tilt.std() < 14
    depth = result.joints_3d[new, 0, 2]
    assert depth.min() < 2500
    assert depth.max() > 10_000


def test_who_may_not_be_moved_stays():
    given = people(50, free=False)
    for result in (
        refilm(given, np.ones(50, bool), np.random.default_rng(0)),
        detect(given, AugmentConfig(detector=0.02, missing=0.5, swap=0.5, coco=1.0), np.random.default_rng(0)),
    ):
        for name in ("keypoints_2d", "joints_3d", "camera", "bbox"):
            np.testing.assert_array_equal(getattr(result, name), getattr(given, name))
    none = refilm(people(50), np.zeros(50, bool), np.random.default_rng(0))
    np.testing.assert_array_equal(none.camera, given.camera)


def test_detectors_err_by_joint_and_say_so():
    given = people()
    result = detect(given, AugmentConfig(detector=0.02), np.random.default_rng(0), OKS_ERRORS)
    error = np.linalg.norm(result.keypoints_2d[..., :2] - given.keypoints_2d[..., :2], axis=2) / given.bbox[0, 2]
    # a standard deviation a coordinate, of which the error is the length in two
    spread = np.sqrt((error**2).mean(0) / 2)
    assert 0.02 < spread.mean() < 0.032
    np.testing.assert_allclose(spread / spread.mean(), OKS_ERRORS.joint, atol=0.12)
    confidence = result.keypoints_2d[..., 2]
    graded = (confidence < 1).any(1)
    assert 0.45 < graded.mean() < 0.55
    assert np.corrcoef(error[graded].ravel(), confidence[graded].ravel())[0, 1] < -0.7
    assert (confidence >= 0.2).all()
    np.testing.assert_allclose(result.bbox, square_bbox(result.keypoints_2d))
    np.testing.assert_array_equal(result.joints_3d, given.joints_3d)


def test_swaps_missing_joints_and_half_bodies_come_as_often_as_asked():
    given, tiny = people(), 1e-9
    rng = np.random.default_rng(0)
    swapped = detect(given, AugmentConfig(detector=tiny, swap=0.1), rng).keypoints_2d
    for one, two in ((1, 4), (3, 6), (13, 16)):
        share = (np.abs(swapped[:, one, :2] - given.keypoints_2d[:, two, :2]) < 1e-3).all(1).mean()
        assert 0.08 < share < 0.12
    missing = detect(given, AugmentConfig(detector=tiny, missing=0.1), rng)
    assert 0.09 < (missing.keypoints_2d[..., 2] == 0).mean() < 0.11
    assert ((missing.keypoints_2d[..., 2] > 0).sum(1) >= 5).all()
    half = detect(given, AugmentConfig(detector=tiny, halves=0.2), rng)
    lost = half.keypoints_2d[..., 2] == 0
    assert 0.18 < lost[:, [2, 3, 5, 6]].all(1).mean() < 0.22
    assert 0.08 < lost[:, [0, 1, 4]].all(1).mean() < 0.12
    assert not lost[:, 7:].any()
    # the box is drawn around what is seen
    assert (half.bbox[lost.any(1), 2] < 0.95 * given.bbox[0, 2]).all()


def test_trunk_and_head_as_derived_from_coco():
    given = people(20)
    points = detect(given, AugmentConfig(detector=1e-9, coco=1.0), np.random.default_rng(0)).keypoints_2d[0, :, :2]
    true = given.keypoints_2d[0, :, :2]
    np.testing.assert_allclose(points[8], true[[11, 14]].mean(0), atol=1e-3)
    np.testing.assert_allclose(points[0], true[[1, 4]].mean(0), atol=1e-3)
    np.testing.assert_allclose(points[7], (points[0] + points[8]) / 2, atol=1e-3)
    # the person faces the camera: the nose is nearer to it, so a little farther from the image's middle
    face = given.joints_3d[0, 10, :3] + [0, 0, -95.0]
    np.testing.assert_allclose(points[9], pixels_of(face[None])[0], atol=1e-3)


def test_tumbled_people_are_the_same_any_way_up():
    rng, given = np.random.default_rng(0), people(400)
    # no flat figure, whose mirror image would pass for itself
    given.joints_3d[..., :3] += rng.normal(0, 30, (400, 17, 3))
    result = refilm(given, np.ones(400, bool), rng, tumble=0.5)
    np.testing.assert_allclose(distances(result.joints_3d), distances(given.joints_3d), atol=1e-6)
    volumes = [
        np.linalg.det(each.joints_3d[:, [4, 8, 13], :3] - each.joints_3d[:, [1, 0, 6], :3]) for each in (given, result)
    ]
    np.testing.assert_allclose(volumes[1], volumes[0], rtol=1e-6, atol=1)
    new = (result.camera != given.camera).any(1)
    assert new.mean() > 0.9
    pixels = project(torch.from_numpy(result.joints_3d[..., :3]), torch.from_numpy(result.camera)).numpy()
    np.testing.assert_allclose(pixels[new], result.keypoints_2d[new, :, :2], atol=1e-6)
    # of an upright crowd a quarter hangs head down: half of those that were turned over
    trunk = result.joints_3d[new, 8, :3] - result.joints_3d[new, 0, :3]
    assert 0.18 < (trunk[:, 1] > 0).mean() < 0.32


def test_a_detector_that_is_sure_of_some_errs_on_the_others():
    given = people(2000)
    config = AugmentConfig(detector=0.02, swap=0.3, coco=0.3, sure=0.4, missing=0.1)
    found = detect(given, config, np.random.default_rng(0))
    seen = found.keypoints_2d[..., 2] > 0
    error = np.linalg.norm(found.keypoints_2d[..., :2] - given.keypoints_2d[..., :2], axis=2)
    exact = np.array([(of_one[there] == 0).all() for of_one, there in zip(error, seen, strict=True)])
    assert 0.36 < exact.mean() < 0.44
    # their joints may be missing all the same, and of nobody else is any exact
    assert 0.05 < 1 - seen[exact].mean() < 0.15
    assert (error[~exact][seen[~exact]] > 0).all()


def test_training_errs_as_movenet_was_measured_to():
    measured = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "detector-noise.json").read_text())
    given = people(4000)
    found = detect(given, AugmentConfig(detector=0.02), np.random.default_rng(0))
    error = np.linalg.norm(found.keypoints_2d[..., :2] - given.keypoints_2d[..., :2], axis=2) / given.bbox[:, 2:]
    limbs = {"hip": (1, 4), "knee": (2, 5), "ankle": (3, 6), "shoulder": (14, 11), "elbow": (15, 12), "wrist": (16, 13)}
    sigma = {name: np.median(error[:, joints]) / 1.1774 for name, joints in limbs.items()}
    mean = np.mean(list(sigma.values()))
    for name, value in measured["sigma"].items():
        assert sigma[name] / mean == pytest.approx(value / measured["sigma_mean"], rel=0.06), name
    scaled = np.concatenate([error[:, joints].ravel() / sigma[name] for name, joints in limbs.items()])
    for quantile, value in measured["errors_in_sigma"].items():
        assert np.quantile(scaled, float(quantile)) == pytest.approx(value, rel=0.12), quantile
