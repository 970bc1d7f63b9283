"""The optimiser of a run."""

from typing import Any

import torch
from torch import Tensor

from unihpe_fast.config import OptimConfig


def make_optimizer(groups: list[dict[str, Any]], config: OptimConfig) -> "torch.optim.AdamW | MuonAndAdamW":
    """groups: of `parameter_groups`; the first is Muon's where config.muon is on."""
    if config.muon:
        return MuonAndAdamW(groups[0], groups[1:], config.lr)
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


class MuonAndAdamW:
    """Muon (Jordan et al. 2024) of one group of matrices and AdamW of the others, used and saved like one optimiser.

    Muon's updates are scaled to the root mean square of AdamW's (Liu et al. 2025), so that one learning rate serves
    both. Its parameters come first in the numbers of a state. found_inf: as fused optimisers take it; Muon waits for
    the device to read it.
    """

    def __init__(self, matrices: dict[str, Any], groups: list[dict[str, Any]], lr: float) -> None:
        self._muon = torch.optim.Muon([matrices], lr=lr, adjust_lr_fn="match_rms_adamw")
        self._adamw = torch.optim.AdamW(groups, lr=lr, fused=True)
        self._matrices = len(matrices["params"])
        self.found_inf: Tensor | None = None

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [*self._muon.param_groups, *self._adamw.param_groups]

    def step(self) -> None:
        self._adamw.found_inf = self.found_inf  # type: ignore[attr-defined]
        self._adamw.step()
        if self.found_inf is None or not self.found_inf.item():
            self._muon.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._muon.zero_grad(set_to_none)
        self._adamw.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        first, second = self._muon.state_dict(), self._adamw.state_dict()
        moved = {number + self._matrices: state for number, state in second["state"].items()}
        groups = [group | {"params": [n + self._matrices for n in group["params"]]} for group in second["param_groups"]]
        return {"state": first["state"] | moved, "param_groups": first["param_groups"] + groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """state: as `state_dict` gave it. How its groups step is taken over too, as torch's optimisers do."""
        first, *others = state["param_groups"]
        for optimizer, groups in ((self._muon, [first]), (self._adamw, others)):
            numbers = {number for group in groups for number in group["params"]}
            moments = {number: x for number, x in state["state"].items() if number in numbers}
            optimizer.load_state_dict({"state": moments, "param_groups": groups})
