import copy
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tests.support.tiny import tiny
from unihpe_fast.config import to_yaml
from unihpe_fast.data.loader import train_batches
from unihpe_fast.engine.checkpoint import (
    CONFIG,
    WEIGHTS,
    CheckpointError,
    checkpoints,
    load_latest,
    load_model,
    save_checkpoint,
    save_weights,
)
from unihpe_fast.engine.checkpoint_state import fault_of
from unihpe_fast.engine.loop import train
from unihpe_fast.engine.runtime import choose_runtime
from unihpe_fast.engine.trainer import Trainer
from unihpe_fast.fileio import atomic_path, write_text
from unihpe_fast.models.unihpe import UniHPE
from unihpe_fast.train import main


def _no_warning(text: str) -> None:
    raise AssertionError(text)


def test_only_the_newest_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, step, {"step": step, "x": torch.full((2,), step)}, keep=2)
    assert [p.name for p in checkpoints(tmp_path)] == ["step_00000010.pt", "step_00000002.pt"]
    state = load_latest(tmp_path, _no_warning)
    assert state is not None
    assert state["step"] == 10
    assert state["x"].tolist() == [10, 10]


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert load_latest(tmp_path, _no_warning) is None


@pytest.mark.parametrize("size", [0, 1, 100, -1])
def test_a_truncated_newest_falls_back_loudly(size: int, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"step": 1}, keep=2)
    newest = save_checkpoint(tmp_path, 2, {"step": 2, "x": torch.zeros(100)}, keep=2)
    os.truncate(newest, size if size >= 0 else newest.stat().st_size + size)
    said: list[str] = []
    state = load_latest(tmp_path, said.append)
    assert state == {"step": 1}
    assert len(said) == 1
    assert newest.name in said[0]
    # out of the way of what the resumed run saves next
    save_checkpoint(tmp_path, 2, {"step": 3}, keep=1)
    assert load_latest(tmp_path, _no_warning) == {"step": 3}


def test_a_flipped_bit_that_still_parses_is_seen(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"step": 1}, keep=2)
    newest = save_checkpoint(tmp_path, 2, {"step": 2, "x": torch.full((1000,), 3.0)}, keep=2)
    data = bytearray(newest.read_bytes())
    data[data.index(torch.full((1000,), 3.0).numpy().tobytes()) + 2001] ^= 1
    newest.write_bytes(data)
    damaged = torch.load(newest, weights_only=True)
    assert damaged["x"].isfinite().all()
    assert (damaged["x"] != 3).sum() == 1
    said: list[str] = []
    assert load_latest(tmp_path, said.append) == {"step": 1}
    assert len(said) == 1
    assert f"{newest.name}: damaged, going back" in said[0]
    assert "its bytes are not those that its checksum is of" in said[0]


def test_a_checkpoint_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, {"step": 1, "x": torch.zeros(1 << 20)}, keep=1)
    with zipfile.ZipFile(path) as archive:
        members = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert path.stat().st_size < 1 << 16
    with pytest.raises(CheckpointError, match="compressed"):
        load_latest(tmp_path, lambda text: None)


