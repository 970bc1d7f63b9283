"""What a person reads of a run on a GPU: the parts, what failed and why, the speeds. Short enough for a terminal."""

from typing import Any

LONGEST = 12_000  # characters, of which the parts and failures come first
_FAILURES = 12


def summary(record: dict[str, Any]) -> str:
    """Of gpu.json, as far as it was written; cut where it would be longer than `LONGEST`."""
    lines = [f"{record['device']}, commit {record['commit'][:11]}, {record['date']}"]
    lines.append(", ".join(f"{name} {version}" for name, version in record["versions"].items()))
    if rates := record.get("rates"):
        lines.append("; ".join(f"{name.replace('_', ' ')} {value / 1e12:.3g} T/s" for name, value in rates.items()))
    lines += ["", *(_part(part) for part in record["parts"])]
    failures = [(p["name"], f) for p in record["parts"] for f in p["tests"].get("failed", [])]
    if failures:
        lines += ["", f"Failed tests, {len(failures)}:"]
        for name, failure in failures[:_FAILURES]:
            lines.append(f"  {name}: {failure['test'].split('/')[-1]}: {_last(failure['why'])}")
        if len(failures) > _FAILURES:
            lines.append(f"  and {len(failures) - _FAILURES} more: gpu.json names them")
    if record["records"]:
        lines += ["", "ours: ms, host ms, launches, peak; others as multiples of ours"]
        lines += [line for found in record["records"] for line in _record(found)]
    if profile := record.get("profile"):
        lines += ["", f"Longest kernels of a step ({profile['variant']}, {profile['total_ms']:.2f} ms):"]
        lines += [f"  {row['ms']:8.3f} ms {row['calls']:6.1f} x {row['name'][:80]}" for row in profile["longest"]]
    text = "\n".join(lines) + "\n"
    rest = "\n.. cut here; gpu.json has all of it\n"
    return text if len(text) < LONGEST else text[: LONGEST - len(rest) - 1] + rest


def _part(part: dict[str, Any]) -> str:
    status = part["status"] + " (informational)" * (part["informational"] and part["status"] != "ok")
    return f"{part['name']:17} {status:26} {part['seconds']:5.0f} s  {part['last_line'][:110]}".rstrip()


def _last(why: str) -> str:
    return (why.strip().splitlines() or ["no message"])[-1][:160]


def _record(record: dict[str, Any]) -> list[str]:
    """A line for ours, one for each other form of ours, one for the peers together."""
    head = f"{record['group']}, {record['variable']} = {record['size']}"
    ratios, lines = [], []
    for name, entry in record["competitors"].items():
        if "median_s" not in entry:
            ratios.append(f"{name}: {entry['not_run'][:40]}")
        elif name.startswith("ours"):
            lines.append(f"  {_times(record, entry)}" + (f"  {name}" if name != "ours" else ""))
        else:
            ratios.append(f"{name} {entry['ratio']:.3g}x")
    return [head, *lines, *([f"  {'; '.join(ratios)}"[:300]] if ratios else [])]


def _times(record: dict[str, Any], entry: dict[str, Any]) -> str:
    host = f", host {entry['host_s'] * 1e3:.3f}" if "host_s" in entry else ""
    launches = f", {entry['launches']} launches" if entry.get("launches") is not None else ""
    peak = f", {entry['peak_bytes'] / 2**20:.1f} MiB" if entry.get("peak_bytes") is not None else ""
    images = f", {record['size'] / entry['median_s']:.0f} images/s" if record["group"].startswith("train_step") else ""
    return f"{entry['median_s'] * 1e3:.3f} ms{host}{launches}{peak}{images}"
