import json
import time

import pytest
import torch

from benchmarks import harness
from benchmarks.harness import OURS, Competitor, Group, measure
from benchmarks.peers import published, sv_loss
from benchmarks.record import exponent, growth, write_records
from tests.support.memory import peak_bytes
from tests.support.stand_in import Benchmark
from unihpe_kernels.sv_contrastive import reference


def busy(milliseconds):
    def prepare(size):
        def call(k):
            end = time.perf_counter() + milliseconds / 1e3
            while time.perf_counter() < end:
                pass

        return call

    return prepare


def wrong():
    raise AssertionError("off by 3")


def test_competitors_take_turns_and_are_related_to_ours():
    order = []

    def prepare(name):
        return lambda size: lambda k: order.append(name)

    benchmark = Benchmark()
    measure(benchmark, Group("g", "B", [Competitor(OURS, prepare("o")), Competitor("p", prepare("p"))]), 8, rounds=3)
    assert "".join(order).endswith("popopo")
    benchmark = Benchmark()
    group = Group("g", "B", [Competitor(OURS, busy(1)), Competitor("peer", busy(20))])
    measure(benchmark, group, 8, rounds=3)
    found = benchmark.extra_info["side_by_side"]
    assert (found["group"], found["variable"], found["size"]) == ("g", "B", 8)
    entries = found["competitors"]
    assert entries["peer"]["ratio"] == entries["peer"]["median_s"] / entries[OURS]["median_s"] > 1
    assert entries["peer"]["rounds"] == entries[OURS]["rounds"] == 3


def test_a_wrong_answer_is_not_timed():
    benchmark = Benchmark()
    peer = Competitor("peer", busy(1), check=wrong)
    measure(benchmark, Group("g", "B", [Competitor(OURS, busy(1)), peer]), 8, rounds=2)
    entry = benchmark.extra_info["side_by_side"]["competitors"]["peer"]
    assert entry == {"same": True, "not_run": "wrong: off by 3"}
    with pytest.raises(AssertionError, match="off by 3"):
        measure(Benchmark(), Group("g", "B", [Competitor(OURS, busy(1), check=wrong)]), 8, rounds=2)


@pytest.fixture
def lasting(monkeypatch):
    """Rounds that take as many seconds as they say."""
    said = []
    monkeypatch.setattr(harness, "_once", lambda work: (work(), said[-1])[1])
    return lambda seconds: lambda size: lambda k: said.append(seconds)


def test_what_cannot_run_is_said(lasting):
    def broken():
        raise RuntimeError("no kernel image\nfor this device")

    slow = Competitor("slow", lasting(30))
    competitors = [
        Competitor(OURS, lasting(0.01)),
        Competitor("gone", absent="absent: gone is not installed"),
        Competitor("large", busy(1), largest=4),
        Competitor("broken", busy(1), check=broken),
        slow,
    ]
    benchmark = Benchmark()
    measure(benchmark, Group("g", "B", competitors), 8, rounds=2)
    entries = benchmark.extra_info["side_by_side"]["competitors"]
    assert entries["gone"]["not_run"] == "absent: gone is not installed"
    assert entries["large"]["not_run"] == "too large, above B = 4"
    assert entries["broken"]["not_run"] == "fails: RuntimeError: no kernel image"
    assert entries["slow"]["not_run"] == "too slow: 30 s a round"


def test_what_takes_long_gets_fewer_rounds_spread_over_ours(monkeypatch, lasting):
    monkeypatch.setattr(harness, "ENOUGH", 0.6)
    order = []

    def prepare(name, seconds):
        call = lasting(seconds)(8)
        return lambda size: lambda k: (order.append(name), call(k))

    group = Group("g", "B", [Competitor(OURS, prepare("o", 0.01)), Competitor("p", prepare("p", 0.2))])
    benchmark = Benchmark()
    measure(benchmark, group, 8, rounds=9)
    entries = benchmark.extra_info["side_by_side"]["competitors"]
    assert (entries[OURS]["rounds"], entries["p"]["rounds"]) == (9, 3)
    assert "".join(order).endswith("pooopooopooo")


def test_a_peer_that_would_be_too_slow_is_not_tried(monkeypatch, lasting):
    monkeypatch.setattr(harness, "SLOWEST", 1.5)
    tried = []

    def prepare(size):
        tried.append(size)
        return lasting(0.2)(size)

    group = Group("g", "B", [Competitor(OURS, lasting(0.01)), Competitor("p", prepare)], expected={"": (3, 3)})
    found = []
    for size in (8, 16, 15):
        benchmark = Benchmark()
        measure(benchmark, group, size, rounds=1)
        found.append(benchmark.extra_info["side_by_side"]["competitors"]["p"].get("not_run"))
    # 8 times 0.2 s would be too long, 6.6 times is not
    assert tried == [8, 15]
    assert found == [None, "too slow: 0.2 s a round at B = 8 already", None]


def test_ours_is_never_too_slow_nor_is_what_takes_about_as_long(monkeypatch, lasting):
    monkeypatch.setattr(harness, "SLOWEST", 0.01)
    benchmark = Benchmark()
    of = [Competitor(OURS, lasting(1)), Competitor("p", lasting(3)), Competitor("slow", lasting(5))]
    measure(benchmark, Group("g", "B", of), 8, rounds=1)
    entries = benchmark.extra_info["side_by_side"]["competitors"]
    assert {name: entry.get("not_run") for name, entry in entries.items()} == {
        OURS: None, "p": None, "slow": "too slow: 5 s a round",
    }  # fmt: skip


