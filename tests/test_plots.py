import json
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from tests.fakes import people, truth
from unihpe_fast import plots
from unihpe_fast.data.images import MEAN, STD


def _picture(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None
    return image[..., ::-1]


def _pixels_of(path: Path, color: str) -> int:
    return int((np.abs(_picture(path) - 255 * np.array(to_rgb(color))) < 3).all(-1).sum())


def _metrics(path: Path, lines: list[dict]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _full(steps: int) -> list[dict]:
    lines: list[dict] = []
    for step in range(1, steps + 1):
        lines.append({"step": step, "lr": 1e-3, "loss": 1 / step, "loss/joints_3d": 2 / step, "images_per_s": 50.0})
        lines.append({"step": step, "val": {"image": None, "pose2d": {"mpjpe": 9.0}, "mean_pose": {"mpjpe": 12.0}}})
    return lines


def test_metrics_are_read_up_to_a_line_cut_short(tmp_path: Path) -> None:
    path = _metrics(tmp_path / "metrics.jsonl", _full(3))
    path.write_text(path.read_text() + '[1]\n{"step": 9, "loss": 1')
    records = plots.read_metrics(path)
    assert [r["step"] for r in records] == [1, 1, 2, 2, 3, 3]
    huge = b"9" * 5000
    for bad in (b"\xff\n", b"[" * 100_000 + b"\n", b'{"step":\n', b'{"step": 1, "loss": ' + huge + b"}\n"):
        broken = tmp_path / "broken.jsonl"
        broken.write_bytes(b'{"step": 1}\n' + bad)
        with pytest.raises(plots.MetricsError, match=r"broken\.jsonl: line 2: wanted one JSON object"):
            plots.read_metrics(broken)
    assert plots._series(records, "val", "pose2d", "mpjpe") == ([1, 2, 3], [9.0] * 3)
    assert plots._series(records, "val", "image", "mpjpe") == ([], [])
    assert plots._series([{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 3}], "loss") == ([2], [3])


@pytest.mark.parametrize("step", ["1e400", "9" * 40, '"x"', "[1]", "-1", "true", "1.5"])
def test_a_step_that_is_none_is_named(step: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{{"step": {step}}}\n')
    with pytest.raises(plots.MetricsError, match=r"metrics\.jsonl: line 2: wanted a step from 0"):
        plots.read_metrics(path)


def test_numbers_too_large_to_be_drawn_are_left_out(tmp_path: Path) -> None:
    lines = _full(4)
    lines[2] |= {"loss": 10**400, "loss/joints_3d": 1e308, "images_per_s": -1e308, "lr": float("inf")}
    lines[3]["val"]["pose2d"]["mpjpe"] = 10**309
    path = _metrics(tmp_path / "metrics.jsonl", lines)
    plots.plot_curves(path, tmp_path / "curves.png")
    assert _pixels_of(tmp_path / "curves.png", plots.BLACK) > 100


def test_curves_show_what_is_there_and_say_what_is_not(tmp_path: Path) -> None:
    whole = plots.plot_curves(_metrics(tmp_path / "a.jsonl", _full(20)), tmp_path / "deep" / "a.png")
    # blue: learning rate, speed, one loss term; vermilion: error from the 2D pose
    assert _pixels_of(whole, plots.BLUE) > 500
    assert _pixels_of(whole, plots.VERMILION) > 200
    sparse = plots.plot_curves(_metrics(tmp_path / "b.jsonl", [{"step": 1, "loss": -1.0}]), tmp_path / "b.png")
    assert _pixels_of(sparse, plots.VERMILION) == 0
    assert _picture(sparse).min() < 60
    empty = plots.plot_curves(_metrics(tmp_path / "c.jsonl", []), tmp_path / "c.png")
    assert _picture(empty).shape == _picture(whole).shape
    with pytest.raises(FileNotFoundError):
        plots.plot_curves(tmp_path / "none.jsonl", tmp_path / "d.png")
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".png") == ["b.png", "c.png"]


def test_a_negative_loss_is_drawn_on_a_linear_axis() -> None:
    for values, scale in (([2.0, 1.0], "log"), ([2.0, -1.0], "linear")):
        axes = Figure().subplots()
        plots._draw_losses(axes, [{"step": k, "loss": v} for k, v in enumerate(values)])
        assert axes.get_yscale() == scale
        assert axes.get_lines()[0].get_ydata().tolist() == values


def test_bones_of_invalid_joints_are_left_out_and_sides_have_their_colours() -> None:
    axes = Figure().subplots()
    valid = np.ones(17, dtype=bool)
    valid[13] = False
    plots.draw_skeleton(axes, np.arange(34.0).reshape(17, 2), valid, predicted=True)
    assert len(axes.get_lines()) == 15
    (hip_to_knee,) = (line for line in axes.get_lines() if line.get_xdata().tolist() == [8.0, 10.0])
    assert hip_to_knee.get_color() == plots.BLUE
    assert len(axes.collections[0].get_offsets()) == 16
    (right,) = (line for line in axes.get_lines() if line.get_xdata().tolist() == [2.0, 4.0])
    assert right.get_color() == plots.VERMILION


def test_the_photograph_is_the_input_with_the_normalisation_undone() -> None:
    batch = people(2, image_size=8)
    pixels = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(x, dtype=torch.float32)[:, None, None] for x in (MEAN, STD))
    batch.image[1] = (pixels - mean) / std
    np.testing.assert_allclose(plots.photograph(batch, 1), pixels.permute(1, 2, 0).numpy(), atol=1e-6)


@pytest.mark.parametrize(("count", "image_size"), [(1, 16), (12, 16), (3, 0)])
def test_predictions_are_drawn_with_and_without_images(tmp_path: Path, count: int, image_size: int) -> None:
    batch = people(count, image_size=image_size)
    predictions = truth(batch, ("image", "pose2d", "pose3d") if image_size else ("pose2d", "pose3d"))
    path = plots.plot_predictions(batch, predictions, tmp_path / "p.png")
    for color in (plots.BLUE, plots.VERMILION, plots.BLACK):
        assert _pixels_of(path, color) > 100
    # nothing touches the edges of the page
    picture = _picture(path)
    for edge in (picture[:3], picture[-3:], picture[:, :3], picture[:, -3:]):
        assert (edge == 255).all()


def test_samples_that_lack_a_modality_are_drawn_too(tmp_path: Path) -> None:
    batch = people(4)
    batch.present[0, 0] = False
    batch.present[2, 1] = False
    batch.present[:2, 2] = False
    batch.present[:, 3] = False
    batch.action[3] = ""
    plots.plot_predictions(batch, truth(batch), tmp_path / "p.png")
    assert _pixels_of(tmp_path / "p.png", plots.BLUE) > 100


def test_a_model_that_diverged_is_drawn_as_nothing(tmp_path: Path) -> None:
    batch = people(1)
    predictions = truth(batch)
    for joints in predictions.joints_3d.values():
        joints[:] = torch.nan
    assert predictions.keypoints_2d is not None
    predictions.keypoints_2d[:] = torch.nan
    plots.plot_predictions(batch, predictions, tmp_path / "true.png")
    assert _pixels_of(tmp_path / "true.png", plots.BLUE) == 0
    predictions.target_3d[..., 3] = 0
    plots.plot_predictions(batch, predictions, tmp_path / "nothing.png")
    assert (_picture(tmp_path / "nothing.png") < 255).sum() < (_picture(tmp_path / "true.png") < 255).sum()


def test_titles_say_the_error_and_where_the_pose_is_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    batch = people(2)
    batch.present[0, 1] = False
    predictions = truth(batch)
    predictions.joints_3d["image"][0, 3, 0] += 170
    predictions.joints_3d["pose2d"][1, 3, 0] += 340
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    plots.plot_predictions(batch, predictions, tmp_path / "p.png")
    cells = figures[0].subfigs
    assert [cell.get_suptitle() for cell in cells] == ["Walking 1", "Sitting"]
    titles = [[axes.get_title() for axes in cell.axes if axes.get_title().startswith("3D")] for cell in cells]
    # an image run shows 3D from the 2D pose too
    assert titles[0] == ["3D from image: MPJPE 10 mm", "3D from 2D pose: MPJPE 0 mm"]
    assert titles[1] == ["3D from 2D pose: MPJPE 20 mm"]
    words = [text.get_text() for text in figures[0].legends[0].get_texts()]
    # what is given in 2D may be a detection
    assert words[:2] == ["true 3D pose, 2D pose as given", "predicted"]


def test_the_worst_median_and_best_are_shown_and_said_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    batch = people(11)
    predictions = truth(batch)
    errors = np.random.default_rng(0).permutation(11)
    predictions.joints_3d["image"][:, 3, 0] += 17 * torch.from_numpy(errors).float()
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    plots.plot_predictions(batch, predictions, tmp_path / "p.png")
    assert figures[0].get_suptitle().startswith("the worst, those around the median and the best of 11 samples")
    words = [cell.get_suptitle().split(":")[0] for cell in figures[0].subfigs]
    assert words == ["worst", "worst", "median", "median", "best", "best"]
    shown = [cell.axes[1].get_title().removeprefix("3D from image: MPJPE ") for cell in figures[0].subfigs]
    assert shown == ["10 mm", "9 mm", "6 mm", "5 mm", "1 mm", "0 mm"]
    assert plots.choose_samples(np.full(5, np.nan), 2) == [(0, ""), (4, "")]


def test_views_have_a_scale_in_mm() -> None:
    batch = people(1)
    pose = batch.joints_3d[0, :, :3].numpy()
    axes = Figure().subplots(1, 2)
    plots.draw_views(axes, [(pose, np.ones(17, dtype=bool), False)])
    for view in axes:
        (text,) = (text.get_text() for text in view.texts)
        length = float(text.removesuffix(" mm"))
        assert any(np.ptp(line.get_xdata()) == length and line.get_color() == plots.GREY for line in view.get_lines())
        assert 0.1 < length / np.ptp(view.get_xlim()) < 0.5


def test_no_legend_of_the_curves_lies_on_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    plots.plot_curves(_metrics(tmp_path / "a.jsonl", _full(20)), tmp_path / "a.png")
    FigureCanvasAgg(figures[0]).draw()
    legends = [(axes, axes.get_legend()) for axes in figures[0].axes if axes.get_legend()]
    assert len(legends) == 2
    for axes, legend in legends:
        assert legend.get_window_extent().x0 >= axes.get_window_extent().x1
        assert legend.get_window_extent().x1 <= figures[0].bbox.x1


def test_neighbours_have_the_querys_true_pose_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    batch = people(7)
    batch.joints_3d[0, :, 3] = 0
    for query, gallery, columns in (("image", "pose2d", 7), ("pose3d", "image", 6)):
        plots.plot_neighbours(batch, truth(batch), tmp_path / "n.png", query=query, gallery=gallery)
        panels = figures[-1].axes
        assert len(panels) == 6 * columns
        beside = [axes for axes in panels if axes.get_title() == "its true pose"]
        assert beside == (panels[1::7] if query == "image" else [])
    assert [text.get_text() for text in figures[0].axes[1].texts] == ["no 3D pose"]
    # the skeleton and the scale
    assert len(figures[0].axes[8].get_lines()) == 17


@pytest.mark.parametrize(("query", "gallery"), [("image", "pose3d"), ("pose2d", "image")])
def test_the_right_neighbour_is_framed_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str, gallery: str
) -> None:
    monkeypatch.setattr(plots, "QUERIES", 2)
    batch = people(12)
    right = truth(batch)
    path = plots.plot_neighbours(batch, right, tmp_path / "right.png", query=query, gallery=gallery)
    assert path is not None
    # the query's own sample is the least similar
    wrong = truth(batch)
    wrong.embeddings[gallery].neg_()
    other = plots.plot_neighbours(batch, wrong, tmp_path / "wrong.png", query=query, gallery=gallery)
    assert other is not None
    framed, unframed = (_pixels_of(p, plots.GREEN) for p in (path, other))
    # one frame for each of two queries, and the one in the legend
    assert framed > 2 * 500
    assert unframed < 200


