"""From the published graphs of MoveNet to the tensors of the modules here."""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unihpe_fast.detector.interface import DetectorError
from unihpe_fast.detector.tfjs import read_weights

_HEADS = {
    "center_0": "center", "kpt_heatmap_0": "heatmap", "kpt_regress_0": "regress", "kpt_offset_0": "offset",
    "box_scale_0": "box_scale", "box_offset_0": "box_offset",
}  # fmt: skip
_LATERALS = {"conv2d_3": "laterals.0", "conv2d_2": "laterals.1", "conv2d_1": "laterals.2", "conv2d": "top"}
_MERGES = {"separable_conv2d": 0, "separable_conv2d_1": 1, "separable_conv2d_2": 2}
_SKIPPED = re.compile(r"StatefulPartitionedCall/(center_net_mobile_net_v2fpn_feature_extractor/model_1/)?")


def state_from_graph(graph: Path) -> dict[str, Tensor]:
    """The state of the module that `movenet_nets.build` makes for this graph, float16 as the graph has it.

    Raises DetectorError for another graph; names that the module lacks or wants are found when it takes the state.
    """
    state: dict[str, Tensor] = {}
    for name, array in read_weights(graph).items():
        if (target := _target(_SKIPPED.sub("", name), array)) is not None:
            state[target] = torch.from_numpy(_laid_out(array))
    return state


def _laid_out(array: np.ndarray) -> np.ndarray:
    if array.ndim == 3:
        return array[..., 0].copy()  # centrality [H, W, 1]
    # depthwise [3, 3, C, 1] -> [C, 1, 3, 3]; others [kh, kw, in, out] -> [out, in, kh, kw]
    if array.ndim == 4:
        depthwise = array.shape[3] == 1 and array.shape[0] == 3
        array = array.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
    return array.copy()


def _target(name: str, array: np.ndarray) -> str | None:
    """The module's name of a constant of the graph; None for numbers that are code there."""
    if name.endswith("truediv_2_recip") and array.ndim == 3:
        return "centrality"
    kind = "bias" if array.ndim == 1 else "weight"
    if array.dtype != np.float16 or array.ndim not in (1, 4):
        return None
    first, _, rest = name.partition("/")
    if first in _HEADS:
        head = _HEADS[first]
        if rest.startswith("separable"):
            part = "depthwise" if array.ndim == 4 and array.shape[3] == 1 else "pointwise"
            return f"{head}.separable.{part}.conv.{kind}"
        return f"{head}.out.conv.{kind}"
    if first in _LATERALS:
        return f"backbone.{_LATERALS[first]}.conv.{kind}"
    if first in _MERGES:
        part = "depthwise" if array.ndim == 4 and array.shape[3] == 1 else "pointwise"
        return f"backbone.merges.{_MERGES[first]}.{part}.conv.{kind}"
    if first == "model":
        return _backbone(rest, kind)
    return None


def _backbone(rest: str, kind: str) -> str:
    layer = rest.split("/")[0]
    if layer == "Conv1":
        return f"backbone.stem.conv.{kind}"
    if layer == "Conv_1":
        return f"backbone.last.conv.{kind}"
    found = re.fullmatch(r"(?:expanded_conv|block_(\d+))_(expand|depthwise|project)", layer)
    if found is None:
        raise DetectorError(f"MoveNet: layer must be one of MobileNetV2's, got {layer!r}")
    return f"backbone.blocks.{found[1] or 0}.{found[2]}.conv.{kind}"
