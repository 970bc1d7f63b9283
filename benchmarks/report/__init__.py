"""Render the tables and plots of README.md and docs/ from benchmarks/results/*.json; no number is typed by hand.

python -m benchmarks.report           rewrite the tables, redraw the plots
python -m benchmarks.report --check   say (exit status 1) when they are not what the files give
"""

import argparse
import json
import math
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.report.alignment_table import alignment_table
from benchmarks.report.speed_plots import breakdown_plot, growth_plot, roofline_plot
from benchmarks.report.speed_tables import full_tables, gpu_extras, origin, readme_table, summary_table, table
from benchmarks.static_cost.table import columns, time_columns
from unihpe_fast.real_motion import TITLES

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"
PLOTS = DOCS / "plots"
MISSING = "*Not measured yet.*"


def _error(scores: dict[str, Any] | None) -> str:
    return "-" if scores is None else f"{scores['mpjpe']:.1f} / {scores['pa_mpjpe']:.1f}"


def _load(record: dict[str, Any]) -> str:
    return f"Load of the machine before: {record['load_before']:.1f}; above 1, others used its cores too."


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
        # older results have none
        if torso := scores["keypoints2d"].get("pck_torso"):
            notes.append(f"PCK@0.2 of the torso {torso:.1f} %")
    found = {name: scores["retrieval"].get(name) for name in ("pose2d->pose3d", "image->pose3d", "image->pose2d")}
    notes += [f"{name} R@1 {values['r1']:.2f}" for name, values in found.items() if values]
    # how long the steps before took is not known
    since = "going on" if "--resume" in record["command"] else "start"
    notes.append(f"{record['seconds'] / 60:.1f} minutes from {since} to scores")
    notes += [f"caveat: {caveat}" for caveat in scores.get("caveats", ())]
    return f"{table(head, rows)}\n\n{'; '.join(notes)}. {origin(record)}"


def lifting_table(record: dict[str, Any]) -> str:
    """Errors by network; by input too, where they were scored by `real-motion`."""
    rows, inputs = [], ["exact"]
    for name, found in record["results"].items():
        by_input = found.get("real_motion") or {"exact": {"mpjpe": found["mpjpe"], "pa": found["pa_mpjpe"]}}
        inputs = list(by_input)
        errors = [f"{scores['mpjpe']:.1f} / {scores['pa']:.1f}" for scores in by_input.values()]
        rows.append([name, *errors, f"{found['step_seconds'] / 60:.1f}"])
    clock = "CPU minutes" if record.get("clock") == "process_time" else "minutes"
    head = ["trained on the same batches", *(TITLES[name] for name in inputs), f"{clock} in steps"]
    note = f"MPJPE / PA-MPJPE, mm; {record['steps']} steps of {record['batch_size']}"
    return f"{table(head, rows)}\n\n{note}. {origin(record)}"


def pose2sim_table(record: dict[str, Any]) -> str:
    """A table a source of truth: PA-MPJPE of each row, over all joints and those of arms and legs."""
    makers = {"blazepose": "BlazePose heavy", "movenet": "MoveNet thunder"}
    everything = [clip for clip in dict.fromkeys(entry["clip"] for entry in record["records"]) if clip != "both"]
    tables = []
    for source, maker in makers.items():
        of_source = [entry for entry in record["records"] if entry["truth"] == source]
        clips = list(dict.fromkeys(entry["clip"] for entry in of_source))
        rows = []
        for name in dict.fromkeys(entry["row"] for entry in of_source):
            found = {entry["clip"]: entry for entry in of_source if entry["row"] == name}
            same = {"lifted": "movenet", "BlazePose 3D": "blazepose"}.get(name) == source
            label = f"MoveNet, then {record['model']}" if name == "lifted" else name
            cells = [f"{found[clip]['pa_mpjpe']:.1f} / {found[clip]['pa_mpjpe_limbs']:.1f}" for clip in clips]
            rows.append([f"{label}{' (truth from its own detector)' if same else ''}", *cells])
        counts = ", ".join(f"{clip}: {e['samples']} views of {e['frames']}" for clip, e in found.items())
        head = [f"truth from {maker}", *(f"{clip}, mm" for clip in clips)]
        tables.append(f"{table(head, rows)}\n\nSamples ({counts} people in frames).")
        if missing := [clip for clip in everything if clip not in clips]:
            tables.append(f"No person of {' and '.join(missing)} counts with this truth.")
    return "\n\n".join([*tables, f"PA-MPJPE over all joints / over those of arms and legs. {origin(record)}"])


