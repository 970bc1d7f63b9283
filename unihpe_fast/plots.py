"""Pictures of a run: training curves, predicted skeletons over the true ones, nearest neighbours across modalities.

Colours are Okabe and Ito's, which colour-blind readers tell apart: blue is the person's left, vermilion the right,
black the middle. A true 3D pose, and the 2D pose that is given, which a detector may have found, is a wide pale line, a
predicted one a thin dark line with dots: they differ without colour.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from unihpe_fast.data.images import MEAN, STD
from unihpe_fast.data.records import LABELS, MODALITIES, Batch
from unihpe_fast.data.skeleton import BONES, LEFT, RIGHT
from unihpe_fast.engine.evaluation import Predictions
from unihpe_fast.fileio import atomic_path
from unihpe_kernels import mpjpe

BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
BLACK, GREY = "#222222", "#8a8a8a"
LIMBS = {"left limbs": BLUE, "right limbs": VERMILION, "spine and head": BLACK}
# one look a modality, the same in every picture
LOOKS = {"image": (BLUE, "o"), "pose2d": (VERMILION, "s"), "pose3d": (GREEN, "^")}
# what a picture holds at most; of SAMPLES a third each are the worst, around the median and the best
SAMPLES = 6
QUERIES = 6
NEIGHBOURS = 5
# a true or given bone, and a predicted one
TRUE: dict[str, Any] = {"lw": 5.0, "alpha": 0.42}
PREDICTED: dict[str, Any] = {"lw": 1.6}
# numbers beyond belong to no training; matplotlib's own arithmetic ends at the largest float
LARGEST_STEP, LARGEST_DRAWN = 2**53, 1e30
STYLE: Any = {"font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False}
PADDING: Any = {"w_pad": 0.08, "h_pad": 0.08}


def new_figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(**PADDING))


def save_figure(figure: Figure, out_png: str | Path) -> Path:
    with atomic_path(out_png) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return Path(out_png)


# --- training curves --------------------------------------------------------------------------------------------------


class MetricsError(ValueError):
    """A metrics.jsonl that cannot be used; the message names the file and the line."""


def read_metrics(metrics_jsonl: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl that have a step; a last line cut short by a kill is left out.

    Raises MetricsError for any other line that is not JSON in UTF-8, or whose step is none.
    """
    records = []
    lines = Path(metrics_jsonl).read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            if number == len(lines) and not line.endswith(b"\n"):
                break
            reason = str(error).splitlines()[0]
            raise MetricsError(f"{metrics_jsonl}: line {number}: wanted one JSON object ({reason})") from error
        if isinstance(record, dict) and "step" in record:
            step = record["step"]
            if type(step) is not int or not 0 <= step < LARGEST_STEP:
                wanted = f"a step from 0 to {LARGEST_STEP}"
                raise MetricsError(f"{metrics_jsonl}: line {number}: wanted {wanted}, got {step!r:.40}")
            records.append(record)
    return records


def _series(records: Iterable[dict[str, Any]], *path: str) -> tuple[list[float], list[float]]:
    """Steps and values of one number, given by its path of keys; what lacks it, or could not be drawn, is left out."""
    steps, values = [], []
    for record in records:
        value: Any = record
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        # whole numbers may be too large for a float
        if isinstance(value, int | float) and -LARGEST_DRAWN < value < LARGEST_DRAWN:
            steps.append(record["step"])
            values.append(float(value))
    return steps, values


def note(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_losses(axes: Axes, records: list[dict[str, Any]]) -> None:
    axes.set_title("training loss and its terms (unweighted)")
    terms = sorted({key for record in records for key in record if key.startswith("loss/")})
    dashes = ("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
    drawn: list[float] = []
    steps, values = _series(records, "loss")
    if values:
        axes.plot(steps, values, color=BLACK, lw=2, label="total")
        drawn += values
    for number, key in enumerate(terms):
        steps, values = _series(records, key)
        if values:
            color = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)[number % 6]
            axes.plot(steps, values, color=color, ls=dashes[number % 4], lw=1.5, label=key.removeprefix("loss/"))
            drawn += values
    if not drawn:
        return note(axes, "no loss logged")
    if min(drawn) > 0:
        axes.set_yscale("log")
    _legend_beside(axes)
    return None


def _legend_beside(axes: Axes) -> None:
    """To the right of the axes, where it covers no line."""
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.0)


