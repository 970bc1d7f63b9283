"""`python -m unihpe_fast.env`: versions, devices and chosen backends, as a bug report needs them."""

import importlib.metadata
import platform
import shlex

import torch

from unihpe_fast.config import RunConfig
from unihpe_fast.engine.runtime import choose_runtime, compiler_missing
from unihpe_kernels import native
from unihpe_kernels.checks import NATIVE_SOURCES

PACKAGES = (
    "unihpe-fast", "torch", "triton", "numpy", "timm", "h5py", "safetensors", "opencv-python-headless",
    "scipy", "tyro", "cattrs", "rich", "matplotlib",
)  # fmt: skip


def describe() -> dict[str, str]:
    """Name -> value of everything a bug report needs."""
    rows = {"python": platform.python_version(), "system": platform.platform()}
    for name in PACKAGES:
        try:
            rows[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            rows[name] = "not installed"
    rows["cpu"] = f"{platform.machine()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    rows["C++ for torch.compile"] = compiler_missing() or "found"
    sources = {source for files in NATIVE_SOURCES.values() for source in files}
    rows["C++ for the kernels"] = native.obstacle(*sources) or f"compiled by {shlex.join(native.compiler() or ())}"
    rows["CUDA"] = torch.version.cuda or "torch built without"
    for index in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(index)
        rows[f"cuda:{index}"] = f"{p.name}, sm_{p.major}{p.minor}, {p.total_memory / 2**30:.0f} GiB"
    for line in choose_runtime(RunConfig()).lines():
        name, value = line.split(": ", 1)
        rows[f"chosen {name}"] = value
    return rows


def main() -> None:
    rows = describe()
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")


if __name__ == "__main__":
    main()
