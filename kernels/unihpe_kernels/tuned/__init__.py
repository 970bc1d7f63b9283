"""Block sizes, warps and pipeline stages of the Triton kernels: `default.json`, and what a GPU wants otherwise.

A file maps a kernel to a list of settings, each for sizes up to its "up_to"; the last has none. A file needs to name
only the kernels for which it differs. Of the files that name a kernel the nearest to the GPU counts: its own, called
like it in lower case with dashes (`nvidia-h200.json`), then its architecture's (`sm_90.json`, `gfx942.json`), then
`hip.json`, for AMD, whose warps are twice as wide, then `default.json`. `interpreter.json` is for Triton's interpreter
on a CPU, which pays for an operation and not for its lanes. "measured" in a file says where its settings come from;
`python -m benchmarks.gpu.tune` writes a GPU's own.
"""

import functools
import json
import re
from importlib import resources

import torch


def settings(kernel: str | tuple[str, ...], size: int, device: torch.device) -> dict[str, int]:
    """The settings of `kernel` for a problem of `size` on `device`.

    Of several names, for ever more general kinds of a kernel, the first that a file has counts in it.
    """
    return choose(_names(device), kernel, size)


@functools.cache
def choose(names: tuple[str, ...], kernel: str | tuple[str, ...], size: int) -> dict[str, int]:
    """The settings by these files, of which later ones win; the same dict every time, to be read alone."""
    kernels = (kernel,) if isinstance(kernel, str) else kernel
    options = next(table[k] for table in map(_table, reversed(names)) for k in kernels if k in table)
    chosen = next(option for option in options if size <= option.get("up_to", size))
    return {name: value for name, value in chosen.items() if name != "up_to"}


@functools.cache
def _table(name: str) -> dict[str, list[dict[str, int]]]:
    """What a file says; nothing where there is none."""
    file = resources.files(__package__) / f"{name}.json"
    if not name or not file.is_file():
        return {}
    return {kernel: options for kernel, options in json.loads(file.read_text()).items() if kernel != "measured"}


def file_name(card: str) -> str:
    """Of a GPU's own file, without its ending."""
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


@functools.cache
def _names(device: torch.device) -> tuple[str, ...]:
    if device.type != "cuda":
        return "default", "interpreter"
    own = file_name(torch.cuda.get_device_name(device))
    if torch.version.hip:
        return "default", "hip", torch.cuda.get_device_properties(device).gcnArchName.split(":")[0], own
    return "default", "sm_{}{}".format(*torch.cuda.get_device_capability(device)), own
