"""A TensorFlow.js graph model run by torch, node by node: for networks that are only measured against.

Knows the operations of BlazePose's two graphs, and says so for others.
"""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unihpe_fast.detector.tfjs import read_weights


class Graph:
    """path: the model's JSON file. Called with float [B, H, W, C], it gives the outputs by the signature's names."""

    def __init__(self, path: Path) -> None:
        model = json.loads(path.read_bytes())
        self._constants = {name: _constant(array) for name, array in read_weights(path).items()}
        self._nodes = [node for node in model["modelTopology"]["node"] if node["op"] != "Const"]
        self._outputs = {entry["name"].split(":")[0]: name for name, entry in model["signature"]["outputs"].items()}

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        values: dict[str, Any] = dict(self._constants)
        with torch.inference_mode():
            for node in self._nodes:
                if node["op"] == "Placeholder":
                    values[node["name"]] = x
                    continue
                if node["op"] not in _OPERATIONS:
                    raise ValueError(
                        f"{node['name']}: operation must be one of {sorted(_OPERATIONS)}, got {node['op']}"
                    )
                inputs = [values[name.split(":")[0]] for name in node.get("input", ())]
                values[node["name"]] = _OPERATIONS[node["op"]](node.get("attr", {}), *inputs)
        return {name: values[node] for node, name in self._outputs.items()}


def _constant(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.int64 if array.dtype == np.int32 else np.float32))


def _text(attribute: dict[str, str]) -> str:
    return base64.b64decode(attribute["s"]).decode()


def _padded(x: Tensor, attributes: dict[str, Any], kernel: list[int], fill: float = 0.0) -> tuple[Tensor, int]:
    """x [B, C, H, W] padded as VALID or SAME say, and the stride."""
    stride = int(attributes["strides"]["list"]["i"][1])
    if _text(attributes["padding"]) == "SAME":
        pads = [max((-(-n // stride) - 1) * stride + k - n, 0) for n, k in zip(x.shape[2:], kernel, strict=True)]
        (top, left) = (p // 2 for p in pads)
        x = F.pad(x, (left, pads[1] - left, top, pads[0] - top), value=fill)
    return x, stride


def _convolution(attributes: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None, groups: bool) -> Tensor:
    kernel = list(weight.shape[:2])
    image, stride = _padded(x.permute(0, 3, 1, 2), attributes, kernel)
    filters = weight.permute(2, 3, 0, 1) if groups else weight.permute(3, 2, 0, 1)
    y = F.conv2d(image, filters, bias, stride, groups=image.shape[1] if groups else 1)
    then = [base64.b64decode(op).decode() for op in attributes.get("fused_ops", {}).get("list", {}).get("s") or ()]
    y = F.relu6(y) if "Relu6" in then else F.relu(y) if "Relu" in then else y
    return y.permute(0, 2, 3, 1)


def _resize(_: dict[str, Any], x: Tensor, size: Tensor) -> Tensor:
    return F.interpolate(x.permute(0, 3, 1, 2), tuple(size.tolist()), mode="bilinear").permute(0, 2, 3, 1)


def _pool(attributes: dict[str, Any], x: Tensor) -> Tensor:
    kernel = [int(k) for k in attributes["ksize"]["list"]["i"][1:3]]
    image, stride = _padded(x.permute(0, 3, 1, 2), attributes, kernel, -torch.inf)
    return F.max_pool2d(image, kernel, stride).permute(0, 2, 3, 1)


def _pad(_: dict[str, Any], x: Tensor, amounts: Tensor) -> Tensor:
    return F.pad(x, [int(v) for pair in reversed(amounts.tolist()) for v in pair])


def _depth_to_space(attributes: dict[str, Any], x: Tensor) -> Tensor:
    n = int(attributes["block_size"]["i"])
    batch, height, width, _channels = x.shape
    # blocks come before channels here, after them in torch's pixel_shuffle
    return x.view(batch, height, width, n, n, -1).transpose(2, 3).reshape(batch, height * n, width * n, -1)


def _strided_slice(_: dict[str, Any], x: Tensor, begin: Tensor, *__: Tensor) -> Tensor:
    # only the batch size of a shape is ever taken
    return x[int(begin[0])]


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "_FusedConv2D": lambda a, x, w, b: _convolution(a, x, w, b, groups=False),
    "Conv2D": lambda a, x, w: _convolution(a, x, w, None, groups=False),
    "FusedDepthwiseConv2dNative": lambda a, x, w, b: _convolution(a, x, w, b, groups=True),
    "DepthwiseConv2dNative": lambda a, x, w: _convolution(a, x, w, None, groups=True),
    "AddV2": lambda _, x, y: x + y,
    "Relu": lambda _, x: F.relu(x),
    "Relu6": lambda _, x: F.relu6(x),
    "Sigmoid": lambda _, x: x.sigmoid(),
    "Identity": lambda _, x: x,
    "Pad": _pad,
    "MaxPool": _pool,
    "ResizeBilinear": _resize,
    "Reshape": lambda _, x, shape: x.reshape(tuple(shape.tolist())),
    "DepthToSpace": _depth_to_space,
    "ConcatV2": lambda _, *xs: torch.cat(xs[:-1], dim=int(xs[-1])),
    "Shape": lambda _, x: torch.tensor(x.shape),
    "StridedSlice": _strided_slice,
    "Pack": lambda _, *xs: torch.stack([torch.as_tensor(x) for x in xs]),
}
