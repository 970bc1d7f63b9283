"""Plots of what `make bench` and `make gpu` found, and of the static costs; drawn from result files alone."""

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.harness import OURS
from benchmarks.static_cost import CLOCK, MEMORY_BANDWIDTH, SMS

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
        known = [(size, e["peak_bytes"] / 2**20) for size, e in ran if e["peak_bytes"] is not None]
        axes[1].plot([size for size, _ in known], [max(peak, 0.01) for _, peak in known], **style)
    for axis, label in zip(axes, ("time, ms", "peak memory, MiB"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel=records[0]["variable"], ylabel=label)
        axis.grid(True, which="both", alpha=0.25)
    axes[0].legend(fontsize=7)
    figure.suptitle(f"{group}\n{result['device']}", fontsize=10)
    figure.savefig(path, **_SAVE)
    plt.close(figure)


def roofline_plot(static: dict[str, Any], path: Path) -> None:
    """Every kernel's instructions a byte of device memory, under the two roofs of an H200, by machine code.

    Numbers stand for names, in a list beside the plot: many kernels lie at one place on a roof.
    """
    figure, axis = plt.subplots(figsize=(11, 4.8))
    issue = 128 * SMS * CLOCK
    points = []
    for row in static["rows"]:
        for size, times in (row["times"] or {}).items():
            if times["memory"] > 0:
                # both are seconds of the same work
                intensity = times["issue"] * issue / (times["memory"] * MEMORY_BANDWIDTH)
                points.append((intensity, times["issue"] * issue / times["implied"], f"{row['name']}, {size}"))
    below: list[float] = []  # of labels above each other, the places along the axis
    for number, (intensity, rate, name) in enumerate(sorted(points), 1):
        place = math.log10(intensity)
        level = sum(abs(place - other) < 0.14 for other in below[-3:])
        below.append(place)
        axis.plot(intensity, rate, "o", ms=5, label=f"{number}  {name}", color=plt.cm.viridis(number / len(points)))
        offset = (0, 6 + 9 * level)
        axis.annotate(
            str(number), (intensity, rate), fontsize=8, ha="center", xytext=offset, textcoords="offset points"
        )
    lowest, highest = min(0.5, *(p[0] / 2 for p in points)), max(p[0] * 2 for p in points)
    roof = [lowest, issue / MEMORY_BANDWIDTH, highest]
    axis.plot(roof, [min(issue, MEMORY_BANDWIDTH * x) for x in roof], color="black", lw=1, zorder=0)
    axis.set(xscale="log", yscale="log", xlabel="instructions a byte", ylabel="instructions a second, H200")
    axis.set_ylim(top=issue * 2)
    axis.grid(True, which="both", alpha=0.25)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=1)
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