def predict_table(record: dict[str, Any]) -> str:
    """Poses a second of the lifter; pictures a second with each detector."""
    rows, at_once = [], record["batch_size"]
    for found in record["lifting"]:
        one, batch = found["one"], found["batch"]
        what = f"{found['dtype']}, {['one core', 'two cores'][found['cores'] - 1]}"
        rows += [
            [
                f"lifting one person, ms, {what}",
                f"{one['median_s'] * 1e3:.2f}",
                f"{one['least_s'] * 1e3:.2f}",
            ],
            [
                f"lifting {at_once:,} at once, poses a second, {what}",
                f"{at_once / batch['median_s']:,.0f}",
                f"{at_once / batch['least_s']:,.0f}",
            ],
        ]
    for name, found in record["pictures"].items():
        label = f"{name} and lifting, pictures of 1280 x 720 a second, {record['cores']} cores"
        rows.append([label, f"{1 / found['median_s']:.1f}", f"{1 / found['least_s']:.1f}"])
    return f"{table(['what', 'median', 'best'], rows)}\n\nLifter: `{record['model']}`. {_load(record)} {origin(record)}"


def memory_table(record: dict[str, Any]) -> str:
    """Memory of the process at each step from a video's frames to its files."""
    rows = [[name, f"{mib:,.0f}"] for name, mib in record["peak_mib"].items()]
    grown = (record["peak_mib"]["all poses"] - record["peak_mib"]["before"]) * 2**20 / record["frames"]
    frame = math.prod((*record["size"], 3))
    return (
        f"{table(['up to', 'most memory of the process, MiB'], rows)}\n\n{record['frames']:,} frames of one person: "
        f"{grown:,.0f} bytes a pose until all poses are there, where a frame has {frame:,} bytes; files in this order. "
        f"{_load(record)} {origin(record)}"
    )


def export_table(record: dict[str, Any]) -> str:
    """The exported lifter beside eager mode: a row a form, a column a batch."""
    names = {"eager": "eager", "pt2": "torch.export", "onnx": "ONNX, onnxruntime", "aoti": "AOTInductor"}
    rows = []
    for name, title in names.items():
        cells = []
        for found in record["batches"].values():
            ratio = found["eager"]["least_s"] / found[name]["least_s"]
            cells.append(f"{found[name]['least_s'] * 1e3:.2f} ms, {ratio:.2f}×")
        error = "" if name == "eager" else f"{record['errors_mm'][name]:.1e}"
        rows.append([title, *cells, error])
    head = ["", *(f"batch of {int(size):,}" for size in record["batches"]), "largest difference, mm"]
    # the best, since a median of calls this short is that of the other processes' turns where a core is shared
    note = f"The best of {record['rounds']} rounds taken in turn, and how many times as fast as eager mode's best"
    return f"{table(head, rows)}\n\n{note}. Model: `{record['model']}`. {_load(record)} {origin(record)}"


