import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.camera import project
from unihpe_fast.data.skeleton import BONES, FLIP, LEFT, RIGHT
from unihpe_fast.data.sources import Request, synthetic
from unihpe_fast.data.sources.synthetic import ACTIONS, IMAGE_SIZE, pose_skeleton, rotation_matrix, synthetic_people


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pose(trunk: dict[int, float] | None = None, legs: list | None = None, arms: list | None = None) -> np.ndarray:
    """One body of typical bones; angles in degrees, all zero unless given."""
    trunk_angles = torch.zeros(1, 8, dtype=torch.float64)
    for index, angle in (trunk or {}).items():
        trunk_angles[0, index] = angle
    zero = [[0.0] * 4] * 2
    limbs = [torch.tensor([angles or zero], dtype=torch.float64) for angles in (legs, arms)]
    bones = torch.tensor([list(synthetic.BONES.values())], dtype=torch.float64)
    return pose_skeleton(trunk_angles, *limbs, bones)[0].numpy()


def test_rotation_matrix_agrees_with_scipy_and_is_exact_at_zero():
    vectors = np.random.default_rng(0).normal(0, 1.5, (50, 3))
    vectors[0] = 0
    rotations = rotation_matrix(torch.from_numpy(vectors)).numpy()
    np.testing.assert_allclose(rotations, Rotation.from_rotvec(vectors).as_matrix(), atol=1e-12)


def test_at_rest_a_person_stands_with_arms_down():
    joints = pose()
    legs = synthetic.BONES["thigh"] + synthetic.BONES["shin"]
    np.testing.assert_allclose(joints[6], [0, synthetic.BONES["hip"], -legs], atol=1e-9)
    np.testing.assert_allclose(joints[3], [0, -synthetic.BONES["hip"], -legs], atol=1e-9)
    # left wrist under the left shoulder
    np.testing.assert_allclose(joints[13] - joints[11], [0, 0, -285 - 240], atol=1e-9)
    assert joints[11, 1] > 100
    np.testing.assert_allclose(joints[[7, 8], :2], 0, atol=1e-9)


def test_angles_move_the_limbs_the_way_their_names_say():
    # the left leg swings forward and its knee bends backward, the right one spreads
    joints = pose(legs=[[90, 0, 0, 90], [0, 30, 0, 0]])
    np.testing.assert_allclose(joints[5] - joints[4], [430, 0, 0], atol=1e-9)
    np.testing.assert_allclose(joints[6] - joints[5], [0, 0, -445], atol=1e-9)
    spread = np.radians(30)
    np.testing.assert_allclose(joints[2] - joints[1], [0, -430 * np.sin(spread), -430 * np.cos(spread)], atol=1e-9)
    # the left elbow bends forward; the right upper arm goes out and its forearm, turned outward, too
    joints = pose(arms=[[0, 0, 0, 90], [0, 90, 90, 90]])
    np.testing.assert_allclose(joints[13] - joints[12], [240, 0, 0], atol=1e-9)
    np.testing.assert_allclose(joints[15] - joints[14], [0, -285, 0], atol=1e-9)
    np.testing.assert_allclose(joints[16] - joints[15], [0, 0, 240], atol=1e-9)
    # pelvis and spine lean forward, the arms go along
    joints = pose(trunk={1: 30, 3: 60})
    np.testing.assert_allclose(joints[8] - joints[7], [250, 0, 0], atol=1e-9)
    np.testing.assert_allclose(
        joints[13] - joints[11], [0, 0, -525] @ Rotation.from_euler("y", -90, degrees=True).as_matrix(), atol=1e-9
    )
    np.testing.assert_allclose(joints[3] - joints[1], [0, 0, -875], atol=1e-9)


def test_people_are_the_same_for_the_same_generator_and_differ_otherwise():
    first, again, other = (synthetic_people(40, generator(seed)) for seed in (3, 3, 4))
    for one, two, three in zip(first, again, other, strict=True):
        assert torch.equal(one, two)
        assert not torch.equal(one, three)