def test_neighbours_want_two_samples_and_modalities_of_the_model(tmp_path: Path) -> None:
    batch = people(3)
    batch.present[0, :2] = False
    out = tmp_path / "n.png"
    assert plots.plot_neighbours(batch, truth(batch), out, query="image", gallery="pose2d") is None
    assert not out.exists()
    with pytest.raises(ValueError, match="query: wanted one of"):
        plots.plot_neighbours(batch, truth(batch, ("pose2d", "pose3d")), out, query="image", gallery="pose2d")


def test_a_caption_has_the_distance_over_joints_valid_in_both() -> None:
    batch = people(2)
    batch.joints_3d[1] = batch.joints_3d[0]
    batch.joints_3d[1, 4, 1] += 170
    assert plots._caption(truth(batch), 0, 1, 2, 0.5) == "3. cos 0.50, 10 mm"
    batch.joints_3d[..., 3] = 0
    assert plots._caption(truth(batch), 0, 1, 2, 0.5) == "3. cos 0.50"
    assert plots.shorten("SittingDown", 8) == "Sitting…"


def test_predictions_of_other_samples_are_refused(tmp_path: Path) -> None:
    batch = people(4)
    for other in (people(3), people(4, start=1)):
        with pytest.raises(ValueError, match="row by row"):
            plots.plot_predictions(batch, truth(other), tmp_path / "p.png")


def test_nothing_global_changes(tmp_path: Path) -> None:
    before, opened = dict(mpl.rcParams), plt.get_fignums()
    plots.plot_predictions(people(1), truth(people(1)), tmp_path / "p.png")
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == opened
