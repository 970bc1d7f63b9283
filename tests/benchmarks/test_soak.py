import io
from dataclasses import fields
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.soak import growth, soak
from unihpe_fast.data.records import Batch


def test_growth_is_what_was_put_in() -> None:
    steps = list(range(10, 410, 10))
    # 2.5 MiB a 100 steps, after a start that does not count
    rss = [500.0 + (100 if step <= 100 else 0.025 * step) for step in steps]
    found = growth(steps, rss, [7] * 10 + [30] * 30)
    assert found.slope == pytest.approx(2.5)
    assert found.files == [30, 30, 30]
    assert not found.flat
    assert growth(steps, [500.0] * 40, [30] * 40).flat
    assert not growth(steps, [500.0] * 40, [30] * 39 + [31]).flat


# some hundred steps are needed to see a slope
@pytest.mark.parametrize("steps", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_a_short_soak_keeps_its_files_and_its_memory(tmp_path: Path, steps: int) -> None:
    found, readings = soak(tmp_path, steps=steps, workers=2, console=Console(file=io.StringIO()))
    assert readings["step"] == list(range(1, steps))
    # all of the loader processes are seen
    assert min(readings["rss"]) > 300
    # a batch more or less may be on its way when few readings are taken: each of its tensors is a file at both ends. A
    # file that every step left open would make 50 from quarter to quarter of 200 steps, a batch some 100 of 40
    assert max(found.files) - min(found.files) <= 2 * len(fields(Batch))
    # so few steps say less of the slope than the 2,000 of the command do: the allocator has not settled
    assert steps < 200 or found.slope < 10
