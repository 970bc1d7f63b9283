"""The tables of what `make bench` and `make gpu` found."""

from collections.abc import Sequence
from typing import Any

from benchmarks.harness import OURS
from benchmarks.record import growth


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    # names of kernels and lines of logs may hold what ends a cell
    return "\n".join(lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows])


def origin(record: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"Measured {record['date']} at commit {record['commit'][:10]} on {record['device']}; {versions}."


def _number(value: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def milliseconds(seconds: float) -> str:
    return _number(seconds * 1e3)


def _times(ratio: float) -> str:
    """Two digits, or all that stand before the point."""
    return f"{ratio:.2g}×" if ratio < 99.5 else f"{ratio:,.0f}×"


def mebibytes(count: float | None) -> str:
    return "?" if count is None else _number(count / 2**20)


def _groups(records: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        found.setdefault(record["group"], []).append(record)
    return {name: sorted(of, key=lambda r: r["size"]) for name, of in found.items()}


def summary_table(result: dict[str, Any]) -> str:
    """A line a group: its largest size at which a peer ran, ours in ms and MiB, and how many times as long each peer
    that computes the same takes."""
    # measured on a GPU only: there is none for a CPU
    limits = any("share_of_floor" in record for record in result["records"])
    rows = []
    for name, records in _groups(result["records"]).items():
        with_peers = [
            r for r in records if any("ratio" in e and e["same"] and n != OURS for n, e in r["competitors"].items())
        ]
        for record in with_peers[-1:]:
            entries = record["competitors"]
            mine = entries[OURS]
            peers = [
                f"{n} {_times(e['ratio'])}" for n, e in entries.items() if n != OURS and e["same"] and "ratio" in e
            ]
            share = f"{record['share_of_floor']:.0%}" if "share_of_floor" in record else "-"
            work = f"{name}, {record['variable']} = {record['size']:,}"
            mine_cells = [milliseconds(mine["median_s"]), mebibytes(mine["peak_bytes"])]
            rows.append([work, *mine_cells, *([share] if limits else []), ", ".join(peers)])
    limit = ["of the paper limit"] if limits else []
    head = ["work", "ours, ms", "peak, MiB", *limit, "time of others as a multiple of ours"]
    return f"{table(head, rows)}\n\nMedians of rounds taken in turn. {origin(result)}"


# groups that only docs/performance.md shows: the README has one of a kind
_NOT_IN_README = {
    "procrustes, forward",
    "svd3x3, forward",
    "sv_loss_paired, M = 2",
    "sv_loss_paired, M = 4",
    "train_step, hrnet_w48, 64 px",
    "train_step_growth, resnet50, 64 px",
    "TriangleLoss, M = 3",
    "SigLIPLoss, M = 3",
    "SymileLoss, n, M = 3",
    "SymileLoss, n_squared, M = 3",
}


def readme_table(result: dict[str, Any]) -> str:
    """`summary_table` of a group of each kind, beside what one would use instead of ours."""

    def of_others(record: dict[str, Any]) -> dict[str, Any]:
        entries = record["competitors"].items()
        return {**record, "competitors": {n: e for n, e in entries if n == OURS or not n.startswith(OURS)}}

    chosen = [of_others(record) for record in result["records"] if record["group"] not in _NOT_IN_README]
    return summary_table({**result, "records": chosen})


def full_tables(result: dict[str, Any]) -> str:
    """Every competitor at every size: ms ± half the interquartile range, ratio to ours, peak MiB, launches."""
    parts = []
    grown = {(row["group"], row["name"]): row for row in growth(result["records"])}
    for name, records in _groups(result["records"]).items():
        variable, sizes = records[0]["variable"], [r["size"] for r in records]
        rows = []
        for competitor in records[0]["competitors"]:
            cells = [_cell(r["competitors"].get(competitor, {"not_run": "-"})) for r in records]
            rows.append([competitor, *cells, *_exponents(grown[name, competitor])])
        uses = [f", {r['use']}" if r.get("use") else "" for r in records]
        head = [
            "",
            *(f"{variable} = {n:,}{use}" for n, use in zip(sizes, uses, strict=True)),
            "time grows",
            "memory grows",
        ]
        of = ", ".join(f"{k} {v}" for k, v in records[0]["parameters"].items())
        shares = [f"{r['share_of_floor']:.0%} at {r['size']:,}" for r in records if "share_of_floor" in r]
        reached = f" Ours reaches {', '.join(shares)} of the paper limit." if shares else ""
        parts.append(f"#### {name}\n\n{of}.{reached}\n\n{table(head, rows)}")
    note = (
        "Milliseconds ± half the interquartile range, how many times as long as ours, peak memory in MiB; on a GPU "
        "launches too. Growth: exponent fitted over the larger sizes (at least four), in brackets the algorithm's. "
    )
    return "\n\n".join([*parts, note + origin(result)])


def _cell(entry: dict[str, Any]) -> str:
    if "not_run" in entry:
        return entry["not_run"]
    launches = "" if entry["launches"] is None else f", {entry['launches']} launches"
    time = f"{milliseconds(entry['median_s'])} ± {milliseconds(entry['iqr_s'] / 2)} ms"
    return f"{time}, {_ratio(entry['ratio'])}×, {mebibytes(entry['peak_bytes'])} MiB{launches}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else _number(value)


def _exponents(row: dict[str, Any]) -> list[str]:
    expected = row["expected"] or ("?", "?")
    return [
        f"{'-' if row[k] is None else format(row[k], '.2f')} ({e})"
        for k, e in zip(("time", "memory"), expected, strict=True)
    ]


def gpu_extras(result: dict[str, Any]) -> str:
    """Which parts ran, images a second, and the longest kernels."""
    parts = [[p["name"], p["status"], f"{p['seconds']:.0f}", p["last_line"]] for p in result["parts"]]
    found = [table(["part", "outcome", "seconds", "last line"], parts)]
    speeds = []
    for record in result["records"]:
        if record["group"].startswith("train_step"):
            for name, entry in record["competitors"].items():
                if "median_s" in entry:
                    speeds.append(
                        [record["group"], name, str(record["size"]), f"{record['size'] / entry['median_s']:.0f}"]
                    )
    if speeds:
        found.append(table(["step", "form", "batch", "images/s"], speeds))
    if profile := result.get("profile"):
        rows = [[f"`{row['name'][:120]}`", f"{row['ms']:.3f}", f"{row['calls']:.1f}"] for row in profile["longest"]]
        found.append(table(["longest kernels of the step", "ms a step", "calls"], rows))
        found.append(
            f"{profile['variant']}, {profile['backbone']}, {profile['image_px']} px, B = {profile['batch']}: "
            f"{profile['total_ms']:.2f} ms of kernels a step, {profile['loss_and_alignment_ms']:.2f} of them this "
            "package's."
        )
    return "\n\n".join([*found, origin(result)])
