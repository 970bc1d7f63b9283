"""Block sizes, warps and pipeline stages of the Triton kernels: `default.json`, and what a GPU wants otherwise.

A file maps a kernel to a list of settings, each for sizes up to its "up_to"; the last has none. `hip.json` holds for
AMD, whose warps are twice as wide, `interpreter.json` for Triton's interpreter on a CPU, which pays for an operation
and not for its lanes; a GPU's own file is called like it, in lower case with dashes, and needs to name only the kernels
for which it differs: `nvidia-h200.json`.
"""

import functools
import json
import re
from importlib import resources

import torch


def settings(kernel: str, size: int, device: torch.device) -> dict[str, int]:
    """The settings of `kernel` for a problem of `size` on `device`."""
    return choose(tuple(_names(device)), kernel, size)


def choose(names: tuple[str, ...], kernel: str, size: int) -> dict[str, int]:
    """The settings by these files, of which later ones win."""
    chosen = next(option for option in _table(names)[kernel] if size <= option.get("up_to", size))
    return {name: value for name, value in chosen.items() if name != "up_to"}


@functools.cache
def _table(names: tuple[str, ...]) -> dict[str, list[dict[str, int]]]:
    table: dict[str, list[dict[str, int]]] = {}
    for name in names:
        file = resources.files(__package__) / f"{name}.json"
        if file.is_file():
            table.update(json.loads(file.read_text()))
    return table


@functools.cache
def _names(device: torch.device) -> list[str]:
    if device.type != "cuda":
        return ["default", "interpreter"]
    own = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(device).lower()).strip("-")
    return ["default", "hip", own] if torch.version.hip else ["default", own]
