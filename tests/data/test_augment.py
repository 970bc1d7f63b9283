from dataclasses import fields, replace

import numpy as np
import pytest

from tests.support.people import H36M_CAMERA, SIZE, pixels_of, random_joints
from unihpe_fast.config import AugmentConfig
from unihpe_fast.data import augment as aug
from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.skeleton import BONES, FLIP, LEFT, RIGHT

EVERYTHING = AugmentConfig(rotate=40, scale=0.3, shift=0.1, flip=True, yaw=True, bone_scale=0.2, body_scale=0.1)


def make_people(count: int, seed: int = 0, *, free: bool = True) -> aug.People:
    rng = np.random.default_rng(seed)
    joints = np.stack([random_joints(rng) for _ in range(count)])
    # a lens of its own for everyone, distorted more than a real one
    camera = np.tile(H36M_CAMERA, (count, 1))
    camera[:, 4:] += rng.uniform(-0.05, 0.05, (count, 5))
    keypoints = pixels_of(joints, camera)
    ones = np.ones((count, 17, 1))
    up = rng.standard_normal((count, 3))
    return aug.People(
        keypoints_2d=np.concatenate([keypoints, rng.random((count, 17, 1))], axis=2),
        joints_3d=np.concatenate([joints, ones], axis=2),
        camera=camera,
        size=np.tile(np.array(SIZE, dtype=float), (count, 1)),
        up=up / np.linalg.norm(up, axis=1, keepdims=True),
        bbox=square_bbox(keypoints),
        affine=np.tile(np.eye(2, 3), (count, 1, 1)),
        free=np.full(count, free),
    )


