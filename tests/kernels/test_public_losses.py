"""The losses under their own names: equal to what their authors published, in value and gradients."""

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.kernels import public_losses
from tests.kernels.sv_cases import random_embeddings
from tests.kernels.test_sv_op import LargestTensor
from tests.tolerances import PUBLISHED_LOSS
from unihpe_kernels import PairwiseInfoNCE, modules
from unihpe_kernels.scores import product
from unihpe_kernels.scores.product import pairs, triples

DTYPES = (torch.float64, torch.float32)


def tolerance_at(temperature: float, dtype: torch.dtype) -> float:
    """Scores of float32 are at best off by an ulp of 1, logits by that over the temperature: 1.7e-6 at 0.07."""
    return max(PUBLISHED_LOSS[dtype], torch.finfo(dtype).eps / temperature)


def published() -> list[dict[str, Any]]:
    """What the public implementations gave in float64; these numbers are no part of a checkout."""
    for folder in Path(__file__).parents:
        file = folder / "shared" / "data" / "scores" / "public_losses.json"
        if file.exists():
            return json.loads(file.read_text())["cases"]
    return []


CASES = published()
needs_published = pytest.mark.skipif(not CASES, reason="shared/data/scores/public_losses.json is not here")


def close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    scale = max(1.0, float(wanted.abs().max()))
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance * scale)


def fix_temperature(loss: nn.Module, temperature: float) -> nn.Module:
    """In float64 to its last digit: what a module is built with goes through a float32 logarithm."""
    loss.double()
    nn.init.constant_(loss.temperature.log_temperature, math.log(temperature))
    return loss


def leaves(embeddings: Any, dtype: torch.dtype) -> list[Tensor]:
    return [torch.as_tensor(z, dtype=torch.float64).to(dtype).requires_grad_() for z in embeddings]


def check(
    loss: Callable[..., Tensor], exact: Callable[..., Tensor], embeddings: Any, dtype: torch.dtype, temperature: float
) -> None:
    """Value and gradients of loss(*embeddings) against exact(embeddings) in float64, on the same rounded numbers."""
    given, rounded = leaves(embeddings, dtype), leaves(leaves(embeddings, dtype), torch.float64)
    value, wanted = loss(*given), exact(rounded)
    tolerance = tolerance_at(temperature, dtype)
    close(value.detach(), wanted.detach(), tolerance)
    for gradient, other in zip(torch.autograd.grad(value, given), torch.autograd.grad(wanted, rounded), strict=True):
        assert gradient.dtype == dtype
        close(gradient, other, tolerance)


# against published numbers


@needs_published
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", ["gram", "triangle"])
@pytest.mark.parametrize("number", range(8))
def test_published_numbers(number: int, name: str, label_smoothing: float, dtype: torch.dtype) -> None:
    case = CASES[number]
    wanted = case.get(f"{name}_loss_ls{label_smoothing}")
    if wanted is None:
        pytest.skip(f"{name} is not defined for {case['M']} modalities")
    z = leaves(case["z"], dtype)
    loss = fix_temperature(MODULES[name](label_smoothing=label_smoothing), case["tau"])
    value, tolerance = loss(*z), tolerance_at(case["tau"], dtype)
    assert value.item() == pytest.approx(wanted["mean"], rel=tolerance)
    # d(volume) is d(det) / (2 volume), and float32 rounds the inner products that det is a difference of
    slack = 1 / min(map(min, case["volume"])) if name == "gram" and dtype == torch.float32 else 1
    for m, gradient in enumerate(torch.autograd.grad(value, z)[:2]):
        close(gradient, tangent(wanted[f"grad_z{m}"], case["z"][m]), tolerance * slack)
    loss.direction = "anchor"
    assert loss(*z).item() == pytest.approx(wanted["anchor_to_tuple"], rel=tolerance)


