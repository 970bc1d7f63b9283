"""The weights of a TensorFlow.js graph model: a JSON file with names, shapes and dtypes, and the numbers beside it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from unihpe_fast.detector.interface import DetectorError

_DTYPES = {"float32": np.float32, "float16": np.float16, "int32": np.int32}


def read_weights(graph: Path) -> dict[str, np.ndarray]:
    """Name -> array of a graph's constants, in the dtype that they are kept in (float16 stays float16).

    Source: TensorFlow.js' weights manifest. Raises DetectorError, naming the file, for one of another form.
    """
    try:
        manifest = json.loads(graph.read_bytes())["weightsManifest"]
        specs = [spec for group in manifest for spec in group["weights"]]
        data = b"".join((graph.parent / Path(path).name).read_bytes() for group in manifest for path in group["paths"])
    except (ValueError, KeyError, TypeError) as error:
        raise DetectorError(f"{graph}: file must be a TensorFlow.js graph model, got {type(error).__name__}") from error
    arrays: dict[str, np.ndarray] = {}
    at = 0
    for spec in specs:
        array = _array(graph, spec, data, at)
        arrays[spec["name"]] = array
        at += array.nbytes
    if at != len(data):
        raise DetectorError(f"{graph}: weights must be {at} bytes, got {len(data)}")
    return arrays


def _array(graph: Path, spec: dict[str, Any], data: bytes, at: int) -> np.ndarray:
    stored = spec.get("quantization", {}).get("dtype", spec["dtype"])
    if stored not in _DTYPES:
        raise DetectorError(f"{graph}: dtype of {spec['name']} must be one of {', '.join(_DTYPES)}, got {stored!r}")
    count = math.prod(spec["shape"])
    size = count * np.dtype(_DTYPES[stored]).itemsize
    if at + size > len(data):
        raise DetectorError(f"{graph}: weights must be at least {at + size} bytes, got {len(data)}")
    return np.frombuffer(data, _DTYPES[stored], count, at).reshape(spec["shape"])
