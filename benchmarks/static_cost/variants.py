"""The Triton kernels as they are launched, for what is known of them without a GPU: benchmarks/static_cost reads
their machine code, tests/kernels/test_compile.py compiles them for four architectures.

A new kernel is one more entry of `VARIANTS`; tests/kernels/test_compile.py names the kernels that have none.
"""

from typing import Any

from benchmarks.static_cost.block_variants import BLOCKS
from benchmarks.static_cost.variant import TARGETS, Variant, Workload
from unihpe_kernels.procrustes import kernels as kernels_poses
from unihpe_kernels.small_linalg import gram_kernels, svd3x3_kernels
from unihpe_kernels.sv_contrastive import kernels_all, kernels_paired, kernels_rows
from unihpe_kernels.sv_contrastive.kernels_zero_diagonal import laguerre_steps
from unihpe_kernels.sv_contrastive.triton_paired import setting_names
from unihpe_kernels.tuned import choose

# What keeps a compiler busy for ten seconds and more is compiled for some targets in `make test`, where a smaller
# variant of the same kernel is for all four; `make compile` leaves nothing out.
_SLOW = ("sm_90", "gfx942")


def _sv_all(
    kernel: Any,
    setting: str,
    batch: int,
    scalars: str,
    max_registers: int,
    masked: bool = False,
    shard: bool = False,
) -> Variant:
    """A kernel over triples with the settings that it has at `batch`, for which its workload is.

    shard: with first samples of their own.
    """
    options = choose(("default",), setting, batch)
    tile_j, tile_k = options["tile_j"], options["tile_k"]
    integers = dict.fromkeys(scalars.split(), "i32")
    constants = {"MASKED": masked, "TILE_J": tile_j, "TILE_K": tile_k} | ({} if masked else {"complete": None})
    if shard:
        integers |= dict.fromkeys(("shard", "first_own"), "i32")
    else:
        constants |= dict.fromkeys(("shard", "first_own"))
    if kernel is kernels_all.sv_all_backward:
        constants["FIRST"] = not masked
    pointers = {name: "*fp32" for name in kernel.arg_names if name not in constants and name not in integers}
    if masked:
        pointers["complete"] = "*u8"
    return Variant(
        name=f"{setting} {tile_j}x{tile_k}" + ", masked" * masked + ", shard" * shard,
        kernel=kernel,
        signature={**pointers, **integers},
        constexprs=constants,
        unit="triple",
        per_iteration=tile_j * tile_k,
        max_registers=max_registers,
        # the Gram matrices once, and as much again for the partial sums of the results
        workloads={} if masked or shard else {f"B = {batch}": Workload(batch**3, 4 * 3 * batch**2 * 2)},
        num_warps=options["num_warps"],
        divisible=(*pointers, "n", "ld"),
    )


