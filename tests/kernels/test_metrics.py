"""The pose errors as torchmetrics' metrics, beside what `evaluate` scores."""

import math
from typing import Any

import pytest
import torch
from torchmetrics import MetricCollection

import unihpe_kernels
from tests.kernels.metric_cases import METRICS, poses, synchronised
from tests.support.ranks import Ranks
from unihpe_fast import metrics as evaluated
from unihpe_kernels.metrics import MPJPE, NMPJPE, PAMPJPE

ACTIONS = ["Walking", "Sitting", "Walking", "Sitting", "Sitting", "Walking", "Eating"]
NAMES = ["Eating", "Jumping", "Sitting", "Walking"]


def in_batches(metric: Any, **more: Any) -> Any:
    pred, target, valid = poses()
    for rows in (slice(0, 2), slice(2, 2), slice(2, 7)):
        named = {name: value[rows] for name, value in more.items()}
        metric.update(pred[rows], target[rows], weights=valid[rows], **named)
    return metric.compute()


@pytest.mark.parametrize("name", METRICS)
def test_means_are_those_of_evaluate(name: str) -> None:
    pred, target, valid = poses()
    known = valid.any(-1)
    errors = evaluated.pose_metrics(pred[known], target[known], valid[known])
    assert in_batches(METRICS[name]()).item() == pytest.approx(evaluated.average(errors)[name], rel=1e-12)
    kept = [action for action, keep in zip(ACTIONS, known, strict=True) if keep]
    groups, rows = evaluated.group_by_action(kept)
    wanted = dict(zip(groups, evaluated.average_by_group(errors, rows, len(groups)), strict=True))
    found = in_batches(METRICS[name](per_action=NAMES), actions=ACTIONS)
    assert list(found) == NAMES
    for action in NAMES:
        if action in wanted:
            assert found[action].item() == pytest.approx(wanted[action][name], rel=1e-12)
        else:
            # none has been seen, or none of its joints
            assert math.isnan(found[action])


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("weighted", [False, True])
def test_joint_by_joint(name: str, weighted: bool) -> None:
    """The poses' own means are those of their joints' errors, in float64 from the formulas."""
    pred, target, valid = (x.double() if x.is_floating_point() else x for x in poses())
    pred, target, valid = pred[:6], target[:6], valid[:6]
    weights = valid * (torch.rand(6, 17, generator=torch.Generator().manual_seed(1)).double() + 0.5)
    weights = weights if weighted else valid.double()
    centred = pred - pred[:, :1], target.nan_to_num() - target.nan_to_num()[:, :1]
    aligned, truth = centred
    if name == "n_mpjpe":
        inner = (weights[..., None] * aligned * truth).sum((1, 2)) / (weights[..., None] * aligned**2).sum((1, 2))
        aligned = aligned * inner[:, None, None]
    elif name == "pa_mpjpe":
        truth = target.nan_to_num()
        aligned = unihpe_kernels.procrustes(pred, truth, weights=weights).apply(pred)
    distances = (aligned - truth).norm(dim=-1)
    wanted = (weights * distances).sum(0) / weights.sum(0)
    metric = METRICS[name](per_joint=17)
    metric.update(pred, target, weights=weights)
    torch.testing.assert_close(metric.compute(), wanted, rtol=1e-10, atol=1e-9)
    both = METRICS[name](per_joint=17, per_action=NAMES)
    both.update(pred, target, weights=weights, actions=ACTIONS[:6])
    sitting = torch.tensor([action == "Sitting" for action in ACTIONS[:6]])
    wanted = (weights * distances)[sitting].sum(0) / weights[sitting].sum(0)
    torch.testing.assert_close(both.compute()["Sitting"], wanted, rtol=1e-10, atol=1e-9)


def test_ranks_compute_what_one_process_does(processes: Ranks) -> None:
    for found in processes.run(synchronised, ranks=2):
        for (by_joint, total), make in zip(found, METRICS.values(), strict=True):
            torch.testing.assert_close(total, in_batches(make()), rtol=1e-12, atol=0)
            torch.testing.assert_close(by_joint, in_batches(make(per_joint=17)), rtol=1e-12, atol=0)


def test_as_a_batch_value_with_a_gradient_and_in_a_collection() -> None:
    pred, target, valid = poses()
    pred.requires_grad_()
    metric = PAMPJPE()
    value = metric(pred, target, weights=valid)
    (gradient,) = torch.autograd.grad(value, pred)
    wanted = unihpe_kernels.pa_mpjpe(pred[:6], target[:6], weights=valid[:6]).mean()
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, pred)[0])
    assert not metric.compute().requires_grad
    found = MetricCollection([MPJPE(), NMPJPE(root=None)])(pred.detach(), target, weights=valid)
    assert found["MPJPE"] != found["NMPJPE"]
    metric.reset()
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert math.isnan(metric.compute())


def test_arguments_are_checked() -> None:
    pred, target, _ = poses()
    with pytest.raises(ValueError, match="per_joint must be None or the number of joints"):
        PAMPJPE(per_joint=0)
    with pytest.raises(ValueError, match="per_action must be None or names"):
        PAMPJPE(per_action="Walking")
    with pytest.raises(ValueError, match=r"pred must have the 16 joints of per_joint, got shape \[7, 17, 3\]"):
        MPJPE(per_joint=16).update(pred, target)
    with pytest.raises(ValueError, match="actions must be one name a pose"):
        MPJPE(per_action=NAMES).update(pred, target)
    with pytest.raises(ValueError, match=r"actions must be among .* got \['Flying'\]"):
        MPJPE(per_action=NAMES).update(pred, target, actions=["Flying"] * 7)
    with pytest.raises(ValueError, match="actions must be None without per_action"):
        MPJPE().update(pred, target, actions=ACTIONS)
    with pytest.raises(ValueError, match="target must have shape"):
        MPJPE().update(pred, target[:3])