def test_keypoints_and_boxes_follow_from_the_joints_and_fit_the_image():
    people = synthetic_people(3000, generator(5))
    assert people.joints_3d.dtype == people.keypoints_2d.dtype == people.camera.dtype == torch.float32
    exact = project(people.joints_3d.double(), people.camera.double())
    # float32 keeps 1e-7 of coordinates up to 1e3 px; the projection takes a handful of operations
    np.testing.assert_allclose(people.keypoints_2d.numpy(), exact.numpy(), atol=1e-3)
    assert people.joints_3d[..., 2].min() > 1000
    assert people.keypoints_2d.min() >= 0
    assert (people.keypoints_2d <= torch.tensor(IMAGE_SIZE) - 1).all()
    np.testing.assert_array_equal(people.bbox.numpy(), square_bbox(people.keypoints_2d).numpy())
    assert torch.equal(people.camera, synthetic.lenses()[people.lens])
    # people stand upright in the image: the head above the ankles (y points down) in nearly all of them
    pixels = people.keypoints_2d[..., 1]
    assert (pixels[:, 10] < pixels[:, [3, 6]].mean(1)).float().mean() > 0.97


def test_bones_are_human_and_alike_on_both_sides():
    joints, _ = synthetic.sample_poses(2000, generator(6))
    lengths = torch.stack([(joints[:, b] - joints[:, a]).norm(dim=-1) for a, b in BONES], dim=1)
    by_child = {child: lengths[:, k] for k, (_, child) in enumerate(BONES)}
    for left, right in zip(LEFT, RIGHT, strict=True):
        np.testing.assert_allclose(by_child[left].numpy(), by_child[right].numpy(), rtol=1e-4)
    shares = (lengths / lengths.mean(0)).numpy()
    assert shares.min() > 0.7
    assert shares.max() < 1.45
    # one person is not another scaled: proportions vary too
    assert (by_child[5] / by_child[12]).log().std() > 0.05


def test_knees_and_elbows_bend_the_human_way():
    angles = synthetic._sample_angles(
        synthetic._tables(torch.device("cpu")), torch.arange(len(ACTIONS)).repeat(300), generator(7)
    )
    for values, low, high in zip(
        angles,
        (synthetic.TRUNK_MIN, synthetic.LEG_MIN, synthetic.ARM_MIN),
        (synthetic.TRUNK_MAX, synthetic.LEG_MAX, synthetic.ARM_MAX),
        strict=True,
    ):
        assert (values.flatten(0, -2) >= torch.tensor(low) - 1e-4).all()
        assert (values.flatten(0, -2) <= torch.tensor(high) + 1e-4).all()
    assert angles[2][..., :2].norm(dim=-1).max() <= synthetic.MAX_SWING + 1e-3


@pytest.mark.parametrize("name", ["kicking", "kneeling", "lunging"])
def test_left_and_right_are_alike_in_distribution(name):
    """Of actions whose two legs differ; unmirrored, the feet's means are more than 300 mm apart."""
    joints, action = synthetic.sample_poses(20000, generator(8))
    people = joints[action == ACTIONS.index(name)]
    mirrored = people[:, torch.from_numpy(FLIP)] * torch.tensor([1.0, -1.0, 1.0])
    # the mean of some 400 people wanders by a twentieth of their spread, which is up to 300 mm
    assert len(people) > 300
    assert (people.mean(0) - mirrored.mean(0)).abs().max() < 100


