import os
import pickle
from pathlib import Path

import pytest
import torch

from tests.engine.tiny import tiny
from unihpe_fast.config import to_yaml
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
from unihpe_fast.fileio import atomic_path, write_text
from unihpe_fast.models.unihpe import UniHPE


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
