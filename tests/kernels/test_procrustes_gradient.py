"""Procrustes alignment and PA-MPJPE: gradients, and the operators under torch's own checks."""

import pytest
import torch

from tests.kernels.conftest import of_torch_alone
from tests.kernels.pose_cases import (
    CASES,
    GENERIC,
    OCTAHEDRON,
    S,
    generator,
    pose_pairs,
    random_poses,
    random_rotations,
    reference_gradients,
)
from unihpe_kernels import mpjpe, n_mpjpe, pa_mpjpe, procrustes
from unihpe_kernels.checks import check_backend
from unihpe_kernels.procrustes import op, reference

pytestmark = pytest.mark.usefixtures("cpu_backend")


def leaves(*tensors):
    return tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)


def gradients(function, *tensors):
    inputs = leaves(*tensors)
    return torch.autograd.grad(function(*inputs).sum(), inputs)


@of_torch_alone
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("samples", "joints"), [(4, 3), (4, 4), (1, 17)])
def test_gradcheck_of_the_error(samples, joints, weighted):
    """Of many poses of 17 joints the gradient is compared with that by SVD, below."""
    pred, target = leaves(*pose_pairs(samples, joints, seed=3))
    weights = torch.rand(samples, joints, generator=generator(0), dtype=torch.float64) if weighted else None
    assert torch.autograd.gradcheck(lambda x, y: pa_mpjpe(x, y, weights=weights), (pred, target), eps=1e-4)


@of_torch_alone
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_gradcheck_of_the_similarity(scale, weighted):
    pred, target = leaves(*(points / 500 for points in pose_pairs(4, joints=5, seed=3)))
    weights = torch.rand(4, 5, generator=generator(0), dtype=torch.float64) if weighted else None
    assert torch.autograd.gradcheck(lambda x, y: procrustes(x, y, weights=weights, scale=scale), (pred, target))


@of_torch_alone
@pytest.mark.parametrize("measure", [n_mpjpe, mpjpe])
def test_gradcheck_of_the_unaligned_errors(measure):
    pred, target = leaves(*pose_pairs(3, 5))
    weights = torch.rand(3, 5, generator=generator(0), dtype=torch.float64)
    weights[:, 0] = 0  # the root lies on its target, where a norm has no derivative
    assert torch.autograd.gradcheck(lambda x, y: measure(x, y, weights=weights), (pred, target), eps=1e-4)
    weights[:, 0] = 1
    assert torch.autograd.gradcheck(lambda x, y: measure(x, y, weights=weights, root=None), (pred, target), eps=1e-4)
    for gradient in gradients(measure, pred, target):
        assert torch.isfinite(gradient).all()


def test_gradient_in_float32_against_svd():
    pred, target = (points.float() for points in pose_pairs(2000, seed=9))
    weights = torch.rand(2000, 17, generator=generator(1))
    grad = torch.randn(2000, generator=generator(2))
    for w in (None, weights):
        x, y = leaves(pred, target)
        pa_mpjpe(x, y, weights=w).backward(grad)
        for got, expected in zip((x.grad, y.grad), reference_gradients(pred, target, w, grad), strict=True):
            # an entry is about 1 / 17; mirrored poses magnify the rounding of their covariance
            torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-5)


def test_gradient_is_finite_where_that_of_svd_is_not():
    """Equal singular values: the noise shifts opposite corners alike, so that the covariance is not changed."""
    noise = random_poses(1, 3, seed=4)
    pred = (OCTAHEDRON + 0.1 * torch.cat([noise, noise], 1)) @ random_rotations(1)
    target = OCTAHEDRON[None]
    x, y = leaves(pred, target)
    spoiled = torch.autograd.grad(reference.pa_mpjpe(target.clone().requires_grad_(), y).sum(), y)[0]
    assert not torch.isfinite(spoiled).all()
    assert torch.autograd.gradcheck(pa_mpjpe, (x, y), eps=1e-3)
    assert torch.autograd.gradcheck(lambda x, y: procrustes(x, y).rotation, (x, y), eps=1e-3, atol=1e-7)