def _sv_paired(
    direction: str,
    count: int,
    dtype: str = "bf16",
    batch: int = 65_536,
    table: str = "",
    masked: bool = False,
    odd: bool = False,
    precision: str = "ieee",
) -> Variant:
    """A kernel over (anchor, sample) pairs, 512 wide, with the settings that it has at `batch` by a file of settings.

    masked: for samples that may lack modalities. odd: for a batch that 16 does not divide.
    """
    width = 512
    kind = "half" if dtype == "bf16" else "float"
    options = choose(("default", table), setting_names(direction, count, masked, kind), batch)
    tile_i, tile_j, depth = options["tile_i"], options["tile_j"], options["depth"]
    kernel = {"forward": kernels_paired.paired_forward, "backward": kernels_paired.paired_backward}[direction]
    constants: dict[str, Any] = {"M": count, "MASKED": masked, "PRECISION": precision}
    constants |= {"TILE_I": tile_i, "TILE_J": tile_j, "DEPTH": depth, "SWAP": bool(options.get("swap"))}
    if direction == "backward":
        constants |= {"WEIGHTED": masked, "FIRST": not masked} | ({} if masked else {"weights": None})
    types = {"stack": f"*{dtype}", "panel": f"*{dtype}"}
    types |= dict.fromkeys(("n", "dim", "columns", "begin", "end", "begin_j", "end_j", "rows"), "i32")
    codes = dict.fromkeys(("anchor_codes", "pool_codes"), "*i32" if masked else None)
    constants |= {} if masked else codes
    types |= codes if masked else {}
    signature = {name: types.get(name, "*fp32") for name in kernel.arg_names if name not in constants}
    pairs = count * batch**2
    work = Workload(
        pairs,
        2 * count * batch * width + (2 * count * pairs if direction == "backward" else 0),
        2 * pairs * width * (count - 1),
    )
    return Variant(
        name=f"paired_{direction} {tile_i}x{tile_j}"
        + f" ({options['num_warps']} warps)" * (table == "sm_90")
        + f", M = {count}, {dtype}"
        + ", masked" * masked
        + ", odd" * odd
        + f", {precision}" * (precision != "ieee"),
        kernel=kernel,
        signature=signature,
        constexprs=constants,
        unit="pair",
        per_iteration=tile_i * tile_j,
        # named sizes are those of the type that is meant for them
        workloads={f"B = {batch}, D = {width}": work}
        if table == "sm_90" or (count > 4 and not table and not odd and not masked)
        else {},
        num_warps=options["num_warps"],
        num_stages=options["num_stages"],
        divisible=tuple(
            name
            for name, kind in signature.items()
            if kind != "i32" or name == "dim" or (name in ("n", "end_j") and not odd) or name == "begin_j"
        ),
        # the products, then the steps to the largest root
        trips=(width / depth, laguerre_steps(count) if masked else 5) if count > 3 else (width / depth,),
        max_registers=255,
        max_vgprs=512,
        allow_tf32=precision != "ieee",
        targets=TARGETS[table],
        tested=None if count == 3 and dtype == "bf16" and not (masked or odd) else () if table else ("sm_90",),
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
        num_warps=options["num_warps"], divisible=tuple(pointers), targets=TARGETS[table],
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


def _small(
    kernel: Any, scalars: str, constexprs: dict[str, Any], unit: str, per_iteration: float, half: str = "", **more: Any
) -> Variant:
    """A kernel over samples or entries, whose time is that of its memory or of its launch."""
    types = {name: "*fp32" for name in kernel.arg_names if name not in constexprs}
    types |= dict.fromkeys(scalars.split(), "i32") | dict.fromkeys(half.split(), "*bf16")
    pointers = tuple(name for name, kind in types.items() if kind.startswith("*"))
    name = kernel.__name__ + (f", M = {constexprs['M']}" if "M" in constexprs else "")
    return Variant(
        name, kernel, types, constexprs, unit, per_iteration, divisible=pointers, **{"max_registers": 128, **more}
    )


_BARE = {"MASKED": False}  # neither `present` nor weights
_UNWEIGHTED = {"weights": None, "WEIGHTED": False}
_ALL_FORWARD = "n ld rows"
_ALL_BACKWARD = "n ld begin end rows"

VARIANTS: list[Variant] = [
    _sv_all(kernels_all.sv_all_forward, "sv_all_forward", 256, _ALL_FORWARD, 128),
    _sv_all(kernels_all.sv_all_forward, "sv_all_forward", 1024, _ALL_FORWARD, 168),
    _sv_all(kernels_all.sv_all_backward, "sv_all_backward", 256, _ALL_BACKWARD, 168),
    _sv_all(kernels_all.sv_all_backward, "sv_all_backward", 1024, _ALL_BACKWARD, 184),
    # the three loops that leave own triples out cost this one alone a third of its occupancy
    _sv_all(kernels_all.sv_all_forward, "sv_all_forward", 1024, _ALL_FORWARD, 255, masked=True),
    _sv_all(kernels_all.sv_all_backward, "sv_all_backward", 1024, _ALL_BACKWARD, 216, masked=True),
    _sv_all(kernels_all.sv_all_forward, "sv_all_forward", 1024, _ALL_FORWARD, 168, shard=True),
    _sv_all(kernels_all.sv_all_backward, "sv_all_backward", 1024, _ALL_BACKWARD, 184, shard=True),
    *(_sv_paired(direction, count, table="sm_90") for count in (2, 3, 4) for direction in ("forward", "backward")),
    *(
        _sv_paired(direction, count, dtype, table=table)
        for table in ("", "hip")
        for count, dtype in ((2, "bf16"), (3, "bf16"), (3, "fp32"), (4, "bf16"), (6, "fp32"), (8, "bf16"))
        for direction in ("forward", "backward")
    ),
    *(_sv_paired(direction, 3, batch=1024, masked=True) for direction in ("forward", "backward")),
    *(
        _sv_paired(direction, count, dtype, batch=1000, table=table, masked=True)
        for table in ("", "hip")
        for count, dtype in ((4, "bf16"), (6, "fp32"), (8, "bf16"))
        for direction in ("forward", "backward")
    ),
    *(_sv_paired(direction, 3, "fp32", precision="tf32x3") for direction in ("forward", "backward")),
    *(
        _sv_paired(direction, count, dtype, batch=1000, masked=count == 3, odd=True)
        for count, dtype in ((3, "bf16"), (3, "fp32"), (5, "bf16"))
        for direction in ("forward", "backward")
    ),
    _small(
        kernels_all.sv_all_finish, "n ld parts_i parts_j parts_k",
        {**_BARE, **_UNWEIGHTED, "complete": None, "PARTS": 32, "BLOCK": 32}, "piece", 32 * 32,
    ),
    _small(
        kernels_all.sv_all_reduce, "ld begin end count_a count_b count_c", {"LAST": True, "BLOCK": 256}, "piece", 256
    ),
    _small(
        kernels_rows.unit_rows_of_three, "n ld dim",
        {**_BARE, "complete": None, "NORMALIZE": True, "ROWS": 4, "BLOCK": 256}, "entry", 4 * 256, half="x y z",
    ),
    _small(
        kernels_rows.embedding_gradients_of_three, "n ld dim",
        {"NORMALIZE": True, "ROWS": 4, "BLOCK": 256}, "entry", 4 * 256, half="d_x d_y d_z",
    ),
    _small(
        kernels_rows.mean_over_anchors, "n", {**_BARE, **_UNWEIGHTED, "present": None, "M": 3, "BLOCK": 1024},
        "sample", 1024,
    ),
    _small(
        kernels_rows.weights_and_temperature_gradient, "n parts open_parts",
        {**_BARE, "present": None, "M": 3, "BLOCK": 1024}, "piece", 1024,
    ),
    *(
        Variant(
            f"paired_prepare, M = {count}" + ", masked" * masked,
            kernels_paired.paired_prepare,
            {
                "embeddings": ("*bf16",) * count, "stack": "*bf16",
                **dict.fromkeys(("powers", "inverse_norms", "inner"), "*fp32"),
                "n": "i32", "dim": "i32", **({"used": "*u8"} if masked else {}),
            },
            {"M": count, "MASKED": masked, "NORMALIZE": True, "ROWS": 4, "BLOCK": 128}
            | ({} if masked else {"used": None}),
            "entry", 4 * 128, max_registers=255, divisible=("stack", "powers", "inverse_norms", "inner", "dim"),
        )
        for count, masked in ((3, True), (8, False))
    ),
    *(
        _small(
            kernels_paired.paired_finish, "n splits",
            {**_BARE, "anchor_codes": None, "M": count, "BLOCK": 32}, "piece", 32, num_warps=1,
        )
        for count in (3, 8)
    ),
    *(
        _small(
            kernels_paired.paired_own, "n splits",
            {**_BARE, **_UNWEIGHTED, "anchor_codes": None, "M": count, "BLOCK": 32}, "piece", 32, num_warps=1,
            max_registers=255,
        )
        for count in (3, 5)
    ),
    *(
        _small(
            kernels_paired.paired_basis, "n", {"M": count, "BLOCK": 32}, "sample", 32, num_warps=1,
            max_registers=255,
        )
        for count in (4, 8)
    ),
    *(
        Variant(
            f"paired_embedding_gradient, M = {count}",
            kernels_paired.paired_embedding_gradient,
            {
                **dict.fromkeys(("powers", "inverse_norms", "d_stack", "d_own"), "*fp32"), "stack": "*bf16",
                "outs": ("*bf16",) * count, "n": "i32", "dim": "i32",
            },
            {"M": count, "NORMALIZE": True, "ROWS": 4, "BLOCK": 128},
            "entry", 4 * 128, max_registers=128,
            divisible=("stack", "powers", "inverse_norms", "d_stack", "d_own", "dim"),
        )
        for count in (3, 5)
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
    *BLOCKS,
]  # fmt: skip