def test_every_action_comes_by_its_weight_and_looks_like_itself():
    joints, action = synthetic.sample_poses(20000, generator(9))
    counts = torch.bincount(action, minlength=len(ACTIONS)) / 20000
    weights = torch.tensor([entry.weight for entry in synthetic.ACTION_TABLE])
    np.testing.assert_allclose(counts.numpy(), (weights / weights.sum()).numpy(), atol=0.012)

    def of(name: str) -> torch.Tensor:
        return joints[action == ACTIONS.index(name)]

    def height(people: torch.Tensor) -> torch.Tensor:
        return people[:, 0, 2] - people[..., 2].amin(1)

    assert height(of("standing")).median() > 800 > 600 > height(of("sitting")).median()
    assert height(of("squatting")).median() < 550
    assert (of("arms_up")[:, [13, 16], 2].amax(1) > of("arms_up")[:, 8, 2]).float().mean() > 0.85
    assert (of("bending")[:, 8, 0]).median() > 300
    # feet apart along the walk far more than in standing
    stride = (of("walking")[:, 3, 0] - of("walking")[:, 6, 0]).std()
    assert stride > 2 * (of("standing")[:, 3, 0] - of("standing")[:, 6, 0]).std()
    # the arm swings against its own leg
    walk = of("walking")
    assert torch.corrcoef(torch.stack([walk[:, 5, 0], walk[:, 12, 0] - walk[:, 11, 0]]))[0, 1] < -0.5


def test_a_mean_pose_does_not_explain_the_people():
    """PA-MPJPE of the Procrustes mean is 130 mm here, 126 mm over the CMU clips: as varied as real motion."""
    joints, _ = synthetic.sample_poses(3000, generator(10))
    centred = (joints - joints.mean(1, keepdim=True)).double().numpy()
    mean = centred.mean(0)
    for _ in range(3):
        aligned = np.stack([Rotation.align_vectors(mean, person)[0].apply(person) for person in centred])
        scale = np.einsum("njc,jc->n", aligned, mean) / (aligned**2).sum((1, 2))
        mean = aligned.mean(0)
    errors = np.linalg.norm(scale[:, None, None] * aligned - mean, axis=-1).mean(1)
    assert 90 < errors.mean() < 140


def test_samples_do_not_depend_on_how_many_are_asked_for():
    many = list(synthetic.samples(synthetic.CHUNK + 5, seed=1))
    few = list(synthetic.samples(3, seed=1))
    assert (len(many), len(few)) == (synthetic.CHUNK + 5, 3)
    for one, two in zip(few, many, strict=False):
        np.testing.assert_array_equal(one.joints_3d, two.joints_3d)
        assert (one.action, one.camera_id, one.frame) == (two.action, two.camera_id, two.frame)
    # the second chunk is no repetition of the first, nor is another seed
    assert not np.array_equal(many[0].joints_3d, many[synthetic.CHUNK].joints_3d)
    assert not np.array_equal(next(synthetic.samples(1, seed=2)).joints_3d, many[0].joints_3d)


def test_a_sample_is_complete_and_consistent():
    for sample in synthetic.samples(20, seed=3):
        assert sample.joints_3d.shape == (17, 4)
        assert sample.keypoints_2d.shape == (17, 3)
        assert sample.joints_3d.dtype == sample.keypoints_2d.dtype == sample.bbox.dtype == np.float32
        assert (sample.joints_3d[:, 3] == 1).all()
        assert (sample.keypoints_2d[:, 2] == 1).all()
        points = torch.from_numpy(sample.joints_3d[:, :3].astype(np.float64))
        pixels = project(points, torch.from_numpy(sample.camera.vector))
        np.testing.assert_allclose(sample.keypoints_2d[:, :2], pixels.numpy(), atol=1e-3)
        assert sample.action in ACTIONS
        assert sample.camera_id == sample.camera.name
        assert (sample.image, sample.crop, sample.camera.rotation) == (None, None, None)


def test_reading_refuses_inputs_and_empty_requests(tmp_path):
    with pytest.raises(ValueError, match="come from no file"):
        synthetic.read([tmp_path], synthetic.Options(), Request())
    with pytest.raises(ValueError, match="n: want at least 1, got 0"):
        synthetic.read([], synthetic.Options(n=0), Request())
    reading = synthetic.read([], synthetic.Options(n=2), Request())
    assert (reading.total, reading.render, len(list(reading.samples))) == (2, True, 2)
