"""Every public function gives the same bits inside and outside of autocast, backward pass included."""

import pytest
import torch

import unihpe_kernels

GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(2, 50, 6, 3, generator=GENERATOR) * 500
E = list(torch.randn(3, 40, 16, generator=GENERATOR))
LARGE = 1e6  # beyond float16

# by the name in __all__: what calls it, of poses or embeddings that may want a gradient
CASES = {
    "Similarity": lambda x, e: unihpe_kernels.procrustes(X, Y).apply(x * LARGE),
    "Alignment": lambda x, e: unihpe_kernels.align(x, Y).aligned,
    "align": lambda x, e: unihpe_kernels.align(x, Y).joint_errors,
    "procrustes": lambda x, e: unihpe_kernels.procrustes(x, Y).translation,
    "pa_mpjpe": lambda x, e: unihpe_kernels.pa_mpjpe(x, Y),
    "n_mpjpe": lambda x, e: unihpe_kernels.n_mpjpe(x, Y),
    "mpjpe": lambda x, e: unihpe_kernels.mpjpe(x, Y),
    "svd3x3": lambda x, e: unihpe_kernels.svd3x3(x[:, :3])[1],
    "gram_singular_values": lambda x, e: unihpe_kernels.gram_singular_values(e),
    "singular_value_contrastive_loss": lambda x, e: unihpe_kernels.singular_value_contrastive_loss(e, temperature=0.01),
    "pairwise_contrastive_loss": lambda x, e: unihpe_kernels.pairwise_contrastive_loss(e, temperature=0.02),
    "tuple_contrastive_loss": lambda x, e: sum(
        unihpe_kernels.tuple_contrastive_loss(e, score=score, temperature=0.05, direction="both")
        for score in ("singular_value", "volume", "area", "product")
    ),
    "SingularValueContrastiveLoss": lambda x, e: unihpe_kernels.SingularValueContrastiveLoss(0.01)(*e),
    "PairwiseInfoNCE": lambda x, e: unihpe_kernels.PairwiseInfoNCE(0.01)(*e),
    "GRAMLoss": lambda x, e: unihpe_kernels.GRAMLoss()(*e),
    "TriangleLoss": lambda x, e: unihpe_kernels.TriangleLoss()(*e),
    "SymileLoss": lambda x, e: unihpe_kernels.SymileLoss(negative_sampling="n_squared")(*e),
    "SigLIPLoss": lambda x, e: unihpe_kernels.SigLIPLoss()(*e[:2]),
    "OpenClipLoss": lambda x, e: unihpe_kernels.OpenClipLoss()(*e[:2], logit_scale=50.0),
}


def results(case, dtype, recorded):
    """Value and gradients; the backward pass runs under whatever autocast there is."""
    x, *e = (value.detach().clone().to(dtype).requires_grad_(recorded) for value in (X, *E))
    value = case(x, e)
    if not recorded:
        return [value]
    gradients = torch.autograd.grad(value.sum(), [x, *e], allow_unused=True)
    return [value.detach(), *(gradient for gradient in gradients if gradient is not None)]


def test_no_public_name_is_forgotten():
    assert set(CASES) == set(unihpe_kernels.__all__) - {"__version__"}


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CASES)
def test_the_same_bits(name, low, dtype, recorded, cpu_backend):
    wanted = results(CASES[name], dtype, recorded)
    with torch.autocast("cpu", dtype=low):
        got = results(CASES[name], dtype, recorded)
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_no_product_of_an_alignment_is_a_matrix_product(monkeypatch):
    """torch.set_float32_matmul_precision would round it to TF32 on a GPU."""
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            seen.append(function.__name__.split(".")[0])
            return function(*arguments, **(options or {}))

    with Watch():
        x = X.clone().requires_grad_()
        unihpe_kernels.align(x, Y, backend="torch").error.sum().backward()
        unihpe_kernels.pa_mpjpe(x, Y, backend="torch").sum().backward()
        (unihpe_kernels.mpjpe(x, Y) + unihpe_kernels.n_mpjpe(x, Y)).sum().backward()
        unihpe_kernels.svd3x3(x[:, :3], backend="torch")[1].sum().backward()
        unihpe_kernels.procrustes(X, Y, backend="torch").apply(x).sum().backward()
    assert not set(seen) & {"mm", "bmm", "addmm", "baddbmm", "matmul", "dot", "mv"}
