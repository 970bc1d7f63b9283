"""Two processes do what one does."""

import io
import json
import os
import shutil
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from tests.engine.poison import poison
from tests.engine.ranks_child import run_among_ranks
from tests.support.forked import Forked
from tests.support.people import samples
from tests.support.tiny import tiny
from unihpe_fast.config import AugmentConfig, Config, DecoderConfig, ImageEncoderConfig, PoseEncoderConfig, to_yaml
from unihpe_fast.data.store import write_store
from unihpe_fast.engine import loop
from unihpe_fast.engine.checkpoint import METRICS, SUMMARY, WEIGHTS, checkpoints
from unihpe_fast.engine.loop import train

ROOT = Path(__file__).parents[2]
# float32 sums in another order; Adam divides by the gradient's size, so that a small one's rounding is not small
LOSS, WEIGHT = {"rtol": 2e-5, "atol": 1e-6}, {"rtol": 1e-3, "atol": 2e-5}
# the loss over a group
SINGULAR_VALUE = 0.1
SCORE = {"rel": 1e-4, "abs": 1e-3}


def torchrun(*arguments: str, processes: int = 2) -> list[str]:
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*run, *arguments]


def free_port() -> str:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return str(held.getsockname()[1])


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "OMP_NUM_THREADS": "1"}


def _records(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / METRICS).read_text().splitlines()]


def _assert_same_run(found: Path, wanted: Path, *, deviating: float = 0.0) -> None:
    """deviating: the share of weights that may be others."""
    for record, other in zip(_records(found), _records(wanted), strict=True):
        assert record.keys() == other.keys()
        for name in record.keys() - {"images_per_s", "data_wait", "val"}:
            if other[name] is None:
                assert record[name] is None, name
            else:
                torch.testing.assert_close(torch.tensor(record[name]), torch.tensor(other[name]), **LOSS)
        _assert_same_scores(record.get("val"), other.get("val"))
    ours, theirs = load_file(found / WEIGHTS), load_file(wanted / WEIGHTS)
    assert ours.keys() == theirs.keys()
    others = sum(int((~value.isclose(theirs[name], **WEIGHT)).sum()) for name, value in ours.items())
    assert others <= deviating * sum(value.numel() for value in ours.values())


def _assert_same_scores(found: Any, wanted: Any) -> None:
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            _assert_same_scores(found[name], value)
    else:
        assert found == (wanted if wanted is None or isinstance(wanted, str | list) else pytest.approx(wanted, **SCORE))


