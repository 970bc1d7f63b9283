"""What the compiled code of a kernel says about it: resources on every target, instructions of the hot loop on NVIDIA.

The disassembler comes with triton; no GPU and no CUDA toolkit is needed.
"""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import CompiledKernel

# the first that matches an opcode (without its ".suffixes") is its class
_CLASSES = {
    "special": r"MUFU",
    "double": r"D(ADD|FMA|MUL|SETP|MNMX|SET|MMA)",
    "matrix": r"[A-Z]*MMA",
    "shuffle": r"SHFL|REDUX",
    "global": r"LDG|STG|LDGSTS|LD|ST|REDG?|ATOMG?|UTMA\w+|UBLK\w+",
    "shared": r"LDSM?|STSM?|ATOMS|LDTM|STTM",
    "local": r"LDL|STL",
    "conversion": r"[FI]2\w+|FRND",
    "fma": r"[FH](FMA|ADD|MUL)\w*",
    "fp32_alu": r"F(MNMX3?|SEL|SETP|SET|CHK)|H(MNMX2|SETP2|SET2)",
    "imad": r"IMAD|IDP\w*",
    "uniform": r"U\w+|R2UR|S2UR",
    "integer": r"IADD\w*|ISETP|IMNMX\w*|IABS|VI\w+|P?LOP3|SHF|LEA|PRMT|SEL|MOV|BMSK|SGXT|POPC|FLO|[RP]2[RP]|CS2R",
}
CLASSES = (*_CLASSES, "other")
_PATTERNS = {name: re.compile(pattern) for name, pattern in _CLASSES.items()}
_LABEL = re.compile(r"\s*(\.L_x_\d+):")
_INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)")
_TARGET = re.compile(r"`\((\.L_x_\d+)\)")


def classify(opcode: str) -> str:
    base = opcode.split(".")[0]
    return next((name for name, pattern in _PATTERNS.items() if pattern.fullmatch(base)), "other")


@dataclass
class Loop:
    """Instructions start .. end - 1 of a listing, the last of them the branch back; the whole kernel is one as well."""

    start: int
    end: int
    inside: list["Loop"] = field(default_factory=list)  # the loops directly within

    def innermost(self) -> list["Loop"]:
        return [leaf for loop in self.inside for leaf in loop.innermost()] or [self]

    def around(self, other: "Loop") -> "Loop | None":
        """The loop within this one, or itself, that `other` stands directly in."""
        if any(loop is other for loop in self.inside):
            return self
        return next((found for loop in self.inside if (found := loop.around(other))), None)


@dataclass(frozen=True)
class Listing:
    opcodes: list[str]
    body: Loop

    @classmethod
    def parse(cls, text: str) -> "Listing":
        """The one kernel in what nvdisasm -c prints."""
        opcodes: list[str] = []
        labels: dict[str, int] = {}
        branches: list[tuple[int, str]] = []
        for line in text.splitlines():
            if label := _LABEL.match(line):
                labels[label[1]] = len(opcodes)
            elif instruction := _INSTRUCTION.match(line):
                if instruction[1].startswith("BRA") and (target := _TARGET.search(instruction[2])):
                    if labels.get(target[1]) == len(opcodes):
                        break  # a branch to itself stops runaway fetches at the end of a kernel: padding follows
                    branches.append((len(opcodes), target[1]))
                opcodes.append(instruction[1])
        ends: dict[int, int] = {}
        for place, target_label in branches:
            if (start := labels.get(target_label, place + 1)) <= place:  # backward
                ends[start] = max(place + 1, ends.get(start, 0))
        body = Loop(0, len(opcodes))
        for start, end in sorted(ends.items(), key=lambda loop: loop[0] - loop[1]):  # longest first
            parent = body
            while outer := next((loop for loop in parent.inside if loop.start <= start and end <= loop.end), None):
                parent = outer
            parent.inside = sorted([*parent.inside, Loop(start, end)], key=lambda loop: loop.start)
        return cls(opcodes, body)

    def own(self, loop: Loop) -> Counter[str]:
        """Instructions by class of a loop without those of the loops inside it."""
        counts = Counter(classify(opcode) for opcode in self.opcodes[loop.start : loop.end])
        for inner in loop.inside:
            counts -= Counter(classify(opcode) for opcode in self.opcodes[inner.start : inner.end])
        return counts

    def hot(self, trips: Sequence[float] = ()) -> dict[str, float]:
        """Instructions by class of one iteration of the hot loop; for the rule see variant.Variant."""
        largest = max(self.body.innermost(), key=lambda loop: loop.end - loop.start)
        around = self.body.around(largest) if trips else largest
        loops = around.inside if around else []
        if around is None or len(loops) != len(trips) or any(loop.inside for loop in loops):
            found = [len(loop.inside) for loop in loops]
            raise ValueError(
                f"{len(trips)} trips are given, but the hot loop's loops hold {found} loops: one trip each"
            )
        counts: dict[str, float] = dict(self.own(around))
        for loop, times in zip(loops, trips, strict=True):
            for name, count in self.own(loop).items():
                counts[name] = counts.get(name, 0) + times * count
        return counts


