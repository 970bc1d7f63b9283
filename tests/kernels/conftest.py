"""What several files of these tests share."""

from collections.abc import Iterator

import pytest

from unihpe_kernels import checks, native

# for a test that runs torch's code whatever `cpu_backend` says: it is in float64 throughout, or calls it by name
of_torch_alone = pytest.mark.parametrize("cpu_backend", ["torch"], indirect=True)


@pytest.fixture(scope="module", params=["native", "torch"])
def cpu_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """What "auto" is for CPU tensors of the dtypes that both backends take."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr(checks, "NATIVE_SOURCES", {})
        elif reason := native.obstacle(*{source for sources in checks.NATIVE_SOURCES.values() for source in sources}):
            pytest.skip(reason)
        yield request.param
