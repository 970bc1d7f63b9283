"""Which parameters the optimiser decays."""

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, criterion: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups: the weights of linear layers and convolutions decay; norms, biases, learned tokens and
    temperatures do not. Parameters that need no gradient are left out."""
    decayed = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and module.weight is not None
    }
    trained = [p for p in (*model.parameters(), *criterion.parameters()) if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in decayed], "weight_decay": 0.0},
    ]