def _tool(name: str, *arguments: str, code: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(code)
        command = [getattr(triton.knobs.nvidia, name).path, *arguments, str(file)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def disassemble(cubin: bytes) -> str:
    return _tool("nvdisasm", "-c", code=cubin)


def without_unrolling(kernel: CompiledKernel, arch: int) -> bytes:
    """The kernel assembled with its loops as they are written.

    How often the assembler unrolls a loop cannot be read from its machine code, so an iteration could not be told.
    """
    ptx, found = re.subn(r"(?m)^(\.address_size 64)$", r'\1\n.pragma "nounroll";', kernel.asm["ptx"])
    machine = re.search(r"(?m)^\.target (\w+)", ptx)
    if found != 1 or machine is None:
        raise ValueError("the kernel's PTX has no .address_size or .target line where one was wanted")
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx)
        command = [get_ptxas(arch).path, f"--gpu-name={machine[1]}", str(source), "-o", str(result)]
        subprocess.run(command, check=True, capture_output=True)
        return result.read_bytes()


def resources(kernel: CompiledKernel, target: GPUTarget) -> dict[str, Any]:
    """registers a thread; spills, double and tf32 in instructions; stack and shared in bytes (a thread, a block)."""
    if target.backend == "hip":
        code = kernel.asm["amdgcn"]
        note = {name: int(value) for name, value in re.findall(r"(?m)^\s*\.(\w+):\s+(\d+)\s*$", code)}
        return {
            "registers": note["vgpr_count"],
            "spills": note["vgpr_spill_count"],
            "stack": note["private_segment_fixed_size"],
            "shared": kernel.metadata.shared,
            "double": len(re.findall(r"\bv_\w*_f64", code)),
            "tf32": code.count("xf32"),
        }
    cubin, ptx = kernel.asm["cubin"], kernel.asm["ptx"]
    usage = _tool("cuobjdump", "--dump-resource-usage", code=cubin)
    used = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    stack = used["STACK"] + used["LOCAL"]
    spills = double = 0
    # A register is spilled to the stack, and double is in the machine code only where it is in PTX: without either the
    # disassembler, which takes as long as the compiler, has nothing to tell.
    if stack or re.search(r"\.f64\b", ptx):
        text = disassemble(cubin)
        classes = Counter(classify(found[1]) for line in text.splitlines() if (found := _INSTRUCTION.match(line)))
        spills = classes["local"]
        # .F64 finds conversions and comparisons to it, RCP64H the reciprocal
        double = classes["double"] + len(re.findall(r"\.F64|64H\b", text))
    return {
        "registers": used["REG"],
        "spills": spills,
        "stack": stack,
        "shared": kernel.metadata.shared,
        "double": double,
        "tf32": len(re.findall(r"tf32", ptx, re.IGNORECASE)),
    }