def _draw_validation(axes: Axes, records: list[dict[str, Any]]) -> None:
    axes.set_title("validation MPJPE, mm (mean over samples)")
    lines = 0
    for name, (color, marker) in LOOKS.items():
        steps, values = _series(records, "val", name, "mpjpe")
        if values:
            axes.plot(steps, values, color=color, marker=marker, ms=5, lw=1.5, label=f"from {LABELS[name]}")
            lines += 1
    steps, values = _series(records, "val", "mean_pose", "mpjpe")
    if values:
        axes.plot(steps, values, color=GREY, ls="--", lw=1.5, marker="_", label="mean pose")
        lines += 1
    if not lines:
        return note(axes, "no validation while training")
    axes.set_ylim(bottom=0)
    _legend_beside(axes)
    return None


def plot_curves(metrics_jsonl: str | Path, out_png: str | Path) -> Path:
    """Loss terms, learning rate, validation error and speed over the steps of a metrics.jsonl; what it lacks says so.

    Raises FileNotFoundError without the file, and MetricsError as `read_metrics` does.
    """
    records = read_metrics(metrics_jsonl)
    with mpl.rc_context(STYLE):
        figure = new_figure(13, 7)
        panels = figure.subplots(2, 2)
        _draw_losses(panels[0, 0], records)
        _draw_validation(panels[0, 1], records)
        simple = (
            (panels[1, 0], "lr", "learning rate", 1.0),
            (panels[1, 1], "images_per_s", "training speed, samples/s", 1.0),
        )
        for axes, key, title, factor in simple:
            axes.set_title(title)
            steps, values = _series(records, key)
            if not values:
                note(axes, f"no {key} logged")
                continue
            axes.plot(steps, [factor * value for value in values], color=BLUE, lw=1.5)
            axes.set_ylim(bottom=0)
        steps, values = _series(records, "data_wait")
        if values:
            wait = 100 * float(np.mean(values))
            panels[1, 1].set_title(f"training speed, samples/s ({wait:.0f} % of the time spent waiting for data)")
        for axes in panels.flat:
            if axes.get_lines():
                axes.set_xlabel("step")
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
                axes.grid(alpha=0.25)
        return save_figure(figure, out_png)


# --- skeletons --------------------------------------------------------------------------------------------------------


def _side(child: int) -> str:
    return "left limbs" if child in LEFT else "right limbs" if child in RIGHT else "spine and head"


def draw_skeleton(axes: Axes, points: np.ndarray, valid: np.ndarray, *, predicted: bool, shade: bool = False) -> None:
    """points: [17, 2] in the units of the axes; bones with an end that is not valid ([17] bool) are left out.

    shade: white edges, for drawing on a photograph.
    """
    look, order = (PREDICTED, 4) if predicted else (TRUE, 2)
    for parent, child in BONES:
        if valid[parent] and valid[child]:
            x, y = points[[parent, child]].T
            if shade:
                axes.plot(x, y, color="white", lw=look["lw"] + 1.6, solid_capstyle="round", zorder=order)
            axes.plot(x, y, color=LIMBS[_side(child)], solid_capstyle="round", zorder=order + 1, **look)
    if predicted:
        axes.scatter(points[valid, 0], points[valid, 1], s=9, color=BLACK, edgecolors="white", linewidths=0.5, zorder=6)


def draw_legend(figure: Figure, first: Sequence[Line2D]) -> None:
    sides = [Line2D([], [], color=color, label=name, **TRUE) for name, color in LIMBS.items()]
    handles = [*first, *sides]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def photograph(batch: Batch, row: int) -> np.ndarray:
    """[S, S, 3] RGB in [0, 1] of one network input."""
    image = batch.image[row].float().cpu().numpy().transpose(1, 2, 0)
    return np.clip(image * STD + MEAN, 0, 1)


