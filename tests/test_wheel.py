"""The built wheel, without extras, is enough for the loss and the alignment."""

import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _uv() -> str:
    found = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if found is None:
        pytest.skip("uv is not installed: the [dev] extra brings it")
    return found


@pytest.mark.slow
def test_bare_wheel_imports_and_uses_the_loss(tmp_path: Path) -> None:
    uv, python = _uv(), tmp_path / "env" / "bin" / "python"

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(uv, "build", "--quiet", "--wheel", "--out-dir", str(tmp_path), str(ROOT))
    (wheel,) = tmp_path.glob("unihpe_fast-*.whl")
    assert "unihpe_fast/data/sources/h36m/cameras.json" in zipfile.ZipFile(wheel).namelist()
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
