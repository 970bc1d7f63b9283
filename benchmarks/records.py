"""What the benchmarks found, as one file: records, commit, versions, device, clocks."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.provenance import provenance
from unihpe_fast.fileio import write_text


def write_records(path: Path, records: Sequence[dict[str, Any]], **more: Any) -> None:
    """Whole or not at all."""
    write_text(path, json.dumps({**provenance(), **more, "records": list(records)}, indent=1) + "\n")


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Slope of log(value) in log(size), least squares; None for fewer than four sizes, which say nothing."""
    points = [(math.log(s), math.log(v)) for s, v in zip(sizes, values, strict=True) if v and v > 0]
    if len(points) < 4:
        return None
    x_mean, y_mean = (sum(column) / len(points) for column in zip(*points, strict=True))
    spread = sum((x - x_mean) ** 2 for x, _ in points)
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / spread


def growth(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How each competitor of each group grows: exponents of time and memory over the sizes that it ran at, and those
    that its algorithm has. Over the larger half of the sizes, at least four: small ones cost their calls alone."""
    rows = []
    for group in dict.fromkeys(record["group"] for record in records):
        of_group = sorted((r for r in records if r["group"] == group), key=lambda r: r["size"])
        for name in of_group[0]["competitors"]:
            ran = [r for r in of_group if "median_s" in r["competitors"].get(name, {})]
            kept = ran[-max(4, len(ran) // 2) :]
            sizes = [r["size"] for r in kept]
            of_name = [r["competitors"][name] for r in kept]
            expected = of_group[0]["expected"].get(name, of_group[0]["expected"].get(""))
            rows.append(
                {
                    "group": group,
                    "name": name,
                    "sizes": sizes,
                    "time": exponent(sizes, [entry["median_s"] for entry in of_name]),
                    "memory": exponent(sizes, [entry["peak_bytes"] or 0 for entry in of_name]),
                    "expected": expected,
                }
            )
    return rows