def _has(batch: Batch, modality: str, row: int) -> bool:
    return bool(batch.present[MODALITIES.index(modality), row])


def bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color="#cccccc")


def _draw_crop(axes: Axes, batch: Batch, row: int, *, photo: bool) -> None:
    """Axes in half bbox sides that span the crop, with its photograph or blank."""
    if photo:
        axes.imshow(photograph(batch, row), extent=(-1, 1, 1, -1), interpolation="bilinear")
    axes.set(xlim=(-1, 1), ylim=(1, -1), aspect="equal")
    bare(axes)


def draw_views(panels: Sequence[Axes], poses: Sequence[tuple[np.ndarray, np.ndarray, bool]]) -> None:
    """The views along the z and the x axis, with a scale; poses: ([17, 3] mm, [17] valid, predicted)."""
    shown = np.concatenate([pose[valid] for pose, valid, _ in poses])
    centre = (shown.min(0) + shown.max(0)) / 2
    # one scale for both views: a limb keeps its length
    half = 1.08 * max(float((shown.max(0) - shown.min(0)).max()) / 2, 1.0)
    for axes, across in zip(panels, (0, 2), strict=False):
        for pose, valid, predicted in poses:
            draw_skeleton(axes, pose[:, [across, 1]], valid, predicted=predicted)
        low, high = centre[across] - half, centre[across] + half
        # camera y points down, and so does the page's
        axes.set(xlim=(low, high), ylim=(centre[1] + half, centre[1] - half), aspect="equal")
        bare(axes)
        _draw_scale(axes, half)


def _draw_scale(axes: Axes, half: float) -> None:
    """A bar with its length in mm in the lower left corner of a view that is 2 * half mm wide."""
    length = max(x for x in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if x <= max(0.6 * half, 1))
    left, low = axes.get_xlim()[0] + 0.08 * half, axes.get_ylim()[0] - 0.08 * half
    axes.plot([left, left + length], [low, low], color=GREY, lw=2, solid_capstyle="butt", zorder=7)
    axes.text(left, low - 0.04 * half, f"{length} mm", color=GREY, fontsize=7, ha="left", va="bottom", zorder=7)


def _spread(count: int, wanted: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int))


def _mpjpe(pred: Tensor, target: Tensor, valid: Tensor) -> float:
    return mpjpe(pred, target, weights=valid).item()


def _check_rows(batch: Batch, predictions: Predictions) -> None:
    if len(batch) != len(predictions) or not np.array_equal(batch.info.index, predictions.info.index):
        raise ValueError(
            f"predictions: wanted those of the {len(batch)} samples of the batch, row by row, "
            f"found {len(predictions)} of other samples"
        )


def _sources(batch: Batch, predictions: Predictions, row: int) -> list[str]:
    """What a sample's 3D pose is read from: image and 2D pose, or where it has neither the 3D pose itself."""
    there = [m for m in MODALITIES if m in predictions.joints_3d and _has(batch, m, row)]
    return [m for m in there if m != "pose3d"] or there


def _errors(batch: Batch, predictions: Predictions) -> np.ndarray:
    """MPJPE of each sample in mm from the first of `_sources`; NaN where there is none or no true pose."""
    errors = np.full(len(batch), np.nan)
    for row in range(len(batch)):
        valid = predictions.valid_3d[row]
        for source in _sources(batch, predictions, row)[:1]:
            if valid.any():
                errors[row] = _mpjpe(predictions.joints_3d[source][row], predictions.target_3d[row, :, :3], valid)
    return errors


