"""Values and gradients of the loss, against the definition by SVD of every stacked tuple in float64."""

import pytest
import torch

from tests.kernels.conftest import of_torch_alone
from tests.kernels.sv_cases import (
    check_against,
    check_temperature,
    random_embeddings,
    value_and_gradients,
)
from tests.tolerances import SV_GRADIENT, SV_LOSS
from unihpe_kernels import singular_value_contrastive_loss
from unihpe_kernels.sv_contrastive import torch_backend
from unihpe_kernels.sv_contrastive.closed_form import TripleTile

# "all" of 3 at 7 samples: 343 tuples, in several tiles when the tile is made small; 11 wide and 3 wide (fewer than M)
CASES = [("all", 2, 7, 11), ("all", 3, 7, 11), ("all", 3, 5, 2)] + [("paired", m, 7, 11) for m in range(2, 9)]
CASES += [("paired", 5, 5, 3)]
# float64 is the torch backend's either way
pytestmark = pytest.mark.usefixtures("cpu_backend")

KINDS = [("all", 2), ("all", 3), ("paired", 2), ("paired", 3), ("paired", 4)]


@pytest.mark.parametrize(
    ("cpu_backend", "dtype"),
    [("native", torch.float32), ("torch", torch.float32), ("torch", torch.float64)],
    indirect=["cpu_backend"],
)
@pytest.mark.parametrize(("negatives", "count", "batch", "width"), CASES)
@pytest.mark.parametrize("partial", [False, True])
def test_matches_definition(negatives, count, batch, width, partial, dtype):
    embeddings = random_embeddings(count, batch, width, dtype)
    generator = torch.Generator().manual_seed(count)
    check_against(
        singular_value_contrastive_loss,
        embeddings,
        negatives=negatives,
        temperature=torch.tensor(0.1, dtype=dtype),
        weights=torch.rand(batch, generator=generator, dtype=dtype),
        present=torch.rand(count, batch, generator=generator) < 0.75 if partial else None,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("negatives", ["all", "paired"])
def test_half_precision_computes_in_float32(negatives, dtype):
    check_against(
        singular_value_contrastive_loss, random_embeddings(3, 7, 16, dtype), negatives=negatives, temperature=0.1
    )


@of_torch_alone
@pytest.mark.parametrize(("negatives", "count"), KINDS)
def test_tiles_smaller_than_the_batch(monkeypatch, negatives, count):
    """A tile edge on every axis, at a prime size."""
    monkeypatch.setattr("unihpe_kernels.sv_contrastive.torch_backend._TILE_PER_THREAD", 40)
    monkeypatch.setattr("unihpe_kernels.contrastive.torch_blocks.TorchBackend.cpu_block", 0)
    monkeypatch.setattr("unihpe_kernels.contrastive.paired._WHOLE", 5)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    check_against(
        singular_value_contrastive_loss,
        random_embeddings(count, 13, 8, torch.float64),
        negatives=negatives,
        temperature=0.1,
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("most_kept", [0, 2**20], ids=["recomputed", "kept"])
@pytest.mark.parametrize("safe_gap", [0, torch.inf], ids=["unbounded", "bounded"])
def test_each_way_to_the_gradient_of_all(monkeypatch, safe_gap, most_kept, dtype):
    monkeypatch.setattr(torch_backend, "_SAFE_GAP", safe_gap)
    monkeypatch.setattr(torch_backend, "_MOST_KEPT", most_kept)
    monkeypatch.setattr(torch_backend, "_TILE_PER_THREAD", 400)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    check_against(singular_value_contrastive_loss, random_embeddings(3, 11, 6, dtype), negatives="all", temperature=0.1)


@of_torch_alone
@pytest.mark.parametrize("most_kept", [0, 2**20], ids=["recomputed", "kept"])
def test_near_double_eigenvalue_among_others(monkeypatch, most_kept):
    """One triple near a = b = c = -1/2: its tile takes the bounded gradients, the others need not."""
    monkeypatch.setattr(torch_backend, "_MOST_KEPT", most_kept)
    monkeypatch.setattr(torch_backend, "_TILE_PER_THREAD", 600)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    calls = {"gradients": 0, "add_sums": 0}
    methods = {name: getattr(TripleTile, name) for name in calls}
    for name in calls:

        def counted(*arguments, name=name):
            calls[name] += 1
            return methods[name](*arguments)

        monkeypatch.setattr(TripleTile, name, counted)
    embeddings = random_embeddings(3, 13, 8, torch.float64)
    with torch.no_grad():
        for m, angle in enumerate(torch.tensor([0, 2 / 3, 4 / 3 + 1e-5], dtype=torch.float64) * torch.pi):
            embeddings[m][4] = torch.stack([angle.cos(), angle.sin(), *torch.zeros(6, dtype=torch.float64)])
    check_against(singular_value_contrastive_loss, embeddings, negatives="all", temperature=0.1)
    assert calls["gradients"] == 1
    assert calls["add_sums"] >= 2


@of_torch_alone
def test_kept_scores_do_not_depend_on_the_tiles(monkeypatch):
    """The number of threads, and so the tiles, may change between the forward and the backward pass."""
    embeddings = random_embeddings(3, 13, 8, torch.float64)
    _, wanted = value_and_gradients(singular_value_contrastive_loss, embeddings, negatives="all")
    loss = singular_value_contrastive_loss(embeddings, negatives="all")
    monkeypatch.setattr(torch_backend, "_TILE_PER_THREAD", 100)
    for gradient, same in zip(torch.autograd.grad(loss, embeddings), wanted, strict=True):
        torch.testing.assert_close(gradient, same, rtol=0, atol=1e-14)


@pytest.mark.parametrize("negatives", ["all", "paired"])
def test_larger_batch_against_plain_closed_form(negatives):
    """B = 61: too many tuples for the SVD; eigenvalues of the 3 x 3 Gram matrices in float64 instead."""
    embeddings = random_embeddings(3, 61, 64, torch.float32)
    value, gradients = value_and_gradients(
        singular_value_contrastive_loss, embeddings, negatives=negatives, temperature=0.07
    )

    def by_eigenvalues(leaves, temperature):
        x, y, z = (torch.nn.functional.normalize(leaf, dim=1) for leaf in leaves)
        a, b, c = x @ y.T, x @ z.T, y @ z.T
        if negatives == "all":
            grams = [(a[:, :, None], b[:, None, :], c[None])] * 3
            axes = [(1, 2), (0, 2), (0, 1)]
        else:
            inner_a, inner_b, inner_c = a.diagonal(), b.diagonal(), c.diagonal()
            grams = [(a, b, inner_c), (a.T, c, inner_b), (b.T, c.T, inner_a)]
            axes = [(1,)] * 3
        positive = None
        losses = []
        for entries, axis in zip(grams, axes, strict=True):
            a_, b_, c_ = torch.broadcast_tensors(*entries)
            one = torch.ones_like(a_)
            rows = [torch.stack(row, -1) for row in ((one, a_, b_), (a_, one, c_), (b_, c_, one))]
            logits = torch.linalg.eigvalsh(torch.stack(rows, -2))[..., -1].sqrt() / temperature
            index = torch.arange(len(x))
            positive = logits[index, index, index] if negatives == "all" else logits.diagonal()
            losses.append(logits.logsumexp(axis) - positive)
        return torch.stack(losses).mean()

    exact, exact_gradients = value_and_gradients(by_eigenvalues, [e.double() for e in embeddings], temperature=0.07)
    assert abs(value.double() - exact) <= SV_LOSS[torch.float32]
    for gradient, wanted in zip(gradients, exact_gradients, strict=True):
        torch.testing.assert_close(gradient.double(), wanted, rtol=0, atol=SV_GRADIENT[torch.float32])


@of_torch_alone
@pytest.mark.parametrize(("negatives", "count"), [("all", 2), ("all", 3), ("paired", 3), ("paired", 5)])
def test_gradcheck(negatives, count):
    embeddings = random_embeddings(count, 4, 5, torch.float64)
    temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    present = torch.ones(count, 4, dtype=torch.bool)
    present[0, 1] = present[1, 2] = False

    def loss(temperature, weights, *embeddings):
        return singular_value_contrastive_loss(
            embeddings, temperature=temperature, weights=weights, present=present, negatives=negatives
        )

    assert torch.autograd.gradcheck(loss, (temperature, weights, *embeddings))


@of_torch_alone
@pytest.mark.parametrize("negatives", ["all", "paired"])
def test_unit_rows_taken_as_they_are(negatives):
    units = [torch.nn.functional.normalize(e, dim=1) for e in random_embeddings(3, 6, 8, torch.float64)]
    options = {"temperature": 0.1, "negatives": negatives}
    value, gradients = value_and_gradients(singular_value_contrastive_loss, units, normalize=False, **options)
    exact, projected = value_and_gradients(singular_value_contrastive_loss, units, **options)
    torch.testing.assert_close(value, exact)
    for unit, gradient, wanted in zip(units, gradients, projected, strict=True):
        tangent = gradient - unit * (unit * gradient).sum(1, keepdim=True)
        torch.testing.assert_close(tangent, wanted, rtol=0, atol=1e-13)


@of_torch_alone
@pytest.mark.parametrize("negatives", ["all", "paired"])
def test_present_equals_dropping(negatives):
    """Samples with nothing or one modality alone are as if they were not in the batch, whatever stands there."""
    embeddings = random_embeddings(3, 9, 8, torch.float64)
    present = torch.ones(3, 9, dtype=torch.bool)
    present[:, 4] = False
    present[1:, 7] = False
    dropped = torch.tensor([4, 7])
    kept = torch.tensor([i for i in range(9) if i not in (4, 7)])
    poisoned = [e.detach().index_fill(0, dropped, torch.nan) for e in embeddings]
    value, gradients = value_and_gradients(
        singular_value_contrastive_loss, poisoned, negatives=negatives, present=present
    )
    dense, dense_gradients = value_and_gradients(
        singular_value_contrastive_loss, [e.detach()[kept] for e in embeddings], negatives=negatives
    )
    # how a matrix product rounds depends on where its rows lie in memory
    torch.testing.assert_close(value, dense, rtol=0, atol=1e-14)
    for gradient, wanted in zip(gradients, dense_gradients, strict=True):
        torch.testing.assert_close(gradient[kept], wanted, rtol=0, atol=1e-14)
        assert torch.equal(gradient[dropped], torch.zeros(2, 8, dtype=torch.float64))


@pytest.mark.parametrize("negatives", ["all", "paired"])
@pytest.mark.parametrize("case", ["empty", "all absent", "one modality each", "no weight"])
def test_no_anchor_gives_zero(negatives, case):
    batch = 0 if case == "empty" else 3
    embeddings = random_embeddings(3, batch, 4, torch.float32)
    present = torch.zeros(3, batch, dtype=torch.bool) if case == "all absent" else None
    if case == "one modality each":
        present = torch.eye(3, dtype=torch.bool)
    weights = torch.zeros(batch) if case == "no weight" else torch.ones(batch)
    temperature = torch.tensor(0.1)
    value, gradients = value_and_gradients(
        singular_value_contrastive_loss,
        embeddings,
        negatives=negatives,
        present=present,
        temperature=temperature,
        weights=weights,
    )
    assert value == 0
    for gradient in gradients[:4]:
        assert torch.equal(gradient, torch.zeros_like(gradient))
    assert gradients[4].isfinite().all()


@pytest.mark.parametrize(("negatives", "count"), [*KINDS, ("paired", 8)])
def test_single_sample_has_nothing_to_tell_apart(negatives, count):
    value, gradients = value_and_gradients(
        singular_value_contrastive_loss, random_embeddings(count, 1, 5, torch.float32), negatives=negatives
    )
    # two roundings of a logit of about 20
    assert abs(value) < 1e-5
    for gradient in gradients:
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-5)


@pytest.mark.parametrize("negatives", ["all", "paired"])
def test_two_equal_samples(negatives):
    """All tuples score alike: log of their number, B or B^2."""
    row = torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(3))
    value = singular_value_contrastive_loss(list(row.expand(3, 2, 8)), negatives=negatives)
    tuples = 4 if negatives == "all" else 2
    torch.testing.assert_close(value, torch.tensor(float(tuples)).log(), rtol=0, atol=1e-5)


