import contextlib
import json
import os
import signal
import time

import numpy as np
import pytest

from tests.support import fuzz as fuzzing
from tests.support.fuzz import case, fuzz, mutate
from unihpe_fast.data.errors import SourceError

FILES = {"a.bin": bytes(range(256)), "b/c.bin": b"abc" * 100}


def test_cases_are_mutated_and_the_same_every_time():
    cases = [case(FILES, 0, number) for number in range(100)]
    assert cases == [case(FILES, 0, number) for number in range(100)]
    assert sum(found != FILES for found in cases) > 95
    for name in FILES:
        assert sum(found[name] != FILES[name] for found in cases) > 20


def test_json_is_mutated_into_json_too():
    data = json.dumps({"images": [{"id": 1}], "annotations": [{"bbox": [1, 2, 3, 4]}] * 2}).encode()
    found = []
    for seed in range(200):
        mutated = mutate(data, np.random.default_rng(seed))
        with contextlib.suppress(ValueError):
            found.append(json.loads(mutated))
    assert len(found) > 100
    assert len({json.dumps(value) for value in found}) > 80


def test_documented_errors_are_let_pass_and_the_rest_is_counted():
    def read(folder):
        if (folder / "a.bin").read_bytes() != FILES["a.bin"]:
            raise SourceError("a.bin") if (folder / "a.bin").stat().st_size % 2 else OSError("a.bin")

    expected = sum(case(FILES, 1, number)["a.bin"] == FILES["a.bin"] for number in range(60))
    assert fuzz(read, FILES, 60, seed=1) == expected > 0


def slow(folder):
    while True:
        pass


def waiting(folder):
    time.sleep(60)


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (lambda folder: {}["key"], KeyError),
        (slow, AssertionError),
        (waiting, AssertionError),
        (lambda folder: np.ones(3 << 30, np.uint8), MemoryError),
    ],
    ids=["another error", "too slow", "waiting", "too much memory"],
)
def test_what_escapes_is_named(monkeypatch, read, error):
    monkeypatch.setattr(fuzzing, "SECONDS", 1)
    monkeypatch.setattr(fuzzing, "WAIT", 30 if read is slow else 2)
    with pytest.raises(error) as caught:
        fuzz(read, FILES, 5)
    assert caught.value.__notes__ == ["fuzz case 0 of seed 0"]


def deaf(folder):
    """As a library that never comes back to Python."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    waiting(folder)


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda folder: {}["key"], r"ended the process: [\s\S]*KeyError: 'key'"),
        (slow, r"ended the process: [\s\S]*reading took more than 1 s of work"),
        (deaf, "took more than 2 s and did not return"),
        (lambda folder: np.ones(3 << 30, np.uint8), r"ended the process: [\s\S]*Unable to allocate 3"),
        (lambda folder: os.kill(os.getpid(), signal.SIGKILL), "ended the process"),
    ],
    ids=["another error", "too slow", "deaf", "too much memory", "crash"],
)
def test_what_happens_in_a_process_apart_is_named(monkeypatch, read, words):
    monkeypatch.setattr(fuzzing, "SECONDS", 1)
    monkeypatch.setattr(fuzzing, "WAIT", 2)
    monkeypatch.setattr(fuzzing, "GRACE", 1)

    calls = []

    def third(folder):
        calls.append(folder)
        if len(calls) == 3:
            read(folder)

    with pytest.raises(AssertionError, match=rf"^fuzz case 2 of seed 0 {words}"):
        fuzz(third, FILES, 5, apart=True)
    assert not calls


def test_a_process_apart_counts_what_it_took():
    def read(folder):
        if (folder / "a.bin").stat().st_size % 2:
            raise SourceError("a.bin")

    assert fuzz(read, FILES, 40, apart=True) == fuzz(read, FILES, 40) > 0