@needs_published
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("number", range(4))
def test_published_numbers_of_symile(number: int, dtype: torch.dtype) -> None:
    case = CASES[number]
    z = leaves(case["z"], dtype)
    value = fix_temperature(modules.SymileLoss(negative_sampling="n_squared"), case["tau"])(*z)
    tolerance = tolerance_at(case["tau"], dtype)
    assert value.item() == pytest.approx(case["symile_n_squared"]["loss"], rel=tolerance)
    (gradient,) = torch.autograd.grad(value, z[:1])
    close(gradient, tangent(case["symile_n_squared"]["grad_z0"], case["z"][0]), tolerance)


def tangent(gradient: Any, rows: Any) -> Tensor:
    """What is left of a gradient behind the normalisation of unit rows: the published ones are before it."""
    gradient, z = torch.tensor(gradient, dtype=torch.float64), torch.tensor(rows, dtype=torch.float64)
    return gradient - (gradient * z).sum(1, keepdim=True) * z


@needs_published
@pytest.mark.parametrize("number", range(8))
def test_references_give_the_published_numbers(number: int) -> None:
    """Of which a checkout alone has the references."""
    case = CASES[number]
    z = leaves(case["z"], torch.float64)
    for name in ("gram", "triangle"):
        for smoothing in (0.0, 0.1):
            if wanted := case.get(f"{name}_loss_ls{smoothing}"):
                value = getattr(public_losses, name)(z, case["tau"], smoothing)
                assert value.item() == pytest.approx(wanted["mean"], rel=1e-12)
    if "symile_n_squared" in case:
        value = public_losses.symile_n_squared(z, case["tau"], normalize=False)
        assert value.item() == pytest.approx(case["symile_n_squared"]["loss"], rel=1e-12)


# against the formulas


MODULES = {"gram": modules.GRAMLoss, "triangle": modules.TriangleLoss}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize(("name", "count"), [("gram", 2), ("gram", 3), ("gram", 4), ("gram", 6), ("triangle", 3)])
def test_gram_and_triangle(name: str, count: int, temperature: float, dtype: torch.dtype) -> None:
    loss = fix_temperature(MODULES[name](), temperature)
    exact = getattr(public_losses, name)
    embeddings = random_embeddings(count, 9, 12, torch.float64)
    check(loss, lambda z: exact(z, temperature, 0.1), embeddings, dtype, temperature)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_pairwise_is_clip_over_every_two(count: int, dtype: torch.dtype) -> None:
    loss = fix_temperature(PairwiseInfoNCE(), 0.07)
    check(loss, public_losses.pairwise, random_embeddings(count, 9, 12, torch.float64), dtype, 0.07)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [-10.0, 0.5])
def test_siglip(bias: float, dtype: torch.dtype) -> None:
    loss = fix_temperature(modules.SigLIPLoss(bias=bias), 0.1)
    check(loss, lambda z: public_losses.siglip(z, 0.1, bias), random_embeddings(2, 9, 12, torch.float64), dtype, 0.1)


def test_siglip_of_three_is_the_mean_over_every_two() -> None:
    z = random_embeddings(3, 9, 12, torch.float64)
    wanted = torch.stack([public_losses.siglip(pair) for pair in combinations(z, 2)]).mean()
    close(fix_temperature(modules.SigLIPLoss(), 0.1)(*z).detach(), wanted.detach(), 1e-12)


def test_siglip_trains_its_bias_and_temperature() -> None:
    z = random_embeddings(2, 9, 12, torch.float64)
    loss = fix_temperature(modules.SigLIPLoss(bias=-2.0), 0.1)
    loss(*z).backward()
    tau, bias = (torch.tensor(x, dtype=torch.float64).requires_grad_() for x in (0.1, -2.0))
    d_tau, d_bias = torch.autograd.grad(public_losses.siglip(z, tau, bias), (tau, bias))
    close(loss.bias.grad, d_bias, 1e-11)
    close(loss.temperature.log_temperature.grad, d_tau * 0.1, 1e-11)


