"""The Triton backend of `procrustes` and `pa_mpjpe`, against float64."""

import pytest
import torch

import unihpe_kernels
from tests.kernels.pose_cases import (
    CASES,
    GENERIC,
    OCTAHEDRON,
    check_alignment,
    check_optimum,
    check_prediction_without_variance,
    generator,
    pose_pairs,
    random_poses,
    reference_gradients,
)
from tests.kernels.triton_device import DEVICE, guarded_outputs, needs_triton  # noqa: F401
from tests.tolerances import ALIGNED_ERROR
from unihpe_kernels import Alignment, Similarity, pa_mpjpe, procrustes
from unihpe_kernels.procrustes import op, reference

pytest.importorskip("triton")
from unihpe_kernels.procrustes import triton_backend

pytestmark = [needs_triton, pytest.mark.usefixtures("guarded_outputs")]
JOINTS = [1, 2, 3, 14, 17, 24, 32, 67, 133, 241, 256]


def moved(weights):
    return None if weights is None else weights.to(DEVICE)


def align(pred, target, weights=None, scale=True):
    """The kernels' similarity of tensors that may be elsewhere."""
    found = procrustes(pred.to(DEVICE), target.to(DEVICE), weights=moved(weights), scale=scale, backend="triton")
    return Similarity(*(part.to(pred.device) for part in found))


def error(pred, target, weights=None):
    return pa_mpjpe(pred.to(DEVICE), target.to(DEVICE), weights=moved(weights), backend="triton").to(pred.device)


def gradients(function, *tensors):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    return torch.autograd.grad(function(*leaves).sum(), leaves)


def random_weights(samples, joints):
    weights = torch.rand(samples, joints, generator=generator(joints)) + 0.1
    if joints > 4:
        weights[:, 2] = 0
    return weights


