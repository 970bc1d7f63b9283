"""The Triton kernels as they are launched, for what is known of them without a GPU: benchmarks/static_cost.py reads
their machine code, tests/kernels/test_compile.py compiles them for four architectures.

A new kernel is one more entry of `VARIANTS`; tests/kernels/test_compile.py names the kernels that have none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from unihpe_kernels.contrastive.triton import kernels_all, kernels_both_ways, kernels_one_way, kernels_samples
from unihpe_kernels.contrastive.triton.backend import how_many
from unihpe_kernels.procrustes import kernels as kernels_poses
from unihpe_kernels.scores import SCORES
from unihpe_kernels.small_linalg import gram_kernels, svd3x3_kernels
from unihpe_kernels.tuned import choose


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


# What keeps a compiler busy for ten seconds and more is compiled for some targets in `make test`, where a smaller
# variant of the same kernel is for all four; `make compile` leaves nothing out.
_SLOW = ("sm_90", "gfx942")
# file of settings -> the targets that it is for
_TARGETS = {"": ("sm_80", "sm_90", "sm_100"), "nvidia-h200": ("sm_90",), "hip": ("gfx942",)}


def _sv_all(
    kernel: Any,
    setting: str,
    batch: int,
    scalars: str,
    max_registers: int,
    masked: bool = False,
    slab: bool = False,
) -> Variant:
    """A kernel over triples with the settings that it has at `batch`, for which its workload is.

    slab: with first samples of their own.
    """
    options = choose(("default",), setting, batch)
    tile_j, tile_k = options["tile_j"], options["tile_k"]
    integers = dict.fromkeys(scalars.split(), "i32")
    constants = {"MASKED": masked, "TILE_J": tile_j, "TILE_K": tile_k} | ({} if masked else {"complete": None})
    if slab:
        integers["slab"] = "i32"
    else:
        constants["slab"] = None
    if kernel is kernels_all.sv_all_backward:
        constants["FIRST"] = not masked
    pointers = {name: "*fp32" for name in kernel.arg_names if name not in constants and name not in integers}
    if masked:
        pointers["complete"] = "*u8"
    return Variant(
        name=f"{setting} {tile_j}x{tile_k}" + ", masked" * masked + ", slab" * slab,
        kernel=kernel,
        signature={**pointers, **integers},
        constexprs=constants,
        unit="triple",
        per_iteration=tile_j * tile_k,
        max_registers=max_registers,
        # the Gram matrices once, and as much again for the pieces of the results
        workloads={} if masked or slab else {f"B = {batch}": Workload(batch**3, 4 * 3 * batch**2 * 2)},
        num_warps=options["num_warps"],
        divisible=(*pointers, "n", "ld"),
    )


_H200 = "B = 65,536"


def _block(
    direction: str,
    score: str,
    num_modalities: int,
    table: str = "",
    way: str = "rows",
    tested: tuple[str, ...] | None = ("sm_90",),
    row: bool = False,
    **flags: bool,
) -> Variant:
    """A kernel over a block of products of which both ways are wanted, with the settings for 4096 by a file.

    Up to three modalities both ways are taken at once; beyond, by `way`. flags, of which unnamed ones are
    off: diagonal, both, sigmoid, moments, levels (and totals), masked, sought, odd (blocks that 16 does not divide).
    row: of the table, with a workload.
    """
    at_once = num_modalities <= 3
    kind = "both_ways" if at_once else "one_way"
    module = kernels_both_ways if at_once else kernels_one_way
    kernel, functions = getattr(module, f"{kind}_{direction}"), SCORES[score].triton
    on = {
        name: flags.get(name, False)
        for name in ("diagonal", "both", "sigmoid", "moments", "levels", "masked", "sought")
    }
    more = "_more" if kind + direction == "both_waysforward" and (on["both"] or on["sigmoid"]) else ""
    options = choose(("default", table), f"{kind}_{direction}_{how_many(num_modalities)}{more}", 4096)
    members, anchors = num_modalities - 1, (1 << num_modalities) - 1
    sums = members * (members - 1) // 2 if on["masked"] else functions.num_sums(members)
    two_ways = not on["diagonal"]
    tiles = {"TILE_I": options.get("tile_i"), "TILE_J": options.get("tile_j")}
    if not at_once:
        long, short = options["tile_long"], options["tile_short"]
        tiles = {"TILE_A": short, "TILE_T": long} if way == "rows" else {"TILE_A": long, "TILE_T": short}
    known = {
        "M": num_modalities, "ANCHORS": anchors, "MEMBERS": functions.members, "SCORE": functions.score,
        "GRADIENT": functions.gradient, "OWN": functions.own, "SUMS": sums, "TWO_WAYS": two_ways,
        "WHOLE_SCORE": getattr(functions, "whole_score", None),
        "WHOLE_GRADIENT": getattr(functions, "whole_gradient", None), "COUNT": functions.num_members_entries(members),
        "OF_ROWS": way == "rows", "DIAGONAL": on["diagonal"], "BOTH": on["both"], "SIGMOID": on["sigmoid"],
        "MOMENTS": on["moments"], "TOTALS": on["levels"], "MASKED": on["masked"], "SOUGHT": on["sought"], **tiles,
    }  # fmt: skip
    absent = {
        "codes_": not on["masked"], "centers_": not on["moments"], "bias": not on["sigmoid"],
        "tuple_rows": not on["both"] or not two_ways, "tuple_columns": not on["both"], "of_tuples": not on["both"],
        "by_tuple": not on["both"], "level": not on["levels"], "tuple_level": not (on["levels"] and on["both"]),
        "anchor_columns": not two_ways, "level_columns": not (on["levels"] and two_ways), "sums_": not sums,
        "sums_rows": not sums or not two_ways,
        "tuple_level_rows": not (on["levels"] and on["both"] and two_ways), "members": on["masked"],
    }  # fmt: skip
    constants = {name: value for name, value in known.items() if name in kernel.arg_names}
    for start, is_absent in absent.items():
        if is_absent:
            constants |= {name: None for name in kernel.arg_names if name.startswith(start)}
    types = {"middle": "fp32", "codes_rows": "*i32", "codes_columns": "*i32", "codes_anchors": "*i32"}
    types |= {"codes_tuples": "*i32"}
    integers = ("num_rows", "num_columns", "num_anchors", "num_tuples", "length", "one", "modalities", "written")
    types |= dict.fromkeys(integers, "i32")
    signature = {name: types.get(name, "*fp32") for name in kernel.arg_names if name not in constants}
    scores = num_modalities * (1 + two_ways) if at_once else 1
    elements = num_modalities * 65_536**2
    products = 1 if at_once else num_modalities - 1  # that are read for a score
    odd = flags.get("odd", False)
    divisible = [name for name, kind in signature.items() if kind.startswith("*")]
    divisible += [] if odd else [name for name in integers[:4] if name in signature]
    shape = "x".join(str(size) for size in tiles.values())
    return Variant(
        name=f"{kind}_{direction} {shape}, {score}, M = {num_modalities}"
        + (f", {way}" if not at_once else "")
        + "".join(f", {name}" for name, is_on in {**on, "odd": odd}.items() if is_on),
        kernel=kernel,
        signature=signature,
        constexprs=constants,
        unit="score",
        per_iteration=tiles[min(tiles)] * tiles[max(tiles)] * scores,
        max_registers=255,
        # products of a block lie in the second cache: what is read of it and written counts as if from memory
        workloads={_H200: Workload(elements, elements * 4 * products * (2 if direction == "backward" else 1))}
        if row
        else {},
        num_warps=options["num_warps"],
        num_stages=1,
        divisible=tuple(divisible),
        trips=(5,) if row and not at_once and score == "singular_value" else (),
        max_vgprs=512,
        targets=_TARGETS[table],
        tested=tested,
    )


def _poses(
    kernel: Any,
    joints: int,
    numbers: int,
    max_registers: int,
    gradients: tuple[bool, bool] = (False, False),
    weighted: bool = False,
    table: str = "",
    whole: bool = False,
    tested: tuple[str, ...] | None = None,
) -> Variant:
    """A kernel over pairs of poses in whole blocks, float32, with the settings that it has by a file of settings.

    numbers: read and written a pose, besides the poses. gradients: whether in the prediction, in the target.
    whole: with aligned poses and errors joint by joint.
    """
    count = sum(gradients) + whole
    options = choose(("default", table), ("pose_values", "pose_gradient", "pose_gradients")[count], joints)
    constants: dict[str, Any] = {"WHOLE": True, "SHAPE": (joints, options["lanes"], options["share"])}
    constants |= {"SCALED": True} if "SCALED" in kernel.arg_names else {}
    used = {"weights": weighted, "d_pred": gradients[0], "d_target": gradients[1]}
    if kernel is kernels_poses.procrustes_forward:
        used |= dict.fromkeys(("aligned", "joint_errors", "error"), whole)
    constants |= {argument: None for argument, on in used.items() if argument in kernel.arg_names and not on}
    pointers = [name for name in kernel.arg_names if name not in constants and name not in ("block", "n")]
    work = Workload(10**6, 10**6 * 4 * ((6 + weighted + 3 * count + whole) * joints + numbers))
    plural = ("", " with gradient", " with both gradients")[count if kernel is kernels_poses.pa_mpjpe_forward else 0]
    plural += " of all" * whole
    return Variant(
        f"{kernel.__name__}{plural}{', weighted' * weighted}, J = {joints}", kernel,
        {**dict.fromkeys(pointers, "*fp32"), "block": "i32", "n": "i32"}, constants,
        "pose", options["lanes"], max_registers, {} if weighted or table else {"10^6 poses": work},
        num_warps=options["num_warps"], divisible=tuple(pointers), targets=_TARGETS[table],
        tested=() if table and tested is not None else tested, max_vgprs=280,
    )  # fmt: skip


def _matrices(kernel: Any, numbers: int) -> Variant:
    """A kernel over 3x3 matrices in whole blocks, float32; numbers: read and written a matrix."""
    lanes = svd3x3_kernels.LANES
    pointers = [name for name in kernel.arg_names if name not in ("block", "n", "WHOLE", "LANES")]
    return Variant(
        kernel.__name__, kernel, {**dict.fromkeys(pointers, "*fp32"), "block": "i32", "n": "i32"},
        {"WHOLE": True, "LANES": lanes}, "matrix", lanes, 80, {"10^6 matrices": Workload(10**6, 10**6 * 4 * numbers)},
        num_warps=lanes // 32, divisible=tuple(pointers),
    )  # fmt: skip


def _samples(
    kernel: Any, score: str, num_modalities: int, scalars: str, constants: dict[str, Any], **more: Any
) -> Variant:
    """A kernel over samples of a score."""
    functions, members = SCORES[score].triton, num_modalities - 1
    known = {
        "M": num_modalities, "MEMBERS": functions.members, "SCORE": functions.score, "GRADIENT": functions.gradient,
        "OWN": functions.own, "COUNT": functions.num_members_entries(members), "SUMS": functions.num_sums(members),
        "MASKED": False, **({} if num_modalities > 3 or kernel is kernels_samples.own_products else {"tables": None}),
        **constants,
    }  # fmt: skip
    constexprs = {name: value for name, value in known.items() if name in kernel.arg_names}
    types = {name: "*fp32" for name in kernel.arg_names if name not in constexprs}
    types |= {name: "i32" for name in scalars.split() if name in types}
    pointers = tuple(name for name, kind in types.items() if kind.startswith("*"))
    return Variant(
        f"{kernel.__name__}, {score}, M = {num_modalities}", kernel, types, constexprs, "sample", 32, max_registers=255,
        max_vgprs=512, num_warps=4 if kernel is kernels_samples.own_products else 1, divisible=pointers, **more,
    )  # fmt: skip


_ALL_FORWARD = "n ld rows"
_ALL_BACKWARD = "n ld begin end rows"

VARIANTS: list[Variant] = [
    _sv_all(kernels_all.sv_all_forward, "sv_all_forward", 256, _ALL_FORWARD, 128),
    _sv_all(kernels_all.sv_all_forward, "sv_all_forward", 1024, _ALL_FORWARD, 168),
    _sv_all(kernels_all.sv_all_backward, "sv_all_backward", 256, _ALL_BACKWARD, 168),
    _sv_all(kernels_all.sv_all_backward, "sv_all_backward", 1024, _ALL_BACKWARD, 184),
    _sv_all(kernels_all.sv_all_forward, "sv_all_forward", 1024, _ALL_FORWARD, 168, masked=True),
    _sv_all(kernels_all.sv_all_backward, "sv_all_backward", 1024, _ALL_BACKWARD, 216, masked=True),
    _sv_all(kernels_all.sv_all_forward, "sv_all_forward", 1024, _ALL_FORWARD, 168, slab=True),
    _sv_all(kernels_all.sv_all_backward, "sv_all_backward", 1024, _ALL_BACKWARD, 184, slab=True),
    # what the driver asks for most often, of every score: all targets, and the row of the table
    *(
        _block(direction, score, count, tested=None, row=True)
        for score, known in SCORES.items()
        for count in (2, 3)
        if count in known.modalities
        for direction in ("forward", "backward")
    ),
    *(
        _block(direction, score, 4, tested=None if score == "volume" else ("sm_90",), row=True)
        for score, known in SCORES.items()
        if 4 in known.modalities
        for direction in ("forward", "backward")
    ),
    _block("forward", "singular_value", 3, moments=True, tested=(), row=True),
    _block("forward", "singular_value", 2, moments=True, tested=(), row=True),
    # every flag once, of some score
    *(
        _block(direction, score, count, **dict.fromkeys(flags.split(), True))
        for score, count, flags in (
            ("volume", 3, "diagonal both moments levels"),
            ("singular_value", 3, "both moments levels odd"),
            ("cosine", 2, "sigmoid moments levels odd"),
            ("cosine", 2, "masked sought moments"),
            ("singular_value", 3, "masked moments odd"),
            ("volume", 4, "diagonal both moments levels"),
        )
        for direction in ("forward", "backward")
    ),
    *(
        _block(direction, score, count, way=way, tested=(), masked=masked, odd=masked)
        for score, count, masked in (
            ("singular_value", 4, False), ("singular_value", 6, False), ("singular_value", 8, False),
            ("volume", 8, False), ("singular_value", 4, True), ("singular_value", 8, True), ("volume", 4, True),
        )
        for direction in ("forward", "backward")
        for way in ("rows", "columns")
        if (score, count, masked, way) != ("singular_value", 4, False, "rows")
    ),
    *(
        _block(direction, score, count, table="hip", tested=(), masked=masked)
        for score, count, masked in (
            ("singular_value", 2, False), ("singular_value", 3, False), ("singular_value", 3, True),
            ("volume", 3, False), ("singular_value", 4, False), ("singular_value", 8, False),
            ("singular_value", 4, True), ("singular_value", 8, True), ("volume", 8, False),
        )
        for direction in ("forward", "backward")
    ),
    Variant(
        "unit_rows, M = 3, masked",
        kernels_samples.unit_rows,
        {
            "embeddings": ("*bf16",) * 3, "used": "*u8", "units": "*bf16", "inverse_norms": "*fp32",
            "n": "i32", "dim": "i32",
        },
        {"M": 3, "MASKED": True, "NORMALIZE": True, "ROWS": 4, "BLOCK": 256},
        "entry", 4 * 256, max_registers=128, divisible=("units", "inverse_norms", "dim"),
    ),
    Variant(
        "through_unit_rows, M = 3",
        kernels_samples.through_unit_rows,
        {
            **dict.fromkeys(("inverse_norms", "d_units"), "*fp32"), "units": "*bf16", "outs": ("*bf16",) * 3,
            "n": "i32", "dim": "i32",
        },
        {"M": 3, "NORMALIZE": True, "ROWS": 4, "BLOCK": 256},
        "entry", 4 * 256, max_registers=128, divisible=("units", "inverse_norms", "d_units", "dim"),
    ),
    *(
        _samples(kernels_samples.own_products, "volume", count, "n dim", {"ROWS": 4, "BLOCK": 128}, tested=tested)
        for count, tested in ((3, None), (8, ("sm_90",)))
    ),
    *(
        _samples(kernel, score, count, "n modalities", {"BLOCK": 32}, tested=tested)
        for kernel in (
            kernels_samples.members_tables, kernels_samples.positive_scores, kernels_samples.positive_gradients,
            kernels_samples.members_gradients,
        )
        for score, count, tested in (
            ("singular_value", 3, None), ("volume", 4, None), ("volume", 8, ()), ("singular_value", 4, ()),
            ("singular_value", 8, ()),
        )
        if kernel is not kernels_samples.members_tables or count > 3
    ),
    *(
        Variant(
            f"gram_singular_values {kernel.__name__.strip('_')}, M = {count}", kernel,
            {name: {"batch": "i32", "width": "i32"}.get(name, "i32" if "stride" in name else "*fp32")
             for name in kernel.arg_names if name not in ("M", "SAMPLES", "COLUMNS", "stride_d")},
            {"stride_d": 1, "M": count, "SAMPLES": 8, "COLUMNS": gram_kernels._columns(count)},
            "sample", 8, max_registers=160, max_vgprs=280, num_warps=1,
            tested=_SLOW if count == 8 else None,
        )
        for count in (3, 8)
        for kernel in (gram_kernels._forward, gram_kernels._backward)
    ),
    *(
        _poses(*options, table=table, tested=tested)
        for table in ("", "hip")
        for *options, tested in (
            (kernels_poses.pa_mpjpe_forward, 14, 1, 168, (False, False), False, ("sm_90",)),
            (kernels_poses.pa_mpjpe_forward, 17, 1, 168, (False, False), False, None),
            (kernels_poses.pa_mpjpe_forward, 17, 1, 216, (True, False), False, None),
            (kernels_poses.pa_mpjpe_forward, 133, 1, 192, (False, False), False, ("sm_90",)),
            (kernels_poses.pa_mpjpe_forward, 17, 1, 200, (True, True), True, ("sm_100",)),
            (kernels_poses.procrustes_forward, 17, 13, 128, (False, False), False, None),
            (kernels_poses.procrustes_backward, 17, 23, 232, (True, False), False, None),
            (kernels_poses.procrustes_backward, 17, 23, 255, (True, True), True, ("sm_100",)),
        )
    ),
    *(
        _poses(
            kernels_poses.procrustes_forward, 17, 14, 255, weighted=True, table=table, whole=True, tested=("sm_100",)
        )
        for table in ("", "hip")
    ),
    # where registers are scarcest
    _poses(kernels_poses.pa_mpjpe_forward, 14, 1, 255, (True, True), True, tested=()),
    _matrices(svd3x3_kernels.svd3x3_forward, 30),
    _matrices(svd3x3_kernels.svd3x3_backward, 51),
]  # fmt: skip