# Symile


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_symile_n_squared(dtype: torch.dtype, normalize: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triples, "_BLOCK", 200)  # several blocks, the last one smaller
    loss = fix_temperature(modules.SymileLoss(negative_sampling="n_squared", normalize=normalize), 0.07)
    embeddings = random_embeddings(3, 9, 12, torch.float64)
    if not normalize:
        # rows of unlike lengths, at which products are of order one
        embeddings = [z.detach() / 8 for z in embeddings]
    check(loss, lambda z: public_losses.symile_n_squared(z, 0.07, normalize), embeddings, dtype, 0.07)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [3, 4, 8])
def test_symile_n_draws_as_symile_does(
    count: int, dtype: torch.dtype, normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "_BLOCK", 20)
    loss = fix_temperature(modules.SymileLoss(normalize=normalize), 0.07)
    embeddings = random_embeddings(count, 9, 12, torch.float64)
    if not normalize:
        embeddings = [z.detach() / 4 for z in embeddings]

    def drawn(z: list[Tensor]) -> Tensor:
        torch.manual_seed(3)
        orders = [[torch.randperm(9) for _ in range(count - 1)] for _ in range(count)]
        return public_losses.symile_n(z, orders, 0.07, normalize)

    def ours(*z: Tensor) -> Tensor:
        torch.manual_seed(3)
        return loss(*z)

    check(ours, drawn, embeddings, dtype, 0.07)
    assert ours(*embeddings) != loss(*embeddings)  # other negatives


def test_symile_of_rows_of_any_length_is_finite() -> None:
    """Logits of thousands, which an exponential in float32 does not hold."""
    z = [100 * x.detach().requires_grad_() for x in random_embeddings(3, 9, 12, torch.float32)]
    for sampling in ("n", "n_squared"):
        value = modules.SymileLoss(negative_sampling=sampling, normalize=False)(*z)
        assert value.isfinite()
        assert all(g.isfinite().all() for g in torch.autograd.grad(value, z))


@pytest.mark.parametrize("sampling", ["n", "n_squared"])
def test_symile_weights_and_temperature(sampling: str) -> None:
    z = [x.detach() for x in random_embeddings(3, 6, 5, torch.float64)]
    weights = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    tau = torch.tensor(0.3, dtype=torch.float64).requires_grad_()

    def loss(tau: Tensor, weights: Tensor, *z: Tensor) -> Tensor:
        torch.manual_seed(0)
        return product.symile_loss(z, temperature=tau, negative_sampling=sampling, weights=weights)

    assert torch.autograd.gradcheck(loss, (tau, weights, *(x.requires_grad_() for x in z)))
    one = torch.eye(6, dtype=torch.float64)[2]
    each = torch.stack([loss(tau, row, *z) for row in torch.eye(6, dtype=torch.float64)])
    close(loss(tau, weights, *z).detach(), ((each * weights).sum() / weights.sum()).detach(), 1e-12)
    assert loss(tau, one, *z) == each[2]
    assert loss(tau, torch.zeros_like(weights), *z) == 0


def test_symile_memory_is_that_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, width = 64, 32
    monkeypatch.setattr(triples, "_BLOCK", batch * batch)
    # copies: what is drawn is a part of one tensor
    z = [x.detach().clone() for x in random_embeddings(3, batch, width, torch.float32)]
    scale = torch.tensor(0.1)
    with LargestTensor() as largest:  # it does not see what operators do inside
        sums = triples._triple_logsumexps(*z, scale)
        triples._triple_logsumexps_backward([torch.ones(batch)] * 3, *z, scale, list(sums))
    assert batch * batch <= largest.elements <= batch * batch + batch * width


def test_symile_operators() -> None:
    z = [torch.nn.functional.normalize(x, dim=1).detach() for x in random_embeddings(3, 6, 5, torch.float32)]
    z, scale = [x.requires_grad_() for x in z], torch.tensor(3.0, requires_grad=True)
    utils = ("test_schema", "test_autograd_registration", "test_faketensor")  # compiled below, as modules
    torch.library.opcheck(triples.triple_logsumexps, (*z, scale), test_utils=utils)
    torch.library.opcheck(pairs.other_logsumexps, (*z[:2], scale, 0), test_utils=utils)


