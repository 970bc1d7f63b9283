"""What the launchers ask of Triton, under its own binder with a driver that launches nothing: no GPU is needed."""

import math
import os
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="Triton interprets here"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver here"),
]

from benchmarks.gpu import stub_driver  # noqa: E402
from unihpe_kernels import checks, singular_value_contrastive_loss  # noqa: E402
from unihpe_kernels.launching import Launch, Parts  # noqa: E402
from unihpe_kernels.sv_contrastive import triton_backend, triton_paired  # noqa: E402


def step(batch, count=3, width=32, negatives="paired", temperature=None):
    leaves = [torch.zeros(batch, width, requires_grad=True) for _ in range(count)]
    tau = temperature if temperature is not None else torch.tensor(0.1, requires_grad=True)
    loss = singular_value_contrastive_loss(leaves, temperature=tau, negatives=negatives, backend="triton")
    torch.autograd.grad(loss, leaves)


@pytest.fixture
def asked():
    with stub_driver.installed(compiles=False) as kernels:
        yield kernels


@pytest.mark.parametrize(("negatives", "count", "own"), [("paired", 2, 8), ("paired", 3, 8), ("paired", 4, 9)])
def test_a_step_launches_few_kernels(asked, negatives, count, own):
    step(256, count, negatives=negatives)
    # each of them once: what is launched is what is compiled
    assert len(asked) == len({name for name, _ in asked}) == own, asked


@pytest.mark.parametrize("negatives", ["paired", "all"])
def test_sizes_that_change_every_call_compile_a_bounded_number_of_kernels(asked, negatives):
    """What Triton tells apart of a size is whether it is 1 and whether 16 divides it, not its value."""
    for batch in (64, 80, 33, 35, 47, 48, 61, 96, 97):
        step(batch, negatives=negatives)
    after_some = len(asked)
    for batch in range(98, 130):
        step(batch, negatives=negatives)
    # counts of pieces that happen to be 16 or 1 are seldom
    assert len(asked) - after_some <= 4, asked[after_some:]


def test_a_temperature_that_changes_compiles_nothing(asked):
    step(64, temperature=torch.tensor(0.1))
    before = len(asked)
    for temperature in (1.0, 0.07, 16.0):
        step(64, temperature=torch.tensor(temperature))
    assert len(asked) == before


def test_what_is_not_compiled_is_refused_in_a_capture(monkeypatch, asked):
    from triton import knobs

    step(64)
    capturing = checks._compiled_before
    monkeypatch.setattr(
        triton_backend, "on_device", lambda tensor: capturing(checks.on_device(SimpleNamespace(device=tensor.device)))
    )
    step(64)  # all of it is there
    with pytest.raises(RuntimeError, match=r"got paired_prepare for the first time.*run the step once before"):
        step(33)
    assert knobs.runtime.jit_cache_hook is None
    with monkeypatch.context() as patch:
        patch.setattr(triton_backend, "on_device", checks.on_device)
        step(33)
    step(33)


def test_a_capture_is_noticed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", lambda device: checks.contextlib.nullcontext())
    from triton import knobs

    with checks.on_device(SimpleNamespace(device=torch.device("cuda", 0))):
        assert knobs.runtime.jit_cache_hook is not None
    assert knobs.runtime.jit_cache_hook is None


def loss_of(batch=48, count=3, dim=32, dtype=torch.float32, weights=None, missing=False, normalize=True, off=()):
    """A step, of which the tensors named in `off` lie one element off: not at a multiple of 16 bytes."""

    def tensor(name, *shape, dtype=dtype):
        whole = torch.zeros(math.prod(shape) + 1, dtype=dtype)
        return whole[int(name in off) :][: math.prod(shape)].view(shape).requires_grad_(dtype != torch.bool)

    embeddings = [tensor(f"embedding{m}", batch, dim) for m in range(count)]
    loss = singular_value_contrastive_loss(
        embeddings, temperature=tensor("temperature", dtype=torch.float32), normalize=normalize, backend="triton",
        weights=None if weights is None else tensor("weights", batch, dtype=weights),
        present=tensor("present", count, batch, dtype=torch.bool) if missing else None,
    )  # fmt: skip
    torch.autograd.grad(loss, embeddings, tensor("grad", dtype=torch.float32))


