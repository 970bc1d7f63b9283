"""The losses over several ranks: equal to those of one process on the samples of all."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.kernels.sv_group_cases import UNEVEN
from tests.support.ranks import Ranks
from tests.test_losses import embeddings, make_batch, outputs_for
from tests.tolerances import POSE_LOSS_GROUP
from unihpe_fast.config import LossConfig
from unihpe_fast.losses import TERMS, Criterion
from unihpe_fast.models.unihpe import Outputs
from unihpe_kernels import PairwiseInfoNCE

MODALITIES = ("image", "pose2d", "pose3d")


@dataclass
class Result:
    """values: loss and terms. inputs: gradients by name, arrays with the samples first. shared: those of parameters."""

    values: dict[str, float]
    inputs: dict[str, Any]
    shared: dict[str, float]


def _own(x: Tensor, sizes: tuple[int, ...], rank: int, dim: int) -> Tensor:
    return x.split(sizes, dim)[rank].detach().requires_grad_(x.is_floating_point())


def _present(batch: int) -> Tensor:
    return torch.rand(3, batch, generator=torch.Generator().manual_seed(1)) > 0.3


def pairwise(group: Any, rank: int, sizes: tuple[int, ...], masked: bool) -> Result:
    total = sum(sizes)
    weights = torch.linspace(0.5, 1.5, total, dtype=torch.float64)
    present = _present(total) if masked else torch.ones(3, total, dtype=torch.bool)
    own = [_own(z, sizes, rank, 0) for z in embeddings(total)]
    loss = PairwiseInfoNCE(0.2, group=group).double()
    value = loss(*own, weights=_own(weights, sizes, rank, 0).detach(), present=_own(present, sizes, rank, 1))
    value.backward()
    temperature = loss.temperature.log_temperature.grad.item()
    return Result({"loss": value.item()}, {str(m): x.grad.numpy() for m, x in enumerate(own)}, {"tau": temperature})


def criterion(group: Any, rank: int, sizes: tuple[int, ...], masked: bool) -> Result:
    total = sum(sizes)
    target = make_batch(total, present=_present(total) if masked else None)
    # the numbers of valid joints differ from rank to rank
    target["joints_3d"][: total // 2, 5:, 3] = 0
    outputs = outputs_for(total, 3)
    own = Outputs(
        _own(outputs.embeddings, sizes, rank, 1),
        _own(outputs.pred_joints_3d, sizes, rank, 1),
        _own(outputs.pred_keypoints_2d, sizes, rank, 0),
        _own(outputs.log_heatmaps, sizes, rank, 0),
    )
    loss = Criterion(LossConfig(**{term: 0.5 + number for number, term in enumerate(TERMS)}), MODALITIES, group=group)
    mine = {name: _own(x, sizes, rank, 1 if name == "present" else 0).detach() for name, x in target.items()}
    value, terms = loss(own, mine)
    value.backward()
    inputs = {
        "embeddings": own.embeddings.grad.movedim(1, 0).numpy(),
        "joints_3d": own.pred_joints_3d.grad.movedim(1, 0).numpy(),
        "keypoints_2d": own.pred_keypoints_2d.grad.numpy(),
    }
    values = {"loss": value.item(), **{name: term.item() for name, term in terms.items()}}
    return Result(values, inputs, {name: p.grad.item() for name, p in loss.named_parameters()})


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("case", [pairwise, criterion])
def test_ranks_together_are_one_process(case: Any, ranks: int, masked: bool, processes: Ranks) -> None:
    sizes = UNEVEN[ranks]
    whole = case(None, 0, (sum(sizes),), masked)
    found = processes.run(case, sizes, masked, ranks=ranks)
    tolerance = 1e-12 if case is pairwise else POSE_LOSS_GROUP
    for result in found:
        # every rank has the value of all
        assert result.values == found[0].values
        assert result.values == pytest.approx(whole.values, rel=tolerance)
    for name, wanted in whole.inputs.items():
        # a rank's own tensors get `ranks` times the gradient, so that the mean over ranks of the parameters' is right
        got = np.concatenate([result.inputs[name] for result in found]) / ranks
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * abs(wanted).max(), err_msg=name)
    for name, wanted in whole.shared.items():
        # the temperature: differences of scores over tau, which cancel
        mean = np.mean([result.shared[name] for result in found])
        assert mean == pytest.approx(wanted, rel=tolerance, abs=20 * tolerance), name


def nothing_valid(group: Any, rank: int) -> tuple[float, bool]:
    """All that the terms could be averaged over is on no rank."""
    target = make_batch(3, present=torch.zeros(3, 3, dtype=torch.bool))
    outputs = Outputs(*(x.requires_grad_() for x in outputs_for(3, 3)))
    loss = Criterion(replace(LossConfig(), pa_mpjpe=1.0), MODALITIES, group=group)
    value, _ = loss(outputs, target)
    value.backward()
    return value.item(), all(x.grad is None or not x.grad.any() for x in outputs)


def test_nothing_to_average_over_is_zero_with_zero_gradient(processes: Ranks) -> None:
    assert processes.run(nothing_valid, ranks=2) == [(0.0, True), (0.0, True)]
