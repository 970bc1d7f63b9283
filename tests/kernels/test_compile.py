"""Every kernel compiles for four architectures, as it would be launched; no GPU is needed.

Every variant for all four with COMPILE=all in the environment (`make compile`), which takes many minutes; else for one
architecture of each maker a variant of every kernel, one with masks too, and for NVIDIA's those that the table of costs
is of: its test, in tests/benchmarks/test_static_cost.py, finds them compiled.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton")

ROOT = Path(__file__).parent.parent.parent
BASELINE = ROOT / "benchmarks" / "results" / "static_cost.json"
EVERYTHING = os.environ.get("COMPILE") == "all"
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx942") if EVERYTHING else ("sm_90", "gfx942")
# the kernels are interpreted in a process where some test has set TRITON_INTERPRET: compile in one of its own
COMPILE = """
import importlib, inspect, json, multiprocessing, os, pkgutil, sys
import unihpe_kernels
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction
from benchmarks.static_cost.variants import VARIANTS
from benchmarks.static_cost.sass import resources

targets = {f"sm_{arch}": GPUTarget("cuda", arch, 32) for arch in (80, 90, 100)}
targets["gfx942"] = GPUTarget("hip", "gfx942", 64)
targets = {name: targets[name] for name in sys.argv[1:]}

def compile(job):
    number, name = job
    variant, target = VARIANTS[number], targets[name]
    try:
        used = resources(variant.compile(target), target)
    except Exception as error:
        used = {"error": f"{type(error).__name__}: {error}"}
    budget = {
        "max_registers": variant.max_vgprs if target.backend == "hip" else variant.max_registers,
        "allow_tf32": variant.allow_tf32,
    }
    return f"{variant.name}, {name}", {**used, **budget}

# the longest stand last there: they should not be what the others have long ended before
everything = os.environ.get("COMPILE") == "all"
chosen = [v.targets if everything or v.tested is None else v.tested for v in VARIANTS]
chosen = [[name for name in names if name in targets] for names in chosen]
if not everything:
    taken = set()
    for variant, names in zip(VARIANTS, chosen, strict=True):
        form = variant.kernel, bool(variant.constexprs.get("MASKED"))
        of_table = ["sm_90"] if variant.workloads else []
        names[:] = [name for name in names if name in of_table or (*form, name) not in taken]
        taken |= {(*form, name) for name in names}
jobs = [(number, name) for number, names in enumerate(chosen) for name in names][::-1]
with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
    found = dict(pool.imap_unordered(compile, jobs))
launched = set()
for module in pkgutil.walk_packages(unihpe_kernels.__path__, "unihpe_kernels."):
    for value in vars(importlib.import_module(module.name)).values():
        source = inspect.getsource(value.fn) if isinstance(value, JITFunction) else ""
        if "tl.store" in source and not value.fn.__name__.startswith("store_"):  # the others are helpers
            launched.add(f"{value.fn.__module__}.{value.fn.__name__}")
listed = {name: set() for name in launched}
for variant, names in zip(VARIANTS, chosen, strict=True):
    listed.setdefault(f"{variant.kernel.fn.__module__}.{variant.kernel.fn.__name__}", set()).update(names)
missing = {name: sorted(targets.keys() - on) for name, on in listed.items() if targets.keys() - on}
print(json.dumps({"found": found, "missing": missing}))
"""


@pytest.fixture(scope="module")
def compiled() -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", COMPILE, *ARCHITECTURES]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_kernel_that_is_launched_is_compiled_for_every_architecture(compiled: dict[str, Any]) -> None:
    assert compiled["missing"] == {}, "add them to benchmarks/static_cost/variants.py"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_registers_hold_everything_and_nothing_is_double_or_tf32(compiled: dict[str, Any], architecture: str) -> None:
    found = {name: used for name, used in compiled["found"].items() if name.endswith(f", {architecture}")}
    assert found
    # another triton compiles and must not use double or TF32 either, but hands out registers in its own way
    tested = json.loads(BASELINE.read_text())["versions"]["triton"] == triton.__version__
    faults = []
    for name, used in found.items():
        if "error" in used:
            faults.append(f"{name}: {used['error']}")
            continue
        wrong = {"double": used["double"]} if used["double"] else {}
        if used["tf32"] and not used["allow_tf32"]:
            wrong["tf32"] = used["tf32"]
        if tested and (used["spills"] or used["stack"]):
            wrong |= {"spills": used["spills"], "stack": used["stack"]}
        if tested and used["registers"] > used["max_registers"]:
            wrong["registers"] = f"{used['registers']}, the budget is {used['max_registers']}"
        if wrong:
            faults.append(f"{name}: {wrong}")
    assert not faults, "\n".join(faults)
