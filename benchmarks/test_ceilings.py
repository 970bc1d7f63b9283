"""Memory and time of the loss at the largest batches: python -m pytest benchmarks/test_ceilings.py --benchmark-only"""

import pytest
import torch

from benchmarks.harness import OURS, Group, measure
from benchmarks.peers.sv_loss import eigvalsh_of_grams
from benchmarks.static_cost import limit
from benchmarks.test_sv_loss import GPU, USES, WIDTH, competitor, ours, stacked_svd

ALL_SIZES = [512, 1024, 2048, 4096] if GPU else [64, 128, 256, 512]
PAIRED_SIZES = [8192, 16_384, 32_768, 65_536] if GPU else [256, 512, 1024, 2048]
DTYPE = torch.bfloat16 if GPU else torch.float32


@pytest.mark.parametrize("batch", ALL_SIZES)
def test_ceiling_of_all(benchmark, batch):
    of = [competitor(OURS, ours("all"), eigvalsh_of_grams, 3)]
    parameters = {"M": 3, "D": WIDTH, "dtype": "float32"}
    floors = {batch: limit.sv_all(batch)}
    measure(benchmark, Group("ceiling_all", "B", of, parameters, {"": (3, 2)}, floors, USES), batch, rounds=3)


@pytest.mark.parametrize("batch", PAIRED_SIZES)
def test_ceiling_of_paired(benchmark, batch):
    of = [competitor(OURS, ours("paired"), stacked_svd, 3, dtype=DTYPE)]
    parameters = {"M": 3, "D": WIDTH, "dtype": str(DTYPE).removeprefix("torch.")}
    floors = {batch: limit.paired(batch, 3, WIDTH, "bf16")}
    measure(benchmark, Group("ceiling_paired", "B", of, parameters, {"": (2, 1)}, floors, USES), batch, rounds=3)
