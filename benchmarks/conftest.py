"""`--record PATH` keeps what the benchmarks found; every run ends with the ratios and how they grow."""

from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.record import growth, provenance, write_records

_FOUND = pytest.StashKey[list]()


def pytest_addoption(parser):
    parser.addoption("--record", type=Path, help="write the records, with commit, versions and device, to this file")
    parser.addoption("--smallest", action="store_true", help="run each benchmark at its first size alone")
    parser.addoption("--peers", choices=("all", *harness.KINDS), default="all", help="measure these beside ours alone")


def pytest_configure(config):
    config.stash[_FOUND] = []
    harness.PEERS = config.getoption("--peers", "all")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--smallest"):
        first = {item.function: item for item in reversed(items)}
        items[:] = [item for item in items if first[item.function] is item]


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["unihpe_fast"] = provenance()


@pytest.fixture(autouse=True)
def _kept(request):
    yield
    benchmark = request.node.funcargs.get("benchmark")
    if benchmark is not None and (found := benchmark.extra_info.get("side_by_side")):
        config = request.config
        config.stash[_FOUND].append(found)
        if path := config.getoption("--record"):
            # after each, so that a run that is stopped keeps what it has
            write_records(path, config.stash[_FOUND])


def pytest_terminal_summary(terminalreporter, config):
    records = config.stash[_FOUND]
    if not records:
        return
    write = terminalreporter.write_line
    terminalreporter.section("ratios to ours, medians of rounds taken in turn")
    for record in records:
        write(f"{record['group']}, {record['variable']} = {record['size']}")
        for name, entry in record["competitors"].items():
            write("   " + line(name, entry))
    terminalreporter.section("growth: exponents over the larger sizes, those of the algorithm in brackets")
    for row in growth(records):
        expected = row["expected"] or ("?", "?")
        pairs = zip(("time", "memory"), expected, strict=True)
        write(f"{row['group']}: {row['name']}: " + ", ".join(f"{k} {_number(row[k])} ({e})" for k, e in pairs))


def line(name, entry):
    if "not_run" in entry:
        return f"{name}: not run, {entry['not_run']}"
    memory = "?" if entry["peak_bytes"] is None else f"{entry['peak_bytes'] / 2**20:.1f} MiB"
    count = "" if entry["launches"] is None else f", {entry['launches']} launches"
    times = f"{entry['median_s'] * 1e3:.3f} ms (+- {entry['iqr_s'] * 1e3 / 2:.3f})"
    return f"{name}: {entry['ratio']:.2f} x, {times}, peak {memory}{count}"


def _number(value):
    return "-" if value is None else f"{value:.2f}"
