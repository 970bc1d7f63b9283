"""What a run leaves for people: the printed scores, summary.json and plots/."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from unihpe_fast.config import Axes
from unihpe_fast.data.records import FUSED, LABELS, MODALITIES, Batch
from unihpe_fast.engine.evaluation import Predictions, Scorable
from unihpe_fast.fileio import without_nan, write_text
from unihpe_fast.metrics import PCK_BBOX, PCK_TORSO, POSE_METRICS, mean_over_actions
from unihpe_fast.retrieval import GALLERY_SIZE

_HEADERS = {
    "mpjpe": "MPJPE\nmm",
    "pa_mpjpe": "PA-MPJPE\nmm",
    "n_mpjpe": "N-MPJPE\nmm",
    "pck150": "PCK@150mm\n%",
    "auc": "AUC\n%",
}


def write_summary(path: str | Path, scores: Mapping[str, Any]) -> None:
    """The scores as JSON, whole or not at all; what is not finite, which JSON does not have, is null with a warning."""
    finite, lost = without_nan(scores)
    if lost:
        warnings.warn(f"{path}: null in place of what is not finite: {', '.join(lost)}", stacklevel=2)
    write_text(path, json.dumps(finite, indent=2, allow_nan=False) + "\n")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _cells(values: Mapping[str, float] | None, names: Sequence[str]) -> list[str]:
    return [_number((values or {}).get(name)) for name in names]


def _table(title: str, first: str, others: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first, no_wrap=True)
    for header in others:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def _pose_table(scores: Mapping[str, Any]) -> Table:
    table = _table("3D pose", "read from", [_HEADERS[name] for name in POSE_METRICS])
    table.add_row("nothing (mean pose)", *_cells(scores["mean_pose"], POSE_METRICS))
    for modality in MODALITIES:
        # what the 3D encoder was given is the answer: how well the embedding holds a pose
        label = "3D pose (auto-encoded)" if modality == "pose3d" else LABELS[modality]
        table.add_row(label, *_cells(scores[modality], POSE_METRICS))
    if scores.get(FUSED):
        table.add_row(LABELS[FUSED], *_cells(scores[FUSED], POSE_METRICS))
    return table


def _action_table(scores: Mapping[str, Any], modalities: Sequence[str]) -> Table:
    per_action = scores["per_action"]
    table = _table("per action: MPJPE / PA-MPJPE, mm", "action", ["samples", *(LABELS[m] for m in modalities)])

    def row(name: str, count: str, of: Mapping[str, Any]) -> None:
        table.add_row(name, count, *(" / ".join(_cells(of[m], ("mpjpe", "pa_mpjpe"))) for m in modalities))

    for action, values in per_action.items():
        row(action, str(values["n"]), values)
    table.add_section()
    means = {m: mean_over_actions([values[m] for values in per_action.values()]) for m in modalities}
    row("mean of the actions", "", means)
    return table


def _retrieval_table(scores: Mapping[str, Any]) -> Table:
    table = _table("retrieval", "query → gallery", ["R@1", "R@5", "MPJPE of the first\nmm"])
    for direction, values in scores["retrieval"].items():
        if values is not None:
            a, b = direction.split("->")
            recall = [f"{values[name]:.3f}" for name in ("r1", "r5")]
            table.add_row(f"{LABELS[a]} → {LABELS[b]}", *recall, _number(values["mpjpe"]))
    return table


def print_protocol(section: Mapping[str, Any], console: Console) -> None:
    """The "protocol" section of a summary: what was averaged over what, then the numbers."""

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    for line in section["averaged"]:
        say(line)
    if section["variant"]:
        say(f"NOT the published protocol: {section['variant']}")
    if section["flip_test"]:
        say("poses averaged with those of the mirrored input (flip test)")
    published = ""
    if section["published_n"] is not None:
        same = "the published number" if section["n"] == section["published_n"] else "NOT the published set"
        published = f" (published: {section['published_n']}; this is {same})"
    left_out = f"; {section['left_out']} left out for lack of 3D joints" if section["left_out"] else ""
    say(f"{section['n']} samples{published}{left_out}")
    scored = [m for m in MODALITIES if section[m] is not None]
    for modality, why in section["why_not"].items():
        say(f"{modality}: not scored, {why}")
    if not scored:
        return
    names = tuple(section[scored[0]])
    table = _table(section["name"], "read from", [_HEADERS[name] for name in names])
    for modality in scored:
        table.add_row(LABELS[modality], *_cells(section[modality], names))
    console.print(table)
    title = f"{section['name']}: {' / '.join(_HEADERS[name].split()[0] for name in names)}"
    groups = _table(title, "", ["samples", *(LABELS[m] for m in scored)])
    for name, values in section["groups"].items():
        expected = "" if values["published_n"] is None else f" ({values['published_n']})"
        groups.add_row(name, f"{values['n']}{expected}", *(" / ".join(_cells(values[m], names)) for m in scored))
    console.print(groups)


def axes_line(axes: Axes) -> str:
    """The axes of 3D poses in words."""
    return {
        "camera": "3D poses in the camera's axes: x right, y down, z away from it.",
        "level": "3D poses in the axes of the levelled camera, its pitch and roll taken out: -y is up.",
    }[axes]


def print_report(
    scores: Mapping[str, Any], *, console: Console | None = None, rows: Mapping[str, Scorable] | None = None
) -> None:
    """The scores of `engine.evaluation.score` as tables, with what was averaged over what.

    rows: of `engine.evaluation.scorable`; with it the report says how many samples each row has, or why there is none.
    """
    console = console or Console()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    for caveat in scores.get("caveats", ()):
        say(f"caveat: {caveat}")
    console.print(_pose_table(scores))
    if "axes" in scores:
        say(axes_line(scores["axes"]))
    say("Root-centred; mean over a sample's valid joints (all 17, the root too), then over samples.")
    say("AUC: mean of the PCK at 0, 5, .. 150 mm.")
    say(f"{scores['n']} samples; a row takes those that have its modality and a 3D pose.")
    if scores["keypoints2d"] is not None:
        px, pck = scores["keypoints2d"]["px"], scores["keypoints2d"]["pck"]
        say(f"\n2D keypoints from image: {px:.2f} px of the full image, PCK@{PCK_BBOX} of the bbox side {pck:.1f} %")
        if (torso := scores["keypoints2d"]["pck_torso"]) is not None:
            say(f"PCK@{PCK_TORSO} of the torso, LSP's 14 joints: {torso:.1f} %")
        say("(mean over a sample's valid joints, then over samples).")
    scored = [m for m in MODALITIES if scores[m] is not None]
    if any(values is not None for values in scores["retrieval"].values()):
        console.print()
        console.print(_retrieval_table(scores))
        say(f"Found among {GALLERY_SIZE} samples (all where there are fewer), drawn at random without overlap;")
        say("equally similar ones rank at random, so chance is R@1 1 / their number.")
        say("MPJPE: the query's true pose against that of the first found, mean over queries.")
    if scores["per_action"] and scored:
        console.print()
        console.print(_action_table(scores, scored))
        say("Mean over an action's samples; last row: unweighted mean of the actions.")
    if rows is not None:
        console.print()
        for name in (*MODALITIES, FUSED, "keypoints2d"):
            count = int(rows[name].keep.sum())
            say(f"{name}: " + (f"{count} samples" if count else f"not scored, {rows[name].why_not}"))
    if "protocol" in scores:
        console.print()
        print_protocol(scores["protocol"], console)


def scores_line(scores: Mapping[str, Any]) -> str:
    """The errors of `engine.evaluation.score` on one line, for a validation on the way."""
    parts = [
        f"from {LABELS[m]} {scores[m]['mpjpe']:.1f} / {scores[m]['pa_mpjpe']:.1f}"
        for m in MODALITIES
        if scores.get(m) is not None
    ]
    return f"validation, MPJPE / PA-MPJPE in mm: {', '.join(parts) or 'nothing to score'}"


def draw_plots(folder: Path, batch: Batch, predictions: Predictions, *, metrics: Path | None = None) -> list[Path]:
    """Draw predictions.png and neighbours.png, and curves.png where `metrics`, a metrics.jsonl, is there.

    batch, predictions: of `engine.evaluation.predict_some`, or of others. Returns the paths of what was drawn.
    """
    # here, so that processes that draw nothing, as all ranks but the first, start sooner
    from unihpe_fast.plots import plot_curves, plot_neighbours, plot_predictions

    drawn = []
    if metrics is not None and metrics.is_file():
        drawn.append(plot_curves(metrics, folder / "curves.png"))
    drawn.append(plot_predictions(batch, predictions, folder / "predictions.png"))
    modalities = [m for m in MODALITIES if m in predictions.embeddings]
    if len(modalities) > 1:
        # the pair that crosses furthest: from the first of image, 2D, 3D to the last
        query, gallery = modalities[0], modalities[-1]
        neighbours = plot_neighbours(batch, predictions, folder / "neighbours.png", query=query, gallery=gallery)
        drawn += [] if neighbours is None else [neighbours]
    return drawn