def assert_same(found: aug.People, wanted: aug.People) -> None:
    for field in fields(aug.People):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(wanted, field.name), err_msg=field.name)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_augmented_camera_projects_onto_the_augmented_pixels(seed: int, free: bool) -> None:
    people = make_people(64, seed, free=free)
    after = aug.augment(people, EVERYTHING, np.random.default_rng(seed))
    assert np.abs(after.keypoints_2d - people.keypoints_2d)[..., :2].min(axis=(1, 2)).max() > 1
    pixels = pixels_of(after.joints_3d[..., :3], after.camera)
    np.testing.assert_allclose(after.keypoints_2d[..., :2], pixels, atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_the_affine_takes_a_picture_along(seed: int) -> None:
    people = make_people(64, seed, free=False)
    after = aug.augment(people, EVERYTHING, np.random.default_rng(seed))
    # where each joint was, mapped as the picture is; mirrored people have theirs swapped
    moved = people.keypoints_2d[..., :2] @ after.affine[:, :, :2].transpose(0, 2, 1) + after.affine[:, None, :, 2]
    mirrored = np.linalg.det(after.affine[:, :, :2]) < 0
    assert 10 < mirrored.sum() < 54
    moved[mirrored] = moved[mirrored][:, FLIP]
    np.testing.assert_allclose(after.keypoints_2d[..., :2], moved, atol=1e-7)


def test_roll_is_a_turn_about_the_optical_axis() -> None:
    people = make_people(3)
    angle = np.array([0.0, np.pi / 2, -0.3])
    after = aug.roll(people, angle)
    for i, a in enumerate(angle):
        rotation = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        np.testing.assert_allclose(after.joints_3d[i, :, :3], people.joints_3d[i, :, :3] @ rotation.T, atol=1e-9)
        np.testing.assert_allclose(after.up[i], rotation @ people.up[i], atol=1e-12)
    np.testing.assert_array_equal(after.camera[:, :7], people.camera[:, :7])
    # a quarter turn takes image right to image down, in steps of the two focal lengths
    x, y = (people.bbox - np.pad(people.camera[:, 2:4], ((0, 0), (0, 1))))[1, :2] / people.camera[1, :2]
    wanted = people.camera[1, 2:4] + people.camera[1, :2] * [-y, x]
    np.testing.assert_allclose(after.bbox[1], [*wanted, people.bbox[1, 2]], atol=1e-9)


def test_flip_mirrors_the_chosen_and_swaps_left_and_right() -> None:
    people = make_people(2)
    after = aug.flip(people, np.array([True, False]))
    x0 = people.camera[0, 2]
    for left, right in [*zip(LEFT, RIGHT, strict=True), *zip(RIGHT, LEFT, strict=True), (0, 0), (10, 10)]:
        x, y, confidence = people.keypoints_2d[0, right]
        np.testing.assert_allclose(after.keypoints_2d[0, left], [2 * x0 - x, y, confidence], atol=1e-10)
        x, y, z, _ = people.joints_3d[0, right]
        np.testing.assert_array_equal(after.joints_3d[0, left, :3], [-x, y, z])
    np.testing.assert_array_equal(after.camera[0], people.camera[0] * [1, 1, 1, 1, 1, 1, 1, -1, 1])
    np.testing.assert_array_equal(after.up[0], people.up[0] * [-1, 1, 1])
    one = aug.People(**{f.name: getattr(people, f.name)[1:] for f in fields(aug.People)})
    assert_same(aug.People(**{f.name: getattr(after, f.name)[1:] for f in fields(aug.People)}), one)


def test_turn_keeps_the_skeleton_the_root_and_the_heights() -> None:
    people = make_people(200)
    after = aug.move(people, AugmentConfig(yaw=True), np.random.default_rng(0))
    before_3d, after_3d = people.joints_3d[..., :3], after.joints_3d[..., :3]
    distances = [np.linalg.norm(x[:, :, None] - x[:, None], axis=-1) for x in (before_3d, after_3d)]
    np.testing.assert_allclose(*distances, atol=1e-9)
    np.testing.assert_array_equal(before_3d[:, 0], after_3d[:, 0])
    heights = [((x - x[:, :1]) * people.up[:, None]).sum(-1) for x in (before_3d, after_3d)]
    np.testing.assert_allclose(*heights, atol=1e-9)
    # the same angle for all joints, anywhere on the circle from person to person
    angles = []
    for i in np.flatnonzero((before_3d != after_3d).any((1, 2))):
        across = [
            x[i, 1:] - x[i, 0] - h[i, 1:, None] * people.up[i]
            for x, h in zip((before_3d, after_3d), heights, strict=True)
        ]
        sin = (np.cross(across[0], across[1]) @ people.up[i]) / np.prod([np.linalg.norm(a, axis=1) for a in across], 0)
        cos = (across[0] * across[1]).sum(1) / np.prod([np.linalg.norm(a, axis=1) for a in across], 0)
        assert np.ptp(sin) < 1e-9
        assert np.ptp(cos) < 1e-9
        angles.append(np.arctan2(sin[0], cos[0]))
    assert len(angles) > 150
    assert np.histogram(angles, 4, (-np.pi, np.pi))[0].min() > 20


def test_bone_scale_is_alike_left_and_right_and_bounded() -> None:
    people = make_people(200)
    config = AugmentConfig(bone_scale=0.1, body_scale=0.1)
    after = aug.move(people, config, np.random.default_rng(0))
    moved = (after.joints_3d != people.joints_3d).any((1, 2))
    assert moved.sum() > 150
    parents, children = np.array(BONES).T
    bones = [x.joints_3d[moved][:, children, :3] - x.joints_3d[moved][:, parents, :3] for x in (people, after)]
    ratio = np.linalg.norm(bones[1], axis=-1) / np.linalg.norm(bones[0], axis=-1)
    np.testing.assert_allclose(bones[1], ratio[..., None] * bones[0], atol=1e-9)
    by_child = dict(zip(children.tolist(), ratio.T, strict=True))
    for left, right in zip(LEFT, RIGHT, strict=True):
        np.testing.assert_allclose(by_child[left], by_child[right], rtol=1e-9)
    assert 0.9**2 - 1e-9 <= ratio.min() < 0.85
    assert 1.15 < ratio.max() <= 1.1**2 + 1e-9
    # one factor for the whole person besides one for each type
    size = ratio.mean(1)
    assert size.std() > 0.04
    assert (ratio / size[:, None]).std() > 0.03
    np.testing.assert_array_equal(after.joints_3d[:, 0], people.joints_3d[:, 0])


def test_body_scale_alone_keeps_the_proportions() -> None:
    people = make_people(200)
    after = aug.move(people, AugmentConfig(body_scale=0.1), np.random.default_rng(0))
    before, grown = (x.joints_3d[..., :3] - x.joints_3d[:, :1, :3] for x in (people, after))
    ratio = np.linalg.norm(grown, axis=(1, 2)) / np.linalg.norm(before, axis=(1, 2))
    np.testing.assert_allclose(grown, ratio[:, None, None] * before, atol=1e-9)
    assert 0.9 - 1e-9 <= ratio.min() < 0.92
    assert 1.08 < ratio.max() <= 1.1 + 1e-9


def test_moved_people_get_a_new_bbox_and_keep_their_confidences() -> None:
    people = make_people(20)
    after = aug.move(people, AugmentConfig(yaw=True), np.random.default_rng(0))
    np.testing.assert_allclose(after.bbox, square_bbox(after.keypoints_2d[..., :2]), atol=1e-9)
    np.testing.assert_array_equal(after.keypoints_2d[..., 2], people.keypoints_2d[..., 2])


def test_people_stay_where_moving_them_makes_no_sense() -> None:
    people = make_people(5)
    people.free[0] = False  # a picture shows them
    people.joints_3d[1, 6, 3] = 0  # a joint is unknown
    people.camera[2] = np.nan
    shift = [2200.0, 0, 0]  # out of the image
    people.joints_3d[3, :, :3] += shift
    # right before the camera, where a turn takes joints behind it
    people.joints_3d[4, :, :3] += [0, 0, 300 - people.joints_3d[4, 0, 2]]
    for seed in range(5):
        config = AugmentConfig(yaw=True, bone_scale=0.1)
        assert_same(aug.move(people, config, np.random.default_rng(seed)), people)


def test_the_sky_is_known_from_the_extrinsics() -> None:
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((2, 3, 3)))[0]
    rotation[1] = np.nan
    np.testing.assert_array_equal(aug.camera_up(rotation), [rotation[0] @ [0, 0, 1], [0, -1, 0]])


