import numpy as np
import pytest
import torch

from tests.tolerances import POSE_METRIC
from unihpe_fast import metrics
from unihpe_fast.data.skeleton import NUM_JOINTS


def _poses(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    target = 300 * torch.randn(count, NUM_JOINTS, 3, generator=g) + torch.tensor([100.0, -200.0, 4000.0])
    pred = target + 80 * torch.randn(count, NUM_JOINTS, 3, generator=g) - torch.tensor([30.0, 0.0, 4000.0])
    valid = torch.rand(count, NUM_JOINTS, generator=g) < 0.8
    # the root centres and Procrustes wants a few points
    valid[:, :5] = True
    return pred, target, valid


def _reference(pred: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """One pose of valid joints, the root first, in float64, by the textbook formulas."""
    a, b = pred - pred[0], target - target[0]
    distance = np.linalg.norm(a - b, axis=-1)
    x, y = pred - pred.mean(0), target - target.mean(0)
    u, s, vt = np.linalg.svd(x.T @ y)
    sign = np.array([1, 1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    aligned = (s * sign).sum() / (x**2).sum() * x @ (u * sign) @ vt
    return {
        "mpjpe": distance.mean(),
        "n_mpjpe": np.linalg.norm((a * b).sum() / (a * a).sum() * a - b, axis=-1).mean(),
        "pa_mpjpe": np.linalg.norm(aligned - y, axis=-1).mean(),
        "pck150": 100 * np.mean(distance < 150),
        "auc": 100 * np.mean([np.mean(distance < t) for t in np.linspace(0, 150, 31)]),
    }


def test_pose_metrics_match_a_loop_in_float64_and_leave_out_invalid_joints() -> None:
    pred, target, valid = _poses(64)
    pred[~valid] = torch.nan
    got = metrics.pose_metrics(pred, target, valid)
    assert tuple(got) == metrics.POSE_METRICS
    for row in range(len(pred)):
        keep = valid[row].numpy()
        wanted = _reference(pred[row].double().numpy()[keep], target[row].double().numpy()[keep])
        for name, value in wanted.items():
            assert got[name][row].item() == pytest.approx(value, abs=POSE_METRIC), (row, name)


def test_alignments_remove_what_they_should() -> None:
    _, target, valid = _poses(8)
    centred = target - target[:, :1]
    assert metrics.pose_metrics(target + 500, target, valid)["mpjpe"].max() < POSE_METRIC
    scaled = metrics.pose_metrics(1.5 * centred, centred, valid)
    assert scaled["n_mpjpe"].max() < POSE_METRIC
    assert scaled["mpjpe"].min() > 50
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1))).Q
    turn = turn * torch.linalg.det(turn)
    turned = metrics.pose_metrics(0.7 * target @ turn.T + 9, target, valid)
    assert turned["pa_mpjpe"].max() < POSE_METRIC
    assert turned["n_mpjpe"].min() > 50
    # a mirrored person is not the same pose
    mirrored = metrics.pose_metrics(target * torch.tensor([-1.0, 1.0, 1.0]), target, valid)
    assert mirrored["pa_mpjpe"].min() > 50


def test_thresholds_are_strict_and_auc_counts_31_of_them() -> None:
    distance = torch.tensor([[0.0, 5.0, 7.5, 149.0, 150.0, 1e9]], dtype=torch.float64)
    valid = torch.ones(1, 6, dtype=torch.bool)
    assert metrics.pck(distance, valid, 150.0).item() == pytest.approx(100 * 4 / 6)
    # strictly over: 5..150, 10..150, 10..150, 150, none, none
    assert metrics.auc(distance, valid).item() == pytest.approx(100 * (30 + 29 + 29 + 1) / 31 / 6)
    assert metrics.auc(torch.zeros(2, 6), torch.ones(2, 6, dtype=torch.bool)).tolist() == pytest.approx([3000 / 31] * 2)


def test_auc_matches_a_loop_on_non_contiguous_input() -> None:
    distance = 200 * torch.rand(17, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).T
    valid = torch.rand(50, 17, generator=torch.Generator().manual_seed(4)) < 0.7
    got = metrics.auc(distance, valid)
    for row in range(50):
        d = distance[row][valid[row]].numpy()
        assert got[row].item() == pytest.approx(100 * np.mean([np.mean(d < t) for t in range(0, 151, 5)]))


def test_keypoints_are_scored_in_image_px_and_by_a_share_of_the_bbox_side() -> None:
    target = torch.zeros(2, 4, 2)
    pred = torch.zeros(2, 4, 2)
    # half sides: 0.1 is 0.05 of the side
    pred[0, :, 0] = torch.tensor([0.0, 0.09, 0.11, 100.0])
    pred[1, :, 1] = 0.05
    valid = torch.tensor([[True, True, True, False], [True, True, True, True]])
    got = metrics.keypoint_metrics(pred, target, valid, torch.tensor([200.0, 50.0]))
    assert got["px"].tolist() == pytest.approx([200 * 0.2 / 3, 2.5])
    assert got["pck"].tolist() == pytest.approx([100 * 2 / 3, 100.0])


def test_keypoints_are_scored_by_the_length_of_the_torso() -> None:
    target = torch.zeros(3, 17, 2)
    target[:, 11, 0] = 0.5  # the left shoulder; the right hip is joint 1
    pred = target.clone()
    pred[0, 3, 0] = 0.099
    pred[0, 16, 1] = 0.101
    # the pelvis, the spine and the nose are not among the 14
    pred[0, [0, 7, 9], 0] = 9.0
    valid = torch.ones(3, 17, dtype=torch.bool)
    valid[1, 2:11] = False
    pred[1, 4] = 9.0
    pred[1, 12] = 9.0
    valid[2, 1] = False
    got = metrics.torso_pck(pred, target, valid)
    assert got[:2].tolist() == pytest.approx([100 * 13 / 14, 100 * 6 / 7])
    assert got[2].isnan()


def test_masked_mean_without_a_valid_entry_is_zero_whatever_stands_there() -> None:
    values = torch.tensor([[torch.nan, 1.0], [torch.nan, 1.0]])
    got = metrics.masked_mean(values, torch.tensor([[False, False], [False, True]]))
    assert got.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("pred", "target", "valid", "message"),
    [
        (torch.zeros(2, 17, 3), torch.zeros(2, 16, 3), torch.ones(2, 17, dtype=torch.bool), "16"),
        (torch.zeros(2, 17, 2), torch.zeros(2, 17, 2), torch.ones(2, 17, dtype=torch.bool), r"\[..., J, 3\]"),
        (torch.zeros(2, 17, 3), torch.zeros(2, 17, 3), torch.ones(2, 16, dtype=torch.bool), "valid"),
        (torch.zeros(2, 17, 3), torch.zeros(2, 17, 3), torch.ones(2, 17), "float32"),
    ],
)
def test_wrong_shapes_are_named(pred: torch.Tensor, target: torch.Tensor, valid: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.pose_metrics(pred, target, valid)


def test_wrong_scale_is_named() -> None:
    with pytest.raises(ValueError, match="scale"):
        metrics.keypoint_metrics(
            torch.zeros(2, 17, 2), torch.zeros(2, 17, 2), torch.ones(2, 17, dtype=torch.bool), torch.ones(3)
        )


def test_an_average_over_many_samples_keeps_its_decimals() -> None:
    # float32 sums of a million 33.3 drift in the second decimal
    values = torch.full((1_000_003,), 33.3)
    assert metrics.average({"mpjpe": values}) == {"mpjpe": pytest.approx(33.3, abs=1e-6)}
    assert metrics.average({"mpjpe": torch.empty(0)}) is None


def test_takes_are_pooled_and_similar_names_are_not() -> None:
    names = ["Sitting 1", "SittingDown", "Sitting", "", "Walking 2", "walk 01_02"]
    groups, rows = metrics.group_by_action(names)
    assert groups == ["Sitting", "SittingDown", "Walking", "walk 01_02"]
    assert rows.tolist() == [0, 1, 0, -1, 2, 3]
    assert metrics.group_by_action([])[0] == []


def test_actions_weigh_frames_inside_and_count_once_outside() -> None:
    values = torch.tensor([10.0, 20.0, 60.0, 1000.0, 5.0])
    rows = torch.tensor([0, 0, 0, -1, 2])
    got = metrics.average_by_group({"mpjpe": values, "auc": 2 * values}, rows, 3)
    assert got == [{"mpjpe": 30.0, "auc": 60.0}, None, {"mpjpe": 5.0, "auc": 10.0}]
    assert metrics.mean_over_actions(got) == {"mpjpe": 17.5, "auc": 35.0}
    assert metrics.mean_over_actions([None]) is None
