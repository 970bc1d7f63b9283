"""Importing the kernels must not bring the pipeline's packages along."""

import subprocess
import sys
from pathlib import Path

KERNELS = Path(__file__).parents[2] / "kernels"
HEAVY = ("timm", "h5py", "cv2", "scipy", "matplotlib", "unihpe_fast", "torchvision", "tyro", "torch._dynamo")


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(KERNELS)!r})\n{code}"],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_imports_nothing_heavy_and_torchmetrics_for_those_who_ask_alone():
    done = run(
        "sys.modules['torchmetrics'] = None\n"
        "import torch; before = set(sys.modules)\n"
        "import unihpe_kernels\n"
        "[getattr(unihpe_kernels, name) for name in unihpe_kernels.__all__]\n"
        f"print(*sorted((set(sys.modules) - before) & set({HEAVY!r})))\n"
        "try: unihpe_kernels.metrics\n"
        "except ImportError as error: print(error)\n"
    )
    assert done.returncode == 0, done.stderr
    heavy, refusal = done.stdout.splitlines()
    assert heavy == ""
    assert refusal == "unihpe_kernels.metrics needs torchmetrics: pip install torchmetrics"


def test_works_without_triton():
    """On macOS and Windows there is no triton; the torch backend must not miss it."""
    done = run(
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'triton' else find(name, *rest)\n"
        "import torch, unihpe_kernels\n"
        "print(unihpe_kernels.singular_value_contrastive_loss([torch.eye(3)] * 3).isfinite().item())\n"
        "try: unihpe_kernels.singular_value_contrastive_loss([torch.eye(3)] * 3, backend='triton')\n"
        "except ValueError as error: print(error)\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('True\nbackend="triton" cannot run')
