"""A complete batch takes the loss's way without masks, and comes out the same."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tests.support.models import make_batch
from tests.support.tiny import tiny
from tests.test_losses import NONE, outputs_for
from unihpe_fast.engine.loop import train
from unihpe_fast.losses import Criterion
from unihpe_kernels import modules as losses

ALL = ("image", "pose2d", "pose3d")


def _calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The masks and weights that the singular-value loss is called with."""
    made: list[dict[str, Any]] = []
    loss = losses.singular_value_contrastive_loss

    def listening(embeddings: Any, **options: Any) -> Any:
        made.append({name: options[name] for name in ("weights", "present")})
        return loss(embeddings, **options)

    monkeypatch.setattr(losses, "singular_value_contrastive_loss", listening)
    return made


def _criterion(modalities: tuple[str, ...] = ALL) -> Criterion:
    return Criterion(replace(NONE, singular_value=1, pairwise=1, joints_3d=1), modalities)


def test_dense_is_what_has_every_modality_of_the_model_and_equal_weights() -> None:
    present, weights = torch.ones(3, 4, dtype=torch.bool), torch.ones(4)
    assert _criterion().is_dense(present, weights)
    one_lacks = present.clone()
    one_lacks[0, 2] = False
    assert not _criterion().is_dense(one_lacks, weights)
    # an image that a model without images would not look at
    assert _criterion(("pose2d", "pose3d")).is_dense(one_lacks, weights)
    assert not _criterion().is_dense(present, torch.tensor([1, 1, 0.5, 1]))


def test_the_dense_way_has_the_value_and_the_gradients_of_the_masked_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _calls(monkeypatch)
    found = []
    for dense in (False, True):
        outputs = outputs_for(6, 3)
        outputs.embeddings.requires_grad_()
        target = make_batch(6)
        target["present"] = torch.ones(3, 6, dtype=torch.bool)
        target["weights"] = torch.ones(6)
        criterion = _criterion()
        total, terms = criterion(outputs, target, dense)
        total.backward()
        temperature = criterion.singular_value.temperature.log_temperature.grad
        found.append((total.detach(), terms["singular_value"], outputs.embeddings.grad, temperature))
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-7)
    assert [{name: value is None for name, value in call.items()} for call in made] == [
        {"weights": False, "present": False},
        {"weights": True, "present": True},
    ]


@pytest.mark.parametrize(("missing", "dense"), [(0.0, True), (None, False)])
def test_training_on_complete_data_never_hands_masks_to_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: float | None, dense: bool
) -> None:
    made = _calls(monkeypatch)
    if missing is None:
        monkeypatch.setattr(Criterion, "is_dense", lambda *_: False)
    train(tiny(optim={"steps": 3}), tmp_path / "run", console=Console(file=io.StringIO()))
    assert len(made) == 3
    assert all((call["present"] is None) == dense for call in made)