def real_motion_table(record: dict[str, Any]) -> str:
    """Errors by input, with their intervals, and by family of actions."""
    inputs, looked = record["inputs"], record["retrieval"]
    head = ["", *(TITLES[name] for name in inputs), "mean pose"]

    def interval(scores: dict[str, Any], key: str) -> str:
        low, high = scores[f"{key}_interval"]
        return f"{scores[key]:.1f} ({low:.0f} to {high:.0f})"

    first = inputs["exact"]
    rows = [
        ["MPJPE, mean over samples (95 % over people)", *(interval(s, "mpjpe") for s in inputs.values())],
        ["PA-MPJPE, the same", *(interval(s, "pa") for s in inputs.values())],
        ["MPJPE / PA-MPJPE, mean over families"]
        + [f"{s['mpjpe_families']:.1f} / {s['pa_families']:.1f}" for s in inputs.values()],
    ]
    rows[0].append(interval(first, "mean"))
    rows[1].append(interval(first, "mean_pa"))
    rows[2].append(f"{first['mean_families']:.1f} / {first['mean_pa_families']:.1f}")
    for name, group in first["families"].items():
        cells = [f"{s['families'][name]['mpjpe']:.1f} / {s['families'][name]['pa']:.1f}" for s in inputs.values()]
        rows.append([f"{name} ({group['samples']})", *cells, f"{group['mean']:.1f} / {group['mean_pa']:.1f}"])
    worse = {
        title: [who for who, scores in inputs[name]["people"].items() if scores["mpjpe"] > scores["mean"]]
        for name, title in TITLES.items()
    }
    said = [f"worse than the mean pose with {title}: {', '.join(who)}" for title, who in worse.items() if who]
    notes = [
        f"mm; {first['samples']} samples of {len(first['people'])} people",
        *(said or ["no person is worse than the mean pose"]),
        f"a 3D pose looked up by its exact 2D among {looked['gallery']}: R@1 {looked['r1']:.3f}, MPJPE of the first "
        f"found {looked['mpjpe']:.1f} mm",
    ]
    return f"{table(head, rows)}\n\n{'; '.join(notes)}. {record['trained']}. {origin(record)}"


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
    return "\n\n".join([table([*kept, *(f"{name}, ms" for name in bounds)], lines), note])


def data_table(record: dict[str, Any]) -> str:
    """Rates of preparing and loading beside bare OpenCV's, and the memory after each epoch."""
    rows = []
    for work, by_size, wanted in (
        ("preparing photographs of {} px", "prepare", 0.7),
        ("loading, {} workers", "loading", 0.8),
    ):
        for size, found in record[by_size].items():
            rates = [f"{found['ours_per_s']:.0f}", f"{found['bare_per_s']:.0f}", f"{found['ratio']:.2f}"]
            spread = f"{min(found['ratios']):.2f} to {max(found['ratios']):.2f}"
            rows.append([work.format(size.replace("x", " x ")), *rates, spread, f"{wanted:.1f}"])
    head = ["work", "ours, a second", "bare OpenCV, a second", "ratio", "of the rounds", "wanted, at least"]
    memory = "; ".join(
        f"{', '.join(f'{held:.0f}' for held in found['megabytes'])} MB with {workers} workers"
        for workers, found in record["memory"].items()
    )
    return f"{table(head, rows)}\n\nMemory after each epoch: {memory}. {record['cores']} cores. {origin(record)}"


def soak_line(record: dict[str, Any]) -> str:
    rss, files = record["readings"]["rss"], record["files"]
    return (
        f"{record['steps']} steps with {record['workers']} loader processes: memory (RSS of all processes) from "
        f"{rss[0]:.0f} to {rss[-1]:.0f} MiB, slope fitted to the last three quarters {record['slope']:+.3f} MiB a 100 "
        f"steps; open files at most {', '.join(map(str, files))} in the second, third and last quarter. "
        f"{origin(record)}"
    )


def host_time_table(record: dict[str, Any]) -> str:
    head = ["modalities", "host time of a step, us", "a bare `autograd.Function`, us", "ratio", "kernels launched"]
    rows = []
    for r in record["records"]:
        times = [f"{r['step_us']:.0f}", f"{r['bare_us']:.0f}", f"{r['step_us'] / r['bare_us']:.1f}"]
        rows.append([str(r["count"]), *times, str(r["kernels"])])
    first = record["records"][0]
    case = f'B = {first["batch"]}, D = {first["width"]}, {first["dtype"]}, "{first["negatives"]}"'
    return f"{table(head, rows)}\n\n{case}. {_load(record)} {origin(record)}"


def gpu_tables(results: Path) -> str:
    """Every GPU result, the newest first: good or bad, none is left out."""
    records = [json.loads(file.read_text()) for file in sorted(results.glob("gpu*.json"))]
    records.sort(key=lambda record: record["date"], reverse=True)
    return "\n\n".join(f"### {r['device']}, {r['date']}\n\n{gpu_extras(r)}\n\n{full_tables(r)}" for r in records)