@of_torch_alone
@pytest.mark.parametrize("negatives", ["all", "paired"])
def test_blind_to_the_sign_of_a_modality(negatives):
    x, y, z = random_embeddings(3, 6, 8, torch.float64)
    same = singular_value_contrastive_loss([x, y, z], negatives=negatives)
    torch.testing.assert_close(singular_value_contrastive_loss([x, -y, z], negatives=negatives), same)


@pytest.mark.parametrize(("negatives", "count"), KINDS)
@pytest.mark.parametrize(
    "kind", ["zero", "aligned", "antipodal", "one-hot", "orthogonal", "tiny", "planar triples", "nearly equal"]
)
def test_degenerate_embeddings_stay_finite(negatives, count, kind):
    batch, width = 5, 20
    rows = torch.zeros(count, batch, width)
    generator = torch.Generator().manual_seed(0)
    if kind == "aligned":
        rows[..., 0] = 1
    elif kind == "antipodal":
        rows[..., 0] = 1 - 2 * (torch.arange(count) % 2)[:, None]
    elif kind == "one-hot":
        rows[:, torch.arange(batch), torch.arange(batch)] = 1
    elif kind == "orthogonal":
        rows.view(-1, width)[torch.arange(count * batch), torch.arange(count * batch)] = 1
    elif kind == "tiny":
        rows = torch.randn(count, batch, width, generator=generator) * 1e-9
    elif kind == "planar triples":  # inner products of exactly -1/2 within a sample, as near as float32 comes
        angle = torch.arange(count) * (2 * torch.pi / 3)
        rows[..., 0], rows[..., 1] = angle.cos()[:, None], angle.sin()[:, None]
    elif kind == "nearly equal":
        rows[..., 0] = 1
        rows += 1e-7 * torch.randn(count, batch, width, generator=generator)
    temperature = torch.tensor(0.05)
    embeddings = list(rows)
    value, gradients = value_and_gradients(
        singular_value_contrastive_loss, embeddings, negatives=negatives, temperature=temperature
    )
    assert value.isfinite()
    assert -1e-5 <= value <= 2 * torch.tensor(5.0).log() + (count**0.5 - 1) / 0.05
    for gradient in gradients:
        assert gradient.isfinite().all()
    if kind in ("zero", "orthogonal"):  # every tuple scores 1 and no product is there to be pulled at
        for gradient in gradients[:count]:
            assert gradient.abs().max() <= 1e-6


