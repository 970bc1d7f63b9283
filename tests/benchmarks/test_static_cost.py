import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402

from benchmarks import report, static_cost  # noqa: E402
from benchmarks.static_cost.sass import Listing, classify, resources  # noqa: E402
from benchmarks.static_cost.table import columns  # noqa: E402
from benchmarks.static_cost.variants import VARIANTS, Variant, Workload  # noqa: E402

ROOT = Path(__file__).parent.parent.parent
BASELINE = ROOT / "benchmarks" / "results" / "static_cost.json"


@triton.jit
def straight(x, y, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.exp2(tl.load(x + i)))


@triton.jit
def looped(x, y, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for row in range(n):
        total += tl.exp2(tl.load(x + row * BLOCK + i))
    tl.store(y + i, total)


@triton.jit
def nested(x, z, y, n, d, BLOCK: tl.constexpr, STEP: tl.constexpr):
    i = tl.arange(0, BLOCK)
    k = tl.arange(0, STEP)
    total = tl.zeros([BLOCK], tl.float32)
    for j in range(0, n, BLOCK):
        product = tl.zeros([BLOCK, BLOCK], tl.float32)
        for at in range(0, d, STEP):
            a = tl.load(x + i[:, None] * d + at + k)
            b = tl.load(z + (j + i[:, None]) * d + at + k)
            product = tl.dot(a, b.T, product)
        total += tl.sum(tl.exp2(product), 1)
    tl.store(y + i, total)


@triton.jit
def doubled(x, y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    value = tl.load(x + i).to(tl.float64)
    tl.store(y + i, (value * value + 1).to(tl.float32))


@triton.jit
def crowded(x, y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    value = tl.load(x + i)
    tl.store(y + i, value * tl.sum(value))  # the sum needs all of them, so all are held


@triton.jit
def product(x, y, SIZE: tl.constexpr, PRECISION: tl.constexpr):
    i = tl.arange(0, SIZE)
    tile = i[:, None] * SIZE + i
    a = tl.load(x + tile)
    tl.store(y + tile, tl.dot(a, a, input_precision=PRECISION))


POINTERS = {"x": "*fp32", "y": "*fp32"}


def _toy(kernel, signature=POINTERS, per_iteration=1.0, **more) -> Variant:
    options = {"max_registers": 64, "num_warps": 1, **more}
    return Variant(kernel.__name__, kernel, signature, options.pop("constexprs"), "element", per_iteration, **options)


def _toys() -> dict[str, Variant]:
    counted = {**POINTERS, "n": "i32"}
    flash = {"x": "*bf16", "z": "*bf16", "y": "*fp32", "n": "i32", "d": "i32"}
    shape = {"BLOCK": 64, "STEP": 32}
    return {
        "straight": _toy(straight, constexprs={"BLOCK": 256}, per_iteration=256),
        "looped": _toy(looped, counted, constexprs={"BLOCK": 128}, per_iteration=128, num_warps=4),
        "looped wide": _toy(looped, counted, constexprs={"BLOCK": 1024}, per_iteration=1024, num_warps=4),
        "nested": _toy(nested, flash, constexprs=shape, per_iteration=64 * 64, num_warps=4, num_stages=3, trips=(16,)),
        "pipelined": _toy(nested, flash, constexprs=shape, per_iteration=64 * 32, num_warps=4, num_stages=3),
    }


def _broken() -> dict[str, Variant]:
    return {
        "crowded": _toy(crowded, constexprs={"BLOCK": 32768}),
        "double": _toy(doubled, constexprs={"BLOCK": 32}),
        "tf32": _toy(product, constexprs={"SIZE": 32, "PRECISION": "tf32"}, num_warps=4),
        "fine": _toy(product, constexprs={"SIZE": 32, "PRECISION": "ieee"}, num_warps=4),
    }


def dump() -> None:
    """What the tests look at, as JSON; for a process of its own, where kernels are compiled."""
    found = {
        arch: {
            name: resources(variant.compile(target), target)
            for name, variant in _broken().items()
            if arch != "gfx942" or name != "crowded"  # takes it half a minute
        }
        for arch, target in (("90", GPUTarget("cuda", 90, 32)), ("gfx942", GPUTarget("hip", "gfx942", 64)))
    }
    print(json.dumps({"rows": {name: static_cost.cost(v, 90) for name, v in _toys().items()}, "resources": found}))


def _run(*arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def toys() -> dict[str, Any]:
    return json.loads(_run("-c", "from tests.benchmarks.test_static_cost import dump; dump()"))


def test_instructions_an_element_are_those_of_the_source(toys: dict[str, Any]) -> None:
    rows = toys["rows"]
    for name, classes in {
        # what the kernels above say, an element; "global" differs with the width of the loads
        "straight": {"special": 1, "fma": 0, "matrix": 0, "double": 0},
        "looped": {"special": 1, "fma": 1, "global": 1, "imad": 1},
        "looped wide": {"special": 1, "fma": 1, "global": 1},
        # 64 x 64 exp2 once for 16 steps of the product
        "nested": {"special": 1, "matrix": 1, "double": 0},
        "pipelined": {"special": 0, "fma": 0},
    }.items():
        assert {key: rows[name]["per_element"][key] for key in classes} == pytest.approx(
            classes, abs=0.13 * (name == "nested")
        ), name
        assert rows[name]["total"] == pytest.approx(sum(rows[name]["per_element"].values()), abs=0.01)


def test_a_loop_that_the_assembler_unrolls_is_counted_as_written_and_marked(toys: dict[str, Any]) -> None:
    rows = toys["rows"]
    assert not rows["looped"]["as_built"]
    assert columns(rows["looped"])["total"].startswith("≤")
    assert rows["straight"]["as_built"]


def test_the_report_shows_counts_and_times_and_that_they_are_not_measured() -> None:
    count = dict.fromkeys(static_cost.CLASSES, 0.0) | {"special": 4.0, "imad": 1.5, "integer": 2.0, "uniform": 0.25}
    row = {"name": "a kernel", "unit": "triple", "per_element": count, "total": 7.75, "as_built": True}
    row |= {"registers": 96, "shared": 256, "occupancy": 0.3125}
    row["times"] = {"B = 8": static_cost.times(count, Workload(1e9))}
    record = {"rows": [row], "arch": 90, "label": static_cost.LABEL, "commit": "0123456789abcdef", "date": "2026-01-01"}
    text = report.static_cost_table({**record, "versions": {"triton": "9"}})
    assert "| a kernel | B = 8 | triple | 7.75 | 4.00 | 96 | 31% | 0.232 | 0.957 | 0.000 | 0.000 | 0.957 |" in text
    assert "not measured" in text
    assert "0123456789; triton 9" in text


def test_resources_show_spills_double_and_tf32(toys: dict[str, Any]) -> None:
    for arch, found in toys["resources"].items():
        assert found["fine"]["registers"] > 0
        assert found["fine"]["shared"] > 0
        for fault in ("spills", "stack", "double", "tf32"):
            assert found["fine"][fault] == 0, (arch, fault)
        assert found["double"]["double"] > 0, arch
        assert found["tf32"]["tf32"] > 0, arch
    assert toys["resources"]["90"]["crowded"]["spills"] > 0
    assert toys["resources"]["90"]["crowded"]["stack"] > 0


LISTING = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_3:
        /*0010*/                   MUFU.EX2 R2, R2 ;
.L_x_0:
        /*0020*/                   FFMA R2, R2, R2, R2 ;
        /*0030*/                   FADD R3, R3, R2 ;
        /*0040*/                   LDG.E R4, desc[UR4][R2.64] ;
        /*0050*/              @!P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0060*/                   SHFL.BFLY PT, R3, R2, 0x10, 0x1f ;
        /*0070*/                   FSETP.GT.AND P1, PT, R3, R2, PT ;
        /*0080*/               @P2 BRA `(.L_x_2) ;
        /*0090*/                   HFMA2.MMA R3, -RZ, RZ, 0, 0 ;
.L_x_2:
        /*00a0*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24 ;
        /*00b0*/             @!UP0 BRA P1, `(.L_x_1) ;
        /*00c0*/               @P3 BRA `(.L_x_3) ;
        /*00d0*/                   EXIT ;
.L_x_4:
        /*00e0*/                   BRA `(.L_x_4);
        /*00f0*/                   NOP;
.L_x_5:
"""


def test_loops_of_a_listing() -> None:
    listing = Listing.parse(LISTING)
    assert len(listing.opcodes) == 14  # without the trap and its padding
    (outer,) = listing.body.inside
    assert [(loop.start, loop.end) for loop in outer.inside] == [(2, 6), (6, 12)]
    assert listing.own(outer) == {"special": 1, "other": 1}
    second = {"shuffle": 1, "fp32_alu": 1, "other": 2, "fma": 1, "matrix": 1}
    assert listing.hot() == second
    assert listing.hot((10, 100)) == {
        "special": 1, "other": 1 + 10 + 200, "fma": 20 + 100, "global": 10, "shuffle": 100, "fp32_alu": 100,
        "matrix": 100,
    }  # fmt: skip
    for trips in ((10,), (1, 2, 3)):
        with pytest.raises(ValueError, match="one trip each"):
            listing.hot(trips)
    alone = Listing.parse("        /*0000*/   MUFU.RSQ R2, R2 ;\n        /*0010*/   EXIT ;\n")
    assert alone.hot() == {"special": 1, "other": 1}
    with pytest.raises(ValueError, match="one trip each"):
        alone.hot((2,))


@pytest.mark.parametrize(
    ("opcode", "expected"),
    [
        ("FMNMX", "fp32_alu"), ("IMAD.MOV.U32", "imad"), ("F2FP.BF16.F32.PACK_AB", "conversion"), ("DFMA", "double"),
        ("UTCHMMA", "matrix"), ("UTMALDG.2D", "global"), ("UIADD3", "uniform"), ("LDSM.16.M88.4", "shared"),
        ("STL.64", "local"), ("ATOMS.ADD", "shared"), ("RED.E.ADD.F32.FTZ.RN.STRONG.GPU", "global"), ("LDC", "other"),
        ("FFMA2", "fma"), ("HADD2.F32", "fma"), ("VIADD", "integer"),
        ("I2FP.F32.S32", "conversion"), ("BAR.SYNC", "other"),
    ],
)  # fmt: skip
def test_classes_of_instructions(opcode: str, expected: str) -> None:
    assert classify(opcode) == expected


def test_occupancy_is_limited_by_registers_shared_memory_warps_and_blocks() -> None:
    assert static_cost.occupancy(32, 0, 4) == 1
    assert static_cost.occupancy(128, 0, 4) == 16 / 64
    assert static_cost.occupancy(168, 0, 4) == 12 / 64
    assert static_cost.occupancy(255, 0, 8) == 8 / 64
    assert static_cost.occupancy(32, 0, 1) == 32 / 64
    assert static_cost.occupancy(32, 113 * 1024, 4) == 8 / 64
    assert static_cost.occupancy(32, 114 * 1024, 4) == 4 / 64


def test_implied_times_are_those_of_the_paper_limit() -> None:
    """1024^3 triples of 4 special functions in 42 instructions: 1.03 and 1.35 ms on an H200."""
    count = dict.fromkeys(static_cost.CLASSES, 0.0) | {"special": 4.0, "fma": 36.0, "integer": 2.0}
    found = static_cost.times(count, Workload(1024**3, bytes=4.8e9, flops=98.9e9))
    assert found["special"] == pytest.approx(1.027e-3, rel=1e-3)
    assert found["issue"] == pytest.approx(1.348e-3, rel=1e-3)
    assert found["alu"] == pytest.approx(1024**3 * 2 / (64 * 132 * 1.98e9))
    assert found["memory"] == pytest.approx(1e-3)
    assert found["matrix"] == pytest.approx(1e-4)
    assert found["implied"] == found["issue"]


def test_a_variant_that_does_not_fit_its_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    target = GPUTarget("cuda", 90, 32)
    with pytest.raises(ValueError, match=r"straight: .*\['BLOCK', 'n'\]"):
        _toy(straight, {**POINTERS, "n": "i32"}, constexprs={}).compile(target)
    with pytest.raises(ValueError, match=r"\['z'\]"):
        _toy(straight, constexprs={"BLOCK": 32}, divisible=("z",)).compile(target)
    monkeypatch.setattr(triton.knobs.runtime, "interpret", True)
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"):
        _toy(straight, constexprs={"BLOCK": 32}).compile(target)


def test_the_kernels_cost_no_more_than_the_committed_table(tmp_path: Path) -> None:
    regenerate = "if it is meant: python -m benchmarks.static_cost --json benchmarks/results/static_cost.json"
    record = json.loads(BASELINE.read_text())
    if record["versions"]["triton"] != triton.__version__:
        pytest.skip(f"the table is of triton {record['versions']['triton']}, this is {triton.__version__}")
    _run("-m", "benchmarks.static_cost", "--json", str(tmp_path / "now.json"))
    before = {row["name"]: row for row in record["rows"]}
    now = {row["name"]: row for row in json.loads((tmp_path / "now.json").read_text())["rows"]}
    assert set(now) == set(before) == {variant.name for variant in VARIANTS if variant.workloads}, (
        f"rows came or went; {regenerate}"
    )
    worse = [
        f"{name}: {what} {read(before[name])} -> {read(row)}"
        for name, row in now.items()
        for what, read in {
            "instructions": lambda row: row["total"],
            "special functions": lambda row: row["per_element"]["special"],
            "registers": lambda row: row["registers"],
        }.items()
        if read(row) > read(before[name])
    ]
    assert not worse, f"{worse}; {regenerate}"
