"""Lines of sight against camera geometry written out by hand, in float64."""

import numpy as np
import pytest
import torch

from tests.models.test_unihpe import build
from tests.support.models import make_batch, model_inputs, tiny_config
from unihpe_fast.models.rays import RayCorrection

FOCAL = 1100.0
CENTER = np.array([500.0, 480.0])


def seen_people(count: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Root-relative joints in mm, and the crop units and box context of their exact projections."""
    rng = np.random.default_rng(0)
    joints = rng.normal(0, 400, (count, 17, 3))
    joints -= joints[:, :1]
    root = rng.uniform([-1000, -500, 3000], [1000, 500, 6000], (count, 3))
    stand = joints + root[:, None]
    pixels = FOCAL * stand[..., :2] / stand[..., 2:] + CENTER
    low, high = pixels.min(1), pixels.max(1)
    middle, side = (low + high) / 2, (high - low).max(1, keepdims=True) * 1.2
    points = (pixels - middle[:, None]) / (side[:, None] / 2)
    box = np.concatenate([middle - CENTER, side], axis=1) / FOCAL
    keypoints = np.concatenate([points, np.ones((count, 17, 1))], axis=2)
    return torch.from_numpy(joints), torch.from_numpy(keypoints), torch.from_numpy(box)


def rays(share: float) -> RayCorrection:
    """One whose joints all move this share of the way to their lines."""
    module = RayCorrection().double().requires_grad_(False)
    with torch.no_grad():
        module.output.weight.zero_()
        module.output.bias[:17] = torch.tensor(share, dtype=torch.float64).logit().clamp(-100, 100)
    return module


def off_by(scale: float) -> torch.Tensor:
    """[6, 17, 3] sideways errors in mm; the root has none."""
    off = torch.from_numpy(np.random.default_rng(1).normal(0, scale, (6, 17, 3)))
    off[..., 2] = 0
    off[:, 0] = 0
    return off


def test_exact_poses_stay() -> None:
    joints, keypoints, box = seen_people()
    torch.testing.assert_close(rays(1.0)(joints, keypoints, box), joints, rtol=0, atol=1e-9)


def test_all_the_way_a_pose_projects_onto_its_keypoints() -> None:
    joints, keypoints, box = seen_people()
    moved = rays(1.0)(joints + off_by(50), keypoints, box)
    assert (moved[:, 0] == 0).all()
    torch.testing.assert_close(moved[..., 2], joints[..., 2], rtol=0, atol=1e-9)
    for person, points, (x, y, side) in zip(moved.numpy(), keypoints.numpy(), box.numpy(), strict=True):
        slopes = np.array([x, y]) + points[:, :2] * side / 2
        # X + t_x = slope (Z + t_z), whose t is found by NumPy
        rows = np.concatenate([np.tile(np.eye(2), (17, 1)), -slopes.reshape(-1, 1)], axis=1)
        right = (slopes * person[:, 2:] - person[:, :2]).reshape(-1)
        root, *_ = np.linalg.lstsq(rows, right, rcond=None)
        stand = person + root
        np.testing.assert_allclose(stand[:, :2] / stand[:, 2:], slopes, atol=1e-12)


def test_half_the_way_is_half_of_it() -> None:
    joints, keypoints, box = seen_people()
    wrong = joints + off_by(50)
    whole = rays(1.0)(wrong, keypoints, box) - wrong
    torch.testing.assert_close(rays(0.5)(wrong, keypoints, box) - wrong, whole / 2, rtol=0, atol=1e-9)


def test_a_joint_that_is_not_seen_is_not_read_and_goes_where_the_root_goes() -> None:
    joints, keypoints, box = seen_people()
    wrong, gone = joints + off_by(50), [3, 16]
    keypoints[:, gone] = torch.tensor([torch.nan, torch.nan, 0.0], dtype=torch.float64)
    module = rays(1.0)
    moved = module(wrong, keypoints, box)
    assert moved.isfinite().all()
    # all joints move by what the root moves, and those not seen by nothing else
    shift = moved[:, gone] - wrong[:, gone]
    torch.testing.assert_close(shift[:, 0], shift[:, 1], rtol=0, atol=1e-9)
    assert shift[..., 2].eq(0).all()


@pytest.mark.parametrize("why", ["no camera", "two joints", "one line of sight", "behind"])
def test_who_cannot_be_placed_stays_and_gives_finite_gradients(why: str) -> None:
    joints, keypoints, box = seen_people()
    wrong = (joints + off_by(50)).requires_grad_()
    if why == "no camera":
        box = torch.zeros_like(box)
    elif why == "two joints":
        keypoints[:, 2:] = 0
    elif why == "one line of sight":
        keypoints[..., :2] = 0.25
    else:
        box = -box
    module = rays(0.5).requires_grad_()
    with torch.no_grad():
        # depths that all others would get
        module.output.bias[17:] = 0.3 * torch.arange(17)
    moved = module(wrong, keypoints, box)
    assert torch.equal(moved, wrong)
    moved.square().sum().backward()
    assert wrong.grad is not None
    assert wrong.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_the_model_lifts_as_it_trains() -> None:
    model = build(tiny_config(rays=True)).eval()
    assert model.rays is not None
    with torch.no_grad():
        for p in model.rays.parameters():
            p += 0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    batch = make_batch(5)
    row = model.modalities.index("pose2d")
    with torch.no_grad():
        outputs = model(*model_inputs(batch))
        plain = model.decode(outputs.embeddings, "pose2d")
        lifted = model.lift(batch["keypoints_2d"], batch["box"])
    torch.testing.assert_close(outputs.pred_joints_3d[row], lifted, rtol=1e-5, atol=1e-3)
    assert not torch.allclose(plain[row], lifted, atol=1.0)
    others = [r for r in range(len(model.modalities)) if r != row]
    torch.testing.assert_close(outputs.pred_joints_3d[others], plain[others], rtol=1e-5, atol=1e-3)
