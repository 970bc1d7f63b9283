import dataclasses
import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.support.fakes import STANDING, people, truth
from tests.support.tiny import tiny
from unihpe_fast.config import Config
from unihpe_fast.engine import evaluation, report
from unihpe_fast.engine.checkpoint import METRICS
from unihpe_fast.engine.evaluation import Predictions, predict_some, scorable, score
from unihpe_fast.engine.runtime import choose_runtime
from unihpe_fast.models.unihpe import UniHPE


def _printed(predictions: Predictions, *, width: int = 80, with_rows: bool = True) -> str:
    output = io.StringIO()
    rows = scorable(predictions) if with_rows else None
    report.print_report(score(predictions, STANDING), console=Console(file=output, width=width), rows=rows)
    return output.getvalue()


def test_every_number_is_printed_with_its_unit_in_80_columns() -> None:
    batch = people(8)
    p = truth(batch)
    p.joints_3d["pose2d"][:, 3, 0] += 17 * 12.3
    p.joints_3d["pose2d"][batch.info.action.index("Sitting"), 3, 0] += 34 * 12.3
    assert p.keypoints_2d is not None
    p.keypoints_2d[..., 0] += 0.02
    text = _printed(p)
    assert max(len(line) for line in text.splitlines() if line.startswith("│")) <= 80
    assert "…" not in text
    pose = next(line for line in text.splitlines() if line.startswith("│ 2D pose"))
    assert pose.split("│")[2].strip() == "15.4"
    assert "PCK@150mm" in text
    assert "3.00 px of the full image, PCK@0.05 of the bbox side 100.0 %" in text
    # Sitting: (3 * 12.3 + 12.3) / 2; the others 12.3; frame-weighted 15.4, over three actions 16.4
    assert any("Sitting " in line and "24.6 /" in line for line in text.splitlines())
    assert any("mean of the actions" in line and "16.4 /" in line for line in text.splitlines())
    assert "8 samples" in text
    assert "image → 3D pose" in text


def test_what_was_not_scored_says_why() -> None:
    text = _printed(truth(people(8), ("pose2d", "pose3d")))
    assert "image: not scored, the model has no image encoder" in text
    assert "pose2d: 8 samples" in text
    assert "image →" not in text
    assert "full image" not in text
    row = next(line for line in text.splitlines() if line.startswith("│ image"))
    assert row.count("–") == 5
    only_2d = truth(people(1))
    only_2d.present[2] = False
    assert "per action" not in _printed(only_2d, with_rows=False)


def test_a_summary_is_whole_whatever_its_numbers_are(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    report.write_summary(path, {"n": 3, "image": None})
    with pytest.warns(UserWarning, match="null in place of what is not finite: n$"):
        report.write_summary(path, {"n": float("nan"), "image": None})
    assert json.loads(path.read_text()) == {"n": None, "image": None}
    with pytest.raises(TypeError):
        report.write_summary(path, {"n": object()})
    assert json.loads(path.read_text()) == {"n": None, "image": None}
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def _draw(config: Config, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked = []

    def few(data, *, limit):
        asked.append((data.val, data.val_batch_size, limit, data.workers))
        return [people(limit // 16, image_size=data.image_size)]

    monkeypatch.setattr(evaluation, "val_batches", few)
    torch.manual_seed(0)
    model = UniHPE(config.model, image_size=config.data.image_size)
    runtime = choose_runtime(config.run)
    drawn = report.draw_plots(run_dir / "plots", *predict_some(model, config.data, runtime), metrics=run_dir / METRICS)
    # all in one batch
    assert asked == [(config.data.val, evaluation.PLOTTED, evaluation.PLOTTED, 0)]
    assert all(path.is_file() and path.parent == run_dir / "plots" for path in drawn)
    return [path.name for path in drawn]


def test_plots_are_drawn_of_what_the_run_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(data={"val": ("some.h5",), "workers": 2})
    assert _draw(config, tmp_path / "bare", monkeypatch) == ["predictions.png", "neighbours.png"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / METRICS).write_text('{"step": 1, "loss": 2.0}\n')
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, modalities=("pose2d",)))
    assert _draw(config, tmp_path / "run", monkeypatch) == ["curves.png", "predictions.png"]
