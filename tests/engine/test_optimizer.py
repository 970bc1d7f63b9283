"""Muon and AdamW as one optimiser, against torch's two."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.support.tiny import tiny
from unihpe_fast.config import ConfigError, ImageEncoderConfig, OptimConfig, check
from unihpe_fast.data.loader import train_batches
from unihpe_fast.engine.checkpoint_state import fault_of
from unihpe_fast.engine.optimizer import MuonAndAdamW, make_optimizer
from unihpe_fast.engine.parameters import parameter_groups
from unihpe_fast.engine.runtime import choose_runtime
from unihpe_fast.engine.trainer import Trainer
from unihpe_fast.models.layers import ResidualMLP

CONFIG = OptimConfig(lr=0.01, weight_decay=0.1, muon=True)
_IMAGE = ImageEncoderConfig(
    backbone_args={"channels": "[8, 8, 8, 8]", "stem_width": "8"}, fuse_width=8, head_width=16, head_depth=1
)
PICTURES: dict = {"data": {"image_size": 32}, "model": {"modalities": ("image", "pose3d"), "image": _IMAGE}}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(ResidualMLP(3, 8, 1), nn.Conv1d(8, 2, 1))


def optimizer_of(model: nn.Module) -> MuonAndAdamW:
    made = make_optimizer(parameter_groups(model, nn.Module(), CONFIG.weight_decay, muon=True), CONFIG)
    assert isinstance(made, MuonAndAdamW)
    return made


def gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def values(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def test_muon_has_the_matrices_between_hidden_layers_alone() -> None:
    model = network()
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, nn.Module(), 0.1, muon=True)
    found = [[names[id(p)] for p in group["params"]] for group in groups]
    assert found[0] == ["0.blocks.0.1.weight", "0.blocks.0.4.weight"]
    assert found[1] == ["0.input.weight", "1.weight"]
    assert sorted(name for group in found for name in group) == sorted(names.values())
    assert [group["weight_decay"] for group in groups] == [0.1, 0.1, 0.0]


def test_each_steps_as_torch_has_it_at_one_learning_rate() -> None:
    ours, theirs = network(), network()
    both = optimizer_of(ours)
    hidden, *others = parameter_groups(theirs, nn.Module(), 0.1, muon=True)
    muon = torch.optim.Muon([hidden], lr=0.01, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=0.01)
    for step in range(3):
        for group in (*both.param_groups, *muon.param_groups, *adamw.param_groups):
            group["lr"] = 0.01 / (step + 1)
        gradients(ours, step)
        gradients(theirs, step)
        for optimizer in (both, muon, adamw):
            optimizer.step()
            optimizer.zero_grad()
    for mine, wanted in zip(values(ours), values(theirs), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-7)
    assert all(p.grad is None for p in ours.parameters())


def test_convolutions_learn_at_a_rate_of_their_own() -> None:
    config = tiny(**PICTURES, optim={"conv_lr": 3.0, "warmup": 2, "lr": 0.01})
    trainer = Trainer(config, choose_runtime(config.run))
    trainer.advance(iter(train_batches(config.data, seed=0, start_step=0, steps=1)))
    names = dict(zip(map(id, trainer.parameters), trainer.parameter_names, strict=True))
    rates = {names[id(p)]: group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    # half of the warm-up
    convolutions = {f"model.{name}.weight" for name, m in trainer.model.named_modules() if isinstance(m, nn.Conv2d)}
    assert convolutions
    assert rates == {name: pytest.approx(0.015 if name in convolutions else 0.005) for name in rates}
    decays = {names[id(p)]: group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert {decays[name] for name in convolutions} == {config.optim.weight_decay}


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    model = network()
    optimizer = optimizer_of(model)
    gradients(model, 0)
    optimizer.step()
    before, state = values(model), copy.deepcopy(optimizer.state_dict())
    for p in model.parameters():
        p.grad = torch.full_like(p, torch.nan)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert all(torch.equal(p, was) for p, was in zip(values(model), before, strict=True))
    for number, moments in optimizer.state_dict()["state"].items():
        assert all(torch.equal(x, state["state"][number][name]) for name, x in moments.items())


@pytest.mark.parametrize(
    ("sections", "optim", "factor"), [({}, {}, None), (PICTURES, {"conv_lr": 3.0}, 3.0)], ids=["poses", "pictures"]
)
def test_it_goes_on_bit_for_bit_from_a_checkpoint(sections: dict, optim: dict, factor: float | None) -> None:
    config = tiny(**sections, optim={"muon": True, "steps": 3, **optim})
    batches = list(train_batches(config.data, seed=0, start_step=0, steps=3))
    states = []
    # dropout draws from one stream, which a trainer begins
    for steps in (3, 2):
        trainer = Trainer(config, choose_runtime(config.run))
        for batch in batches[:steps]:
            trainer.advance(iter([batch]))
        states.append(copy.deepcopy(trainer.state()) | {"metrics_offset": 0})
    whole, state = states
    second = Trainer(config, choose_runtime(config.run))
    assert fault_of(state, second) == ""
    second.load_state(state)
    second.advance(iter(batches[2:]))
    found = second.model.state_dict()
    assert all(torch.equal(found[name], wanted) for name, wanted in whole["model"].items())
    assert second.optimizer.param_groups[-1].get("lr_factor") == factor
    number = len(second.optimizer.param_groups[0]["params"])
    assert number > 0
    del state["optimizer"]["state"][0]["momentum_buffer"]
    assert fault_of(state, second) == "optimizer.state[0].momentum_buffer must be there"
    state["optimizer"]["state"][0] = state["optimizer"]["state"][number]
    assert "optimizer.state[0].exp_avg must not be there" in fault_of(state, second)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"optim": {"muon": True}, "run": {"shard": "fsdp"}}, "--optim.muon takes whole matrices"),
        ({"model": {"rays": True}, "data": {"level": True}}, "--model.rays takes camera axes"),
    ],
)
def test_what_does_not_go_together_is_refused(sections: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(tiny(**sections))
