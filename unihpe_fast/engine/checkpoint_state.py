"""What a checkpoint must hold before a trainer takes it: an optimiser's fused step reads what it is given unlooked."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unihpe_fast.models.hub import not_finite

if TYPE_CHECKING:
    from unihpe_fast.engine.trainer import Trainer

_COUNTS = ("step", "metrics_offset", "broken", "seen")


def fault_of(state: Any, trainer: "Trainer") -> str:
    """What a checkpoint's state lacks for this trainer to go on from it, or has otherwise; empty where it is sound."""
    if not isinstance(state, dict):
        return f"must be a dict, got {type(state).__name__}"
    return next(_faults(state, trainer), "")


def _faults(state: dict[str, Any], trainer: "Trainer") -> Iterator[str]:
    for key in _COUNTS:
        # bool is an int
        if type(state.get(key)) is not int or state[key] < 0:
            yield f"{key} must be a whole number, got {_short(state.get(key))}"
    modules = {"model": trainer.model, "criterion": trainer.criterion, "ema": trainer.ema}
    for key, module in modules.items():
        if module is not None:
            yield from _tensor_faults(key, state.get(key), module.state_dict())
    yield from _optimizer_faults(state.get("optimizer"), trainer)
    yield from _tensor_faults("", {"bad_steps": state.get("bad_steps")}, {"bad_steps": trainer.bad_steps.counts})
    for key in ("rng", "cuda_rng"):
        states = state.get(key)
        if not isinstance(states, list) or not all(
            isinstance(x, Tensor) and x.dtype == torch.uint8 and x.ndim == 1 for x in states
        ):
            yield f"{key} must be a list of states of random generators, got {_short(states)}"


def _optimizer_faults(found: Any, trainer: "Trainer") -> Iterator[str]:
    own = [group["params"] for group in trainer.optimizer.state_dict()["param_groups"]]
    state = found.get("state") if isinstance(found, dict) else None
    groups = found.get("param_groups") if isinstance(found, dict) else None
    if not isinstance(state, dict) or not isinstance(groups, list) or not all(isinstance(x, dict) for x in groups):
        yield f"optimizer must be an optimiser's state, with state and param_groups, got {_short(found)}"
        return
    # numbers of parameters: what is compared may be anything, a tensor too
    listed = [group.get("params") for group in groups]
    if not all(isinstance(x, list) and all(type(n) is int for n in x) for x in listed) or listed != own:
        yield f"optimizer.param_groups must be of the run's {len(trainer.parameters)} parameters, got others"
    for number, values in state.items():
        where = f"optimizer.state[{_short(number)}]"
        if type(number) is not int or not 0 <= number < len(trainer.parameters):
            yield f"{where}: must be one of {len(trainer.parameters)} parameters"
            continue
        parameter = trainer.parameters[number]
        if trainer.config.optim.muon and number in own[0]:
            yield from _tensor_faults(where, values, {"momentum_buffer": parameter})
            continue
        like = dict.fromkeys(("exp_avg", "exp_avg_sq"), parameter) | {"step": torch.zeros(())}
        yield from _tensor_faults(where, values, like)
        if bool((values["exp_avg_sq"] < 0).any()) or values["step"] < 0:
            yield f"{where}: exp_avg_sq and step must be 0 or more"


def _tensor_faults(where: str, found: Any, wanted: Mapping[str, Tensor]) -> Iterator[str]:
    """Names, then shapes and kinds, then numbers: a tensor that claims to be huge is not looked through."""
    if not isinstance(found, dict):
        yield f"{where} must be a dict of tensors, got {_short(found)}"
        return
    for name in sorted(wanted.keys() ^ found.keys(), key=str):
        yield f"{where}.{name} must {'be there' if name in wanted else 'not be there'}"
    for name, like in wanted.items():
        value = found[name]
        fits = isinstance(value, Tensor) and value.shape == like.shape and value.dtype == like.dtype
        if not fits or value.layout != torch.strided or value.device.type == "meta":
            got = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else _short(value)
            yield f"{where}.{name} must be {like.dtype} {list(like.shape)}, got {got}"
    if fault := not_finite(found):
        yield f"{where}.{fault}" if where else fault


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)}"
    text = repr(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return text if len(text) <= 60 else f"{text[:60]}.."