# what every module does


LOSSES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "GRAMLoss": (modules.GRAMLoss, 3),
    "TriangleLoss": (modules.TriangleLoss, 3),
    "SymileLoss": (modules.SymileLoss, 3),
    "SymileLoss, n_squared": (lambda: modules.SymileLoss(negative_sampling="n_squared"), 3),
    "SigLIPLoss": (modules.SigLIPLoss, 2),
    "PairwiseInfoNCE": (PairwiseInfoNCE, 3),
}


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_and_autocast(name: str) -> None:
    """The loss is float32, gradients are of the embeddings' dtype."""
    make, count = LOSSES[name]
    rounded = [z.detach().bfloat16() for z in random_embeddings(count, 9, 12, torch.float32)]
    loss = make()
    torch.manual_seed(0)
    wanted = loss(*(z.float() for z in rounded))
    for given, context in (
        ([z.clone().requires_grad_() for z in rounded], nullcontext()),
        ([z.float().requires_grad_() for z in rounded], torch.autocast("cpu", torch.bfloat16)),
    ):
        torch.manual_seed(0)
        with context:
            value = loss(*given)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-5)
        value.backward()
        assert all(z.grad.dtype == z.dtype and z.grad.isfinite().all() for z in given)


@pytest.mark.parametrize("name", LOSSES)
def test_one_sample_and_none(name: str) -> None:
    make, count = LOSSES[name]
    for batch in (0, 1):
        z = [torch.randn(batch, 5).requires_grad_() for _ in range(count)]
        value = make()(*z)
        value.backward()
        assert value.isfinite()
        assert all(x.grad.isfinite().all() for x in z)


@pytest.mark.parametrize("name", LOSSES)
def test_compiled_equals_eager(name: str) -> None:
    """In one graph; the permutations of SymileLoss are drawn inside."""
    make, count = LOSSES[name]
    z = random_embeddings(count, 9, 12, torch.float32)
    loss = make()
    results = []
    for function in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        torch.manual_seed(0)
        value = function(*z)
        results.append((value, torch.autograd.grad(value, z)))
    (value, gradients), (other, others) = results
    torch.testing.assert_close(other, value, rtol=1e-6, atol=1e-6)
    for gradient, same in zip(gradients, others, strict=True):
        torch.testing.assert_close(same, gradient, rtol=1e-5, atol=1e-6)


def test_modules_name_bad_arguments() -> None:
    three = [torch.randn(4, 5) for _ in range(3)]
    with pytest.raises(ValueError, match=r"temperature must be in \[0.01, 1.0\], got 2"):
        modules.GRAMLoss(2)
    with pytest.raises(ValueError, match='negative_sampling must be "n" or "n_squared", got \'all\''):
        modules.SymileLoss(negative_sampling="all")
    with pytest.raises(ValueError, match='embeddings must hold 3 tensors for negative_sampling="n_squared", got 4'):
        modules.SymileLoss(negative_sampling="n_squared")(*three, three[0])
    with pytest.raises(ValueError, match='embeddings must hold 3 to 8 tensors for negative_sampling="n", got 2'):
        modules.SymileLoss()(*three[:2])
    with pytest.raises(ValueError, match=r"embeddings\[1\] must have shape \[4, 5\], got \[3, 5\]"):
        modules.SymileLoss()(three[0], three[1][:3], three[2])
    with pytest.raises(ValueError, match=r"weights must have shape \[4\], got \[3\]"):
        modules.SymileLoss()(*three, weights=torch.ones(3))
    with pytest.raises(ValueError, match=r"embeddings must be two or more tensors \[B, D\], got 1"):
        modules.SigLIPLoss()(three[0])
