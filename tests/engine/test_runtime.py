import shutil

import pytest
import torch

from unihpe_fast import env
from unihpe_fast.config import RunConfig
from unihpe_fast.engine import runtime


def test_each_choice_is_said_once_with_its_reason() -> None:
    chosen = runtime.choose_runtime(RunConfig())
    lines = chosen.lines()
    assert [line.split(":")[0] for line in lines] == ["device", "dtype", "compile", "kernels"]
    assert all("(" in line for line in lines)


def test_what_was_asked_for_is_taken() -> None:
    wanted = RunConfig(device="cpu", dtype="bfloat16", compile="max-autotune", backend="triton")
    chosen = runtime.choose_runtime(wanted)
    assert (chosen.device.type, chosen.dtype, chosen.compile_mode, chosen.backend) == (
        "cpu",
        torch.bfloat16,
        "max-autotune",
        "triton",
    )
    assert set(chosen.reasons.values()) == {"asked for"}
    assert runtime.choose_runtime(RunConfig(device="cpu", compile="off")).compile_mode is None


def test_no_compiler_means_eager_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    chosen = runtime.choose_runtime(RunConfig(device="cpu"))
    assert chosen.compile_mode is None
    assert "no C++ compiler" in chosen.reasons["compile"]
    with pytest.raises(ValueError, match="no C++ compiler".replace("+", r"\+")):
        runtime.choose_runtime(RunConfig(device="cpu", compile="default"))


def test_missing_python_headers_mean_eager(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/g++")
    monkeypatch.setattr(runtime.sysconfig, "get_path", lambda name: str(tmp_path))
    assert "Python.h" in (runtime.compiler_missing() or "")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="cuda"):
        runtime.choose_runtime(RunConfig(device="cuda"))


def test_env_lists_versions_devices_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    env.main()
    printed = capsys.readouterr().out
    for word in ("python", torch.__version__.split("+")[0], "timm", "chosen device", "chosen kernels", "CUDA"):
        assert word in printed


def test_loader_processes_keep_a_core_each(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: taken[-1] if taken else 8)
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert runtime.leave_cores(3) == 8
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert runtime.leave_cores(0) == 8
    assert not taken
    assert runtime.leave_cores(3) == 5
    assert runtime.leave_cores(20) == 1
