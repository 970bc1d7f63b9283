"""Render the README's result tables from benchmarks/results/*.json; no number is typed by hand.

python -m benchmarks.report           rewrite the tables in README.md
python -m benchmarks.report --check   say (exit status 1) when they are not what the files give
"""

import argparse
import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cost_table import columns, time_columns

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MISSING = "*Not measured yet.*"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _origin(record: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"Measured {record['date']} at commit {record['commit'][:10]} on {record['device']}; {versions}."


def _error(scores: dict[str, Any] | None) -> str:
    return "-" if scores is None else f"{scores['mpjpe']:.1f} / {scores['pa_mpjpe']:.1f}"


def run_table(record: dict[str, Any]) -> str:
    scores = record["scores"]
    rows = [["mean pose", _error(scores["mean_pose"]), "-", "-", "-"]]
    for name, label in (("image", "image"), ("pose2d", "2D pose (lifting)"), ("pose3d", "3D pose (auto-encoding)")):
        if entry := scores[name]:
            more = [f"{entry['n_mpjpe']:.1f}", f"{entry['pck150']:.1f}", f"{entry['auc']:.1f}"]
            rows.append([label, _error(entry), *more])
    head = ["input", "MPJPE / PA-MPJPE, mm", "N-MPJPE, mm", "PCK@150, %", "AUC, %"]
    notes = [f"{scores['n']} validation samples"]
    if scores["keypoints2d"]:
        notes.append(f"image 2D error {scores['keypoints2d']['px']:.1f} px of the full image")
    found = {name: scores["retrieval"].get(name) for name in ("pose2d->pose3d", "image->pose3d", "image->pose2d")}
    notes += [f"{name} R@1 {values['r1']:.2f}" for name, values in found.items() if values]
    notes.append(f"{record['seconds'] / 60:.1f} minutes from start to scores")
    return f"{_table(head, rows)}\n\n{'; '.join(notes)}. {_origin(record)}"


def lifting_table(record: dict[str, Any]) -> str:
    rows = [
        [name, f"{r['mpjpe']:.1f}", f"{r['pa_mpjpe']:.1f}", f"{r['step_seconds'] / 60:.1f}"]
        for name, r in record["results"].items()
    ]
    head = ["trained on the same batches", "MPJPE, mm", "PA-MPJPE, mm", "minutes in steps"]
    return f"{_table(head, rows)}\n\n{record['steps']} steps of {record['batch_size']}. {_origin(record)}"


def _spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def ablation_table(record: dict[str, Any]) -> str:
    columns: dict[str, tuple[int, Callable[[dict[str, Any]], float]]] = {
        "image MPJPE, mm": (1, lambda s: s["image"]["mpjpe"]),
        "image PA-MPJPE, mm": (1, lambda s: s["image"]["pa_mpjpe"]),
        "lifting MPJPE, mm": (1, lambda s: s["pose2d"]["mpjpe"]),
        "lifting PA-MPJPE, mm": (1, lambda s: s["pose2d"]["pa_mpjpe"]),
        "pose2d->pose3d R@1": (3, lambda s: s["retrieval"]["pose2d->pose3d"]["r1"]),
        "image->pose3d R@1": (3, lambda s: s["retrieval"]["image->pose3d"]["r1"]),
    }
    rows = []
    for variant in dict.fromkeys(run["variant"] for run in record["runs"]):
        runs = [run["scores"] for run in record["runs"] if run["variant"] == variant]
        cells = [_spread([pick(scores) for scores in runs], digits) for digits, pick in columns.values()]
        rows.append([variant, str(len(runs)), *cells])
    order = ["none", "pairwise", "singular-value", "both"]
    rows.sort(key=lambda row: order.index(row[0]))
    baseline = record["runs"][0]["scores"]["mean_pose"]
    return (
        f"{_table(['contrastive terms', 'seeds', *columns], rows)}\n\n"
        f"Mean and standard deviation over seeds, {record['steps']} steps each; the mean pose scores "
        f"{_error(baseline)} mm. {_origin(record)}"
    )


def static_cost_table(record: dict[str, Any]) -> str:
    """A line a size; `python -m benchmarks.static_cost` prints all columns."""
    kept = ("kernel", "size", "per", "total", "special", "registers", "occupancy")
    bounds = ("issue", "special", "memory", "matrix", "implied")
    lines = []
    for row in record["rows"]:
        for line in time_columns(row):
            counts = {**line, **columns(row)}
            lines.append([counts[name] for name in kept] + [line[f"{name}, ms"] for name in bounds])
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    note = (
        f"Instructions an element for sm_{record['arch']}, special functions among them, and the least time in ms on "
        f"an H200 that they allow, by what bounds it: {record['label']}. "
        "≤: at most, the assembler unrolls this loop. "
        f"Compiled {record['date']} at commit {record['commit'][:10]}; {versions}."
    )
    return "\n\n".join([_table([*kept, *(f"{name}, ms" for name in bounds)], lines), note])


TABLES = {
    "synthetic": run_table,
    "cmu-lifting": run_table,
    "cmu-images": run_table,
    "lifting": lifting_table,
    "ablation": ablation_table,
    "static_cost": static_cost_table,
}


def render(text: str, results: Path) -> str:
    """`text` with what stands between every `<!-- results:NAME -->` and `<!-- end -->` made anew."""

    def fill(match: re.Match[str]) -> str:
        name, file = match[1], results / f"{match[1]}.json"
        body = TABLES[name](json.loads(file.read_text())) if file.exists() else MISSING
        return f"<!-- results:{name} -->\n\n{body}\n\n<!-- end -->"

    return re.sub(r"<!-- results:([\w-]+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = render(old, RESULTS)
    if options.check:
        if new != old:
            print("README.md: its tables differ from benchmarks/results; run python -m benchmarks.report")
        return int(new != old)
    readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
