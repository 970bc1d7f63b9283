"""The forecast of bytes and work of a step over several ranks, against what is counted."""

import dataclasses
from pathlib import Path

import pytest
import torch

from benchmarks.scaling import Step, count_step, table


@pytest.mark.parametrize(("kind", "count"), [("paired", 3), ("paired", 5), ("ring", 3), ("ring", 5), ("all", 3)])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_forecast_is_what_is_counted(processes, kind, ranks, count):
    step = Step(ranks, 6, kind, count, width=16)
    for dtype in (torch.bfloat16, torch.float64):
        step = dataclasses.replace(step, dtype=dtype)
        for counted in processes.run(count_step, step, ranks=ranks):
            assert counted["bytes"] == pytest.approx(sum(step.bytes_sent().values()), rel=1e-12)
            assert counted["tuples"] == step.tuples() + step.positives()


def test_a_rank_of_twice_as_many_does_half_of_the_triples():
    whole = Step(1, 64, "all").tuples()
    assert Step(2, 32, "all").tuples() * 2 == Step(8, 8, "all").tuples() * 8 == whole


def test_documented_table():
    assert table() in (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