def test_the_newest_is_the_one_of_the_highest_step_and_a_file(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        save_checkpoint(tmp_path, step, {"step": step}, keep=2)
    (tmp_path / "checkpoints" / "step_200000000.pt").mkdir()
    os.mkfifo(tmp_path / "checkpoints" / "step_300000000.pt")
    assert load_latest(tmp_path, _no_warning) == {"step": 100_000_000}


STATE = "optimizer.state[0]"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda s: s.update(step=True), "step must be a whole number, got True"),
        (lambda s: s.update(step=8.0), "step must be a whole number, got 8.0"),
        (lambda s: s.update(metrics_offset=-1), "metrics_offset must be a whole number, got -1"),
        (lambda s: s.pop("seen"), "seen must be a whole number, got None"),
        (lambda s: s.update(model=[]), "model must be a dict of tensors, got list"),
        (lambda s: s["model"].pop("mean_pose"), "model.mean_pose must be there"),
        (lambda s: s["model"].update(more=torch.zeros(1)), "model.more must not be there"),
        (lambda s: s["model"].update({3: torch.zeros(1)}), "model.3 must not be there"),
        (lambda s: s["model"]["mean_pose"].fill_(torch.nan), "model.mean_pose must be finite, got 51 of 51 numbers"),
        (
            lambda s: s["model"].update(mean_pose=torch.zeros(1, 1).expand(10**6, 10**6)),
            "model.mean_pose must be torch.float32 [17, 3], got torch.float32 [1000000, 1000000]",
        ),
        (lambda s: s["model"].update(mean_pose="x"), "model.mean_pose must be torch.float32 [17, 3], got 'x'"),
        (lambda s: s["ema"].pop("n_averaged"), "ema.n_averaged must be there"),
        (lambda s: s["criterion"].clear(), "criterion."),
        (lambda s: s.update(optimizer=None), "optimizer must be an optimiser's state"),
        (lambda s: s["optimizer"]["param_groups"].pop(), "optimizer.param_groups must be"),
        (lambda s: s["optimizer"]["state"].update({10**6: {}}), "optimizer.state[1000000]: must be one of"),
        (lambda s: s["optimizer"]["state"][0].pop("exp_avg"), f"{STATE}.exp_avg must be there"),
        (lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)), f"{STATE}.exp_avg must be torch.float32"),
        (
            lambda s: s["optimizer"]["state"][0].update(exp_avg=s["optimizer"]["state"][0]["exp_avg"].to_sparse()),
            f"{STATE}.exp_avg must be torch.float32",
        ),
        (lambda s: s["optimizer"]["state"][0]["exp_avg_sq"].fill_(torch.inf), f"{STATE}.exp_avg_sq must be finite"),
        (lambda s: s["optimizer"]["state"][0]["exp_avg_sq"].fill_(-1), f"{STATE}: exp_avg_sq and step must be 0"),
        (lambda s: s["optimizer"]["state"][0].update(step=torch.zeros(2)), f"{STATE}.step must be torch.float32 []"),
        (lambda s: s.update(bad_steps=torch.zeros(2)), "bad_steps must be torch.int64 [3]"),
        (lambda s: s.update(rng=[torch.zeros(3)]), "rng must be a list of states"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_takes_it(damage: Callable, words: str) -> None:
    config = tiny(optim={"ema": 0.9})
    trainer = Trainer(config, choose_runtime(config.run))
    trainer.advance(iter(list(train_batches(config.data, seed=0, start_step=0, steps=1))))
    before = [p.detach().clone() for p in trainer.parameters]
    state = copy.deepcopy(trainer.state()) | {"metrics_offset": 0}
    assert fault_of(state, trainer) == ""
    damage(state)
    assert words in fault_of(state, trainer)
    assert all(torch.equal(p, was) for p, was in zip(trainer.parameters, before, strict=True))


def test_how_the_optimiser_works_is_not_the_checkpoint_s_to_say() -> None:
    config = tiny()
    trainer = Trainer(config, choose_runtime(config.run))
    batches = list(train_batches(config.data, seed=0, start_step=0, steps=2))
    trainer.advance(iter(batches[:1]))
    state = copy.deepcopy(trainer.state()) | {"metrics_offset": 0}
    for group in state["optimizer"]["param_groups"]:
        # a fused step would look for maxima that are not there, and take a word for a number
        group.update(amsgrad=True, betas="xy", fused=None)
    assert fault_of(state, trainer) == ""
    trainer.load_state(state)
    trainer.advance(iter(batches[1:]))
    assert all(p.isfinite().all() for p in trainer.parameters)


def test_a_run_goes_on_from_the_sound_one_before(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=400)
    train(tiny(), tmp_path, console=console)
    newest = checkpoints(tmp_path)[0]
    state = torch.load(newest, weights_only=True)
    state["model"]["mean_pose"][3] = torch.inf
    torch.save(state, newest)
    train(tiny(optim={"steps": 14}), tmp_path, resume=True, console=console)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert f"{newest}: damaged, going back to the one before (model.mean_pose must be finite, got 3 of 51" in said
    assert "resumed at step 8" in said
    assert checkpoints(tmp_path)[0].name == "step_00000014.pt"
    assert newest.with_suffix(".damaged").is_file()


def test_a_checkpoint_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tiny(), tmp_path, console=Console(file=io.StringIO()))
    (tmp_path / CONFIG).unlink()
    read: list[bool] = []
    load = torch.load

    def counted(*arguments: Any, **options: Any) -> Any:
        read.append(bool(options.get("mmap")))
        return load(*arguments, **options)

    monkeypatch.setattr(torch, "load", counted)
    assert main(["--resume", str(tmp_path), "--optim.steps", "13"]) == 0
    # the options alone first, without a tensor's numbers
    assert read == [True, False]


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    config = tiny()
    write_text(tmp_path / CONFIG, to_yaml(config))
    state = UniHPE(config.model, image_size=0).state_dict()
    state["mean_pose"][2, 1] = -torch.inf
    save_weights(tmp_path, state)
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS}: mean_pose must be finite, got 1 of 51"):
        load_model(tmp_path)


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"step": 1}, keep=2).write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of its 1"):
        load_latest(tmp_path, lambda text: None)


def test_a_pickle_with_a_payload_does_not_run_it(tmp_path: Path) -> None:
    planted = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(planted),)

    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "step_00000001.pt"
    # as torch itself would write it, and as a bare pickle
    writers = (
        lambda: torch.save({"x": Payload()}, path, pickle_protocol=2),
        lambda: path.write_bytes(pickle.dumps(Payload(), protocol=2)),
    )
    for write in writers:
        write()
        with pytest.raises(CheckpointError):
            load_latest(tmp_path, lambda text: None)
        assert not planted.exists()


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    write_text(target, "old")

    def half_write() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        half_write()
    assert target.read_text() == "old"
    assert [p.name for p in target.parent.iterdir()] == ["file"]


def test_a_model_comes_back_from_its_run_folder(tmp_path: Path) -> None:
    config = tiny()
    model = UniHPE(config.model, image_size=0)
    model.set_mean_pose(torch.arange(51.0).reshape(17, 3))
    write_text(tmp_path / CONFIG, to_yaml(config))
    save_weights(tmp_path, model.state_dict())
    loaded, loaded_config = load_model(tmp_path)
    assert loaded_config == config
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=CONFIG):
        load_model(tmp_path)
    write_text(tmp_path / CONFIG, to_yaml(tiny()))
    with pytest.raises(CheckpointError, match=WEIGHTS):
        load_model(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"not tensors")
    with pytest.raises(CheckpointError, match=WEIGHTS):
        load_model(tmp_path)
    save_weights(tmp_path, UniHPE(tiny(model={"width": 24}).model, image_size=0).state_dict())
    with pytest.raises(CheckpointError, match="size mismatch"):
        load_model(tmp_path)
