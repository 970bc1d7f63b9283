"""Each drop-in module against the formula that its authors published, forward plus backward:
python -m pytest benchmarks/test_drop_in.py --benchmark-only"""

import functools
from collections.abc import Callable, Sequence
from functools import partial

import pytest
from torch import Tensor, nn

from benchmarks.harness import DEVICE, OURS, Competitor, Group, measure
from benchmarks.peers import published
from benchmarks.test_sv_loss import GPU, WIDTH, competitor, compiled
from unihpe_kernels import modules

COUNT = 3
SIZES = [64, 1024, 4096, 16384] if GPU else [64, 256, 1024, 4096]
# every tuple of three: B^3 of them
SIZES_OF_ALL = [64, 256, 1024] if GPU else [64, 128, 256]
# compiling takes longest
COMPILED_FROM = 1024 if GPU else 256
ROUNDS = 10 if GPU else 5
Loss = Callable[[Sequence[Tensor], float], Tensor]


def module(make: Callable[[float], nn.Module]) -> Loss:
    """A module as a loss of embeddings and a temperature; it is made once, as in a training run."""
    kept = functools.cache(lambda temperature: make(temperature).to(DEVICE))
    return lambda embeddings, temperature: kept(temperature)(*embeddings)


def group(
    name: str,
    make: Callable[[float], nn.Module],
    exact: Loss,
    formula: Loss | None = None,
    largest: float = float("inf"),
    peers: Sequence[Competitor] = (),
    growth: tuple[float, float] = (2, 2),
    ours: tuple[float, float] = (2, 1),
) -> Group:
    """exact: what the loss is, in float64. formula: that of its authors where it is another. largest: the size to which
    it is tried: beyond, it takes more than 10 GB."""
    formula = formula or exact
    of = partial(competitor, exact=exact, count=COUNT)
    competitors = [
        of(OURS, module(make)),
        of("public formula", formula, largest=largest),
        of("public formula, torch.compile", compiled(formula), largest=largest, smallest=COMPILED_FROM),
        *peers,
    ]
    return Group(f"{name}, M = {COUNT}", "B", competitors, {"M": COUNT, "D": WIDTH}, {"": growth, OURS: ours})


@functools.cache
def groups() -> dict[str, Group]:
    of = partial(competitor, count=COUNT, absent=published.absent("symile"))
    n = of("symile, n", published.symile_paired, published.symile_paired_exact)
    n_squared = of("symile, n_squared", published.symile_all, published.symile_exact)
    return {
        "GRAMLoss": group("GRAMLoss", modules.GRAMLoss, published.gram),
        # [B, B, D] numbers, some eight times
        "TriangleLoss": group("TriangleLoss", modules.TriangleLoss, published.triangle, largest=2048 if GPU else 512),
        "PairwiseInfoNCE": group("PairwiseInfoNCE", modules.PairwiseInfoNCE, published.clip_pairs),
        "SigLIPLoss": group("SigLIPLoss", modules.SigLIPLoss, published.siglip_pairs),
        "SymileLoss, n": group("SymileLoss, n", modules.SymileLoss, published.symile_paired_exact, peers=[n]),
        "SymileLoss, n_squared": group(
            "SymileLoss, n_squared",
            partial(modules.SymileLoss, negative_sampling="n_squared"),
            published.symile_exact,
            peers=[n_squared],
            growth=(3, 3),
            ours=(3, 2),
        ),
    }


@pytest.mark.parametrize("batch", SIZES)
@pytest.mark.parametrize("name", ["GRAMLoss", "TriangleLoss", "PairwiseInfoNCE", "SigLIPLoss", "SymileLoss, n"])
def test_drop_in(benchmark, name, batch):
    measure(benchmark, groups()[name], batch, rounds=ROUNDS)


@pytest.mark.parametrize("batch", SIZES_OF_ALL)
def test_drop_in_of_every_tuple(benchmark, batch):
    measure(benchmark, groups()["SymileLoss, n_squared"], batch, rounds=ROUNDS)