def test_an_unknown_camera_rolls_about_the_middle_of_the_image_or_the_bbox() -> None:
    people = make_people(2)
    people.camera[:] = np.nan
    people.size[1] = 0
    after = aug.roll(people, np.full(2, np.pi / 2))
    middle = np.array(SIZE) / 2
    x, y = people.bbox[0, :2] - middle
    np.testing.assert_allclose(after.bbox[0, :2], middle + np.array([-y, x]), atol=1e-9)
    np.testing.assert_allclose(after.bbox[1], people.bbox[1], atol=1e-9)
    assert np.isnan(after.camera).all()


def test_bbox_jitter_stays_within_its_limits() -> None:
    people = make_people(500)
    after = aug.augment(people, AugmentConfig(flip=False, scale=0.25, shift=0.1), np.random.default_rng(0))
    ratio = after.bbox[:, 2] / people.bbox[:, 2]
    shift = (after.bbox - people.bbox)[:, :2] / people.bbox[:, 2:]
    assert 0.75 <= ratio.min() < 0.77
    assert 1.23 < ratio.max() <= 1.25
    assert 0.095 < np.abs(shift).max() <= 0.1
    assert_same(replace(after, bbox=people.bbox), people)


def test_nothing_on_changes_nothing() -> None:
    people = make_people(5)
    assert_same(aug.augment(people, AugmentConfig(flip=False), np.random.default_rng(0)), people)


def test_the_arguments_are_left_alone() -> None:
    people, again = make_people(20), make_people(20)
    aug.augment(people, EVERYTHING, np.random.default_rng(0))
    assert_same(people, again)