class _StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders: "one" of one process, "two" of two, "divided" of two that share a model (FSDP), "one-two" and so on
    begun by the first and ended by the second, "images" of two with BatchNorm, "compiled" of two by torch.compile;
    "compiled-divided" is not run yet."""
    folder = tmp_path_factory.mktemp("ranks")
    write_store(folder / "a.h5", samples(40, seed=1, picture=True), dataset="a", split="train")
    encoder = PoseEncoderConfig(kind="mlp", width=16, depth=1)
    data = {
        "train": (str(folder / "a.h5"),), "val": (str(folder / "a.h5"),), "batch_size": 9, "val_samples": 0,
        "val_batch_size": 7, "augment": AugmentConfig(flip=False),
    }  # fmt: skip
    config = tiny(
        data=data,
        model={"pose2d": encoder, "pose3d": encoder, "decoder": DecoderConfig(width=16, depth=1)},
        loss={"pa_mpjpe": 0.5, "singular_value": SINGULAR_VALUE},
        optim={"accumulate": 2, "ema": 0.9, "clip": 0.5},
        run={"log_every": 1, "keep": 4, "eval_every": 6, "dtype": "float32"},
    )
    image = ImageEncoderConfig(
        backbone="resnet10t", backbone_args={"channels": "[8, 8, 8, 8]", "stem_width": "8"}, fuse_width=8, head_width=16
    )
    images = tiny(
        data=data | {"image_size": 32},
        model={"modalities": ("image", "pose3d"), "image": image, "pose3d": encoder},
        # nothing trains the decoder
        loss={"joints_3d": 0.0, "singular_value": SINGULAR_VALUE},
        optim={"steps": 2},
        run={"dtype": "float32", "log_every": 1},
    )
    # batch 11 is the second of step 6
    first = next(iter(loop.train_batches(config.data, seed=0, start_step=11, steps=12)))
    batch_number, row = 11, int(first.info.index[-1])
    # one step of poses: the whole model is compiled in tests/models/test_unihpe.py
    compiled = _with(config, optim={"steps": 1}, run={"compile": "default"})
    options = {"two": config, "images": images, "compiled": compiled}
    for name, whole in options.items():
        (folder / f"{name}.yaml").write_text(to_yaml(whole))
    for name, of in {"divided": "two", "images-divided": "images", "compiled-divided": "compiled"}.items():
        (folder / f"{name}.yaml").write_text(to_yaml(_with(options[of], run={"shard": "fsdp"})))
    for name in ("two", "divided"):
        shutil.copy(folder / f"{name}.yaml", folder / f"one-{name}.yaml")

    def alone(options: Config, name: str, *, until: int | None = None, resume: bool = False) -> None:
        advance = loop.Trainer.advance

        def dying(self: loop.Trainer, batches: Any) -> Any:
            if self.step == until:
                raise _StoppedError
            return advance(self, batches)

        with pytest.MonkeyPatch.context() as patch:
            poison(patch, batch_number, row)
            patch.setattr(loop.Trainer, "advance", dying)
            console = Console(file=io.StringIO(), width=200)
            if until is None:
                train(options, folder / name, resume=resume, console=console)
            else:
                with pytest.raises(_StoppedError):
                    train(options, folder / name, console=console)

    alone(config, "one")
    alone(config, "one-two", until=7)
    shutil.copytree(folder / "one-two", folder / "one-divided")
    _among_ranks(folder, batch_number, row, "two", "divided", "images", "images-divided", "one-two", "one-divided")
    _among_ranks(folder, batch_number, row, "compiled")
    for name in ("two", "divided"):
        shutil.copytree(folder / name, folder / f"{name}-one")
        for path in checkpoints(folder / f"{name}-one")[:-1]:
            path.unlink()
        (folder / f"{name}-one" / WEIGHTS).unlink()
        alone(config, f"{name}-one", resume=True)
    return {path.name: path for path in folder.iterdir() if path.is_dir()}


def _among_ranks(folder: Path, batch_number: int, row: int, *names: str) -> None:
    """Go through these runs in two processes, with this row of this batch poisoned."""
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [
        Forked(
            lambda: run_among_ranks(folder, batch_number, row, names),
            folder / f"{names[0]}.said{rank}",
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            **where,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        assert rank.wait(300) == 0, rank.said


def _with(config: Config, **sections: dict[str, Any]) -> Config:
    return replace(config, **{name: replace(getattr(config, name), **values) for name, values in sections.items()})


@pytest.mark.parametrize("name", ["two", "divided"])
def test_two_processes_train_as_one_step_by_step(runs: dict[str, Path], name: str) -> None:
    """Accumulation, clipping, averaged weights, a learned temperature, a skipped step, uneven shares, validation."""
    _assert_same_run(runs[name], runs["one"])
    steps = [record for record in _records(runs[name]) if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, 13))
    # rank 1 alone had the sample that is not finite
    assert [record["bad_steps"] for record in steps] == [0] * 5 + [1] * 7
    assert steps[5]["loss"] is None
    assert len([record for record in _records(runs[name]) if "val" in record]) == 2
    scores = json.loads((runs[name] / SUMMARY).read_text())
    assert scores["n"] == 40
    _assert_same_scores(scores, json.loads((runs["one"] / SUMMARY).read_text()))


@pytest.mark.parametrize("name", ["one-two", "two-one", "one-divided", "divided-one"])
def test_a_run_goes_on_with_another_number_of_processes(runs: dict[str, Path], name: str) -> None:
    _assert_same_run(runs[name], runs["one"])


def test_batch_norm_and_parameters_that_nothing_trains(runs: dict[str, Path]) -> None:
    scores = json.loads((runs["images"] / SUMMARY).read_text())
    # the one process that reads the weights of the two scores as they did: rank 0's running statistics are everybody's
    from unihpe_fast.data.loader import val_batches
    from unihpe_fast.engine.checkpoint import load_model
    from unihpe_fast.engine.evaluation import predict, score

    model, config = load_model(runs["images"])
    wanted = score(predict(model, val_batches(config.data, limit=0), device="cpu"), model.mean_pose)
    beside = ("axes", "caveats")  # what a summary says beside its scores
    _assert_same_scores({name: value for name, value in scores.items() if name not in beside}, wanted)
    # and the command that scores, among two
    _assert_same_scores(json.loads((runs["images"] / "evaluated.json").read_text()), scores)
    weights = load_file(runs["images"] / WEIGHTS)
    assert all(value.isfinite().all() for value in weights.values())


# convolutions add up in another order where FSDP keeps weights from being channels_last, and Adam's first steps are as
# large where a gradient is nothing but rounding
DEVIATING = 1e-3


def test_a_divided_model_with_batch_norm_is_the_whole_one(runs: dict[str, Path]) -> None:
    _assert_same_run(runs["images-divided"], runs["images"], deviating=DEVIATING)


@pytest.mark.slow  # the whole one is compiled below, and the divided one compared above
def test_a_divided_compiled_model_is_the_whole_one(runs: dict[str, Path]) -> None:
    folder = runs["compiled"].parent
    _among_ranks(folder, 99, 0, "compiled-divided")
    _assert_same_run(folder / "compiled-divided", runs["compiled"], deviating=DEVIATING)


def test_a_compiled_model_among_ranks_is_the_plain_one(runs: dict[str, Path]) -> None:
    compiled, plain = _records(runs["compiled"]), _records(runs["two"])
    torch.testing.assert_close(compiled[0]["loss"], plain[0]["loss"], **LOSS)
