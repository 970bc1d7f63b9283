"""What the Triton kernels cost by their machine code: instructions an element, registers, and the time that implies.

python -m benchmarks.static_cost [NAME ..] [--json PATH] [--arch 90]

Needs no GPU. Nothing here is measured: the times are the least that an H200's issue slots, units and memory allow for
the instructions counted, with every unit busy all the time. How the hot loop is chosen stands in
variants.py; branches inside it count as if both sides were run, code before and after it not at all.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from triton.backends.compiler import GPUTarget

from benchmarks.record import provenance
from benchmarks.static_cost.sass import CLASSES, Listing, disassemble, resources, without_unrolling
from benchmarks.static_cost.table import columns, time_columns
from benchmarks.static_cost.variants import VARIANTS, Variant, Workload

LABEL = "implied by machine code, not measured"

# H200, sm_90
SMS, CLOCK = 132, 1.98e9
MEMORY_BANDWIDTH = 4.8e12  # bytes a second
MATRIX_FLOPS = {"bf16": 989e12, "fp16": 989e12, "tf32": 495e12}  # dense, a second
WARPS, BLOCKS, REGISTERS, SHARED = 64, 32, 65_536, 228 * 1024  # an SM
# lanes an SM serves a clock, and the instruction classes that share them; issue slots serve every class
PIPES: dict[str, tuple[int, tuple[str, ...]]] = {
    "issue": (128, CLASSES),
    "special": (16, ("special",)),
    "alu": (64, ("fp32_alu", "integer", "conversion")),
    "shuffle": (32, ("shuffle",)),
}


def occupancy(registers: int, shared: int, num_warps: int) -> float:
    """The part of an SM's 64 warps that can be resident; registers a thread, shared bytes a block."""
    # each of the 4 partitions gives a warp registers by the 256
    warp_registers = -(-max(registers, 1) * 32 // 256) * 256
    by_registers = REGISTERS // 4 // warp_registers * 4 // num_warps
    by_shared = SHARED // (shared + 1024)  # the system keeps 1 KiB a block
    return min(by_registers, by_shared, WARPS // num_warps, BLOCKS) * num_warps / WARPS


def times(per_element: dict[str, float], work: Workload) -> dict[str, float]:
    """Seconds on an H200 by what bounds them; "implied" is the largest."""
    bounds = {
        pipe: work.elements * sum(per_element[name] for name in classes) / (lanes * SMS * CLOCK)
        for pipe, (lanes, classes) in PIPES.items()
    }
    bounds["memory"] = work.bytes / MEMORY_BANDWIDTH
    bounds["matrix"] = work.flops / MATRIX_FLOPS[work.matrix]
    return {**bounds, "implied": max(bounds.values())}


def cost(variant: Variant, arch: int) -> dict[str, Any]:
    """One row. Occupancy and times are None but for sm_90."""
    target = GPUTarget("cuda", arch, 32)
    kernel = variant.compile(target)
    used = resources(kernel, target)
    built = Listing.parse(disassemble(kernel.asm["cubin"])).hot(variant.trips)
    counts = Listing.parse(disassemble(without_unrolling(kernel, arch))).hot(variant.trips)
    # an instruction serves the 32 lanes of a warp
    lanes = 32 * variant.num_warps / variant.per_iteration
    per_element = {name: counts.get(name, 0) * lanes for name in CLASSES}
    known = arch == 90
    return {
        "name": variant.name,
        "unit": variant.unit,
        "per_element": {name: round(value, 3) for name, value in per_element.items()},
        "total": round(sum(per_element.values()), 3),
        "as_built": built == counts,
        "num_warps": variant.num_warps,
        "registers": used["registers"],
        "shared": used["shared"],
        "occupancy": occupancy(used["registers"], used["shared"], variant.num_warps) if known else None,
        "times": {size: times(per_element, work) for size, work in variant.workloads.items()} if known else None,
    }


def _plain(table: list[dict[str, str]]) -> str:
    if not table:
        return ""
    lines = [list(table[0]), *([*row.values()] for row in table)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="variants to compile (default: all)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--arch", type=int, default=90, help="compute capability; times are known for 90 alone")
    options = parser.parse_args()
    known = {variant.name: variant for variant in VARIANTS if variant.workloads}
    if unknown := set(options.names) - set(known):
        parser.error(f"no variant is called {sorted(unknown)}; there are {sorted(known)}")
    rows = [cost(known[name], options.arch) for name in options.names or known]
    record = provenance()
    print(f"Instructions an element, sm_{options.arch}: {LABEL}.")
    print(_plain([columns(row) for row in rows]))
    if not all(row["as_built"] for row in rows):
        print("≤: the assembler unrolls this loop; counted as written, at most what an element costs")
    if table := [line for row in rows for line in time_columns(row)]:
        print(f"\nTime on an H200 ({SMS} SMs, {CLOCK / 1e9:g} GHz): {LABEL}.")
        print(_plain(table))
    if options.json:
        options.json.write_text(json.dumps({**record, "label": LABEL, "arch": options.arch, "rows": rows}, indent=1))
