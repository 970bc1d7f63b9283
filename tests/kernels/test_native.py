"""The C++ backend: how it is compiled, what happens where that fails, and its threads."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.kernels.pose_cases import pose_pairs
from unihpe_kernels import checks, native, pa_mpjpe, procrustes, svd3x3
from unihpe_kernels.procrustes import reference

KERNELS = Path(__file__).parents[2] / "kernels"
SOURCES = sorted({source for sources in checks.NATIVE_SOURCES.values() for source in sources})
SAMPLES = 10_000  # several pieces for every thread

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler is found")

CODE = """
import torch
from unihpe_kernels import pa_mpjpe, procrustes
torch.manual_seed(0)
pred, target = torch.randn(2, 50, 17, 3)
print(pa_mpjpe(pred, target).double().sum().item())
try: print(procrustes(pred, target, backend="native").scale.shape)
except ValueError as error: print(error)
"""


def run(cache: Path, code: str = CODE, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(KERNELS)!r})\n{code}"],
        env={**os.environ, "XDG_CACHE_HOME": str(cache), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def expected_sum() -> float:
    torch.manual_seed(0)
    pred, target = torch.randn(2, 50, 17, 3).double()
    return reference.pa_mpjpe(pred, target).sum().item()


def test_without_a_compiler_torch_does_the_work(tmp_path):
    done = run(tmp_path, UNIHPE_KERNELS_CXX="")
    total, refusal = done.stdout.splitlines()
    assert float(total) == pytest.approx(expected_sum(), rel=1e-5)
    assert refusal.startswith('backend="native" cannot run procrustes: no C++ compiler is found')
    assert done.stderr == ""
    assert not list(tmp_path.iterdir())


@needs_compiler
def test_a_compiler_that_fails_is_named_with_what_it_said(tmp_path):
    done = run(tmp_path, UNIHPE_KERNELS_CXX=f"{native.compiler()[0]} -include nowhere.h")
    total, refusal = done.stdout.splitlines()[:2]
    assert float(total) == pytest.approx(expected_sum(), rel=1e-5)
    assert "cannot compile procrustes/poses.cpp" in refusal
    assert "nowhere.h" in done.stdout
    assert "plain torch is slower" in done.stderr
    assert not list(tmp_path.glob("*/*"))


@needs_compiler
def test_the_second_process_finds_the_library_of_the_first(tmp_path):
    assert run(tmp_path).stdout.endswith("torch.Size([50])\n")
    (library,) = tmp_path.glob("unihpe_kernels/*")
    written = library.stat().st_mtime_ns
    assert run(tmp_path).stdout.endswith("torch.Size([50])\n")
    assert [path.stat().st_mtime_ns for path in tmp_path.glob("unihpe_kernels/*")] == [written]


@needs_compiler
def test_where_nothing_can_be_written_the_library_is_of_the_process_alone(tmp_path):
    (tmp_path / "unihpe_kernels").write_text("a file where a folder should be")
    done = run(tmp_path, TMPDIR=str(tmp_path))
    assert done.stdout.endswith("torch.Size([50])\n"), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["unihpe_kernels"]


@needs_compiler
@pytest.mark.skipif(
    "avx" not in torch.backends.cpu.get_cpu_capability().lower(), reason="no wider vectors to leave out"
)
@pytest.mark.parametrize("flag", ["-mno-avx512f", "-mno-avx"])
def test_on_lesser_cpus(flag, tmp_path):
    done = run(tmp_path, UNIHPE_KERNELS_CXX=f"{native.compiler()[0]} {flag}")
    total, shape = done.stdout.splitlines()
    assert float(total) == pytest.approx(expected_sum(), rel=1e-5)
    assert shape == "torch.Size([50])"


@needs_compiler
@pytest.mark.parametrize("source", SOURCES)
def test_no_warning_of_the_compiler(source, tmp_path):
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-fsyntax-only"]
    package = KERNELS / "unihpe_kernels"
    command = [*native.compiler(), *flags, "-I", package, package / source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def everything():
    pred, target = (points.float().requires_grad_() for points in pose_pairs(SAMPLES))
    error, similarity = pa_mpjpe(pred, target), procrustes(pred, target)
    factors = svd3x3(similarity.rotation.detach() * 3 + 1)
    loss = error.sum() + sum(part.sum() for part in similarity)
    return [error, *similarity, *factors, *torch.autograd.grad(loss, (pred, target))]


@needs_compiler
@pytest.mark.parametrize("count", [2, 3])
def test_bits_do_not_depend_on_the_threads(count, threads):
    threads(1)
    expected = everything()
    threads(count)
    for got, want in zip(everything(), expected, strict=True):
        assert torch.equal(got, want)


@needs_compiler
def test_in_inference_mode(threads):
    threads(2)
    pred, target = (points.float() for points in pose_pairs(SAMPLES))
    expected = pa_mpjpe(pred, target)
    with torch.inference_mode():
        assert torch.equal(pa_mpjpe(pred, target), expected)
        assert torch.equal(pa_mpjpe(pred.clone(), target.clone()), expected)


def _error_in_child(pred, target, results):
    torch.get_num_threads = lambda: 2  # type: ignore[assignment]
    results.put(pa_mpjpe(pred, target).tolist())


@needs_compiler
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_a_forked_process(threads):
    threads(2)
    pred, target = (points.float() for points in pose_pairs(SAMPLES))
    expected = pa_mpjpe(pred, target).tolist()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_error_in_child, args=(pred, target, results), daemon=True)
    child.start()
    assert results.get(timeout=60) == expected
    child.join(60)


@needs_compiler
def test_chosen_for_what_it_takes_alone():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert checks.check_backend("auto", torch.empty(0, dtype=dtype), "svd3x3") == "native"
    assert checks.check_backend("auto", torch.empty(0).double(), "svd3x3") == "torch"
    with pytest.raises(ValueError, match=r"takes torch.float32, .* got torch.float64"):
        checks.check_backend("native", torch.empty(0).double(), "svd3x3")
    with pytest.raises(ValueError, match="needs CPU tensors, got meta"):
        checks.check_backend("native", torch.empty(0, device="meta"), "svd3x3")
    with pytest.raises(ValueError, match=r"has no C\+\+"):
        checks.check_backend("native", torch.empty(0), "other")