@pytest.fixture
def few_programs(monkeypatch):
    """The interpreter's time is by the program."""
    if DEVICE == "cpu":
        wide = {"share": 1, "lanes": 2**14, "num_warps": 2}
        monkeypatch.setattr(triton_backend, "settings", lambda *_: wide)


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize("samples", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_error_of_many_poses_against_svd(samples):
    """1 % of them are mirrored."""
    pred, target = (points.float() for points in pose_pairs(samples))
    expected = reference.pa_mpjpe(pred.double(), target.double())
    torch.testing.assert_close(error(pred, target).double(), expected, rtol=0, atol=ALIGNED_ERROR)


@pytest.mark.usefixtures("few_programs")
def test_error_of_unrelated_and_of_purely_mirrored_poses():
    pred, target = random_poses(4000, seed=2).float(), random_poses(4000, seed=3).float()
    pred[:2000] = target[:2000] * torch.tensor([1.0, -1.0, 1.0]) + 0.05 * pred[:2000]
    expected = reference.pa_mpjpe(pred.double(), target.double())
    torch.testing.assert_close(error(pred, target).double(), expected, rtol=0, atol=ALIGNED_ERROR)


@pytest.mark.parametrize(
    ("joints", "weighted"),
    [(joints, True) for joints in JOINTS]
    # without weights, one number of joints for each way that the kernels have of holding a pose
    + [pytest.param(joints, False, marks=[] if joints in (3, 17, 133) else pytest.mark.slow) for joints in JOINTS],
)
def test_joint_counts(joints, weighted):
    """Error and its gradients against the torch backend in float64, which has its own tests."""
    samples = 67 if joints <= 24 else 5
    pred, target = pose_pairs(samples, joints, joints)
    weights = random_weights(samples, joints) if weighted else None
    single = op.pa_mpjpe(pred.float().to(DEVICE), target.float().to(DEVICE), moved(weights), True, True, "triton")
    wide = op.pa_mpjpe(pred, target, weights, True, True, "torch")
    # one of these triangles fits its target of 500 mm to 0.4 mm, and rounding turns so short a residual
    slope = 1e-4 if joints == 3 else 1e-5
    tolerances = (ALIGNED_ERROR, slope, slope)
    for got, expected, tolerance in zip(single, wide, tolerances, strict=True):
        torch.testing.assert_close(got.cpu().double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("weighted", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("joints", [3, 17, 133])
def test_similarity_and_its_gradients(joints, weighted, scale):
    samples = 67 if joints <= 24 else 5
    pred, target = (points / 500 for points in pose_pairs(samples, joints, 3))
    weights = random_weights(samples, joints) if weighted else None
    poses, wide_poses = (pred.float().to(DEVICE), target.float().to(DEVICE), moved(weights)), (pred, target, weights)
    similarity = op.procrustes(*poses, scale, "triton")
    exact = op.procrustes(*wide_poses, scale, "torch")
    grads = [torch.randn(part.shape, generator=generator(1)) for part in exact]
    moved_grads = [grad.to(DEVICE) for grad in grads]
    d_poses = op.procrustes_backward(*moved_grads, *poses, *similarity[:2], scale, True, True, "triton")
    exact_d = op.procrustes_backward(
        *(grad.double() for grad in grads), *wide_poses, *exact[:2], scale, True, True, "torch"
    )
    # one of these triangles is so flat that s_2 + c s_3 = 5e-4 s_1, and the gradient divides by that
    tolerance = 1e-2 if joints == 3 else 1e-4
    for got, expected in zip((*similarity, *d_poses), (*exact, *exact_d), strict=True):
        torch.testing.assert_close(got.cpu().double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("samples", [1, 63, 64, 65, 128])
def test_batches_of_whole_programs_and_pieces(samples):
    pred, target = pose_pairs(samples)
    expected = reference.pa_mpjpe(pred, target)
    torch.testing.assert_close(error(pred.float(), target.float()).double(), expected, rtol=0, atol=ALIGNED_ERROR)


@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_against_svd(weighted):
    pred, target = (points.float() for points in pose_pairs(70, seed=9))
    weights = torch.rand(70, 17, generator=generator(1)) if weighted else None
    grad = torch.randn(70, generator=generator(2))
    x, y = (points.clone().requires_grad_() for points in (pred, target))
    error(x, y, weights).backward(grad)
    for got, expected in zip((x.grad, y.grad), reference_gradients(pred, target, weights, grad), strict=True):
        # an entry is about 1 / 17; mirrored poses magnify the rounding of their covariance
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_degenerate_poses_reach_the_optimum(name):
    check_optimum(name, torch.float32, align, error)


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize("joints", sorted({pred.shape[1] for pred, _ in CASES.values()}))
def test_gradients_are_bounded_at_degenerate_poses(joints):
    """All cases of a number of joints at once."""
    names = [name for name, (pred, _) in CASES.items() if pred.shape[1] == joints]
    pred, target = (torch.cat([CASES[name][which].float() for name in names]) for which in (0, 1))
    for gradient in gradients(error, pred, target):
        # the direction of one joint's residual has 1 / J, the chain through the alignment adds what it has in multiples
        bounded = (gradient.abs() < 20).view(len(names), -1).all(1)
        assert [name for name, fine in zip(names, bounded, strict=True) if not fine] == []
    for gradient in gradients(lambda x, y: sum((part / 500).sum() for part in align(x, y)), pred, target):
        finite = gradient.isfinite().view(len(names), -1).all(1)
        assert [name for name, fine in zip(names, finite, strict=True) if not fine] == []


def test_identical_poses_have_no_error_and_no_gradient():
    octahedra = OCTAHEDRON.expand(5, 6, 3).float()
    for points in (GENERIC.float(), GENERIC.float() + 1e4, octahedra):
        # 6e-8 of the coordinates is their rounding
        assert error(points, points).max() <= 2e-6 * points.abs().max()
        for gradient in gradients(error, points, points):
            assert torch.equal(gradient, torch.zeros_like(points))


@pytest.mark.parametrize("offset", [0.0, 0.1, 1e4])
def test_prediction_without_variance(offset):
    check_prediction_without_variance(torch.float32, offset, align, error)


@pytest.mark.parametrize("offset", [0.0, 0.1, 1e4])
def test_target_without_variance(offset):
    pred, target = GENERIC.float(), torch.full_like(GENERIC, offset, dtype=torch.float32)
    assert error(pred, target).max() <= 4e-7 * offset
    assert align(pred, target).scale.max() <= 1e-8 * offset
    assert torch.isfinite(align(pred, target).rotation).all()
    for gradient in gradients(error, pred, target):
        assert gradient.abs().max() <= 1


def test_both_without_variance():
    points = torch.full((2, 17, 3), 3.0)
    assert error(points, -points).max() <= 1e-6
    for gradient in gradients(error, points, -points):
        assert gradient.abs().max() <= 1


def test_one_joint():
    pred, target = (random_poses(5, 1, seed).float() for seed in (0, 1))
    assert torch.equal(error(pred, target), torch.zeros(5))
    rotation, scale, translation = align(pred, target)
    assert torch.equal(rotation, torch.eye(3).expand(5, 3, 3))
    assert torch.equal(scale, torch.ones(5))
    torch.testing.assert_close(translation, (target - pred)[:, 0])
    for gradient in gradients(error, pred, target):
        assert torch.equal(gradient, torch.zeros(5, 1, 3))


@pytest.mark.parametrize("joints", [17, 29])
def test_all_weights_zero(joints):
    pred, target = (points.float() for points in pose_pairs(3, joints))
    weights = torch.ones(3, joints)
    weights[1] = 0
    found = error(pred, target, weights)
    assert found[1] == 0
    torch.testing.assert_close(found[[0, 2]], error(pred, target)[[0, 2]])
    torch.testing.assert_close(align(pred, target, weights).apply(pred)[1], pred[1])
    for gradient in gradients(lambda x, y: error(x, y, weights), pred, target):
        assert torch.equal(gradient[1], torch.zeros(joints, 3))


@pytest.mark.parametrize("joints", [17, 29])
def test_missing_joints_are_left_out(joints):
    kept = [0, 1, 2, 5, 8, 9, 16]
    pred, target = (points.float() for points in pose_pairs(7, joints))
    weights = torch.zeros(7, joints, dtype=torch.bool)
    weights[:, kept] = True
    expected = error(pred[:, kept], target[:, kept])
    pred[:, 3], target[:, 4] = torch.nan, torch.inf
    torch.testing.assert_close(error(pred, target, weights), expected)
    equal = torch.where(weights, 3.0, 0.0)
    torch.testing.assert_close(error(pred, target, equal), expected)
    for gradient in gradients(lambda x, y: error(x, y, equal), pred, target):
        assert torch.isfinite(gradient).all()
        assert torch.equal(gradient[:, 3], torch.zeros(7, 3))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's numpy speaks of inf - inf
@pytest.mark.parametrize("joints", [17, 29])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_sample_spoils_itself_alone(bad, joints):
    pred, target = (points.float() for points in pose_pairs(9, joints))

    def everything():
        return error(pred, target), *align(pred, target), *gradients(error, pred, target)

    clean = everything()
    pred[4, 7, 1] = bad
    others = torch.arange(9) != 4
    for got, expected in zip(everything(), clean, strict=True):
        assert torch.equal(got[others], expected[others])
        assert not torch.isfinite(got[4]).all()


@pytest.mark.parametrize("bad", [torch.nan, -1.0])
def test_a_weight_that_is_nan_or_negative_is_refused(bad):
    pred, target = (points.float() for points in pose_pairs(3))
    weights = torch.ones(3, 17)
    weights[1, 5] = bad
    with pytest.raises(ValueError, match="weights"):
        error(pred, target, weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_compute_in_float32(dtype):
    pred, target = (points.to(dtype) for points in pose_pairs(9))
    expected = error(pred.float(), target.float())
    for got in (error(pred, target), error(pred, target.float())):
        assert got.dtype == torch.float32
        assert torch.equal(got, expected)
    assert {part.dtype for part in align(pred, target)} == {torch.float32}
    for function in (error, lambda x, y: align(x, y).scale):
        d_pred, d_target = gradients(function, pred, target.float())
        assert (d_pred.dtype, d_target.dtype) == (dtype, torch.float32)
        wide = gradients(function, pred.float(), target.float())
        torch.testing.assert_close(d_pred, wide[0].to(dtype), rtol=0.01, atol=1e-6)


def strided(points):
    """The same poses in other layouts: a slice of [.., 4], joints last, every other row."""
    padded = torch.full((*points.shape[:2], 4), torch.nan)
    padded[..., :3] = points
    spread = torch.full((2 * len(points), *points.shape[1:]), torch.nan)
    spread[::2] = points
    return [padded[..., :3], points.permute(2, 1, 0).contiguous().permute(2, 1, 0), spread[::2]]


@pytest.mark.parametrize("layout", range(3))
def test_strides(layout):
    pred, target = (points.float() for points in pose_pairs(33))
    weights = random_weights(33, 17)
    expected = error(pred, target, weights)
    assert torch.equal(error(strided(pred)[layout], strided(target)[2 - layout], weights.mT.contiguous().mT), expected)
    one = target[:1].expand(33, 17, 3)
    assert torch.equal(error(pred, one), error(pred, one.contiguous()))


def test_incoming_gradients_of_any_stride():
    pred, target = (points.float() for points in pose_pairs(7))
    x, y = (points.requires_grad_() for points in (pred, target))
    found = align(x, y)
    spread = [torch.ones(()).expand(part.shape) for part in found]  # of stride 0
    dense = [grad.contiguous() for grad in spread]
    results = [torch.autograd.grad(found, (x, y), grads, retain_graph=True) for grads in (spread, dense)]
    for got, expected in zip(*results, strict=True):
        assert torch.equal(got, expected)


def test_each_gradient_alone_and_both():
    pred, target = (points.float() for points in pose_pairs(7))
    for function in (error, lambda x, y: sum(part.sum() for part in align(x, y))):
        of_pred = gradients(lambda x, f=function: f(x, target), pred)
        of_target = gradients(lambda y, f=function: f(pred, y), target)
        for got, expected in zip(gradients(function, pred, target), of_pred + of_target, strict=True):
            # more threads share a pose where both are written: sums of rounding, as in the tests above
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unit", [1e-12, 1e-3, 1e12])
def test_units(unit):
    pred, target = pose_pairs(20)
    expected = pa_mpjpe(pred, target)
    got = error((pred * unit).float(), (target * unit).float()).double() / unit
    torch.testing.assert_close(got, expected, rtol=0, atol=ALIGNED_ERROR)


@pytest.mark.parametrize("batch", [(), (2, 3), (0,), (2, 0, 3)])
def test_batch_shapes(batch):
    pred, target = torch.zeros(2, *batch, 17, 3)
    x, y = (points.requires_grad_() for points in (pred, target))
    total = error(x, y, torch.ones(*batch, 17))
    assert total.shape == batch
    found = align(x, y)
    assert [part.shape for part in found] == [(*batch, 3, 3), batch, (*batch, 3)]
    (total.sum() + found.scale.sum()).backward()
    assert x.grad.shape == y.grad.shape == pred.shape


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scale", [True, False])
def test_all_of_an_alignment(weighted, scale, few_programs):
    def found(pred, target, weights, scale):
        whole = unihpe_kernels.align(
            pred.to(DEVICE), target.to(DEVICE), weights=moved(weights), scale=scale, backend="triton"
        )
        return Alignment(whole.similarity, *(part.cpu() for part in whole[1:]))

    check_alignment(torch.float32, weighted, scale, found)


@pytest.mark.parametrize("joints", [1, 3, 14, 24, 133, 241])
def test_all_of_an_alignment_of_any_number_of_joints(joints):
    pred, target = (points.float() for points in pose_pairs(5, joints, seed=joints))
    weights = random_weights(5, joints)
    whole = unihpe_kernels.align(pred.to(DEVICE), target.to(DEVICE), weights=moved(weights), backend="triton")
    torch.testing.assert_close(whole.aligned, whole.similarity.apply(pred.to(DEVICE)), rtol=0, atol=1e-3)
    distances = (whole.aligned.cpu() - target).norm(dim=-1).masked_fill(weights == 0, 0)
    torch.testing.assert_close(whole.joint_errors.cpu(), distances, rtol=0, atol=1e-3)
    torch.testing.assert_close(whole.error.cpu(), error(pred, target, weights), rtol=0, atol=1e-3)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype, weighted):
    pred, target = (points.to(DEVICE, dtype).requires_grad_() for points in pose_pairs(3, 5))
    weights = torch.rand(3, 5, generator=generator(0)).to(DEVICE, dtype) if weighted else None
    torch.library.opcheck(op.pa_mpjpe, (pred, target, weights, True, True, "triton"))
    torch.library.opcheck(op.pa_mpjpe, (pred, target.detach(), weights, True, False, "triton"))
    torch.library.opcheck(op.procrustes, (pred, target, weights, True, "triton"))
    torch.library.opcheck(op.align, (pred.detach(), target.detach(), weights, True, "triton"))
    with torch.no_grad():
        distance, d_pred, _ = op.pa_mpjpe(pred, target, weights, True, True, "triton")
        similarity = op.procrustes(pred, target, weights, True, "triton")
    torch.library.opcheck(op.pa_mpjpe_backward, (torch.ones_like(distance), d_pred, pred.detach(), "triton"))
    grads = tuple(torch.ones_like(part) for part in similarity)
    inputs = (pred.detach(), target.detach(), weights)
    torch.library.opcheck(op.procrustes_backward, (*grads, *inputs, *similarity[:2], True, True, False, "triton"))


def test_full_graph_matches_eager():
    def loss(x, y, weights):
        found = procrustes(x, y, weights=weights, backend="triton")
        return pa_mpjpe(x, y, weights=weights, backend="triton").sum() + found.apply(x).square().mean()

    leaves = [points.float().to(DEVICE).requires_grad_() for points in pose_pairs(5)]
    weights = torch.ones(5, 17, device=DEVICE)
    results = [f(*leaves, weights) for f in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager"))]
    torch.testing.assert_close(*results)
    for got, expected in zip(*(torch.autograd.grad(result, leaves) for result in results), strict=True):
        torch.testing.assert_close(got, expected)


def test_float64_is_refused_and_auto_takes_torch():
    pred, target = (points.to(DEVICE) for points in pose_pairs(2))
    for x, y in ((pred, target), (pred.float(), target)):
        with pytest.raises(ValueError, match=r"its Triton kernels take .*, got torch.float64"):
            pa_mpjpe(x, y, backend="triton")
        assert pa_mpjpe(x, y).dtype == torch.float64
