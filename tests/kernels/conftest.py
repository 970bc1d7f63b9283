"""Processes that several test files share."""

from collections.abc import Iterator

import pytest

from benchmarks.ranks import Ranks
from tests.kernels.sv_group_cases import MOST


@pytest.fixture(scope="session")
def processes(tmp_path_factory) -> Iterator[Ranks]:
    ranks = Ranks(MOST, tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.stop()
