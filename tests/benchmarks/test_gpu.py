"""The run on a GPU as far as a CPU shows it: its clock, its files, what it deals out, what it compiles ahead."""

import json
import os
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks import record
from benchmarks.gpu import cache as gpu_cache
from benchmarks.gpu import run as gpu
from benchmarks.gpu import summary as gpu_summary
from benchmarks.gpu import tests as gpu_tests
from benchmarks.gpu.run import BESIDE, BUDGET, STEPS, Child, Run, Step

ROOT = Path(__file__).parents[2]
# what the GPU machine that `make gpu` is for does not have
MISSING = ("cattrs", "tyro", "roma", "symile", "simplejpeg", "inf_cl", "siglip_kernel")


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """A process of its own with nothing of this one's environment."""
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT}/kernels", "PATH": "", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)


def test_gpu_benchmarks_work_where_only_the_listed_packages_are() -> None:
    """`make gpu` installs nothing, and its machine lacks some of what `make bench` has, git among it."""
    code = f"""
import sys
for name in {MISSING}:
    sys.modules[name] = None
import benchmarks.gpu.run, benchmarks.gpu.profile_step, benchmarks.test_ceilings, benchmarks.test_procrustes
import benchmarks.test_train_step, benchmarks.gpu.tune, benchmarks.gpu.rates, benchmarks.gpu.tests, unihpe_fast.env
from benchmarks import train_cases
from benchmarks.record import commit
from benchmarks.test_sv_loss import all_group, paired_group
from benchmarks.test_procrustes import pose_group
assert len(train_cases.batches(train_cases.config("resnet50", 32, 2), 1)) == 1
groups = all_group(), paired_group(2), pose_group(False)
print(sorted(c.name for g in groups for c in g.competitors if "not installed" in c.absent), commit())
"""
    done = python(code, UNIHPE_COMMIT="0123abc")
    assert done.returncode == 0, done.stderr
    for part in ("inf_cl", "siglip-kernel", "roma", "symile, n", "0123abc"):
        assert part in done.stdout


def test_the_commit_is_found_without_git(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("UNIHPE_COMMIT", raising=False)
    assert record.commit() == "unknown"
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "commit").write_text("89abcdef\n")
    assert record.commit() == "89abcdef"
    monkeypatch.setenv("UNIHPE_COMMIT", "0123")
    assert record.commit() == "0123"


def test_the_steps_fit_their_budget() -> None:
    marks = [step.until for step in STEPS]
    assert marks == sorted(set(marks))
    assert marks[-1] <= BUDGET
    names = [step.name for step in (*STEPS, *BESIDE)]
    assert len(set(names)) == len(names)
    for step in STEPS:
        for word in step.command.split():
            assert not word.endswith(".py") or (ROOT / word).exists(), word
            assert not word.startswith("benchmarks.") or (ROOT / f"{word.replace('.', '/')}.py").exists(), word


def test_a_part_that_fails_or_lasts_leaves_the_others(monkeypatch, tmp_path) -> None:
    programs = {
        "slow": "import os, time; print('begun', flush=True); os.fork(); time.sleep(60)",
        "bad": "print('x'); raise SystemExit(3)",
        "told": "raise SystemExit(4)",
        "good": "import sys; open(sys.argv[1], 'w').write('{\"records\": [], \"rates\": {}}'); print('done')",
    }
    source = tmp_path / "source"
    source.mkdir()
    for name, text in programs.items():
        (source / f"{name}.py").write_text(text)
    out = tmp_path / "out"
    out.mkdir()
    steps = (
        Step("slow", 4, f"{source}/slow.py"), Step("bad", 24, f"{source}/bad.py"),
        Step("told", 34, f"{source}/told.py", informational=True),
        Step("good", 44, f"{source}/good.py {{out}}/{{name}}.json"),
    )  # fmt: skip
    beside = (Step("beside", 30, f"{source}/slow.py", True),)
    monkeypatch.setattr(gpu, "CACHE", tmp_path / "none")
    start = time.monotonic()
    run = Run(out, rehearsal=False, clock=1.0, steps=steps, beside=beside)
    run()
    assert time.monotonic() - start < 44
    parts = {part.name: part for part in run.parts}
    assert parts["slow"].status.startswith("out of time after")
    assert parts["slow"].last_line == "begun"
    assert (parts["bad"].status, parts["bad"].last_line) == ("failed, status 3", "x")
    assert [name for name, part in parts.items() if part.failed] == ["slow", "bad"]
    assert parts["beside"].status.startswith("out of time")
    assert (parts["good"].status, parts["good"].last_line) == ("ok", "done")
    record = json.loads((out / "gpu.json").read_text())
    assert [part["name"] for part in record["parts"]] == list(parts)
    assert record["rates"] == {}
    assert sorted(os.listdir(out)) == ["gpu.json", "logs.tgz", "summary.txt"]
    with tarfile.open(out / "logs.tgz") as archive:
        assert archive.extractfile("bad.log").read() == b"x\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_short_rehearsal_is_green(tmp_path) -> None:
    """Parts of every kind through the command itself: a script, tests dealt out, a benchmark."""
    steps = ("environment", "correctness", "ceilings")
    command = [sys.executable, "-m", "benchmarks.gpu", str(tmp_path), "--rehearse", "--clock", "9", "--steps", *steps]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/kernels"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert [(part["name"], part["status"]) for part in record["parts"]] == [(name, "ok") for name in steps]
    assert record["parts"][1]["tests"]["outcomes"]["passed"] >= 1
    assert record["records"][0]["competitors"]
    assert (tmp_path / "summary.txt").read_text() in done.stdout


