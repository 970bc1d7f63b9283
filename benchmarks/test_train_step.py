"""Images a second of the whole training step: python -m pytest benchmarks/test_train_step.py --benchmark-only"""

import functools
from functools import partial
from itertools import cycle

import pytest
import torch

from benchmarks import train_cases
from benchmarks.harness import DEVICE, OURS, Competitor, Group, measure
from unihpe_fast.engine.runtime import compiler_missing

GPU = DEVICE == "cuda"
IMAGE_SIZE = 256 if GPU else 64
SIZES = [32, 64, 128, 256] if GPU else [64]


def prepare(variant, backbone, batch):
    config = train_cases.config(backbone, IMAGE_SIZE, batch)
    made = train_cases.trainer(config, variant, DEVICE)
    inputs = cycle([b.to(DEVICE) for b in train_cases.batches(config, 4)])
    return lambda k: made.advance(inputs)


def check(variant, backbone):
    """Its first loss is that of a float64 model; bfloat16, where the device has it, is allowed its 8 bits."""
    config = train_cases.config(backbone, 64, 8)
    (batch,) = train_cases.batches(config, 1)
    torch.manual_seed(0)
    made = train_cases.trainer(config, variant, DEVICE)
    exact = train_cases.exact_loss(config, batch, DEVICE)
    off = abs(train_cases.first_loss(made, batch) / exact - 1)
    assert off < (1e-4 if made.runtime.dtype == torch.float32 else 3e-2), f"the loss is off by {off:.1e} of itself"


@functools.cache
def group(backbone):
    # where compiling does not pay, eager is what a run takes
    ours = "ours, compiled" if GPU else "ours, eager"
    competitors = []
    for variant in sorted(train_cases.VARIANTS, key=lambda name: name != ours):
        why_not = ""
        if not GPU and "CUDA" in variant:
            why_not = "absent: CUDA graphs need a CUDA device"
        elif "compiled" in variant and not GPU:
            why_not = (compiler_missing() or "") and "absent: no C++ compiler"
            if backbone == "hrnet_w48":
                why_not = "left out: compiling it for a CPU takes many minutes"
        name = OURS if variant == ours else variant
        run, checked = partial(prepare, variant, backbone), partial(check, variant, backbone)
        # B^2 stacks an anchor's modality, each a batched SVD
        largest = 64 if "naive" in variant else float("inf")
        competitors.append(Competitor(name, run, checked, largest, absent=why_not))
    parameters = {"backbone": backbone, "image_px": IMAGE_SIZE, "ours": ours}
    return Group(f"train_step, {backbone}, {IMAGE_SIZE} px", "B", competitors, parameters, {"": (1, 1)})


@pytest.mark.parametrize("batch", SIZES)
@pytest.mark.parametrize("backbone", ["resnet50", "hrnet_w48"])
def test_train_step(benchmark, backbone, batch):
    measure(benchmark, group(backbone), batch, rounds=10 if GPU else 5)
