"""Images a second of the whole training step: python -m pytest benchmarks/test_train_step.py --benchmark-only"""

import functools
from functools import partial
from itertools import cycle

import pytest
import torch

from benchmarks import train_cases
from benchmarks.gpu.cases import REHEARSAL
from benchmarks.harness import DEVICE, OURS, Competitor, Group, measure
from unihpe_fast.engine.runtime import compiler_missing

GPU = DEVICE == "cuda"
IMAGE_SIZE = 256 if GPU else 64
# every form at one size, since compiling a backbone takes a minute; how the step grows, without compiling
BATCH = 64 if GPU else 16
GROWTH_SIZES = [16, 32, 64, 128] if GPU else [4, 8, 16, 32]
ROUNDS = 10 if GPU else 5


@functools.lru_cache(maxsize=4)
def prepared(variant, backbone, batch):
    """A trainer and its batches on the device: the same one is checked and timed, since compiling takes longest."""
    config = train_cases.config(backbone, IMAGE_SIZE, batch)
    torch.manual_seed(0)
    inputs = [b.to(DEVICE) for b in train_cases.batches(config, 4)]
    return config, train_cases.trainer(config, variant, DEVICE), inputs


def prepare(variant, backbone, batch):
    _, made, inputs = prepared(variant, backbone, batch)
    turns = cycle(inputs)
    return lambda k: made.advance(turns)


def check(variant, backbone, batch):
    """Its first loss is that of a float64 model; bfloat16, where the device has it, is allowed its 8 bits."""
    config, made, inputs = prepared(variant, backbone, batch)
    exact = train_cases.exact_loss(config, inputs[0], DEVICE)
    off = abs(train_cases.first_loss(made, inputs[0]) / exact - 1)
    assert off < (1e-4 if made.runtime.dtype == torch.float32 else 3e-2), f"the loss is off by {off:.1e} of itself"


def why_absent(variant, backbone):
    if REHEARSAL and "compiled" in variant:
        return "left out of a rehearsal: compiling takes minutes"
    if GPU or "compiled" not in variant:
        return ""
    if "CUDA" in variant:
        return "absent: CUDA graphs need a CUDA device"
    if backbone == "hrnet_w48":
        return "left out: compiling it for a CPU takes many minutes"
    return "absent: no C++ compiler" if compiler_missing() else ""


def group(name, variants, ours, backbone, checked_at):
    """checked_at: the batch size of the check."""
    competitors = [
        Competitor(
            OURS if variant == ours else variant,
            partial(prepare, variant, backbone),
            partial(check, variant, backbone, checked_at),
            absent=why_absent(variant, backbone),
        )
        for variant in sorted(variants, key=lambda variant: variant != ours)
    ]
    parameters = {"backbone": backbone, "image_px": IMAGE_SIZE, "ours": ours.removeprefix("ours, ")}
    # the naive loss keeps all stacks
    expected = {"": (1, 1), "naive SVD loss, eager": (2, 2)}
    return Group(f"{name}, {backbone}, {IMAGE_SIZE} px", "B", competitors, parameters, expected)


# without compiling, so the first to give figures
@functools.cache
def growing():
    variants = ["ours, eager", "naive SVD loss, eager"]
    return group("train_step_growth", variants, "ours, eager", "resnet50", GROWTH_SIZES[0])


@pytest.mark.parametrize("batch", GROWTH_SIZES)
def test_growth_of_the_step(benchmark, batch):
    measure(benchmark, growing(), batch, rounds=ROUNDS)
    prepared.cache_clear()


@pytest.mark.parametrize("backbone", ["resnet50", "hrnet_w48"])
def test_train_step(benchmark, backbone):
    # where compiling does not pay, eager is what a run takes
    ours = "ours, compiled" if GPU else "ours, eager"
    measure(benchmark, group("train_step", train_cases.VARIANTS, ours, backbone, BATCH), BATCH, rounds=ROUNDS)
    prepared.cache_clear()
