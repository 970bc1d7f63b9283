"""The command that trains a preset and writes its scores with where they come from."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import record


def test_a_preset_alone_is_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []

    def train(config: Any, run_dir: Path, *, resume: bool) -> dict:
        assert run_dir.is_dir()
        assert not resume
        folders.append(run_dir)
        return {"n": config.optim.steps}

    monkeypatch.setattr("unihpe_fast.engine.loop.train", train)
    monkeypatch.setattr("unihpe_fast.engine.report.print_report", lambda scores, console: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["record", "synthetic", "--json", "found.json", "--optim.steps", "7"])
    record.main()
    found = json.loads(Path("found.json").read_text())
    assert folders == [Path("runs/synthetic")]
    assert found["scores"] == {"n": 7}
    assert found["command"] == ["unihpe_fast.train", "synthetic", "--optim.steps", "7"]
    assert {"commit", "date", "versions", "device", "seconds"} <= set(found)
