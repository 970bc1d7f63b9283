"""A Triton kernel as it is launched, which compiles without a GPU."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

# file of settings -> the targets that it is for
TARGETS = {"": ("sm_80", "sm_90", "sm_100"), "sm_90": ("sm_90",), "hip": ("gfx942",)}


@dataclass(frozen=True)
class Workload:
    """One launch at a named size."""

    elements: float  # in the variant's unit
    bytes: float = 0  # read from and written to device memory, once each
    flops: float = 0  # of matrix products on the matrix units; two a multiply-add
    matrix: str = "bf16"  # their operand type, a key of static_cost.MATRIX_FLOPS


@dataclass(frozen=True)
class Variant:
    """A kernel with its argument types and compile-time constants.

    `signature` gives every argument that is not in `constexprs`: "*fp32", "*bf16", "i32", "fp32", ..
    `per_iteration` is how many elements (of `unit`) a program handles in one iteration of its hot loop, or in all when
    there is no loop. The hot loop is the innermost loop with the most instructions or, with `trips`, the loop around
    that one (else the whole kernel); `trips` says how often each of the loops directly inside runs then, in the order
    of the machine code.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    unit: str  # "triple", "pair", "pose", ..
    per_iteration: float
    max_registers: int  # a thread on NVIDIA; the budget that test_compile.py holds the kernel to
    workloads: Mapping[str, Workload] = field(default_factory=dict)  # none: compiled in tests, no row in the table
    num_warps: int = 4
    num_stages: int = 3  # triton's default, here as in a launch
    divisible: tuple[str, ...] = ()  # pointers aligned to 16 bytes and integers that are multiples of 16
    trips: tuple[float, ...] = ()
    max_vgprs: int = 256  # a lane on AMD; 512 leave room for one wave a SIMD
    allow_tf32: bool = False
    targets: tuple[str, ...] = ("sm_80", "sm_90", "sm_100", "gfx942")
    tested: tuple[str, ...] | None = None  # those of the targets that `make test` compiles for; None: all

    def compile(self, target: GPUTarget) -> CompiledKernel:
        """Machine code for `target`; needs no GPU. ValueError when the arguments are not the kernel's."""
        if triton.knobs.runtime.interpret:
            raise RuntimeError("TRITON_INTERPRET is set: the kernels are interpreted, not compiled; unset it")
        names = self.kernel.arg_names
        if wrong := {*self.signature, *self.constexprs} ^ set(names) | {*self.divisible} - {*self.signature}:
            raise ValueError(f"{self.name}: not in both the kernel's arguments and the variant's: {sorted(wrong)}")
        signature = {name: self.signature.get(name, "constexpr") for name in names}
        attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in self.divisible}
        source = ASTSource(self.kernel, signature, dict(self.constexprs), attributes)
        options = {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True}
        return triton.compile(source, target=target, options=options)
