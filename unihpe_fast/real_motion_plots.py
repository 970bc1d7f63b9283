"""Pictures of a `real-motion` score: the ten worst, and the error by joint, by family and by distance from training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D

from unihpe_fast.data.skeleton import NUM_JOINTS
from unihpe_fast.plots import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    PREDICTED,
    STYLE,
    TRUE,
    VERMILION,
    bare,
    draw_legend,
    draw_skeleton,
    draw_views,
    new_figure,
    note,
    save_figure,
    shorten,
)
from unihpe_fast.real_motion import TITLES, Found, worst

COLORS = {"exact": BLUE, "detector": VERMILION, "quarter": GREEN}
# of the samples, ordered by their distance from training
BINS = 8


def plot_worst(found: Found, out_png: str | Path) -> Path:
    """The largest errors of different clips: the 2D that was given, and true and predicted 3D from two sides."""
    rows = worst(found)
    everything = np.ones(NUM_JOINTS, dtype=bool)
    with mpl.rc_context(STYLE):
        lines = -(-len(rows) // 2)
        figure = new_figure(13.6, 2.5 * lines + 0.9)
        outer = GridSpec(lines, 2, figure=figure)
        for number, row in enumerate(rows):
            cell = figure.add_subfigure(outer[number // 2, number % 2])
            given, *views = cell.subplots(1, 3)
            cell.suptitle(f"{found.person[row]}: {shorten(str(found.action[row]), 40)}", fontsize=9.5)
            points = found.keypoints_2d[row]
            draw_skeleton(given, points[:, :2], points[:, 2] > 0, predicted=False)
            given.set(xlim=(-1, 1), ylim=(1, -1), aspect="equal")
            bare(given)
            given.set_title("2D as given", color=GREY)
            draw_views(views, [(found.target[row], everything, False), (found.pred[row], everything, True)])
            views[0].set_title(f"MPJPE {found.mpjpe[row]:.0f}, PA {found.pa[row]:.0f} mm", color=GREY)
            views[1].set_title("from the side", color=GREY)
        true = Line2D([], [], color=BLACK, label="true 3D pose, 2D as given", **TRUE)
        predicted = Line2D([], [], color=BLACK, marker="o", ms=4, label="predicted", **PREDICTED)
        draw_legend(figure, [true, predicted])
        return save_figure(figure, out_png)


def plot_errors(
    inputs: Mapping[str, Mapping[str, Any]], found: Found, distance: np.ndarray | None, out_png: str | Path
) -> Path:
    """MPJPE by joint and family for each input, and of `found` by its distance [N] mm from the training poses.

    inputs: scores by the name of the input. distance: of `real_motion.distance_to`; None leaves that panel empty.
    """
    with mpl.rc_context(STYLE):
        figure = new_figure(15.5, 4.6)
        by_joint, by_family, by_distance = figure.subplots(1, 3)
        joints = [name for name in next(iter(inputs.values()))["joints"] if name != "pelvis"]
        _bars(by_joint, joints, {name: [of["joints"][j] for j in joints] for name, of in inputs.items()})
        by_joint.set_title("by joint, MPJPE in mm")
        families = next(iter(inputs.values()))["families"]
        names = sorted(families, key=lambda name: families[name]["mpjpe"])
        values = {name: [of["families"][f]["mpjpe"] for f in names] for name, of in inputs.items()}
        _bars(by_family, [f"{name} ({families[name]['samples']})" for name in names], values)
        still = [families[name]["mean"] for name in names]
        by_family.plot(still, range(len(names)), color=BLACK, marker="|", ms=10, ls="", label="mean pose")
        by_family.legend(frameon=False, fontsize=8, loc="lower right")
        by_family.set_title("by family of actions (samples)")
        by_distance.set_title("by distance from the nearest training pose, exact 2D")
        if distance is None:
            note(by_distance, "no training file was given")
        else:
            _by_distance(by_distance, found, distance)
        return save_figure(figure, out_png)


def _bars(axes: Axes, names: list[str], values: Mapping[str, list[float]]) -> None:
    high = 0.8 / len(values)
    for number, (name, lengths) in enumerate(values.items()):
        places = np.arange(len(names)) - 0.4 + high * (number + 0.5)
        axes.barh(places, lengths, height=high, color=COLORS[name], label=TITLES[name])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _by_distance(axes: Axes, found: Found, distance: np.ndarray) -> None:
    """Samples in bins of equal size: the mean error against the mean distance, and that of the mean pose."""
    parts = np.array_split(np.argsort(distance, kind="stable"), min(BINS, len(distance)))
    places = [distance[part].mean() for part in parts]
    for values, color, label in ((found.mpjpe, BLUE, "MPJPE"), (found.pa, VERMILION, "PA-MPJPE")):
        axes.plot(places, [values[part].mean() for part in parts], color=color, marker="o", ms=4, label=label)
    axes.plot(places, [found.mean[part].mean() for part in parts], color=GREY, ls="--", label="MPJPE of the mean pose")
    axes.set(xlabel="mm, over pairs of joints", ylabel="mm", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
