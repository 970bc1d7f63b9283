import io
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from tests.support.people import samples
from tests.support.tiny import tiny
from unihpe_fast.config import Config, OptimConfig
from unihpe_fast.data.store import write_store
from unihpe_fast.engine import loop
from unihpe_fast.engine.checkpoint import METRICS, SUMMARY, WEIGHTS, checkpoints
from unihpe_fast.engine.loop import train
from unihpe_fast.engine.trainer import learning_rate


def _quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def _steps(run_dir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run_dir / METRICS).read_text().splitlines()]
    timing = ("images_per_s", "data_wait")
    return [{k: v for k, v in line.items() if k not in timing} for line in lines]


class _KilledError(Exception):
    pass


def _train_until(config: Config, run_dir: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train and stop dead after `step` steps, as a kill would."""
    advance = loop.Trainer.advance

    def dying(self, batches):
        if self.step == step:
            raise _KilledError
        return advance(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "advance", dying)
        with pytest.raises(_KilledError):
            train(config, run_dir, console=_quiet())


@pytest.mark.parametrize(
    "options",
    [{}, {"optim": {"steps": 12, "warmup": 2, "accumulate": 2, "ema": 0.9}}, {"data": {"workers": 2}}],
    ids=["plain", "accumulate+ema", "workers"],
)
def test_an_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(
    options: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(**options)
    train(config, tmp_path / "whole", console=_quiet())
    # dies three steps after the checkpoint of step 4: the steps in between are done again
    _train_until(config, tmp_path / "cut", 7, monkeypatch)
    assert not (tmp_path / "cut" / WEIGHTS).exists()
    train(config, tmp_path / "cut", resume=True, console=_quiet())
    whole, cut = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    for name in whole:
        assert torch.equal(whole[name], cut[name]), name
    assert _steps(tmp_path / "whole") == _steps(tmp_path / "cut")
    assert [p.name for p in checkpoints(tmp_path / "cut")] == ["step_00000012.pt", "step_00000008.pt"]


def test_seeds_matter_and_training_moves_every_parameter(tmp_path: Path) -> None:
    one, two = (
        loop.Trainer(tiny(run={"seed": seed}), loop.choose_runtime(tiny().run)).model.state_dict() for seed in (0, 1)
    )
    assert any(not torch.equal(one[name], two[name]) for name in one)
    train(tiny(optim={"steps": 3, "warmup": 0}), tmp_path, console=_quiet())
    after = load_file(tmp_path / WEIGHTS)
    moved = [name for name in one if not torch.equal(one[name], after[name])]
    # no 3D joint of a synthetic person is missing
    assert set(one) - set(moved) <= {"pose3d_encoder.trunk.missing"}


def test_a_run_folder_is_complete_and_its_summary_is_what_was_scored(tmp_path: Path) -> None:
    output = io.StringIO()
    config = tiny(run={"plots": True, "eval_every": 6})
    scores = train(config, tmp_path, console=Console(file=output, width=200))
    assert json.loads((tmp_path / SUMMARY).read_text()) == scores
    assert scores["n"] == 24
    assert scores["image"] is None
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 6, 9, 12, 12]
    assert lines[-1]["val"] == scores
    assert lines[2]["val"]["n"] == 24
    for name in (
        "loss",
        "lr",
        "images_per_s",
        "data_wait",
        "loss/joints_3d",
        "loss/singular_value",
        "grad_norm",
        "bad_steps",
        "broken",
    ):
        assert math.isfinite(lines[0][name]), name
    assert list((tmp_path / "plots").glob("*.png"))
    for line in ("device: cpu (asked for)", "compile: off (asked for)"):
        assert output.getvalue().count(line) == 1
    errors = [f"{lines[2]['val'][name]['mpjpe']:.1f} / {lines[2]['val'][name]['pa_mpjpe']:.1f}" for name in POSES]
    want = f"step 6/12 validation, MPJPE / PA-MPJPE in mm: from 2D pose {errors[0]}, from 3D pose {errors[1]}\n"
    assert output.getvalue().count("validation, MPJPE") == output.getvalue().count(want) == 1
    assert "is trained on and validated on" not in output.getvalue()


POSES = ("pose2d", "pose3d")


def test_training_and_validating_on_one_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_store(tmp_path / "a.h5", samples(24), dataset="test", split="train")
    output = io.StringIO()
    config = tiny(data={"train": ("a.h5",), "val": (str(tmp_path / "a.h5"),)}, optim={"steps": 1, "warmup": 0})
    train(config, tmp_path / "run", console=Console(file=output, width=200))
    assert f"{tmp_path / 'a.h5'}: is trained on and validated on" in output.getvalue()


def test_learning_rate_warms_up_and_falls() -> None:
    config = OptimConfig(steps=100, lr=1.0, warmup=10, final_lr=0.1)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert max(rates) == pytest.approx(1.0)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert learning_rate(config, 99) == pytest.approx(0.1, abs=0.001)


def test_accumulation_averages_the_gradients_of_its_batches() -> None:
    config = tiny(optim={"accumulate": 2, "clip": 0.0}, model={})
    trainer = loop.Trainer(config, loop.choose_runtime(config.run))
    trainer.model.eval()
    batches = list(loop.train_batches(config.data, seed=0, start_step=0, steps=2))
    wanted = []
    for batch in batches:
        total, _ = trainer._loss_step(batch.tensors(), trainer.criterion.is_dense(batch.present, batch.weights))
        wanted.append(torch.autograd.grad(total, trainer.parameters, allow_unused=True))
    seen = []
    trainer.optimizer.register_step_pre_hook(lambda *_: seen.extend(p.grad.clone() for p in trainer.parameters))
    terms, _ = trainer.advance(iter(batches))
    for got, one, two in zip(seen, *wanted, strict=True):
        torch.testing.assert_close(got, (one + two) / 2)
    assert math.isfinite(terms["loss"].item())
