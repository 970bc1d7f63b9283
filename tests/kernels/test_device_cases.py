"""Every kind of call against float64 on the device: what a run on a GPU checks first.

At whole sizes, which take Triton's interpreter long: `make test` has the small and odd ones, this file is for GPUs.
"""

import pytest

from benchmarks.gpu.cases import LOSSES, POSES, REHEARSAL, LossCase, PoseCase
from tests.kernels.triton_device import DEVICE

_RUNS = DEVICE == "cuda" or (REHEARSAL and DEVICE is not None)
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not _RUNS, reason="no CUDA device")]
# of the largest entry of each gradient: float32 scores are good to 5e-7 and divided by 0.1, bfloat16 rounds
# gradients to 8 bits, and those of inner products before; float16 to 11
LOSS = 5e-6  # scores are good to 5e-7 in every type
GRADIENT = {"float32": 5e-5, "bfloat16": 1e-2, "float16": 2e-3}


@pytest.mark.parametrize("case", LOSSES, ids=str)
def test_loss(case: LossCase) -> None:
    embeddings, present = case.inputs()
    wanted, wanted_gradients = case.results([rows.double() for rows in embeddings], present, "torch")
    on_device = [rows.to(DEVICE) for rows in embeddings]
    loss, gradients = case.results(on_device, None if present is None else present.to(DEVICE), "triton")
    assert abs(loss.cpu() - wanted) <= LOSS * (1 + abs(wanted))
    for gradient, other in zip(gradients, wanted_gradients, strict=True):
        assert (gradient.cpu().double() - other).abs().max() <= GRADIENT[case.dtype] * other.abs().max()


@pytest.mark.parametrize("case", POSES, ids=str)
def test_pose(case: PoseCase) -> None:
    inputs = case.inputs()
    wanted = case.results([x.double() for x in inputs], "torch")
    found = case.results([x.to(DEVICE) for x in inputs], "triton")
    for part, other in zip(found, wanted, strict=True):
        assert (part.cpu().double() - other).abs().max() <= 2e-4 * (1 + other.abs().max())
