"""The 3x3 singular value decomposition, and the polar rotation that shares its numerics."""

import pytest
import torch

from tests.kernels.conftest import of_torch_alone
from tests.tolerances import SVD3X3
from unihpe_kernels import svd3x3
from unihpe_kernels.checks import check_backend
from unihpe_kernels.small_linalg import lanes, svd3x3_torch
from unihpe_kernels.small_linalg.polar import polar
from unihpe_kernels.small_linalg.svd3x3 import _operator, _operator_backward

pytestmark = pytest.mark.usefixtures("cpu_backend")

N = 4000


def generator(seed):
    return torch.Generator().manual_seed(seed)


def gaussian(n=N, seed=0):
    return torch.randn(n, 3, 3, generator=generator(seed), dtype=torch.float64)


def orthogonal(n=N, seed=0):
    return torch.linalg.qr(gaussian(n, seed))[0]


def with_singular_values(a, b, c, n=N):
    values = [torch.as_tensor(value, dtype=torch.float64).expand(n) for value in (a, b, c)]
    return orthogonal(n, 1) * torch.stack(values, -1)[:, None] @ orthogonal(n, 2)


def uniform(seed, n=N):
    return torch.rand(n, generator=generator(seed), dtype=torch.float64)


def diagonal():
    signs = torch.tensor([[1.0, 1, 1], [-1, 1, 1], [1, -1, -1], [-1, -1, -1]]).double()
    values = torch.tensor(
        [[3.0, 2, 1], [1, 2, 3], [1, 1, 1], [1, 0, 0], [0, 0, 1], [0, 1, 1e-14], [1e-30, 1, 0]]
    ).double()
    matrices = torch.diag_embed((signs[:, None] * values).flatten(0, 1))
    shuffles = torch.eye(3).double()[torch.tensor([[0, 1, 2], [1, 2, 0], [2, 1, 0]])]
    return (shuffles[:, None] @ matrices).flatten(0, 1)


MATRICES = {
    "random": gaussian,
    "rank one": lambda: gaussian()[..., :1] @ gaussian(seed=1)[:, :1],
    "rank one, axes": lambda: torch.einsum("bi,cj->bcij", torch.eye(3).double(), torch.eye(3).double()).flatten(0, 1),
    "rank two": lambda: gaussian()[..., :2] @ gaussian(seed=1)[:, :2],
    "zero": lambda: torch.zeros(3, 3, 3).double(),
    "diagonal": diagonal,
    "identity": lambda: torch.eye(3).double()[None],
    "orthogonal": orthogonal,
    "repeated, large": lambda: with_singular_values(1, 1, uniform(3)),
    "repeated, small": lambda: with_singular_values(1, 0.3 * uniform(3), 0.3 * uniform(3)),
    "nearly repeated": lambda: with_singular_values(1 + 1e-6 * uniform(3), 1, 1 - 1e-3 * uniform(4)),
    # half of them mirrored: with signs, the last two cancel, and the closed form of the polar rotation is left
    "nearly opposite": lambda: with_singular_values(1, 0.5, 0.5 - 10 ** (-6 * uniform(3)) / 2),
    "nearly opposite, all": lambda: with_singular_values(1, 1 - 10 ** (-6 * uniform(3)), 1 - 10 ** (-3 * uniform(4))),
    "graded": lambda: with_singular_values(1, 10 ** (-16 * uniform(3)), 10 ** (-16 * uniform(4))),
    "columns of unlike size": lambda: gaussian() * torch.tensor([1e-9, 1.0, 1e-4]).double(),
    "rows of unlike size": lambda: gaussian() * torch.tensor([[1e-4], [1e-9], [1.0]]).double(),
    "1e-20": lambda: gaussian() * 1e-20,
    "1e20": lambda: gaussian() * 1e20,
    "denormal": lambda: gaussian() * 1e-41,
    "5e37": lambda: gaussian().sign() * 5e37,
}


def check(a, decompose=svd3x3):
    u, s, vh = (part.double() for part in decompose(a))
    tolerance = SVD3X3[a.dtype]
    a = a.double()
    values = torch.linalg.svdvals(a)
    # what a denormal input is rounded to has an absolute error
    size = values[:, :1].clamp_min(1e-38)
    eye = torch.eye(3, dtype=torch.float64).expand_as(a)
    torch.testing.assert_close(u.mT @ u, eye, rtol=0, atol=tolerance)
    torch.testing.assert_close(vh @ vh.mT, eye, rtol=0, atol=tolerance)
    assert (s[:, :-1] >= s[:, 1:]).all()
    assert (s >= 0).all()
    torch.testing.assert_close(s / size, values / size, rtol=0, atol=tolerance)
    torch.testing.assert_close(u * s[:, None] @ vh / size[..., None], a / size[..., None], rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MATRICES)
