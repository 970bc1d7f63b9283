import contextlib
import json

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


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (lambda folder: {}["key"], KeyError),
        (slow, AssertionError),
        (lambda folder: np.ones(3 << 30, np.uint8), MemoryError),
    ],
    ids=["another error", "too slow", "too much memory"],
)
def test_what_escapes_is_named(monkeypatch, read, error):
    monkeypatch.setattr(fuzzing, "SECONDS", 1)
    with pytest.raises(error) as caught:
        fuzz(read, FILES, 5)
    assert caught.value.__notes__ == ["fuzz case 0 of seed 0"]