@pytest.mark.parametrize("negatives", ["all", "paired"])
@pytest.mark.parametrize("temperature", [0.001, 0.004, 0.02, 1.0, 50.0])
def test_every_temperature(negatives, temperature):
    """The smallest go through the sums in float64: in float32 the exponentials would underflow."""
    check_temperature(singular_value_contrastive_loss, negatives, temperature)


@pytest.mark.parametrize("negatives", ["all", "paired"])
def test_layouts_and_gradient_strides(negatives):
    """Transposed, strided and expanded inputs; the gradient of sum() arrives with stride 0."""
    dense = random_embeddings(3, 6, 10, torch.float32)
    transposed = dense[0].detach().T.contiguous().T.requires_grad_()
    strided = torch.zeros(12, 20)[::2, ::2].copy_(dense[1].detach()).requires_grad_()
    views = [transposed, strided, dense[2]]
    assert not transposed.is_contiguous()
    assert not strided.is_contiguous()
    losses = torch.stack([singular_value_contrastive_loss(e, negatives=negatives) for e in (dense, views)])
    assert losses[0] == losses[1]
    wanted = torch.autograd.grad(losses[0], dense, retain_graph=True)
    got = torch.autograd.grad(losses[1].expand(4).sum(), views)
    for gradient, single in zip(got, wanted, strict=True):
        assert torch.equal(gradient, 4 * single)

    stride_zero = dense[0].detach()[:1].expand(6, 10)
    value = singular_value_contrastive_loss([stride_zero, *dense[1:]], negatives=negatives)
    assert value == singular_value_contrastive_loss([stride_zero.contiguous(), *dense[1:]], negatives=negatives)