def test_decomposition(name, dtype):
    check(MATRICES[name]().to(dtype))


def many(kind, n, seed):
    """n float32 matrices of a kind, no two alike but for the zeros."""
    a, b = gaussian(n, seed), gaussian(n, seed + 1)
    if kind == "rank one":
        return (a[..., :1] @ b[:, :1]).float()
    if kind == "rank two":
        return (a[..., :2] @ b[:, :2]).float()
    if kind == "zero":
        return torch.zeros(n, 3, 3)
    if kind == "diagonal":
        return torch.diag_embed(a.diagonal(dim1=-2, dim2=-1)).float()
    if kind == "repeated":  # three equal values, in every second matrix two
        q = torch.linalg.qr(a)[0]
        a = q * (1 + b[:, :1, :1].abs())
        a[::2] += b[::2, :, 1:2] @ (b[::2, :, 1:2].mT @ q[::2])
        return a.float()
    return (a * {"random": 1.0, "1e-20": 1e-20, "1e20": 1e20}[kind]).float()


KINDS = ["random", "rank one", "rank two", "zero", "diagonal", "repeated", "1e-20", "1e20"]


@pytest.mark.parametrize("kind", KINDS)
def test_decomposition_of_many(kind):
    check(many(kind, 20_000, 0))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_decomposition_of_a_million(kind, cpu_backend):
    for seed in range(10 if cpu_backend == "native" else 2):  # torch's takes the same steps, five times as long
        check(many(kind, 100_000, 2 * seed))


@pytest.mark.parametrize("name", MATRICES)
def test_polar_is_the_nearest_rotation(name):
    for dtype in (torch.float32, torch.float64):
        a = MATRICES[name]().to(dtype)
        rotation, maximum = polar(lanes.to_lanes(a.mT.reshape(-1, 9), dtype).view(3, 3, -1))
        rotation, a = rotation.permute(2, 1, 0).double(), a.double()
        tolerance = SVD3X3[dtype]
        torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).double().expand_as(a), rtol=0, atol=tolerance)
        torch.testing.assert_close(torch.det(rotation), torch.ones(len(a)).double(), rtol=0, atol=tolerance)
        u, s, vh = torch.linalg.svd(a)
        best = s[:, 0] + s[:, 1] + torch.det(u @ vh).sign() * s[:, 2]
        size = s[:, 0].clamp_min(1e-38)
        torch.testing.assert_close((rotation * a).sum((1, 2)) / size, best / size, rtol=0, atol=2 * tolerance)
        torch.testing.assert_close(maximum.double() / size, best / size, rtol=0, atol=2 * tolerance)


def test_polar_of_zero_is_the_identity():
    for dtype in (torch.float32, torch.float64):
        rotation, maximum = polar(torch.zeros(3, 3, 2, dtype=dtype))
        assert torch.equal(rotation.permute(2, 0, 1), torch.eye(3, dtype=dtype).expand(2, 3, 3))
        assert torch.equal(maximum, torch.zeros(2, dtype=dtype))