def test_what_a_part_measured_in_several_calls_is_one_record(tmp_path) -> None:
    run = Run(tmp_path, rehearsal=False, clock=1.0, steps=(Step("a", 1, ""), Step("b", 2, "")))
    for name, competitors in (("a", {"ours": {"median_s": 1}}), ("b", {"ours": {"median_s": 2}, "p": {"ratio": 3}})):
        record = {"group": "g", "size": 8, "competitors": competitors}
        (run._work / f"{name}.json").write_text(json.dumps({"records": [record]}))
    (merged,) = run._records()
    assert merged["competitors"] == {"ours": {"median_s": 1}, "p": {"ratio": 3}}


def test_the_summary_is_short_and_says_what_failed() -> None:
    tests = {"failed": [{"test": f"tests/a.py::t{k}", "why": "E\nAssertionError: off"} for k in range(99)]}
    part = {"name": "tests", "status": "failed, status 1", "seconds": 3.0, "last_line": "99 failed", "tests": tests}
    entry = {"median_s": 1e-3, "host_s": 2e-4, "launches": 11, "peak_bytes": 1 << 20}
    record = {
        "group": "train_step", "variable": "B", "size": 64,
        "competitors": {"ours": entry, "peer": {"median_s": 1, "ratio": 2.5}, "gone": {"not_run": "absent"}},
    }  # fmt: skip
    told = {
        "device": "a GPU", "commit": "0123", "date": "today", "versions": {"torch": "9"}, "records": [record] * 999,
        "parts": [{**part, "informational": False}], "rates": {"copy_bytes": 4e12},
    }  # fmt: skip
    text = gpu_summary.summary(told)
    assert len(text) < 12_000
    for wanted in ("a.py::t0: AssertionError: off", "87 more", "1.000 ms, host 0.200, 11 launches, 1.0 MiB, 64000",
                   "peer 2.5x; gone: absent", "copy bytes 4 T/s", "cut here"):  # fmt: skip
        assert wanted in text


def test_every_test_is_dealt_once_the_longest_first() -> None:
    names = [f"tests/kernels/test_triton_{name}.py::t{k}" for name in ("eigh", "procrustes") for k in range(10)]
    shares = [gpu_tests.dealt(names, part, 3) for part in range(3)]
    assert Counter(number for share in shares for number in share) == Counter(range(20))
    assert all("procrustes" in names[share[0]] for share in shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    files = gpu_tests.files()
    assert "tests/kernels/test_triton_sv_gpu.py" in files
    assert not {"tests/kernels/test_compile.py", "tests/kernels/test_triton_benchmarks.py"} & set(files)


def test_a_line_of_each_test_stays_where_its_process_is_stopped(tmp_path) -> None:
    lines = [{"test": "a", "outcome": "passed", "seconds": 1, "why": ""},
             {"test": "b", "outcome": "failed", "seconds": 2, "why": "off"}]  # fmt: skip
    (tmp_path / "tests-0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"test": "c", "out')
    found = gpu_tests.results(tmp_path / "tests")
    assert found["outcomes"] == {"passed": 1, "failed": 1}
    assert found["failed"] == [{"test": "b", "why": "off"}]
    assert found["longest"][0] == (2, "b")


def test_a_command_is_stopped_with_its_children(tmp_path) -> None:
    child = Child(
        "forks", [sys.executable, "-c", "import os, time; os.fork(); time.sleep(60)"], tmp_path, dict(os.environ)
    )
    assert child.ended(1.0).status.startswith("out of time after")
    # whoever takes over an orphan has to notice its end
    end = time.monotonic() + 10
    while _is_running(child._process.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _is_running(child._process.pid)


def _is_running(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="Triton interprets here")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver here")
def test_a_cache_that_is_carried_along_is_hit(tmp_path) -> None:
    """One process compiles for sm_90, another asks for the same at another place, with other tensors of other sizes."""
    pytest.importorskip("triton")
    there, here = tmp_path / "there", tmp_path / "here"
    code = """
from benchmarks.gpu import cache as gpu_cache, stub_driver
from benchmarks.gpu.cases import PoseCase
from triton import knobs
hits = []
knobs.compilation.listener = lambda *, cache_hit, **_: hits.append(cache_hit)
gpu_cache.fill(PoseCase("svd3x3", 3, samples=SAMPLES))
print(hits)
"""
    first = python(code.replace("SAMPLES", "128"), TRITON_CACHE_DIR=str(there), TRITON_STORE_BINARY_ONLY="1")
    assert first.returncode == 0, first.stderr
    assert "False" in first.stdout
    assert "True" not in first.stdout
    kept = [file.suffix for file in there.rglob("*") if file.is_file()]
    assert set(kept) == {".json", ".cubin", ".source"}
    there.rename(here)
    assert gpu_cache.relocate(here) == first.stdout.count("False")
    second = python(code.replace("SAMPLES", "4096"), TRITON_CACHE_DIR=str(here))
    assert second.returncode == 0, second.stderr
    assert second.stdout == first.stdout.replace("False", "True")
