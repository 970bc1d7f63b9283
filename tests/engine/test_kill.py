import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_run_killed_again_and_again_always_resumes_from_a_valid_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.engine.kill_child", str(tmp_path / "run"), "12"]
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert len(seen["steps"]) == 12
    # every trial went on from where the killed one had saved, and no step stands in the log twice
    assert all(a < b for a, b in zip(seen["steps"], seen["steps"][1:], strict=False))
    assert seen["metrics"] == list(range(1, len(seen["metrics"]) + 1))