def choose_samples(errors: np.ndarray, wanted: int) -> list[tuple[int, str]]:
    """Rows of the worst, those around the median and the best, each with that word; without errors, rows in between.

    errors: [N], NaN where there is none.
    """
    ranked = np.argsort(-errors, kind="stable")[: int(np.isfinite(errors).sum())].tolist()
    if len(ranked) < 3:
        return [(row, "") for row in _spread(len(errors), wanted).tolist()]
    third = min(max(wanted // 3, 1), len(ranked) // 3)
    middle = (len(ranked) - third) // 2
    chosen = (("worst", ranked[:third]), ("median", ranked[middle : middle + third]), ("best", ranked[-third:]))
    return [(row, word) for word, rows in chosen for row in rows]


def plot_predictions(batch: Batch, predictions: Predictions, out_png: str | Path) -> Path:
    """The worst, median and best samples of the batch: the crop with the 2D skeleton, and the 3D ones from two sides.

    predictions: of the batch's rows. 3D predictions come from the image and from the 2D pose, each in views of its own,
    where the sample and the model have them, else from the 3D pose; titles say which, and the error. The samples are
    ranked by the first of these. Without an image the 2D pose that is given stands alone.
    """
    _check_rows(batch, predictions)
    chosen = choose_samples(_errors(batch, predictions), SAMPLES)
    views = max(len(_sources(batch, predictions, row)) for row, _ in chosen)
    with mpl.rc_context(STYLE):
        columns = 2 if len(chosen) > 1 and views < 2 else 1
        lines = math.ceil(len(chosen) / columns)
        figure = new_figure((2.3 + 4.6 * max(views, 1)) * columns, 2.85 * lines + 0.9)
        outer = GridSpec(lines, columns, figure=figure)
        for number, (row, word) in enumerate(chosen):
            cell = figure.add_subfigure(outer[number // columns, number % columns])
            _draw_sample(cell, batch, predictions, row, word, views=max(views, 1))
        figure.suptitle(_how_chosen(batch, chosen), fontsize=9.5, color=GREY)
        true = Line2D([], [], color=BLACK, label="true 3D pose, 2D pose as given", **TRUE)
        predicted = Line2D([], [], color=BLACK, marker="o", ms=4, label="predicted", **PREDICTED)
        draw_legend(figure, [true, predicted])
        return save_figure(figure, out_png)


def _how_chosen(batch: Batch, chosen: Sequence[tuple[int, str]]) -> str:
    among = f"of {len(batch)} samples spread over the validation data"
    if any(word for _, word in chosen):
        return f"the worst, those around the median and the best {among}, by the first MPJPE"
    return f"{len(chosen)} {among}"


def _draw_sample(cell: Any, batch: Batch, predictions: Predictions, row: int, word: str, *, views: int) -> None:
    panels = cell.subplots(1, 1 + 2 * views)
    target, valid = predictions.target_3d[row, :, :3], predictions.valid_3d[row]
    name = shorten(batch.info.action[row], 30) or f"sample {int(batch.info.index[row])}"
    cell.suptitle(f"{word}: {name}" if word else name, fontsize=9.5, fontweight="bold")

    photo = _has(batch, "image", row)
    _draw_crop(panels[0], batch, row, photo=photo)
    panels[0].set_title("image and 2D" if photo else "2D", color=GREY)
    if _has(batch, "pose2d", row):
        points, known = batch.target_2d[row, :, :2].cpu().numpy(), predictions.valid_2d[row].numpy()
        draw_skeleton(panels[0], points, known, predicted=False, shade=photo)
    if photo and predictions.keypoints_2d is not None:
        points = predictions.keypoints_2d[row].numpy()
        draw_skeleton(panels[0], points, np.isfinite(points).all(-1), predicted=True, shade=True)

    sources: list[str | None] = [*_sources(batch, predictions, row)]
    # a true pose is shown also where nothing is predicted
    sources += [None] * (views - len(sources))
    for number, source in enumerate(sources):
        pair = panels[1 + 2 * number : 3 + 2 * number]
        poses = [(target.numpy(), valid.numpy(), False)] if valid.any() and (source or not number) else []
        title = f"3D from {LABELS[source]}" if source else "3D"
        if source is not None:
            pred = predictions.joints_3d[source][row]
            # all joints are predicted, also those without a true position; a model that diverged may say NaN
            if (finite := pred.isfinite().all(-1)).any():
                poses.append((pred.numpy(), finite.numpy(), True))
            if valid.any():
                title += f": MPJPE {_mpjpe(pred, target, valid):.0f} mm"
        if poses:
            draw_views(pair, poses)
            pair[0].set_title(title, color=GREY)
            pair[1].set_title("from the side", color=GREY)
        else:
            for axes in pair:
                note(axes, "no 3D pose")


# --- nearest neighbours -----------------------------------------------------------------------------------------------


def _draw_modality(axes: Axes, batch: Batch, predictions: Predictions, row: int, modality: str) -> None:
    """One sample as the encoder of the modality sees it."""
    if modality == "pose3d":
        pose, valid = predictions.target_3d[row, :, :3].numpy(), predictions.valid_3d[row].numpy()
        if valid.any():
            draw_views([axes], [(pose, valid, False)])
        else:
            note(axes, "no 3D pose")
        return
    _draw_crop(axes, batch, row, photo=modality == "image")
    if modality == "pose2d":
        points = batch.keypoints_2d[row].cpu().numpy()
        draw_skeleton(axes, points[:, :2], points[:, 2] > 0, predicted=False)


def plot_neighbours(
    batch: Batch, predictions: Predictions, out_png: str | Path, *, query: str, gallery: str
) -> Path | None:
    """Up to six queries of one modality, and the five samples of another whose embeddings are most similar to each.

    query, gallery: two of the model's modalities. The candidates are the batch's samples that have both. The query's
    true pose stands beside it, unless the query is that. The right one is framed; each carries its cosine and the MPJPE
    between the query's true pose and its own. Returns None, and draws nothing, where fewer than two samples have both.
    """
    _check_rows(batch, predictions)
    for name, modality in (("query", query), ("gallery", gallery)):
        if modality not in predictions.embeddings:
            raise ValueError(f"{name}: wanted one of {tuple(predictions.embeddings)}, found {modality!r}")
    both = predictions.present[MODALITIES.index(query)] & predictions.present[MODALITIES.index(gallery)]
    pool = both.nonzero()[:, 0]
    if len(pool) < 2:
        return None
    found = F.normalize(predictions.embeddings[gallery][pool], dim=-1)
    chosen = pool[_spread(len(pool), QUERIES)]
    cosine = F.normalize(predictions.embeddings[query][chosen], dim=-1) @ found.T
    top, order = cosine.topk(min(NEIGHBOURS, len(pool)), dim=-1)
    with mpl.rc_context(STYLE):
        first = 1 if query == "pose3d" else 2
        columns = first + order.shape[1]
        figure = new_figure(2 * columns, 2.3 * len(chosen) + 1)
        panels = figure.subplots(len(chosen), columns, squeeze=False)
        figure.suptitle(f"{LABELS[query]} → nearest {LABELS[gallery]} among {len(pool)} samples", fontweight="bold")
        for line, row in zip(range(len(chosen)), chosen.tolist(), strict=True):
            _draw_modality(panels[line, 0], batch, predictions, row, query)
            panels[line, 0].set_title(shorten(f"query: {batch.info.action[row]}", 20), fontweight="bold")
            if first == 2:
                panels[line, 1].set_title("its true pose", fontweight="bold")
                _draw_modality(panels[line, 1], batch, predictions, row, "pose3d")
            for place in range(order.shape[1]):
                axes, other = panels[line, first + place], int(pool[order[line, place]])
                _draw_modality(axes, batch, predictions, other, gallery)
                axes.set_title(_caption(predictions, row, other, place, top[line, place].item()))
                if other == row:
                    for spine in axes.spines.values():
                        spine.set(color=GREEN, linewidth=3.5)
        frame = Line2D([], [], ls="", marker="s", ms=11, mfc="none", mec=GREEN, mew=2.5, label="the query's own sample")
        draw_legend(figure, [frame])
        return save_figure(figure, out_png)


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _caption(predictions: Predictions, row: int, other: int, place: int, cosine: float) -> str:
    text = f"{place + 1}. cos {cosine:.2f}"
    valid = predictions.valid_3d[row] & predictions.valid_3d[other]
    if valid.any():
        pose = predictions.target_3d[..., :3]
        text += f", {_mpjpe(pose[row], pose[other], valid):.0f} mm"
    return text