@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,), (2, 0)])
def test_shapes_and_strides(batch):
    a = torch.randn(*batch, 3, 3, generator=generator(0))
    u, s, vh = svd3x3(a)
    assert (u.shape, s.shape, vh.shape) == (a.shape, a.shape[:-1], a.shape)
    torch.testing.assert_close(u * s[..., None, :] @ vh, a)
    for view in (a.mT.contiguous().mT, torch.stack([a, a * torch.nan], -1)[..., 0]):
        for got, expected in zip(svd3x3(view), (u, s, vh), strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_compute_in_float32(dtype):
    a = gaussian(20).to(dtype).requires_grad_()
    for got, expected in zip(svd3x3(a), svd3x3(a.float()), strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(got, expected)
    svd3x3(a)[1].sum().backward()
    assert a.grad.dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(svd3x3(a.float())[1], svd3x3(a)[1])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_matrix_spoils_itself_alone(bad):
    a = gaussian(5).float()
    expected = svd3x3(a)
    a[2, 1, 1] = bad
    for got, want in zip(svd3x3(a), expected, strict=True):
        assert not torch.isfinite(got[2]).all()
        assert torch.equal(got[[0, 1, 3, 4]], want[[0, 1, 3, 4]])


def invariants(a):
    """Functions of the decomposition that do not depend on the signs of its vectors."""
    u, s, vh = svd3x3(a)
    return s, u @ vh, u * s.sin()[..., None, :] @ u.mT, vh.mT @ (s.exp()[..., None] * vh)


@of_torch_alone
def test_gradcheck():
    assert torch.autograd.gradcheck(invariants, gaussian(6).requires_grad_())


def test_overflow_is_infinite_and_not_nan():
    u, s, vh = svd3x3(torch.full((2, 3, 3), 3.4e38))
    assert torch.isfinite(u).all()
    assert torch.isfinite(vh).all()
    assert not s.isnan().any()


def test_gradient_against_torch():
    weights = gaussian(4, 5)

    def loss(u, s, vh):
        left, right = u * s.sin()[..., None, :] @ u.mT, vh.mT @ (s.exp()[..., None] * vh)
        mixed = u * s.square()[..., None, :] @ vh
        return sum((w * x).sum() for w, x in zip(weights, (left, right, mixed, u @ vh), strict=True)) + s.log().sum()

    x, y = gaussian(500).requires_grad_(), gaussian(500).requires_grad_()
    loss(*svd3x3(x)).backward()
    loss(*torch.linalg.svd(y)).backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-8, atol=1e-8)
    z = gaussian(500).float().requires_grad_()
    loss_of_z = svd3x3(z)[1].square().sum()
    loss_of_z.backward()
    torch.testing.assert_close(z.grad, 2 * z.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_polar_factor_is_differentiated_at_repeated_values(dtype, scale):
    """At a scaled rotation R the polar factor changes by R times the skew part of R^T dA / scale."""
    rotation = orthogonal(50).to(dtype)
    a = (scale * rotation).requires_grad_()
    u, _, vh = svd3x3(a)
    weight = gaussian(50, 3).to(dtype)
    (weight * (u @ vh)).sum().backward()
    skew = rotation.mT @ weight
    expected = rotation @ (skew - skew.mT) / 2
    torch.testing.assert_close(a.grad * scale, expected, rtol=0, atol=1e3 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", [name for name in MATRICES if name not in ("denormal", "5e37")])
def test_gradients_are_finite_and_bounded(name):
    for dtype in (torch.float32, torch.float64):
        check_gradient_bound(MATRICES[name]().to(dtype))


def check_gradient_bound(a, decompose=svd3x3):
    a = a.requires_grad_()
    u, s, vh = decompose(a)
    # ones for every output, also where the vectors are arbitrary
    (gradient,) = torch.autograd.grad((u.sum(), s.sum(), vh.sum()), a)
    largest = s.detach().amax(-1).clamp_min(torch.finfo(a.dtype).tiny)
    assert torch.isfinite(gradient).all()
    nonzero = s.detach().amax(-1) > 0
    bound = 3 + 60 / (32 * torch.finfo(a.dtype).eps * largest)
    assert (gradient.abs().amax((1, 2)) <= bound)[nonzero].all()


def test_damping_is_of_true_degeneracies_alone():
    relative = torch.tensor([1e-5, 1e-3, -1.0, 2.0])
    torch.testing.assert_close(svd3x3_torch._inverse(relative), 1 / relative)
    assert torch.equal(svd3x3_torch._inverse(torch.tensor([0.0, 1e-6, -1e-6])), torch.zeros(3))


def test_second_derivative_is_refused():
    a = gaussian(2).requires_grad_()
    (first,) = torch.autograd.grad(svd3x3(a)[1].sum(), a, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        first.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_opcheck(dtype):
    a = gaussian(4).to(dtype).requires_grad_()
    backend = check_backend("auto", a, "svd3x3")
    torch.library.opcheck(_operator, (a, backend))
    parts = svd3x3(a.detach())
    torch.library.opcheck(_operator_backward, (*(torch.ones_like(part) for part in parts), *parts, dtype, backend))


@of_torch_alone
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_into_one_graph(dynamic):
    compiled = torch.compile(invariants, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for samples in (4, 6) if dynamic else (4,):
        x, y = gaussian(samples).requires_grad_(), gaussian(samples).requires_grad_()
        expected, got = invariants(x), compiled(y)
        torch.testing.assert_close(got, expected)
        sum(part.sum() for part in expected).backward()
        sum(part.sum() for part in got).backward()
        torch.testing.assert_close(x.grad, y.grad)


def test_bad_arguments():
    with pytest.raises(TypeError, match="a must be a torch"):
        svd3x3([[1.0]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"a must have shape \[..., 3, 3\], got \[3, 2\]"):
        svd3x3(torch.zeros(3, 2))
    with pytest.raises(TypeError, match="a must have dtype"):
        svd3x3(torch.zeros(3, 3, dtype=torch.int32))
    with pytest.raises(ValueError, match="triton"):
        svd3x3(torch.zeros(3, 3), backend="triton")


def test_the_gradient_at_repeated_values_is_as_documented():
    """Right for the polar factor; of (u * s) @ vh, which is the matrix, its diagonal and antisymmetric part."""
    a = torch.eye(3, dtype=torch.float64).requires_grad_()
    w = torch.randn(3, 3, generator=generator(3), dtype=torch.float64)
    u, s, vh = svd3x3(a)
    (gradient,) = torch.autograd.grad((((u * s[..., None, :]) @ vh) * w).sum(), a)
    torch.testing.assert_close(gradient, (w - w.T) / 2 + w.diag().diag())