def test_what_is_drawn_does_not_depend_on_the_people() -> None:
    people = make_people(20)
    states = []
    for free in (True, False):
        rng = np.random.default_rng(7)
        aug.augment(replace(people, free=np.full(20, free)), EVERYTHING, rng)
        states.append(rng.bit_generator.state)
    assert states[0] == states[1]


def test_the_simulated_detector_errs_as_it_is_told() -> None:
    keypoints = np.random.default_rng(1).uniform(0.5, 1, (2000, 17, 3))
    before = keypoints.copy()
    noisy = aug.simulate_detector(keypoints, AugmentConfig(noise=0.02, missing=0.1), np.random.default_rng(0))
    np.testing.assert_array_equal(keypoints, before)
    missing = noisy[..., 2] == 0
    # 34000 joints: the standard deviation of this share is 0.0016
    assert abs(missing.mean() - 0.1) < 0.008
    assert not noisy[missing].any()
    np.testing.assert_array_equal(noisy[~missing][:, 2], keypoints[~missing][:, 2])
    # keypoints are in half sides; 61000 numbers give their deviation to 0.3 %
    error = (noisy - keypoints)[~missing][:, :2] / 2
    assert abs(error.std() / 0.02 - 1) < 0.02
    assert abs(error.mean()) < 5e-4


def test_colour_changes_are_bounded_and_keep_their_meaning() -> None:
    factor, offset = aug.color_jitter(4000, AugmentConfig(color=0.2), np.random.default_rng(0))
    # contrast leaves mid grey to brightness and gains
    grey = factor * 0.5 + offset
    assert 0.5 * 0.64 <= grey.min() < 0.5 * 0.68
    assert 0.5 * 1.39 < grey.max() <= 0.5 * 1.44
    contrast = factor / (2 * grey)
    np.testing.assert_allclose(contrast, np.broadcast_to(contrast[:, :1], contrast.shape), rtol=1e-12)
    assert 0.8 <= contrast.min() < 0.81
    assert 1.19 < contrast.max() <= 1.2
    assert (grey.std(1) > 0).all()
    none = aug.color_jitter(3, AugmentConfig(color=0), np.random.default_rng(0))
    np.testing.assert_array_equal(none[0], np.ones((3, 3)))
    np.testing.assert_array_equal(none[1], np.zeros((3, 3)))


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("lens", [False, True])
def test_people_whose_distance_is_unknown_are_turned_like_all_others(free: bool, lens: bool) -> None:
    """Their root is at the origin and mostly their camera unknown: flip and roll do to the pose what they always do."""
    far = make_people(64, free=False)
    camera = far.camera if lens else np.full_like(far.camera, np.nan)
    joints = far.joints_3d.copy()
    joints[..., :3] -= joints[:, :1, :3]
    near = replace(far, joints_3d=joints, camera=camera, free=np.full(64, free))
    after_far, after_near = (aug.augment(people, EVERYTHING, np.random.default_rng(0)) for people in (far, near))
    np.testing.assert_array_equal(after_near.joints_3d[:, 0, :3], 0)
    if lens:
        np.testing.assert_allclose(after_near.keypoints_2d, after_far.keypoints_2d)
        relative = after_far.joints_3d[..., :3] - after_far.joints_3d[:, :1, :3]
        np.testing.assert_allclose(after_near.joints_3d[..., :3], relative, atol=1e-9)
        return
    # without a lens the picture turns about its middle, and 2D and 3D by the same angle
    linear = after_near.affine[:, :, :2]
    turned = near.joints_3d.copy()
    turned[..., :2] = turned[..., :2] @ linear.transpose(0, 2, 1)
    mirrored = np.linalg.det(linear) < 0
    turned[mirrored] = turned[mirrored][:, FLIP]
    assert 10 < mirrored.sum() < 54
    np.testing.assert_allclose(after_near.joints_3d, turned, atol=1e-9)
