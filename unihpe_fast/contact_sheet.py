"""A page of random samples of a prepared file: picture, box and 2D skeleton, and the 3D one from two sides."""

from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.gridspec import GridSpec
from matplotlib.patches import Rectangle

from unihpe_fast.data.bbox import crop_map
from unihpe_fast.data.store import Columns, Store
from unihpe_fast.plots import (
    GREY,
    ORANGE,
    STYLE,
    bare,
    draw_legend,
    draw_skeleton,
    draw_views,
    new_figure,
    note,
    save_figure,
    shorten,
)

SAMPLES, COLUMNS = 24, 3
# px of the blank that stands for a picture that a sample lacks
BLANK = 320


def draw_contact_sheet(path: Path, out_png: Path, *, seed: int = 0) -> Path:
    """Draw up to `SAMPLES` samples, chosen at random by `seed`, in the order of the file. Raises as Store does.

    Only what the sample has is drawn: joints of confidence or validity 0 are left out.
    """
    store = Store(path)
    rows = np.sort(np.random.default_rng(seed).choice(len(store), min(SAMPLES, len(store)), replace=False))
    columns = store.read(rows)
    with mpl.rc_context(STYLE):
        lines = -(-len(rows) // COLUMNS)
        figure = new_figure(6.0 * min(COLUMNS, len(rows)), 2.35 * lines + 0.8)
        title = f"{path.name}: {len(rows)} of {len(store)} samples"
        figure.suptitle(title + (f"\ncaveat: {shorten(store.caveat, 150)}" if store.caveat else ""), fontweight="bold")
        outer = GridSpec(lines, min(COLUMNS, len(rows)), figure=figure)
        for number in range(len(rows)):
            cell = figure.add_subfigure(outer[number // COLUMNS, number % COLUMNS])
            _draw_sample(cell, columns, number)
        draw_legend(figure, [])
        return save_figure(figure, out_png)


def _draw_sample(cell: Any, columns: Columns, number: int) -> None:
    panels = cell.subplots(1, 3)
    words = (columns.info.subject[number], columns.info.action[number], columns.info.camera_id[number])
    name = " ".join(word for word in words if word)
    title = f"row {columns.info.index[number]}: {shorten(name, 38)} frame {columns.info.frame[number]}"
    cell.suptitle(title, fontsize=8.5, color=GREY)
    _draw_picture(panels[0], columns, number)
    joints, valid = columns.joints_3d[number, :, :3], columns.joints_3d[number, :, 3] > 0
    if not (columns.present[2, number] and valid.any()):
        for axes in panels[1:]:
            note(axes, "no 3D pose")
            bare(axes)
        return
    draw_views(panels[1:], [(joints, valid, False)])


def _draw_picture(axes: Axes, columns: Columns, number: int) -> None:
    has_picture, has_2d, _ = columns.present[:, number]
    to_crop, size = crop_map(columns.bbox[number], BLANK), (BLANK, BLANK)
    if has_picture:
        picture = cv2.imdecode(columns.images[number], cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if picture is None:
            note(axes, "broken picture")
            return
        to_crop, size = columns.crop[number], picture.shape[1::-1]
        axes.imshow(picture[..., ::-1], interpolation="bilinear")
    axes.set(xlim=(-0.5, size[0] - 0.5), ylim=(size[1] - 0.5, -0.5), aspect="equal")
    bare(axes)
    x, y, side = columns.bbox[number]
    low = to_crop @ [x - side / 2, y - side / 2, 1]
    high = to_crop @ [x + side / 2, y + side / 2, 1]
    axes.add_patch(Rectangle(tuple(low), *(high - low), fill=False, edgecolor=ORANGE, lw=1, ls="--"))
    if has_2d:
        points = columns.keypoints_2d[number, :, :2] @ to_crop[:, :2].T + to_crop[:, 2]
        known = columns.keypoints_2d[number, :, 2] > 0
        draw_skeleton(axes, points, known, predicted=True, shade=bool(has_picture))
