"""What several files of these tests share."""

import sys
from collections.abc import Iterator
from typing import Any

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


@pytest.fixture(autouse=True, scope="session")
def _language_patched_once() -> Iterator[None]:
    """Triton's interpreter puts its own functions into triton.language at every call of a kernel, and again at every
    call of a device function in it: half its time, for what is there already."""
    interpreter = sys.modules.get("triton.runtime.interpreter")
    if not hasattr(interpreter, "_LangPatchScope"):  # not imported, or a version that does it in another way
        yield
        return
    patch_lang, language, core = interpreter._patch_lang, interpreter.tl, interpreter.tl.core

    def once(fn: Any) -> Any:
        modules = [value for value in fn.__globals__.values() if value is language or value is core]
        if modules and not any(core.is_builtin(module.load) for module in modules):
            return interpreter._LangPatchScope()
        return patch_lang(fn)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", once)
        yield
