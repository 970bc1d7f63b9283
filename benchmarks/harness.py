"""Side by side in one run: ours and its peers take turns, so that a machine that warms up or is shared slows all alike.

A `Group` is one table of the results: competitors that do the same work, at sizes that grow. `measure` is called in a
pytest-benchmark test, a size each: it checks every competitor against float64, refuses those that are wrong, takes peak
memory and launches apart from the clock, and then times one round of each in turn. What it found goes into the
benchmark's extra_info, in seconds and bytes; benchmarks/record.py collects it.
"""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch._dynamo

from tests.support.memory import peak_bytes

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OURS = "ours"
# which competitors are measured beside ours: "all", or of one `kind`, so that what is wanted first is measured first
PEERS = "all"
KINDS = ("ours", "eager", "compiled")
# together larger than the caches of any GPU: inputs are taken in turn, so none is read from a cache that it was left in
CACHE_BYTES = 256 << 20
# a peer that takes longer a round, and four times as long as ours, is left out, saying so; what takes long gets fewer
# rounds, spread over those of ours
SLOWEST = 2.0 if DEVICE == "cuda" else 3.0  # seconds
ENOUGH = 1.5  # seconds of all rounds of a competitor
FEWEST = 3  # rounds
# every size is compiled anew; beyond the default of 8 torch.compile would run eagerly and not say so
torch._dynamo.config.recompile_limit = 64


@dataclass(frozen=True)
class Competitor:
    """One way to do the work.

    prepare: of a size, makes the function that does one round on the k-th copy of the inputs. check: raises
    AssertionError where the answer is not that of float64. largest, smallest: sizes beyond which it is not tried. same:
    it computes the same numbers; otherwise what it computes instead stands in its name. absent: why it cannot run here.
    needs: of a size, bytes without which it is not tried on a GPU.
    """

    name: str
    prepare: Callable[[int], Callable[[int], Any]] | None = None
    check: Callable[[], None] | None = None
    largest: float = float("inf")
    smallest: float = 0
    same: bool = True
    absent: str = ""
    needs: Callable[[int], float] | None = None

    @property
    def kind(self) -> str:
        if self.name.startswith(OURS):
            return "ours"
        return "compiled" if "compile" in self.name else "eager"

    @cached_property
    def verdict(self) -> str:
        """What keeps it from being timed, found out once: not here, wrong, or not working on these versions."""
        if self.absent or self.check is None:
            return self.absent
        try:
            self.check()
        except AssertionError as error:
            return "wrong: " + _first_line(error)
        except Exception as error:
            if self.name == OURS:
                raise
            # somebody else's package: whatever it raises is said in the table
            return f"fails: {type(error).__name__}: {_first_line(error)}"
        return ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]


@dataclass(frozen=True)
class Group:
    """name: as in tables. variable: what the sizes count. parameters: what stays the same. expected: by competitor
    or "" for all, the exponents (time, memory) that its algorithm has in the size. floors: size -> least seconds on
    the GPU by static cost. uses: size -> what takes that size. taken: by competitor, the last size that was tried and
    the seconds of a round, filled in by `measure`."""

    name: str
    variable: str
    competitors: Sequence[Competitor]
    parameters: dict[str, Any] = field(default_factory=dict)
    expected: dict[str, tuple[float, float]] = field(default_factory=dict)
    floors: dict[int, float | None] = field(default_factory=dict)
    uses: dict[int, str] = field(default_factory=dict)
    taken: dict[str, tuple[int, float]] = field(default_factory=dict)

    def patience(self, name: str) -> float:
        """Seconds of a round above which a competitor is too slow: ours, which comes first, never is."""
        if name == OURS:
            return float("inf")
        return max(SLOWEST, 4 * self.taken[OURS][1]) if OURS in self.taken else SLOWEST

    def too_slow(self, name: str, size: int) -> str:
        """Why a competitor is not tried at a size, by the time that it took at a smaller one."""
        growth = self.expected.get(name, self.expected.get(""))
        if name not in self.taken or growth is None:
            return ""
        before, once = self.taken[name]
        if size <= before or once * (size / before) ** growth[0] <= self.patience(name):
            return ""
        return f"too slow: {once:.2g} s a round at {self.variable} = {before:,} already"


def seconds(work: Callable[[], Any]) -> float:
    """Of one call, by the GPU's own clock where there is one."""
    if DEVICE == "cpu":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start_event.record()
    work()
    end_event.record()
    end_event.synchronize()
    return start_event.elapsed_time(end_event) / 1e3


def launches(work: Callable[[], Any]) -> int | None:
    """Kernels, copies and fills that one call gives the GPU; None without a GPU."""
    if DEVICE == "cpu":
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())


