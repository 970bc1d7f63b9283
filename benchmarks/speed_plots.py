"""Plots of what `make bench` and `make gpu` found, and of the static costs; drawn from result files alone."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.static_cost import CLOCK, MEMORY_BANDWIDTH, SMS

OURS = "ours"
# without dates and versions inside, the same results give the same bytes
_SAVE: dict[str, Any] = {"dpi": 100, "bbox_inches": "tight", "metadata": {"Software": None}}


def growth_plot(result: dict[str, Any], group: str, path: Path) -> None:
    """Time and peak memory of every competitor of a group against its size, log-log."""
    records = sorted((r for r in result["records"] if r["group"] == group), key=lambda r: r["size"])
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
    for name in records[0]["competitors"]:
        ran = [(r["size"], r["competitors"][name]) for r in records if "median_s" in r["competitors"].get(name, {})]
        if not ran:
            continue
        style: dict[str, Any] = {"marker": "o", "ms": 4, "label": name}
        style |= {"lw": 2.6, "color": "black"} if name == OURS else {"lw": 1.2}
        axes[0].plot([size for size, _ in ran], [e["median_s"] * 1e3 for _, e in ran], **style)
        axes[1].plot([size for size, _ in ran], [max((e["peak_bytes"] or 0) / 2**20, 0.01) for _, e in ran], **style)
    for axis, label in zip(axes, ("time, ms", "peak memory, MiB"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel=records[0]["variable"], ylabel=label)
        axis.grid(True, which="both", alpha=0.25)
    axes[0].legend(fontsize=7)
    figure.suptitle(f"{group}\n{result['device']}", fontsize=10)
    figure.savefig(path, **_SAVE)
    plt.close(figure)


def roofline_plot(static: dict[str, Any], path: Path) -> None:
    """Every kernel's instructions a byte of device memory, under the two roofs of an H200, by machine code."""
    figure, axis = plt.subplots(figsize=(7.5, 4.8))
    issue = 128 * SMS * CLOCK
    for row in static["rows"]:
        for size, times in (row["times"] or {}).items():
            if times["memory"] <= 0 or "B = 256" in size:
                continue
            # both are seconds of the same work
            intensity = times["issue"] * issue / (times["memory"] * MEMORY_BANDWIDTH)
            rate = times["issue"] * issue / times["implied"]
            axis.plot(intensity, rate, "o", ms=5)
            axis.annotate(row["name"], (intensity, rate), fontsize=6, xytext=(3, -7), textcoords="offset points")
    grid = [10**x for x in (-0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 5, 6)]
    axis.plot(grid, [min(issue, MEMORY_BANDWIDTH * x) for x in grid], color="black", lw=1)
    axis.set(xscale="log", yscale="log", xlabel="instructions a byte", ylabel="instructions a second, H200")
    axis.grid(True, which="both", alpha=0.25)
    axis.set_title("Roofline by machine code, not measured", fontsize=10)
    figure.savefig(path, **_SAVE)
    plt.close(figure)


def breakdown_plot(profile: dict[str, Any], path: Path) -> None:
    """The longest kernels of a training step, ms."""
    rows = profile["longest"][::-1]
    rest = profile["total_ms"] - sum(row["ms"] for row in rows)
    names, values = ["all others", *(row["name"][:60] for row in rows)], [rest, *(row["ms"] for row in rows)]
    figure, axis = plt.subplots(figsize=(9, 4))
    axis.barh(names, values)
    axis.tick_params(labelsize=7)
    axis.set(xlabel="ms a step", title=f"{profile['variant']}, {profile['backbone']}, B = {profile['batch']}")
    figure.savefig(path, **_SAVE)
    plt.close(figure)
