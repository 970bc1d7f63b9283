"""The example of docs/adding-a-score.md: its three files and its line, added to a copy of the package and used."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from unihpe_kernels import native

ROOT = Path(__file__).parents[2]
FOLDER = "scores/mean_cosine"
USE = """
    import sys
    import torch
    from torch.nn.functional import cross_entropy, normalize
    import unihpe_kernels
    from unihpe_kernels import tuple_contrastive_loss

    assert unihpe_kernels.__file__.startswith(sys.argv[1]), unihpe_kernels.__file__
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(21, 7, generator=generator, dtype=torch.float64) for _ in range(3)]


    def exact(embeddings):
        x, y, z = (normalize(e, dim=1) for e in embeddings)
        target = torch.arange(21)
        losses = []
        for anchor, one, other in ((x, y, z), (y, x, z), (z, x, y)):
            logits = (anchor @ one.T + anchor @ other.T + (one * other).sum(1)) / 3 / 0.1
            losses += [cross_entropy(matrix, target, label_smoothing=0.1) for matrix in (logits, logits.T)]
        return torch.stack(losses).mean()


    for backend in sys.argv[2:]:
        dtype, tolerance = (torch.float64, 1e-12) if backend == "torch" else (torch.float32, 1e-5)
        given = [e.to(dtype).requires_grad_() for e in drawn]
        wanted = [e.detach().double().requires_grad_() for e in given]
        value = tuple_contrastive_loss(
            given, score="mean_cosine", temperature=0.1, direction="both", label_smoothing=0.1, backend=backend
        )
        torch.testing.assert_close(value.double(), exact(wanted), rtol=0, atol=tolerance)
        gradients = zip(torch.autograd.grad(value, given), torch.autograd.grad(exact(wanted), wanted), strict=True)
        for gradient, other in gradients:
            torch.testing.assert_close(gradient.double(), other, rtol=0, atol=tolerance)
        print(backend)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a copy with the new score."""
    folder = tmp_path_factory.mktemp("package")
    copy = folder / "unihpe_kernels"
    shutil.copytree(ROOT / "kernels" / "unihpe_kernels", copy, ignore=shutil.ignore_patterns("__pycache__"))
    blocks = re.findall(r"```\w+\n(.*?)```", (ROOT / "docs" / "adding-a-score.md").read_text(), re.DOTALL)
    *files, line = blocks
    (copy / FOLDER).mkdir()
    (copy / FOLDER / "__init__.py").touch()
    for name, text in zip(("torch.py", "native.h", "triton.py"), files, strict=True):
        (copy / FOLDER / name).write_text(text)
    registry = copy / "scores" / "__init__.py"
    text = registry.read_text()
    assert text.count("_ALL = (\n") == 1
    registry.write_text(text.replace("_ALL = (\n", f"_ALL = (\n    {line}"))
    return folder


def test_the_example_runs_on_every_backend_there_is(package: Path) -> None:
    backends = ["torch"]
    if native.compiler() is not None:
        backends.append("native")
    if importlib.util.find_spec("triton") is not None:
        backends.append("triton")
    environment = os.environ | {"PYTHONPATH": str(package), "XDG_CACHE_HOME": str(package), "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(USE), str(package), *backends],
        env=environment, capture_output=True, text=True, timeout=300, cwd=package,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert done.stdout.split() == backends


def test_the_package_itself_has_no_such_score() -> None:
    assert not (ROOT / "kernels" / "unihpe_kernels" / FOLDER).exists()