DOUBLE_TILE = {"tile_i": 32, "tile_j": 32, "depth": 32, "num_warps": 8, "num_stages": 1, "programs": 64}
CHANGES = {
    "batch": {"batch": 47},
    "batch of whole blocks": {"batch": 64},
    "one sample": {"batch": 1},
    "dim": {"dim": 33},
    "modalities": {"count": 2},
    "four modalities": {"count": 4},
    "dtype": {"dtype": torch.bfloat16},
    "another dtype of one size": {"dtype": torch.float16},
    "weights": {"weights": torch.float32},
    "dtype of the weights": {"weights": torch.float64},
    "masks": {"missing": True},
    "normalize": {"normalize": False},
    **{f"address of {name}": {"off": (name,)} for name in ("embedding0", "embedding2", "temperature", "grad")},
    "address of weights": {"weights": torch.float32, "off": ("weights",)},
    "address of masks": {"missing": True, "off": ("present",)},
}


def parts_as_views(parts, buffer, last):
    return PARTS_OF(parts, buffer, None)


PARTS_OF = Parts.of


@pytest.mark.parametrize("change", ["settings", "precision", *CHANGES])
def test_a_plan_launches_what_triton_would_choose(monkeypatch, asked, change):
    """Plans of unlike calls must not be taken for each other: every launch is compared with what Triton's binder finds
    for the same arguments, its own kept plan or not. Parts of buffers are tensors here: the binder takes no addresses.
    """
    ran, checked = [], []
    monkeypatch.setattr(Parts, "of", parts_as_views)
    monkeypatch.setattr(stub_driver._Uncompiled, "run", lambda kernel, *_: ran.append(kernel))
    monkeypatch.setattr(stub_driver._Uncompiled, "__getitem__", lambda kernel, grid: lambda *_: ran.append(kernel))
    call = Launch.__call__

    def compared(launch, *arguments):
        call(launch, *arguments)
        launch._kernel[launch._grid](*arguments, **launch._settings)
        assert ran[-1] is ran[-2], launch._kernel.__name__
        checked.append(launch)

    monkeypatch.setattr(Launch, "__call__", compared)
    loss_of()
    loss_of()
    of_a_step = len(checked) // 2
    launches = list(checked)
    assert launches[:of_a_step] == launches[of_a_step:]  # the second step is the first one's plan
    with monkeypatch.context() as patch:
        options = dict(CHANGES.get(change, {}))
        if change == "settings":
            patch.setattr(triton_paired, "settings", lambda *_: DOUBLE_TILE)
        if change == "precision":
            patch.setattr(triton_paired, "_precision", lambda dtype: "tf32x3")
        for _ in range(2):
            loss_of(**options)
        others = checked[2 * of_a_step :]
        if change == "settings":
            assert {launch._settings["TILE_I"] for launch in others if "TILE_I" in launch._settings} == {32}
        elif change == "precision":
            assert {launch._settings["PRECISION"] for launch in others if "PRECISION" in launch._settings} == {"tf32x3"}
        elif "address" not in change:  # sizes go along with a plan
            assert not set(launches) & set(others)
    before = len(asked)
    loss_of()
    assert checked[-of_a_step:] == launches[:of_a_step]
    assert len(asked) == before


def test_kept_launches_take_addresses_of_the_same_parts(monkeypatch, asked):
    """Argument by argument, where a step's buffers lie when views are passed, and when addresses are."""
    calls, call, of = [], Launch.__call__, Parts.of
    kept = {}

    def launched(launch, *arguments):
        calls.append((launch, arguments))
        call(launch, *arguments)

    def both(parts, buffer, last):
        views, given = parts_as_views(parts, buffer, last), of(parts, buffer, last)
        kept.setdefault(last.is_kept, []).append((views, given))
        return given

    monkeypatch.setattr(Launch, "__call__", launched)
    monkeypatch.setattr(Parts, "of", both)
    for count in (3, 4):  # with and without tables of basis
        loss_of(count=count)
        loss_of(count=count)
    assert len(kept[False]) == len(kept[True]) == 14
    for views, given in kept[True]:
        assert given == [
            view.data_ptr() if view.numel() else address for view, address in zip(views, given, strict=True)
        ]
    first, second = calls[:8], calls[8:16]
    for (launch, views), (same, given) in zip(first, second, strict=True):
        assert launch is same
        for view, argument in zip(views, given, strict=True):
            assert type(argument) is type(view) or (isinstance(view, torch.Tensor) and isinstance(argument, int))
    assert sum(isinstance(a, int) and a > 2**32 for _, arguments in second for a in arguments) > 20
