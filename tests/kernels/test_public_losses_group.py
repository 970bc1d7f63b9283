"""The losses under their own names over two ranks: equal to those of one process on the samples of both."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.kernels.sv_cases import random_embeddings
from tests.support.ranks import Ranks
from tests.tolerances import PUBLISHED_LOSS
from unihpe_kernels import PairwiseInfoNCE, modules
from unihpe_kernels.scores import product

SIZES = (5, 3)


@dataclass
class Result:
    loss: float
    embeddings: list[Any]  # gradients, arrays [n, D]
    parameters: dict[str, float]


def make(name: str, group: Any) -> tuple[torch.nn.Module, int]:
    """And the number of modalities."""
    if name == "PairwiseInfoNCE":
        return PairwiseInfoNCE(group=group), 3
    if name.startswith("OpenClipLoss"):
        return OpenClip(name, group), 3
    if name.startswith("SymileLoss"):
        return modules.SymileLoss(negative_sampling=name.split()[1], group=group), 3
    return getattr(modules, name)(group=group), 2 if name == "SigLIPLoss" else 3


class OpenClip(torch.nn.Module):
    """With a logit scale and bias of its own."""

    def __init__(self, name: str, group: Any) -> None:
        super().__init__()
        self.scale, self.bias = (torch.nn.Parameter(torch.tensor(value)) for value in (12.0, -3.0))
        self.loss = modules.OpenClipLoss(sigmoid="sigmoid" in name)
        self.loss._group = lambda: group  # of these ranks; that of the module is every process of the tests

    def forward(self, image: Tensor, text: Tensor, third: Tensor) -> Tensor:
        return self.loss(image, text, self.scale, self.bias, third_features=third)


NAMES = (
    "GRAMLoss",
    "TriangleLoss",
    "SigLIPLoss",
    "PairwiseInfoNCE",
    "SymileLoss n",
    "SymileLoss n_squared",
    "OpenClipLoss",
    "OpenClipLoss sigmoid",
)


def orders(size: int, modalities: int) -> list[list[Tensor]]:
    """What SymileLoss draws for so many samples after a seed."""
    torch.manual_seed(size)
    return product.draw_orders(modalities, size, torch.device("cpu"))


def compute(name: str, embeddings: list[Tensor], group: Any) -> Result:
    loss, _ = make(name, group)
    loss.double()
    given = [z.detach().requires_grad_() for z in embeddings]
    torch.manual_seed(len(given[0]))
    value = loss(*given)
    value.backward()
    gradients = {key: p.grad.item() for key, p in loss.named_parameters() if p.grad is not None}
    return Result(value.item(), [z.grad.numpy() for z in given], gradients)


def on_rank(group: Any, rank: int, name: str) -> Result:
    whole = random_embeddings(make(name, None)[1], sum(SIZES), 9, torch.float64)
    begin = sum(SIZES[:rank])
    return compute(name, [z[begin : begin + SIZES[rank]] for z in whole], group)


def one_process(name: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    count = make(name, None)[1]
    if name == "SymileLoss n":
        # each rank's permutations, of its own samples
        drawn = [orders(size, count) for size in SIZES]
        both = [
            [torch.cat([first, second + SIZES[0]]) for first, second in zip(*of_anchor, strict=True)]
            for of_anchor in zip(*drawn, strict=True)
        ]
        monkeypatch.setattr(product, "draw_orders", lambda *_: both)
    return compute(name, random_embeddings(count, sum(SIZES), 9, torch.float64), None)


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_are_one_process(name: str, processes: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    results = processes.run(on_rank, name, ranks=2)
    wanted = one_process(name, monkeypatch)
    assert results[0].loss == results[1].loss == pytest.approx(wanted.loss, rel=PUBLISHED_LOSS[torch.float64])
    for m, gradient in enumerate(wanted.embeddings):
        # a rank's own tensors get as many times the gradient as there are ranks
        found = np.concatenate([result.embeddings[m] for result in results]) / 2
        np.testing.assert_allclose(found, gradient, rtol=0, atol=PUBLISHED_LOSS[torch.float64] * abs(gradient).max())
    for key, value in wanted.parameters.items():
        assert results[0].parameters[key] == results[1].parameters[key] == pytest.approx(value, rel=1e-11, abs=1e-12)


def weighted(group: Any, rank: int, sampling: str) -> tuple[float, Any]:
    given = [z.detach()[slice(*((0, 5), (5, 8))[rank])] for z in random_embeddings(3, 8, 9, torch.float64)]
    weights = torch.linspace(0, 2, 8, dtype=torch.float64)[slice(*((0, 5), (5, 8))[rank])].clone().requires_grad_()
    value = product.symile_loss(given, temperature=0.3, negative_sampling=sampling, weights=weights, group=group)
    value.backward()
    return value.item(), weights.grad.numpy()


def test_weights_over_ranks(processes: Ranks) -> None:
    results = processes.run(weighted, "n_squared", ranks=2)
    weights = torch.linspace(0, 2, 8, dtype=torch.float64).requires_grad_()
    z = [x.detach() for x in random_embeddings(3, 8, 9, torch.float64)]
    value = product.symile_loss(z, temperature=0.3, negative_sampling="n_squared", weights=weights)
    value.backward()
    assert results[0][0] == results[1][0] == pytest.approx(value.item(), rel=PUBLISHED_LOSS[torch.float64])
    found = np.concatenate([gradient for _, gradient in results]) / 2
    np.testing.assert_allclose(found, weights.grad.numpy(), rtol=0, atol=1e-12)


def wrong_rank(group: Any, rank: int) -> str:
    z = torch.randn(2, 4)
    with pytest.raises(ValueError) as error:
        modules.OpenClipLoss(rank=rank, world_size=64)(z, z, 10.0)
    return str(error.value)


def test_open_clip_loss_wants_the_world(processes: Ranks) -> None:
    world = len(processes._ends)
    for rank, message in enumerate(processes.run(wrong_rank)):
        assert message == (
            "OpenClipLoss: rank and world_size must be those of the default process group, got "
            f"{rank} and 64 with rank {rank} of {world}"
        )
    with pytest.raises(ValueError, match="got 0 and 2 with no process group"):
        modules.OpenClipLoss(world_size=2)(torch.randn(2, 4), torch.randn(2, 4), 10.0)


def of_the_world(group: Any, rank: int) -> float:
    z = [x.detach()[2 * rank : 2 * rank + 2] for x in random_embeddings(2, 8, 9, torch.float64)]
    return modules.OpenClipLoss(rank=rank, world_size=4)(*z, 12.0).item()


def test_open_clip_loss_over_all_processes(processes: Ranks) -> None:
    z = random_embeddings(2, 8, 9, torch.float64)
    wanted = modules.OpenClipLoss()(*z, 12.0).item()
    assert processes.run(of_the_world) == pytest.approx([wanted] * 4, rel=PUBLISHED_LOSS[torch.float64])