def test_a_peer_that_fails_at_a_size_does_not_stop_the_others():
    def prepare(size):
        raise RuntimeError("invalid configuration")

    def without_memory(size):
        raise torch.OutOfMemoryError

    benchmark = Benchmark()
    of = [Competitor(OURS, busy(1)), Competitor("p", prepare), Competitor("m", without_memory)]
    measure(benchmark, Group("g", "B", of), 8, rounds=1)
    entries = benchmark.extra_info["side_by_side"]["competitors"]
    assert entries["p"]["not_run"] == "fails: RuntimeError: invalid configuration"
    assert entries["m"]["not_run"] == "out of memory"
    with pytest.raises(RuntimeError, match="invalid"):
        measure(Benchmark(), Group("g", "B", [Competitor(OURS, prepare)]), 8, rounds=1)


def test_an_absent_package_is_reported_absent():
    assert published.absent("no_such_package") == "absent: no_such_package is not installed"
    assert published.absent("torch") == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="of the CPU's memory")
def test_peak_memory_is_what_a_call_takes():
    def work():
        a = torch.ones(64 << 18)  # 64 MiB
        return (a + 1).sum()  # and as much again

    first = peak_bytes(work)
    assert 120 << 20 <= first <= 150 << 20
    # memory that the allocator kept counts again
    assert 120 << 20 <= peak_bytes(work) <= 150 << 20


def test_exponents_of_known_powers():
    sizes = [10, 20, 40, 80]
    assert exponent(sizes, [3 * s**2.5 for s in sizes]) == pytest.approx(2.5)
    assert exponent(sizes[:3], [1, 2, 3]) is None

    def record(size, milliseconds):
        entry = {"median_s": milliseconds, "peak_bytes": 7 * size}
        return {
            "group": "g", "variable": "B", "size": size, "expected": {"": (3, 3), OURS: (3, 1)},
            "competitors": {OURS: entry, "peer": {"not_run": "too large"}},
        }  # fmt: skip

    # the small sizes are all overhead; the larger half is cubic
    times = [1.0, 1.0, 1.0, 1.0, *(s**3 / 512e3 for s in (80, 160, 320, 640))]
    rows = growth([record(s, t) for s, t in zip((5, 10, 20, 40, 80, 160, 320, 640), times, strict=True)])
    assert rows[0]["time"] == pytest.approx(3)
    assert rows[0]["memory"] == pytest.approx(1)
    assert rows[0]["expected"] == (3, 1)
    assert rows[1]["time"] is None


def test_records_carry_their_origin(tmp_path):
    write_records(tmp_path / "r.json", [{"group": "g"}], note=1)
    written = json.loads((tmp_path / "r.json").read_text())
    assert {"commit", "date", "versions", "device", "clocks", "records", "note"} <= written.keys()


def embeddings(count, batch=5, width=7):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(batch, width, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_peers_of_paired_are_the_loss(count):
    drawn = embeddings(count)
    wanted = reference.singular_value_contrastive_loss(drawn, temperature=0.2, negatives="paired")
    ways = [sv_loss.paired_svdvals_of_stacks, sv_loss.paired_svdvals_of_grams, sv_loss.paired_eigvalsh_of_grams]
    ways += [sv_loss.paired_closed_form] if count <= 3 else []
    for way in ways:
        torch.testing.assert_close(way(drawn, 0.2), wanted, rtol=0, atol=1e-6)


def test_peers_of_all_are_the_loss():
    drawn = embeddings(3)
    wanted = reference.singular_value_contrastive_loss(drawn, temperature=0.2, negatives="all")
    for way in (sv_loss.svdvals_of_stacks, sv_loss.svdvals_of_grams, sv_loss.eigvalsh_of_grams, sv_loss.closed_form):
        torch.testing.assert_close(way(drawn, 0.2), wanted, rtol=0, atol=1e-6)


def test_symile_is_what_its_formula_says():
    pytest.importorskip("symile")
    drawn = embeddings(3)
    torch.testing.assert_close(published.symile_all(drawn, 0.2), published.symile_exact(drawn, 0.2), rtol=0, atol=1e-6)
    torch.manual_seed(5)
    found = published.symile_paired(drawn, 0.2)
    torch.manual_seed(5)
    torch.testing.assert_close(found, published.symile_paired_exact(drawn, 0.2), rtol=0, atol=1e-6)


def test_floors_of_the_paper():
    from benchmarks.static_cost import limit

    # from the committed counts: instructions a triple over issue slots
    assert limit.sv_all(1024) == pytest.approx(8 * limit.sv_all(512), rel=1e-6)
    assert 2e-3 < limit.sv_all(1024) < 5e-3
    assert limit.paired(65_536, 3, 512, "bf16") > limit.paired(32_768, 3, 512, "bf16")
    assert limit.paired(65_536, 3, 256, "bf16") is None
    assert limit.poses("no such kernel", 10, 1) is None


def test_competitors_of_one_kind_are_measured_beside_ours(monkeypatch):
    monkeypatch.setattr(harness, "PEERS", "compiled")
    names = [OURS, "ours, replayed", "closed form", "closed form, torch.compile"]
    benchmark = Benchmark()
    measure(benchmark, Group("g", "B", [Competitor(name, busy(1)) for name in names]), 8, rounds=1)
    assert list(benchmark.extra_info["side_by_side"]["competitors"]) == [OURS, "closed form, torch.compile"]


def test_what_has_not_the_memory_is_not_tried(monkeypatch):
    peer = Competitor("peer", busy(1), needs=lambda size: 4 * size**3)
    monkeypatch.setattr(harness, "DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**34, 2**36))
    assert harness._lack_of_memory(peer, 2048) == "needs 32.0 GiB, 16.0 are free"
    assert harness._lack_of_memory(peer, 1024) == ""
    monkeypatch.setattr(harness, "DEVICE", "cpu")
    assert harness._lack_of_memory(peer, 2048) == ""
