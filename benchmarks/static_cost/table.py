"""The cells of the static cost tables, from the rows that benchmarks/static_cost writes."""

from typing import Any


def columns(row: dict[str, Any]) -> dict[str, str]:
    """What a table shows of a row."""
    count = row["per_element"]
    groups = {
        "special": ("special",),
        "fp32 fma": ("fma",),
        "fp32 alu": ("fp32_alu",),
        "integer": ("integer", "imad", "uniform"),
        "shuffle": ("shuffle",),
        "global": ("global",),
        "shared": ("shared",),
        "matrix": ("matrix",),
        "convert": ("conversion",),
        "other": ("other", "local", "double"),
    }
    return {
        "kernel": row["name"],
        "per": row["unit"],
        **{head: f"{sum(count[name] for name in names):.2f}" for head, names in groups.items()},
        "total": ("" if row["as_built"] else "≤ ") + f"{row['total']:.2f}",
        "registers": str(row["registers"]),
        "shared, bytes": str(row["shared"]),
        "occupancy": "-" if row["occupancy"] is None else f"{row['occupancy']:.0%}",
    }


def time_columns(row: dict[str, Any]) -> list[dict[str, str]]:
    """The same of its times, a size each."""
    return [
        {"kernel": row["name"], "size": size, **{f"{name}, ms": f"{value * 1e3:.3f}" for name, value in bounds.items()}}
        for size, bounds in (row["times"] or {}).items()
    ]