@of_torch_alone
def test_each_gradient_alone_and_both():
    pred, target = pose_pairs(20)
    both = gradients(pa_mpjpe, pred, target)
    assert torch.equal(gradients(lambda x: pa_mpjpe(x, target), pred)[0], both[0])
    assert torch.equal(gradients(lambda y: pa_mpjpe(pred, y), target)[0], both[1])
    total = lambda x, y: sum(part.sum() for part in procrustes(x, y))  # noqa: E731
    both = gradients(total, pred, target)
    assert torch.equal(gradients(lambda x: total(x, target), pred)[0], both[0])
    assert torch.equal(gradients(lambda y: total(pred, y), target)[0], both[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_bounded_at_degenerate_poses(name, dtype):
    pred, target = (points.to(dtype) for points in CASES[name])
    for gradient in gradients(pa_mpjpe, pred, target):
        # the direction of one joint's residual has 1 / J, the chain through the alignment adds what it has in multiples
        assert gradient.abs().max() < 20
    x, y = leaves(pred, target)
    sum((part / 500).sum() for part in procrustes(x, y)).backward()
    for gradient in (x.grad, y.grad):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_poses_have_no_gradient(dtype):
    for points in (GENERIC.to(dtype), GENERIC.to(dtype) + 1e4, OCTAHEDRON.expand(S, 6, 3).to(dtype)):
        for gradient in gradients(pa_mpjpe, points, points):
            assert torch.equal(gradient, torch.zeros_like(points))


@pytest.mark.parametrize("offset", [0.0, 0.1, 1e4])
def test_gradient_without_variance(offset):
    flat = torch.full((S, 17, 3), offset)
    generic = GENERIC.float()
    d_pred, d_target = gradients(pa_mpjpe, flat, generic)
    # the similarity is held fixed: what is left is the mean of distances of target joints from their centre
    y = generic.double().requires_grad_()
    centred = y - y.mean(1, keepdim=True)
    centred.norm(dim=-1).mean(-1).sum().backward()
    atol = 1e-6 + 1e-8 * offset
    torch.testing.assert_close(d_target.double(), y.grad, rtol=0, atol=atol)
    torch.testing.assert_close(d_pred.double(), -y.grad, rtol=0, atol=atol)
    for gradient in (*gradients(pa_mpjpe, generic, flat), *gradients(pa_mpjpe, flat, flat + 1)):
        assert gradient.abs().max() <= 1


def test_one_joint_and_no_weight_have_no_gradient():
    pred, target = pose_pairs(4)
    for gradient in gradients(pa_mpjpe, pred[:, :1], target[:, :1]):
        assert torch.equal(gradient, torch.zeros(4, 1, 3).double())
    weights = torch.ones(4, 17)
    weights[2] = 0
    got = gradients(lambda x, y: pa_mpjpe(x, y, weights=weights), pred, target)
    for gradient, expected in zip(got, gradients(pa_mpjpe, pred, target), strict=True):
        assert torch.equal(gradient[2], torch.zeros(17, 3).double())
        torch.testing.assert_close(gradient[:2], expected[:2])
    for measure in (n_mpjpe, mpjpe):
        for gradient in gradients(lambda x, y, f=measure: f(x, y, weights=weights), pred, target):
            assert torch.equal(gradient[2], torch.zeros(17, 3).double())


def test_missing_joints_get_no_gradient():
    pred, target = pose_pairs(4)
    weights = torch.ones(4, 17)
    weights[:, 3] = 0
    pred[:, 3] = torch.nan
    for measure in (pa_mpjpe, n_mpjpe, mpjpe):
        for gradient in gradients(lambda x, y, f=measure: f(x, y, weights=weights), pred, target):
            assert torch.isfinite(gradient).all()
            assert torch.equal(gradient[:, 3], torch.zeros(4, 3).double())


def test_a_bad_sample_spoils_its_own_gradient_alone():
    pred, target = (points.float() for points in pose_pairs(9))
    clean = gradients(pa_mpjpe, pred, target)
    pred[4, 7, 1] = torch.nan
    others = [i for i in range(9) if i != 4]
    for gradient, expected in zip(gradients(pa_mpjpe, pred, target), clean, strict=True):
        assert torch.equal(gradient[others], expected[others])
        assert not torch.isfinite(gradient[4]).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_come_in_the_dtype_of_the_input(dtype):
    pred, target = (points.to(dtype) for points in pose_pairs(9))
    for function in (pa_mpjpe, lambda x, y: procrustes(x, y).scale, n_mpjpe, mpjpe):
        d_pred, d_target = gradients(function, pred, target.double())
        assert (d_pred.dtype, d_target.dtype) == (dtype, torch.float64)
        wide = gradients(function, pred.double(), target.double())
        torch.testing.assert_close(d_pred, wide[0].to(dtype), rtol=0.01, atol=1e-6)


def test_strided_and_expanded_gradients():
    pred, target = pose_pairs(6)
    x, y = leaves(pred, target)
    pa_mpjpe(x, y).sum().backward()  # a gradient of stride 0
    shuffled = pred.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    got = gradients(pa_mpjpe, shuffled, target)
    torch.testing.assert_close(got, (x.grad, y.grad))
    one = target[:1].clone().requires_grad_()
    pa_mpjpe(pred, one.expand(6, 17, 3)).sum().backward()
    expected = gradients(pa_mpjpe, pred, target[:1].expand(6, 17, 3).contiguous())[1].sum(0, keepdim=True)
    torch.testing.assert_close(one.grad, expected)


def test_empty_batch_has_a_gradient():
    x, y = leaves(torch.zeros(0, 17, 3), torch.zeros(0, 17, 3))
    (pa_mpjpe(x, y).sum() + procrustes(x, y).scale.sum()).backward()
    assert x.grad.shape == y.grad.shape == (0, 17, 3)


@of_torch_alone
def test_second_derivative_is_refused():
    x, y = leaves(*pose_pairs(2))
    for value in (pa_mpjpe(x, y), procrustes(x, y).scale):
        (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        with pytest.raises(NotImplementedError, match="no second derivative"):
            first.sum().backward()


@pytest.mark.parametrize(
    ("dtype", "weighted"),
    [(torch.float32, False), *((t, True) for t in (torch.float32, torch.float64, torch.bfloat16))],
)
def test_opcheck(dtype, weighted):
    backend = check_backend("auto", torch.empty(0, dtype=dtype), "procrustes")
    pred, target = leaves(*(points.to(dtype) for points in pose_pairs(3, 5)))
    weights = torch.rand(3, 5, generator=generator(0)).to(dtype) if weighted else None
    torch.library.opcheck(op.pa_mpjpe, (pred, target, weights, True, True, backend))
    torch.library.opcheck(op.pa_mpjpe, (pred, target.detach(), weights, True, False, backend))
    torch.library.opcheck(op.procrustes, (pred, target, weights, True, backend))
    torch.library.opcheck(op.align, (pred.detach(), target.detach(), weights, True, backend))
    with torch.no_grad():
        error, d_pred, _ = op.pa_mpjpe(pred, target, weights, True, True, backend)
        similarity = op.procrustes(pred, target, weights, True, backend)
        rotation, scale, _ = similarity
    torch.library.opcheck(op.pa_mpjpe_backward, (torch.ones_like(error), d_pred, pred.detach(), backend))
    grads = tuple(torch.ones_like(part) for part in similarity)
    inputs = (pred.detach(), target.detach(), weights)
    torch.library.opcheck(op.procrustes_backward, (*grads, *inputs, rotation, scale, True, True, False, backend))


# what a graph of any size is does not depend on the backend
@pytest.mark.parametrize(
    ("cpu_backend", "dynamic"), [("native", False), ("torch", False), ("torch", True)], indirect=["cpu_backend"]
)
def test_compiles_into_one_graph(dynamic):
    def loss(x, y, weights):
        similarity = procrustes(x, y, weights=weights)
        return (
            pa_mpjpe(x, y, weights=weights).sum()
            + similarity.apply(x).square().mean()
            + n_mpjpe(x, y, weights=weights).sum()
            + mpjpe(x, y).sum()
        )

    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for samples in (5, 8) if dynamic else (5,):
        pred, target = (points.float() for points in pose_pairs(samples))
        weights = torch.ones(samples, 17)
        eager, graph = leaves(pred, target), leaves(pred, target)
        expected = loss(*eager, weights)
        expected.backward()
        got = compiled(*graph, weights)
        got.backward()
        torch.testing.assert_close(got, expected)
        for mine, theirs in zip(graph, eager, strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize("measure", [n_mpjpe, mpjpe])
def test_the_second_derivative_of_unaligned_errors_is_finite_at_the_root(measure):
    pred, target = pose_pairs(3, joints=5)
    pred = pred.requires_grad_()
    (gradient,) = torch.autograd.grad(measure(pred, target).sum(), pred, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), pred)
    assert second.isfinite().all()
    assert second.abs().max() > 0
