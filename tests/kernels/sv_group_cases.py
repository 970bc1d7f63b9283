"""Cases of the loss over a group, and what a rank does with one; imported by the ranks, too."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.kernels.sv_cases import random_embeddings
from unihpe_kernels import singular_value_contrastive_loss
from unihpe_kernels.contrastive.group import loss as group_loss

MOST = 4  # ranks
# Of embeddings without a tuple close to a double eigenvalue, where one process in float32 is off by some 1e-6, too.
SEED = 3
# samples of every rank, by the number of ranks
UNEVEN = {1: (7,), 2: (5, 3), 3: (4, 0, 6), 4: (5, 0, 7, 3)}
EVEN = {1: (6,), 2: (4, 4), 3: (3, 3, 3), 4: (3, 3, 3, 3)}


@dataclass(frozen=True)
class Case:
    count: int = 3
    negatives: str = "paired"
    dtype: torch.dtype = torch.float64
    masked: bool = False
    weighted: bool = False
    learned: bool = True  # the temperature
    normalize: bool = True
    ring: bool = False
    even: bool = False
    sizes: tuple[int, ...] | None = None
    backend: str = "torch"  # what a group has on a CPU, so that it rounds as one process does

    def split(self, ranks: int) -> tuple[int, ...]:
        return self.sizes or (EVEN if self.even else UNEVEN)[ranks]


@dataclass
class Result:
    loss: float
    embeddings: list[Any]  # gradients, arrays [n, D]
    temperature: float | None  # gradient
    weights: Any  # gradient [n]


def whole(case: Case, ranks: int) -> dict[str, Any]:
    """The arguments for the samples of all ranks together."""
    batch = sum(case.split(ranks))
    generator = torch.Generator().manual_seed(5)
    embeddings = [e.detach() for e in random_embeddings(case.count, batch, 9, case.dtype, SEED)]
    if not case.normalize:
        embeddings = [torch.nn.functional.normalize(e, dim=1) for e in embeddings]
    wide = torch.float64 if case.dtype == torch.float64 else torch.float32
    return {
        "embeddings": embeddings,
        "temperature": torch.tensor(0.1, dtype=wide) if case.learned else 0.1,
        "weights": torch.rand(batch, generator=generator).to(wide) + 0.2 if case.weighted else None,
        "present": torch.rand(case.count, batch, generator=generator) > 0.3 if case.masked else None,
        "negatives": case.negatives,
        "normalize": case.normalize,
        "backend": case.backend,
    }


def compute(arguments: dict[str, Any], group: Any = None, factor: float = 1) -> Result:
    """The loss and its gradients, those of factor x loss."""
    arguments = dict(arguments)
    embeddings = [e.detach().requires_grad_() for e in arguments.pop("embeddings")]
    for name in ("temperature", "weights"):
        if isinstance(arguments[name], Tensor):
            arguments[name] = arguments[name].detach().requires_grad_()
    loss = singular_value_contrastive_loss(embeddings, group=group, **arguments)
    (loss * factor).backward()
    tau, weights = arguments["temperature"], arguments["weights"]
    assert all(e.grad is not None and e.grad.dtype == e.dtype for e in embeddings)
    return Result(
        loss.item(),
        [e.grad.double().numpy() for e in embeddings if e.grad is not None],
        tau.grad.item() if isinstance(tau, Tensor) else None,
        None if weights is None else weights.grad.double().numpy(),
    )


def share(arguments: dict[str, Any], sizes: tuple[int, ...], rank: int) -> dict[str, Any]:
    """The part of one rank."""
    begin = sum(sizes[:rank])
    own = slice(begin, begin + sizes[rank])
    arguments = {**arguments, "embeddings": [e[own] for e in arguments["embeddings"]]}
    if arguments["weights"] is not None:
        arguments["weights"] = arguments["weights"][own]
    if arguments["present"] is not None:
        arguments["present"] = arguments["present"][:, own]
    return arguments


def on_rank(group: Any, rank: int, case: Case, ranks: int, unlike: bool = False) -> Result:
    """unlike: rank r differentiates r + 1 times the loss."""
    group_loss.GATHERED_BYTES = 0 if case.ring else 2**31
    return compute(share(whole(case, ranks), case.split(ranks), rank), group, rank + 1 if unlike else 1)
