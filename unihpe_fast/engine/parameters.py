"""Which parameters the optimiser decays, which are Muon's, and which have a learning rate of their own."""

from typing import Any

from torch import nn


def parameter_groups(
    model: nn.Module, criterion: nn.Module, weight_decay: float, *, muon: bool = False, conv_lr: float = 1.0
) -> list[dict[str, Any]]:
    """Optimiser groups: the weights of linear layers and convolutions decay; norms, biases, learned tokens and
    temperatures do not. Parameters that need no gradient are left out.

    With `muon` a group of the matrices between hidden layers comes first, which decay too. Linear layers in full
    precision meet coordinates and embeddings and are none of them, nor are convolutions. With a `conv_lr` other than 1
    the weights of convolutions are a group of their own, whose "lr_factor" it is.
    """
    linear = [m for m in model.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd) and m.weight is not None]
    decayed = {id(m.weight) for m in linear}
    hidden = {id(m.weight) for m in linear if type(m) is nn.Linear} if muon else set()
    convolutions = {id(m.weight) for m in linear if not isinstance(m, nn.Linear)} if conv_lr != 1 else set()
    trained = [p for p in (*model.parameters(), *criterion.parameters()) if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in decayed - hidden - convolutions], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in decayed], "weight_decay": 0.0},
    ]
    if convolutions:
        parameters = [p for p in trained if id(p) in convolutions]
        groups.append({"params": parameters, "weight_decay": weight_decay, "lr_factor": conv_lr})
    if muon:
        groups.insert(0, {"params": [p for p in trained if id(p) in hidden], "weight_decay": weight_decay})
    return groups
