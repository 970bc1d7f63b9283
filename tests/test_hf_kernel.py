"""The package for Hugging Face's `kernels`, loaded as its users load it, beside the installed one."""

import ast
import json
from pathlib import Path

import pytest
import torch

import unihpe_kernels
from kernels import get_local_kernel
from scripts.hf_kernel import BACKENDS, build, relative


def test_it_is_loaded_and_says_what_the_installed_package_says(tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "an old file").touch()
    folders = build(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"build"}
    assert {path.name for path in (tmp_path / "build").iterdir()} == {f"torch-{backend}" for backend in BACKENDS}
    for folder, backend in zip(folders, BACKENDS, strict=True):
        about = json.loads((folder / "metadata.json").read_text())
        assert about["backend"] == {"type": backend}
        assert {"id", "name", "version", "license", "python-depends"} < set(about)
        assert (folder / "sv_contrastive" / "pairs.cpp").is_file()
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and not node.level:
                    assert not (node.module or "").startswith("unihpe_kernels"), path
                if isinstance(node, ast.Import):
                    assert not any(alias.name.startswith("unihpe_kernels") for alias in node.names), path

    loaded = get_local_kernel(tmp_path, backend="cpu")
    assert Path(loaded.__file__ or "").is_relative_to(tmp_path)
    results = []
    for package in (loaded, unihpe_kernels):
        torch.manual_seed(0)
        z = [torch.randn(9, 16, requires_grad=True) for _ in range(3)]
        pose, target = torch.randn(5, 17, 3, requires_grad=True), torch.randn(5, 17, 3)
        loss = package.singular_value_contrastive_loss(z, temperature=0.1)
        error = package.pa_mpjpe(pose, target).sum()
        results.append([loss, error, *torch.autograd.grad(loss, z), *torch.autograd.grad(error, pose)])
        results[-1] += [package.gram_singular_values([x.detach() for x in z]), *package.svd3x3(torch.randn(4, 3, 3))]
    for mine, theirs in zip(*results, strict=True):
        assert torch.equal(mine, theirs)
    # operators of its own, so that both can be there
    name = json.loads((folders[1] / "metadata.json").read_text())["id"]
    assert hasattr(getattr(torch.ops, name), "pa_mpjpe")
    assert getattr(torch.ops, name).pa_mpjpe is not torch.ops.unihpe_kernels.pa_mpjpe


@pytest.mark.parametrize(
    ("text", "folders", "wanted"),
    [
        ("from unihpe_kernels import checks\n", 0, "from . import checks\n"),
        ("    from unihpe_kernels.a.b import c\n", 1, "    from ..a.b import c\n"),
        ("from unihpe_kernels.a import (\n    b,\n)\n", 2, "from ...a import (\n    b,\n)\n"),
        ('"""from unihpe_kernels_more import x"""\n', 0, '"""from unihpe_kernels_more import x"""\n'),
    ],
)
def test_imports_become_relative(text: str, folders: int, wanted: str) -> None:
    assert relative(text, folders) == wanted