# name of a table -> the result file it is of, and what renders it
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "synthetic": ("synthetic", run_table),
    "cmu-lifting": ("cmu-lifting", run_table),
    "cmu-images": ("cmu-images", run_table),
    "real-motion-images": ("real-motion-images", run_table),
    "photographs": ("photographs", run_table),
    "lifting": ("lifting", lifting_table),
    "lifting-v2": ("lifting-v2", lifting_table),
    "real-motion": ("real-motion", real_motion_table),
    "alignment": ("alignment", alignment_table),
    "static_cost": ("static_cost", static_cost_table),
    "host_time": ("host_time", host_time_table),
    "data": ("data", data_table),
    "soak": ("soak", soak_line),
    "pose2sim": ("pose2sim", pose2sim_table),
    "predict": ("predict", predict_table),
    "predict-memory": ("predict-memory", memory_table),
    "export": ("export", export_table),
    "cpu": ("cpu", readme_table),
    "cpu-summary": ("cpu", summary_table),
    "cpu-full": ("cpu", full_tables),
    "trainer": ("trainer-cpu", summary_table),
    "drop_in": ("drop_in-cpu", readme_table),
    "drop_in-summary": ("drop_in-cpu", summary_table),
    "drop_in-full": ("drop_in-cpu", full_tables),
}


def body(name: str, results: Path) -> str:
    """What stands between the marks of a table."""
    if name == "gpu":
        return gpu_tables(results) or "*Not measured yet: no result of a GPU is among the files.*"
    file, render_one = TABLES[name]
    path = results / f"{file}.json"
    return render_one(json.loads(path.read_text())) if path.exists() else MISSING


def plots(name: str, results: Path) -> dict[str, Callable[[Path], None]]:
    """File name -> what draws it, for the plots of a name: "roofline", "cpu", or "gpu" for every GPU result."""
    found: dict[str, Callable[[Path], None]] = {}
    if name == "roofline":
        source = results / "static_cost.json"
        if source.exists():
            found["roofline.png"] = partial(roofline_plot, json.loads(source.read_text()))
        return found
    for source in sorted(results.glob("gpu*.json" if name == "gpu" else f"{name}.json")):
        record = json.loads(source.read_text())
        groups = [r["group"] for r in record["records"]]
        for group in dict.fromkeys(groups):
            if groups.count(group) > 1:
                slug = re.sub(r"[^a-z0-9]+", "-", f"{source.stem} {group}".lower()).strip("-")
                found[f"{slug}.png"] = partial(growth_plot, record, group)
        if "profile" in record:
            found[f"{source.stem}-step.png"] = partial(breakdown_plot, record["profile"])
    return found


def render(text: str, results: Path, plot_folder: str = "plots") -> str:
    """`text` with what stands between every `<!-- results:NAME -->` or `<!-- plots:NAME -->` and `<!-- end -->` made
    anew. plot_folder: from the text's folder to that of the plots."""

    def fill(match: re.Match[str]) -> str:
        kind, name = match[1], match[2]
        if kind == "results":
            filling = body(name, results)
        else:
            filling = "\n".join(f"![{Path(file).stem}]({plot_folder}/{file})" for file in plots(name, results))
        return f"<!-- {kind}:{name} -->\n\n{filling or MISSING}\n\n<!-- end -->"

    return re.sub(r"<!-- (results|plots):([\w-]+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    different = 0
    for file in (ROOT / "README.md", *sorted(DOCS.glob("*.md"))):
        old = file.read_text(encoding="utf-8")
        new = render(old, RESULTS, os.path.relpath(PLOTS, file.parent))
        if options.check:
            if new != old:
                print(f"{file.name}: its tables differ from benchmarks/results; run python -m benchmarks.report")
                different = 1
            continue
        file.write_text(new, encoding="utf-8")
        PLOTS.mkdir(parents=True, exist_ok=True)
        for name in re.findall(r"<!-- plots:([\w-]+) -->", new):
            for plot, draw in plots(name, RESULTS).items():
                draw(PLOTS / plot)
    return different
