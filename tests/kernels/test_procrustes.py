"""Procrustes alignment and the pose errors: values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.pose_cases import (
    CASES,
    GENERIC,
    S,
    check_alignment,
    check_optimum,
    check_prediction_without_variance,
    generator,
    pose_pairs,
    random_poses,
    random_rotations,
    squared_residual,
)
from tests.tolerances import ALIGNED_ERROR
from unihpe_kernels import align, mpjpe, n_mpjpe, pa_mpjpe, procrustes
from unihpe_kernels.procrustes import reference
from unihpe_kernels.small_linalg import lanes

pytestmark = pytest.mark.usefixtures("cpu_backend")


@pytest.fixture(scope="module")
def many():
    """1e5 poses in float32, 1 % of them mirrored, and their errors by float64 SVD."""
    pred, target = (points.float() for points in pose_pairs(100_000))
    return pred, target, reference.pa_mpjpe(pred.double(), target.double())


def test_error_against_svd(many):
    pred, target, expected = many
    torch.testing.assert_close(pa_mpjpe(pred, target).double(), expected, rtol=0, atol=ALIGNED_ERROR)


def test_error_against_roma(many):
    roma = pytest.importorskip("roma", reason="the GPU's machine lacks it")
    pred, target = (points.double() for points in many[:2])
    rotation, translation, scale = roma.rigid_points_registration(pred, target, compute_scaling=True)
    aligned = scale[:, None, None] * pred @ rotation.mT + translation[:, None]
    expected = (aligned - target).norm(dim=-1).mean(-1)
    torch.testing.assert_close(pa_mpjpe(pred.float(), target.float()).double(), expected, rtol=0, atol=ALIGNED_ERROR)


def test_error_of_unrelated_and_of_purely_mirrored_poses():
    pred, target = random_poses(20_000, seed=2).float(), random_poses(20_000, seed=3).float()
    pred[:10_000] = target[:10_000] * torch.tensor([1.0, -1.0, 1.0]) + 0.05 * pred[:10_000]
    expected = reference.pa_mpjpe(pred.double(), target.double())
    torch.testing.assert_close(pa_mpjpe(pred, target).double(), expected, rtol=0, atol=ALIGNED_ERROR)


@pytest.mark.parametrize("joints", [1, 2, 3, 4, 14, 24, 133, 256])
def test_joint_counts_and_weights_in_float64(joints):
    pred, target = pose_pairs(50, joints, seed=joints)
    weights = torch.rand(50, joints, generator=generator(1), dtype=torch.float64) + 0.1
    for w in (None, weights):
        # three weighted points have rank two, two have rank one: compare what is unique
        similarity = procrustes(pred, target, weights=w)
        residual = similarity.apply(pred) - target
        total = ((torch.ones_like(weights) if w is None else w)[..., None] * residual**2).sum((-2, -1))
        expected = torch.zeros(50, dtype=torch.float64) if joints == 1 else squared_residual(pred, target, w)
        torch.testing.assert_close(total, expected, rtol=1e-9, atol=1e-6)
        lengths = residual.norm(dim=-1)
        mean = lengths.mean(-1) if w is None else (w * lengths).sum(-1) / w.sum(-1)
        torch.testing.assert_close(pa_mpjpe(pred, target, weights=w), mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_similarity_against_svd(scale, weighted):
    pred, target = pose_pairs(2000, seed=5)
    weights = torch.rand(2000, 17, generator=generator(2), dtype=torch.float64) if weighted else None
    expected = reference.procrustes(pred, target, weights, scale)
    for got, want in zip(procrustes(pred, target, weights=weights, scale=scale), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    single = procrustes(pred.float(), target.float(), weights=weights, scale=scale)
    for got, want in zip(single, expected, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4 if want.dim() != 2 else 1e-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scale", [True, False])
def test_all_of_an_alignment(dtype, weighted, scale):
    check_alignment(dtype, weighted, scale, align)


@pytest.mark.parametrize("weighted", [False, True])
def test_an_alignment_is_differentiated_where_that_is_wanted(weighted):
    pred, target = pose_pairs(20)
    weights = None
    if weighted:
        weights = torch.rand(20, 17, generator=generator(3), dtype=torch.float64)
        weights[:, 4] = 0
        pred[:, 4] = torch.nan
    plain = align(pred, target, weights=weights)
    pred.requires_grad_()
    recorded = align(pred, target, weights=weights)
    for part, same in zip((*recorded.similarity, *recorded[1:]), (*plain.similarity, *plain[1:]), strict=True):
        torch.testing.assert_close(part, same, equal_nan=True)
    (got,) = torch.autograd.grad(recorded.error.sum(), pred)
    (expected,) = torch.autograd.grad(pa_mpjpe(pred, target, weights=weights).sum(), pred)
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got, expected)


def test_a_perfect_alignment_has_no_gradient():
    pred = GENERIC.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(align(pred, GENERIC).error.sum(), pred)
    assert torch.equal(gradient, torch.zeros_like(pred))


def test_no_perturbation_beats_the_optimum():
    pred, target = pose_pairs(200, seed=7)
    pred[:100, :, 1] *= -1
    rotation, scale, translation = procrustes(pred, target)
    torch.testing.assert_close(torch.det(rotation), torch.ones(200, dtype=torch.float64))

    def objective(r, s, t):
        return ((s[:, None, None] * pred @ r.mT + t[:, None] - target) ** 2).sum((1, 2))

    best = objective(rotation, scale, translation)
    source = generator(0)
    for size in (1e-4, 1e-2, 1.0):
        for _ in range(30):
            turning = torch.randn(200, 3, 3, generator=source, dtype=torch.float64) * size
            turned = torch.matrix_exp((turning - turning.mT) / 2) @ rotation
            s = scale * torch.exp(torch.randn(200, generator=source, dtype=torch.float64) * size)
            t = translation + 100 * size * torch.randn(200, 3, generator=source, dtype=torch.float64)
            for candidate in (
                (turned, scale, translation),
                (rotation, s, translation),
                (rotation, scale, t),
                (turned, s, t),
            ):
                assert (objective(*candidate) >= best * (1 - 1e-12)).all()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    joints=st.integers(2, 30),
    scale=st.floats(1e-2, 1e2),
    shift=st.floats(-1e4, 1e4),
    weighted=st.booleans(),
)
def test_error_does_not_see_a_similarity_of_the_prediction(seed, joints, scale, shift, weighted):
    pred, target = pose_pairs(3, joints, seed)
    weights = torch.rand(3, joints, generator=generator(seed), dtype=torch.float64) + 0.1 if weighted else None
    moved = scale * pred @ random_rotations(3, seed + 1).mT + shift
    torch.testing.assert_close(
        pa_mpjpe(moved, target, weights=weights), pa_mpjpe(pred, target, weights=weights), rtol=1e-7, atol=1e-7
    )
    recovered = procrustes(pred, moved, weights=weights)
    torch.testing.assert_close(recovered.apply(pred), moved, rtol=1e-7, atol=1e-7 * (1 + abs(shift)) * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_degenerate_poses_reach_the_optimum(name, dtype):
    check_optimum(name, dtype, procrustes, pa_mpjpe)


def test_identical_poses_have_no_error():
    assert pa_mpjpe(GENERIC.float(), GENERIC.float()).max() < 5e-4
    assert pa_mpjpe(GENERIC, GENERIC).max() < 1e-11


@pytest.mark.parametrize("offset", [0.0, 0.1, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prediction_without_variance(dtype, offset):
    check_prediction_without_variance(dtype, offset, procrustes, pa_mpjpe)


@pytest.mark.parametrize("offset", [0.0, 0.1, 1e4])
def test_target_without_variance(offset):
    pred, target = GENERIC.float(), torch.full((S, 17, 3), offset)
    assert pa_mpjpe(pred, target).max() <= 4e-7 * offset
    assert procrustes(pred, target).scale.max() <= 1e-8 * offset
    assert torch.isfinite(procrustes(pred, target).rotation).all()


def test_both_without_variance():
    points = torch.full((2, 17, 3), 3.0)
    assert torch.equal(pa_mpjpe(points, -points), torch.zeros(2))


def test_the_rotation_of_a_prediction_without_variance_is_none_whatever_the_signs():
    pred = torch.randn(200, 1, 3, generator=generator(0)).expand(200, 17, 3)
    rotation = procrustes(pred, random_poses(200, seed=1).float()).rotation
    assert torch.equal(rotation, torch.eye(3).expand(200, 3, 3))


def test_one_joint():
    pred, target = random_poses(5, 1), random_poses(5, 1, seed=1)
    assert torch.equal(pa_mpjpe(pred, target), torch.zeros(5).double())
    rotation, scale, translation = procrustes(pred, target)
    assert torch.equal(rotation, torch.eye(3).double().expand(5, 3, 3))
    assert torch.equal(scale, torch.ones(5).double())
    torch.testing.assert_close(translation, (target - pred)[:, 0])


@pytest.mark.parametrize("measure", [pa_mpjpe, n_mpjpe, mpjpe])
def test_all_weights_zero(measure):
    pred, target = (points.float() for points in pose_pairs(3))
    weights = torch.ones(3, 17)
    weights[1] = 0
    error = measure(pred, target, weights=weights)
    assert error[1] == 0
    torch.testing.assert_close(error[[0, 2]], measure(pred, target)[[0, 2]])


def test_all_weights_zero_give_the_identity():
    pred, target = pose_pairs(2)
    similarity = procrustes(pred, target, weights=torch.zeros(2, 17))
    torch.testing.assert_close(similarity.apply(pred), pred)


@pytest.mark.parametrize("measure", [pa_mpjpe, n_mpjpe, mpjpe])
def test_missing_joints_are_left_out(measure):
    pred, target = pose_pairs(20)
    kept = [0, 1, 2, 5, 8, 9, 16]
    weights = torch.zeros(20, 17, dtype=torch.bool)
    weights[:, kept] = True
    expected = measure(pred[:, kept], target[:, kept])
    pred[:, 3], target[:, 4] = torch.nan, torch.inf
    torch.testing.assert_close(measure(pred, target, weights=weights), expected)
    torch.testing.assert_close(measure(pred, target, weights=weights.float() * 3), expected)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_sample_spoils_itself_alone(bad):
    clean, target = (points.float() for points in pose_pairs(9))
    pred = clean.clone()
    pred[4, 7, 1] = bad
    others = [i for i in range(9) if i != 4]
    for measure in (pa_mpjpe, n_mpjpe, mpjpe):
        error, expected = measure(pred, target), measure(clean, target)
        assert not torch.isfinite(error[4])
        assert torch.equal(error[others], expected[others])
    spoiled, whole = align(pred, target), align(clean, target)
    for got, expected in zip((*spoiled.similarity, *spoiled[1:]), (*whole.similarity, *whole[1:]), strict=True):
        assert not torch.isfinite(got[4]).any()
        assert torch.equal(got[others], expected[others])
    for got, expected in zip(procrustes(pred, target), spoiled.similarity, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("unit", [1e-12, 1e-3, 1e12])
def test_units(unit):
    pred, target = pose_pairs(50)
    expected = pa_mpjpe(pred, target)
    got = pa_mpjpe((pred * unit).float(), (target * unit).float()).double() / unit
    torch.testing.assert_close(got, expected, rtol=0, atol=ALIGNED_ERROR)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_compute_in_float32(dtype):
    pred, target = (points.to(dtype) for points in pose_pairs(50))
    for measure in (pa_mpjpe, n_mpjpe, mpjpe):
        got = measure(pred, target)
        assert got.dtype == torch.float32
        assert torch.equal(got, measure(pred.float(), target.float()))
        assert torch.equal(measure(pred, target.double()), measure(pred.double(), target.double()))
    similarity = procrustes(pred, target)
    assert {part.dtype for part in similarity} == {torch.float32}
    assert similarity.apply(pred).dtype == torch.float32
    assert similarity.apply(pred.double()).dtype == torch.float64


def test_autocast_changes_nothing():
    pred, target = (points.float() for points in pose_pairs(50))
    with torch.autocast("cpu", torch.bfloat16):
        got = pa_mpjpe(pred, target), *procrustes(pred, target)
    for value, expected in zip(got, (pa_mpjpe(pred, target), *procrustes(pred, target)), strict=True):
        assert torch.equal(value, expected)


def strided(points: torch.Tensor) -> list[torch.Tensor]:
    """The same poses in other layouts: a slice of [.., 4], joints last, every other row, expanded over a dimension."""
    padded = torch.full((*points.shape[:2], 4), torch.nan, dtype=points.dtype)
    padded[..., :3] = points
    spread = torch.full((2 * len(points), *points.shape[1:]), torch.nan, dtype=points.dtype)
    spread[::2] = points
    return [padded[..., :3], points.permute(2, 1, 0).contiguous().permute(2, 1, 0), spread[::2]]


@pytest.mark.parametrize("layout", range(3))
def test_strides(layout):
    pred, target = (points.float() for points in pose_pairs(33))
    assert torch.equal(pa_mpjpe(strided(pred)[layout], strided(target)[2 - layout]), pa_mpjpe(pred, target))
    for measure in (n_mpjpe, mpjpe):  # torch sums in the order of the layout
        got = measure(strided(pred)[layout], strided(target)[2 - layout])
        torch.testing.assert_close(got, measure(pred, target), rtol=1e-6, atol=0)
    one = target[:1].expand(33, 17, 3)
    assert torch.equal(pa_mpjpe(pred, one), pa_mpjpe(pred, one.contiguous()))


def test_inputs_are_left_alone():
    pred, target = pose_pairs(1)
    kept = pred.clone(), target.clone()
    weights = torch.tensor([[0.0] * 3 + [1.0] * 14])
    pa_mpjpe(pred, target, weights=weights)
    procrustes(pred, target, weights=weights)
    assert torch.equal(pred, kept[0])
    assert torch.equal(target, kept[1])
    assert weights.sum() == 14


@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (2, 0, 3), (0,)])
def test_batch_shapes(batch):
    pred, target = (points.reshape(*batch, 17, 3) for points in pose_pairs(int(np.prod(batch))))
    weights = torch.ones(*batch, 17)
    for measure in (pa_mpjpe, n_mpjpe, mpjpe):
        assert measure(pred, target, weights=weights).shape == batch
    rotation, scale, translation = procrustes(pred, target)
    assert (rotation.shape, scale.shape, translation.shape) == ((*batch, 3, 3), batch, (*batch, 3))
    assert procrustes(pred, target).apply(pred[..., :5, :]).shape == (*batch, 5, 3)
    whole = align(pred, target)
    assert whole.similarity.rotation.shape == (*batch, 3, 3)
    assert (whole.aligned.shape, whole.joint_errors.shape, whole.error.shape) == ((*batch, 17, 3), (*batch, 17), batch)


def test_chunks_join_without_a_seam(monkeypatch):
    pred, target = pose_pairs(100)
    whole = pa_mpjpe(pred, target), *procrustes(pred, target)
    monkeypatch.setattr(lanes, "CHUNK", 7)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    for got, expected in zip((pa_mpjpe(pred, target), *procrustes(pred, target)), whole, strict=True):
        torch.testing.assert_close(got, expected)


def test_mpjpe_by_numpy():
    pred, target = (points.numpy() for points in pose_pairs(30))
    got = mpjpe(torch.tensor(pred), torch.tensor(target))
    expected = np.linalg.norm((pred - pred[:, :1]) - (target - target[:, :1]), axis=-1).mean(-1)
    np.testing.assert_allclose(got, expected)
    got = mpjpe(torch.tensor(pred), torch.tensor(target), root=-1)
    expected = np.linalg.norm((pred - pred[:, -1:]) - (target - target[:, -1:]), axis=-1).mean(-1)
    np.testing.assert_allclose(got, expected)
    got = mpjpe(torch.tensor(pred), torch.tensor(target), root=None)
    np.testing.assert_allclose(got, np.linalg.norm(pred - target, axis=-1).mean(-1))


def test_n_mpjpe_by_numpy():
    pred, target = (points.numpy() for points in pose_pairs(30))
    x, y = pred - pred[:, :1], target - target[:, :1]
    scale = (x * y).sum((1, 2), keepdims=True) / (x * x).sum((1, 2), keepdims=True)
    expected = np.linalg.norm(scale * x - y, axis=-1).mean(-1)
    np.testing.assert_allclose(n_mpjpe(torch.tensor(pred), torch.tensor(target)), expected)
    np.testing.assert_allclose(n_mpjpe(torch.tensor(7 * pred + 3), torch.tensor(target)), expected)


def test_n_mpjpe_of_a_prediction_without_extent():
    target = random_poses(2)
    expected = mpjpe(torch.zeros_like(target), target)
    torch.testing.assert_close(n_mpjpe(torch.full_like(target, 5), target), expected)


@pytest.mark.parametrize("measure", [procrustes, align, pa_mpjpe, n_mpjpe, mpjpe])
@pytest.mark.parametrize(
    ("pred", "target", "weights", "message"),
    [
        ([[1.0]], torch.zeros(2, 5, 3), None, "pred must be a torch.Tensor"),
        (torch.zeros(2, 5, 2), torch.zeros(2, 5, 2), None, r"pred must have shape \[..., J, 3\]"),
        (torch.zeros(2, 0, 3), torch.zeros(2, 0, 3), None, "pred must have at least one joint"),
        (torch.zeros(2, 5, 3), torch.zeros(5, 3), None, r"target must have shape \[2, 5, 3\], got \[5, 3\]"),
        (torch.zeros(2, 5, 3), torch.zeros(2, 5, 3, dtype=torch.int64), None, "target must have dtype"),
        (torch.zeros(2, 5, 3), torch.zeros(2, 5, 3), torch.ones(2, 4), r"weights must have shape \[2, 5\]"),
        (torch.zeros(2, 5, 3), torch.zeros(2, 5, 3), torch.ones(2, 5).requires_grad_(), "weights must not require"),
        (torch.zeros(2, 5, 3), torch.zeros(2, 5, 3, device="meta"), None, "target must be on cpu"),
    ],
)
def test_bad_arguments(measure, pred, target, weights, message):
    with pytest.raises((TypeError, ValueError), match=message):
        measure(pred, target, weights=weights)


def test_other_bad_arguments():
    pred, target = random_poses(2), random_poses(2)
    with pytest.raises(ValueError, match="root must be None or a joint from -17 to 16, got 17"):
        mpjpe(pred, target, root=17)
    with pytest.raises(ValueError, match="backend"):
        pa_mpjpe(pred, target, backend="cuda")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="triton"):
        procrustes(pred, target, backend="triton")
    with pytest.raises(ValueError, match=r"points must have shape \[2, P, 3\]"):
        procrustes(pred, target).apply(pred[0])


@pytest.mark.parametrize("size", [1e25, 1e-25])
def test_scale_and_unaligned_errors_hold_at_any_size(size):
    """Squares left the range of float32: N-MPJPE, which does not see the prediction's scale, was 2.195 for 1.576."""
    pred, target = (points.float() / 500 for points in pose_pairs(20))
    close = torch.testing.assert_close
    wanted = n_mpjpe(pred, target)
    close(n_mpjpe(pred * size, target), wanted, rtol=1e-5, atol=0)
    close(n_mpjpe(pred, target * size) / size, wanted, rtol=1e-5, atol=0)
    close(mpjpe(pred * size, target * size) / size, mpjpe(pred, target), rtol=1e-5, atol=0)
    for measure in (n_mpjpe, mpjpe):
        large = (pred * size).requires_grad_()
        small = pred.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((measure(large, target * size) / size).sum(), large)
        (expected,) = torch.autograd.grad(measure(small, target).sum(), small)
        close(gradient * size, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("measure", [procrustes, align, pa_mpjpe, n_mpjpe, mpjpe])
@pytest.mark.parametrize("bad", [-1.0, torch.nan])
def test_weights_that_are_negative_or_nan_are_refused(measure, bad):
    pred, target = pose_pairs(2)
    weights = torch.ones(2, 17)
    weights[1, 3] = bad
    with pytest.raises(ValueError, match=f"weights must not be negative or NaN, got {bad:g}"):
        measure(pred, target, weights=weights)


@pytest.mark.parametrize("measure", [procrustes, pa_mpjpe, n_mpjpe, mpjpe])
def test_weights_that_may_not_be_looked_at_make_their_pose_nan(measure, monkeypatch):
    """As on a GPU, which is not waited for."""
    monkeypatch.setattr("unihpe_kernels.checks.is_readable", lambda *_: False)
    pred, target = (points.float() for points in pose_pairs(2))
    weights = torch.ones(2, 17)
    weights[1, 3] = -1
    found = measure(pred, target, weights=weights)
    found = found.translation.sum(-1) if measure is procrustes else found
    assert found.isnan().tolist() == [False, True]


@pytest.mark.parametrize("root", [True, 1.0, "0"])
@pytest.mark.parametrize("measure", [n_mpjpe, mpjpe])
def test_a_root_that_is_no_int_is_refused(measure, root):
    pred, target = pose_pairs(2)
    with pytest.raises(TypeError, match=f"root must be None or an int, got {root!r}"):
        measure(pred, target, root=root)