def copies_for(bytes_each: int) -> int:
    """How many copies of the inputs to take in turn, so that none is still in the GPU's cache; one on a CPU."""
    return 1 if DEVICE == "cpu" else max(2, min(2048, -(-CACHE_BYTES // max(bytes_each, 1))))


def _spread(times: Sequence[float]) -> dict[str, Any]:
    ordered = sorted(times)
    quarter = len(ordered) // 4
    return {
        "median_s": statistics.median(ordered),
        "iqr_s": ordered[-1 - quarter] - ordered[quarter],
        "least_s": ordered[0],
        "rounds": len(ordered),
    }


def measure(benchmark: Any, group: Group, size: int, *, rounds: int) -> None:
    """Time `group` at `size`. AssertionError when ours is wrong: then nothing is timed."""
    entries: dict[str, dict[str, Any]] = {}
    work: dict[str, Callable[[int], Any]] = {}
    shares: dict[str, int] = {}
    for competitor in group.competitors:
        name = competitor.name
        if name != OURS and PEERS not in ("all", competitor.kind):
            continue
        entry = entries[name] = {"same": competitor.same}
        if size > competitor.largest:
            entry["not_run"] = f"too large, above {group.variable} = {competitor.largest:g}"
        elif size < competitor.smallest:
            entry["not_run"] = f"left out below {group.variable} = {competitor.smallest:g}"
        elif lack := _lack_of_memory(competitor, size):
            entry["not_run"] = lack
        elif competitor.verdict:
            assert name != OURS, competitor.verdict
            entry["not_run"] = competitor.verdict
        elif slow := group.too_slow(name, size):
            entry["not_run"] = slow
        elif competitor.prepare is not None:
            try:
                call = competitor.prepare(size)
                once = _first_calls(call, entry, group.patience(name))
            except Exception as error:
                if name == OURS:
                    raise
                entry["not_run"] = _why_not(error)
                continue
            group.taken[name] = size, once
            if "not_run" not in entry:
                work[name], shares[name] = call, max(FEWEST, min(rounds, int(ENOUGH / max(once, 1e-9))))
    assert OURS in work, entries[OURS]
    rounds = min(rounds, shares[OURS])
    times: dict[str, list[float]] = {name: [] for name in work}
    turns = 0

    def turn() -> None:
        """One round of each, ours last: pytest-benchmark's own clock reads the call that follows."""
        nonlocal turns
        turns += 1
        for name, call in work.items():
            # spread evenly, where it has fewer rounds than ours
            if name != OURS and -(-turns * shares[name] // rounds) > len(times[name]):
                number = len(times[name])
                _settle()
                times[name].append(seconds(lambda call=call, number=number: call(number)))
        _settle()

    def ours() -> None:
        number = len(times[OURS])
        times[OURS].append(seconds(lambda: work[OURS](number)))

    gc.collect()
    gc.disable()
    try:
        benchmark.pedantic(ours, setup=turn, rounds=rounds)
    finally:
        gc.enable()
    for name, found in times.items():
        entries[name] |= _spread(found)
    for name in times:
        entries[name]["ratio"] = entries[name]["median_s"] / entries[OURS]["median_s"]
    benchmark.group = f"{group.name}, {group.variable} = {size}"
    record: dict[str, Any] = {
        "group": group.name,
        "variable": group.variable,
        "size": size,
        "use": group.uses.get(size, ""),
        "parameters": group.parameters,
        "expected": group.expected,
        "competitors": entries,
    }
    if DEVICE == "cuda" and (floor := group.floors.get(size)):
        record |= {"floor_s": floor, "share_of_floor": floor / entries[OURS]["median_s"]}
    benchmark.extra_info["side_by_side"] = record


def _first_calls(call: Callable[[int], Any], entry: dict[str, Any], patience: float) -> float:
    """Compile and warm up; find peak memory and launches, and what is too slow to be timed. Seconds of a round."""
    call(0)  # may compile
    once = _once(lambda: call(1))
    if once > patience:
        entry["not_run"] = f"too slow: {once:.2g} s a round"
        return once
    entry["peak_bytes"] = peak_bytes(lambda: call(2))
    # the profiler takes far longer than the work of what launches 10^5 kernels
    entry["launches"] = launches(lambda: call(3)) if once <= SLOWEST / 4 else None
    if DEVICE == "cuda":
        entry["host_s"] = _until_returned(lambda: call(1))
    return once


def _until_returned(work: Callable[[], Any]) -> float:
    """Seconds until the call is back, whatever it gave the GPU to do: the least of five."""
    found = []
    for _ in range(5):
        _wait()
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def _lack_of_memory(competitor: Competitor, size: int) -> str:
    """Why a competitor is not tried at a size, by the memory that it needs and that is free; others may use the GPU,
    and what fails to get memory takes from them before."""
    if competitor.needs is None or DEVICE == "cpu":
        return ""
    needed, free = competitor.needs(size), torch.cuda.mem_get_info()[0]
    return f"needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free" if needed > free else ""


def _once(work: Callable[[], Any]) -> float:
    _wait()
    start = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - start


def _why_not(error: Exception) -> str:
    """Of a peer, at this size; its memory is given back."""
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out of memory"
    return f"fails: {type(error).__name__}: {_first_line(error)}"


def _settle() -> None:
    """Threads of OpenMP wait actively for some 8 ms after their work: of one peer's, on the next one's cores, and what
    torch.compile makes has an OpenMP of its own. Each turn begins on an idle machine."""
    if DEVICE == "cpu":
        time.sleep(0.02)


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