@pytest.mark.parametrize("negatives", ["all", "paired"])
def test_mixed_dtypes_are_promoted(negatives):
    embeddings = random_embeddings(3, 6, 8, torch.float32)
    mixed = [embeddings[0].detach().bfloat16().requires_grad_(), embeddings[1], embeddings[2]]
    value, gradients = value_and_gradients(singular_value_contrastive_loss, mixed, negatives=negatives)
    promoted, wanted = value_and_gradients(
        singular_value_contrastive_loss, [e.float() for e in mixed], negatives=negatives
    )
    assert value == promoted
    assert gradients[0].dtype == torch.bfloat16
    assert torch.equal(gradients[0], wanted[0].bfloat16())
    assert torch.equal(gradients[1], wanted[1])


@pytest.mark.parametrize("negatives", ["all", "paired"])
def test_autocast_computes_in_float32(negatives):
    embeddings = random_embeddings(3, 6, 64, torch.float32)
    plain, plain_gradients = value_and_gradients(singular_value_contrastive_loss, embeddings, negatives=negatives)

    def under_autocast(leaves):
        with torch.autocast("cpu", torch.bfloat16):
            loss = singular_value_contrastive_loss(leaves, negatives=negatives)
            (loss * 1.0).backward(retain_graph=True)  # backward inside the region, too
            for leaf, wanted in zip(leaves, plain_gradients, strict=True):
                assert torch.equal(leaf.grad, wanted)
            return loss

    value, gradients = value_and_gradients(under_autocast, embeddings)
    assert value.dtype == torch.float32
    assert value == plain
    for gradient, wanted in zip(gradients, plain_gradients, strict=True):
        assert torch.equal(gradient, wanted)


def test_nan_reaches_the_loss():
    embeddings = [e.detach() for e in random_embeddings(3, 4, 8, torch.float32)]
    embeddings[1][2, 3] = torch.nan
    assert singular_value_contrastive_loss(embeddings).isnan()


def test_second_derivative_is_refused():
    embeddings = random_embeddings(3, 4, 8, torch.float32)
    loss = singular_value_contrastive_loss(embeddings)
    gradient = torch.autograd.grad(loss, embeddings[0], create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="second derivative"):
        gradient.sum().backward()


@pytest.mark.parametrize("count", [2, 3, 4])
def test_embeddings_without_width_are_orthogonal_to_all(count):
    loss = singular_value_contrastive_loss([torch.zeros(5, 0)] * count)
    torch.testing.assert_close(loss, torch.tensor(5.0).log())
