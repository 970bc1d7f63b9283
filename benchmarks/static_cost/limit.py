"""The least time of an operation on an H200 by its kernels' machine code, at any size: the committed static costs
(benchmarks/results/static_cost.json) scaled. What part of it a measurement reaches stands beside the measurement."""

import functools
import json
from pathlib import Path
from typing import Any

from benchmarks.static_cost import times
from benchmarks.static_cost.variants import Workload

_FILE = Path(__file__).parents[1] / "results" / "static_cost.json"


@functools.cache
def _rows() -> list[dict[str, Any]]:
    return json.loads(_FILE.read_text())["rows"] if _FILE.exists() else []


def _implied(name: str, work: Workload) -> float | None:
    """Of the last row whose name begins so: the one for the larger sizes."""
    found = [row for row in _rows() if row["name"].startswith(name)]
    return times(found[-1]["per_element"], work)["implied"] if found else None


def _sum(parts: list[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def sv_all(batch: int) -> float | None:
    """Forward plus backward of "all", M = 3: seconds."""
    work = Workload(batch**3, 4 * 3 * batch**2 * 2)
    return _sum([_implied(f"sv_all_{direction}", work) for direction in ("forward", "backward")])


def paired(batch: int, count: int, width: int, dtype: str) -> float | None:
    """Forward plus backward of "paired" with its two matrix products: seconds. Rows are of width 512 and of the types
    they are meant for; None for others."""
    if width != 512:
        return None
    pairs = count * batch**2
    rows, panel = 2 * count * batch * width, 2 * count * pairs
    flops = 2 * pairs * width * (count - 1)
    wanted = f", M = {count}, {dtype}"
    names = [row["name"] for row in _rows() if row["name"].endswith(wanted)]
    forward, backward = ([n for n in names if n.startswith(f"paired_{d} ")] for d in ("forward", "backward"))
    if not forward or not backward:
        return None
    products = times(dict.fromkeys(_rows()[0]["per_element"], 0.0), Workload(0, panel, 2 * flops))["implied"]
    return _sum(
        [
            _implied(forward[-1], Workload(pairs, rows, flops)),
            _implied(backward[-1], Workload(pairs, rows + panel, flops)),
            products,
        ]
    )


def poses(name: str, count: int, bytes_each: int) -> float | None:
    """A kernel over poses or matrices by the start of its row's name: seconds for `count` of them."""
    return _implied(name, Workload(count, count * bytes_each))
