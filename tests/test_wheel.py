"""The built wheel, without extras, is enough for the loss and the alignment."""

import shutil
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from functools import partial
from pathlib import Path

import pytest

from unihpe_kernels.version import __version__

ROOT = Path(__file__).parent.parent


def _uv() -> str:
    found = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if found is None:
        pytest.skip("uv is not installed: the [dev] extra brings it")
    return found


def test_the_kernels_alone_are_a_small_wheel(tmp_path: Path) -> None:
    _run(tmp_path, _uv(), "build", "--quiet", "--wheel", "--out-dir", str(tmp_path), str(ROOT / "kernels"))
    (wheel,) = tmp_path.glob("unihpe_kernels-*.whl")
    assert wheel.stat().st_size < 1e6
    packed = zipfile.ZipFile(wheel)
    names = packed.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"unihpe_kernels"}
    inside = {path.relative_to(ROOT / "kernels").as_posix() for path in (ROOT / "kernels/unihpe_kernels").rglob("*.*")}
    # C++ and block sizes too
    assert {name for name in inside if not name.endswith(".pyc")} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    about = next(packed.read(name).decode() for name in names if name.endswith("METADATA"))
    both = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    alone = tomllib.loads((ROOT / "kernels/pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"Version: {__version__}" in about
    for name in ("dependencies", "requires-python", "license"):
        assert alone[name] == both[name], name
    assert alone["optional-dependencies"]["metrics"] == both["optional-dependencies"]["metrics"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel with the pipeline."""
    folder = tmp_path_factory.mktemp("wheel")
    _run(folder, _uv(), "build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT))
    (built,) = folder.glob("unihpe_fast-*.whl")
    return built


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_what_is_no_python(wheel: Path) -> None:
    packed = zipfile.ZipFile(wheel).namelist()
    for file in ("data/sources/h36m/cameras.json", "weights/lifting.safetensors", "weights/lifting.md"):
        assert f"unihpe_fast/{file}" in packed


@pytest.mark.slow  # installs torch; that the loss needs nothing else is tested in test_losses.py too
def test_bare_wheel_imports_and_uses_the_loss(wheel: Path, tmp_path: Path) -> None:
    uv, python, run = _uv(), tmp_path / "env" / "bin" / "python", partial(_run, tmp_path)
    run(uv, "venv", "--quiet", "--python", sys.executable, "env")
    run(uv, "pip", "install", "--quiet", "--python", str(python), "-c", str(ROOT / "constraints.txt"), str(wheel))
    script = textwrap.dedent("""
        import importlib.util
        for extra in ("timm", "h5py", "cv2", "tyro", "rich"):
            assert importlib.util.find_spec(extra) is None, extra
        import torch
        from unihpe_fast import SingularValueContrastiveLoss
        from unihpe_kernels import pa_mpjpe, singular_value_contrastive_loss
        z = [torch.randn(8, 16, requires_grad=True) for _ in range(3)]
        loss = SingularValueContrastiveLoss()(*z)
        loss.backward()
        assert torch.isfinite(loss) and all(torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0 for x in z)
        torch.testing.assert_close(loss, singular_value_contrastive_loss(z, temperature=0.07))
        pose = torch.randn(4, 17, 3)
        assert pa_mpjpe(2 * pose + 1, pose).max() < 1e-5
        print("fine")
    """)
    assert run(str(python), "-c", script).strip() == "fine"
