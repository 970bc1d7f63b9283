"""The kernels of blocks of scores, for variants.py: some score's for all targets in `make test`, the others in
`make compile`; a row of the table for every score."""

from typing import Any

from benchmarks.static_cost.variant import TARGETS, Variant, Workload
from unihpe_kernels.contrastive.triton import kernels_both_ways, kernels_one_way, kernels_samples
from unihpe_kernels.contrastive.triton.backend import how_many
from unihpe_kernels.scores import SCORES
from unihpe_kernels.tuned import choose

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
        "codes_": not on["masked"], "centers_": not on["moments"],
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
        targets=TARGETS[table],
        tested=tested,
    )


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


_ROWS = {("singular_value", 3), ("volume", 3), ("volume", 4), ("area", 3), ("cosine", 2)}

BLOCKS: list[Variant] = [
    # what the driver asks for most often, of every score; some of them are rows of the table
    *(
        _block(
            direction, score, count, row=(score, count) in _ROWS,
            tested=None if (score, count) in (("volume", 3), ("volume", 4)) else (),
        )
        for score, known in SCORES.items()
        for count in (2, 3, 4)
        if count in known.modalities
        for direction in ("forward", "backward")
    ),
    _block("forward", "singular_value", 3, moments=True, tested=()),
    _block("forward", "singular_value", 2, moments=True, tested=()),
    # every flag once, of some score
    *(
        _block(direction, score, count, tested=(), **dict.fromkeys(flags.split(), True))
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
        _block(direction, score, count, table="hip", tested=tested, masked=masked)
        for score, count, masked, tested in (
            ("volume", 3, False, None), ("volume", 4, False, None), ("volume", 8, False, ()),
            ("singular_value", 2, False, ()), ("singular_value", 3, False, ()), ("singular_value", 3, True, ()),
            ("singular_value", 4, False, ()), ("singular_value", 8, False, ()), ("singular_value", 4, True, ()),
            ("singular_value", 8, True, ()),
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
        for count, tested in ((3, None), (8, ()))
    ),
    *(
        _samples(kernel, score, count, "n modalities", {"BLOCK": 32}, tested=tested)
        for kernel in (
            kernels_samples.members_tables, kernels_samples.positive_scores, kernels_samples.positive_gradients,
            kernels_samples.members_gradients,
        )
        for score, count, tested in (
            ("singular_value", 3, ()), ("volume", 4, None), ("volume", 8, ()), ("singular_value", 4, ()),
            ("singular_value", 8, ()),
        )
        if kernel is not kernels_samples.members_tables or count > 3
    ),
]  # fmt: skip
