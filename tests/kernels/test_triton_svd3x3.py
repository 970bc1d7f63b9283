"""The Triton backend of `svd3x3`, against torch.linalg.svd in float64."""

import pytest
import torch

from tests.kernels.test_svd3x3 import KINDS, MATRICES, check, check_gradient_bound, gaussian, many, orthogonal
from tests.kernels.triton_device import DEVICE, guarded_outputs, needs_triton  # noqa: F401
from unihpe_kernels import svd3x3
from unihpe_kernels.small_linalg.svd3x3 import _operator, _operator_backward

pytest.importorskip("triton")
from unihpe_kernels.small_linalg import svd3x3_kernels

pytestmark = [needs_triton, pytest.mark.usefixtures("guarded_outputs")]
N = 131  # prime; two whole programs and a piece of a third


def on_device(a):
    """The kernels' decomposition of a tensor that may be elsewhere."""
    return tuple(part.to(a.device) for part in svd3x3(a.to(DEVICE), backend="triton"))


@pytest.mark.parametrize("name", MATRICES)
def test_decomposition(name):
    check(MATRICES[name]()[:N].float(), on_device)


@pytest.mark.parametrize("kind", KINDS)
def test_decomposition_of_many(kind, monkeypatch):
    """A million of a kind on a GPU; 16,385 in the interpreter, in wide programs, as its time is by the program."""
    if DEVICE == "cpu":
        monkeypatch.setattr(svd3x3_kernels, "LANES", 2**14)
        check(many(kind, 2**14 + 1, 0), on_device)
    else:
        check(many(kind, 10**6, 0), on_device)


@pytest.mark.parametrize("samples", [1, 63, 64, 65, 128])
def test_batches_of_whole_programs_and_pieces(samples):
    check(gaussian(samples).float(), on_device)


@pytest.mark.parametrize("batch", [(), (2, 3), (0,)])
def test_shapes_and_strides(batch):
    a = torch.randn(*batch, 3, 3, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    parts = svd3x3(a, backend="triton")
    assert [part.shape for part in parts] == [a.shape, a.shape[:-1], a.shape]
    for view in (a.mT.contiguous().mT, torch.stack([a, a * torch.nan], -1)[..., 0]):
        for got, expected in zip(svd3x3(view, backend="triton"), parts, strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_compute_in_float32(dtype):
    a = gaussian(7).to(DEVICE, dtype).requires_grad_()
    parts = svd3x3(a, backend="triton")
    for got, expected in zip(parts, svd3x3(a.float(), backend="triton"), strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(got, expected)
    parts[1].sum().backward()
    assert a.grad.dtype == dtype


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's numpy speaks of inf - inf
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_matrix_spoils_itself_alone(bad):
    a = gaussian(70).float()
    expected = on_device(a)
    a[2, 1, 1] = bad
    others = torch.arange(70) != 2
    for got, want in zip(on_device(a), expected, strict=True):
        assert not torch.isfinite(got[2]).all()
        assert torch.equal(got[others], want[others])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's numpy speaks of the overflow
def test_overflow_is_infinite_and_not_nan():
    u, s, vh = on_device(torch.full((2, 3, 3), 3.4e38))
    assert torch.isfinite(u).all()
    assert torch.isfinite(vh).all()
    assert not s.isnan().any()


def test_gradient_is_that_of_the_torch_backend():
    """On the same vectors: their signs are free."""
    a = gaussian(N).float()
    parts = on_device(a)
    grads = [torch.randn(part.shape, generator=torch.Generator().manual_seed(1)) for part in parts]
    expected = _operator_backward(
        *(grad.double() for grad in grads), *(part.double() for part in parts), torch.float64, "torch"
    )
    moved = [tensor.to(DEVICE) for tensor in (*grads, *parts)]
    got = _operator_backward(*moved, torch.float32, "triton").cpu().double()
    # a difference of singular values s_i - s_j is off by rounding of the largest
    s = parts[1].double()
    gap = s.diff(dim=1).abs().amin(1) * s[:, 0]
    error = (got - expected).abs().amax((1, 2))
    assert (error <= 64 * torch.finfo(torch.float32).eps * (1 + s[:, 0] ** 2) * (1 + 1 / gap**2)).all()
    assert error.median() < 1e-5


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
def test_polar_factor_is_differentiated_at_repeated_values(scale):
    """At a scaled rotation R the polar factor changes by R times the skew part of R^T dA / scale."""
    rotation = orthogonal(50).float()
    a = (scale * rotation).requires_grad_()
    u, _, vh = on_device(a)
    weight = gaussian(50, 3).float()
    (weight * (u @ vh)).sum().backward()
    skew = rotation.mT @ weight
    expected = rotation @ (skew - skew.mT) / 2
    torch.testing.assert_close(a.grad * scale, expected, rtol=0, atol=1e3 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("name", [name for name in MATRICES if name not in ("denormal", "5e37")])
def test_gradients_are_finite_and_bounded(name):
    check_gradient_bound(MATRICES[name]()[:N].float(), on_device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype):
    a = gaussian(4).to(DEVICE, dtype).requires_grad_()
    torch.library.opcheck(_operator, (a, "triton"))
    parts = svd3x3(a.detach(), backend="triton")
    torch.library.opcheck(_operator_backward, (*(torch.ones_like(part) for part in parts), *parts, dtype, "triton"))


def test_full_graph_matches_eager():
    def loss(a):
        u, s, vh = svd3x3(2 * a, backend="triton")
        return s.sin().sum() + (u @ vh).square().sum()

    a = gaussian(5).float().to(DEVICE).requires_grad_()
    results = [function(a) for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager"))]
    assert torch.equal(*results)
    assert torch.equal(*(torch.autograd.grad(result, a)[0] for result in results))


def test_float64_is_refused():
    with pytest.raises(ValueError, match=r"its Triton kernels take .*, got torch.float64"):
        svd3x3(gaussian(2).to(DEVICE), backend="triton")
