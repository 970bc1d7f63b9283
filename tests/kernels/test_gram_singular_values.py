"""Singular values of every sample's stack, against torch.linalg.svd in float64."""

import pytest
import torch

from tests.kernels.sv_cases import random_embeddings, value_and_gradients
from unihpe_kernels import gram_singular_values
from unihpe_kernels.small_linalg.gram import _operator, _operator_backward


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", range(2, 9))
@pytest.mark.parametrize("width", [1, 5, 257])
def test_matches_svd(count, width, dtype):
    embeddings = [e.detach() for e in random_embeddings(count, 11, width, dtype)]
    values = gram_singular_values(embeddings)
    assert values.shape == (11, count)
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (values.diff(dim=1) <= 0).all()
    stack = torch.stack(embeddings, 1).double()
    padded = torch.nn.functional.pad(stack, (0, max(0, count - width)))
    exact = torch.linalg.svdvals(padded)
    error = ((values - exact).abs() / exact[:, :1]).max()
    # in float64 the SVD that it is compared with has as many roundings
    assert error <= (16 if dtype == torch.float64 else 2) * torch.finfo(values.dtype).eps


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_small_values_keep_their_digits(dtype):
    """Rows agree but for one part in 10^6: a Gram matrix in the dtype itself would lose the small values."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(5, 64, generator=generator, dtype=torch.float64)
    small = 1e-6 if dtype == torch.float32 else 1e-14
    embeddings = [
        (base + small * torch.randn(5, 64, generator=generator, dtype=torch.float64)).to(dtype) for _ in range(3)
    ]
    values = gram_singular_values(embeddings).double()
    exact = torch.linalg.svdvals(torch.stack(embeddings, 1).double())
    assert ((values - exact).abs() <= 4 * torch.finfo(dtype).eps * exact[:, :1]).all()
    # float32 input has its values computed in float64: relative accuracy down to here
    if dtype == torch.float32:
        torch.testing.assert_close(values, exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("count", "width"), [(2, 3), (3, 3), (3, 9), (5, 9), (8, 9)])
def test_gradcheck(count, width):
    embeddings = random_embeddings(count, 3, width, torch.float64)
    assert torch.autograd.gradcheck(lambda *parts: gram_singular_values(parts), embeddings)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["zero", "repeated", "parallel"])
def test_gradient_is_bounded_where_values_meet(kind, dtype):
    rows = torch.zeros(3, 4, 6, dtype=dtype)
    if kind == "repeated":
        rows[torch.arange(3), :, torch.arange(3)] = 2
    elif kind == "parallel":
        rows[:] = torch.arange(1, 7)
    value, gradients = value_and_gradients(lambda leaves: gram_singular_values(leaves).sum(), list(rows))
    gradient = torch.stack(gradients, 1)
    assert gradient.isfinite().all()
    # sum of u_k v_k^T: all singular values at most one
    assert torch.linalg.matrix_norm(gradient.double(), 2).max() <= 1 + 1e-5
    wanted = {"zero": 0.0, "repeated": 24.0, "parallel": 4 * (3 * 91) ** 0.5}[kind]
    assert abs(value.item() - wanted) <= 1e-5
    if kind == "zero":
        assert not gradient.any()


def test_empty_batch_and_layout():
    assert gram_singular_values([torch.zeros(0, 4)] * 3).shape == (0, 3)
    dense = [e.detach() for e in random_embeddings(3, 4, 6, torch.float32)]
    views = [e.T.contiguous().T for e in dense]
    assert torch.equal(gram_singular_values(views), gram_singular_values(dense))


def test_half_precision_gradient_and_stride_zero():
    leaves = [e.detach().requires_grad_() for e in random_embeddings(3, 4, 6, torch.bfloat16)]
    gradients = torch.autograd.grad(gram_singular_values(leaves).sum(), leaves)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    wanted = torch.autograd.grad(torch.linalg.svdvals(torch.stack(exact, 1)).sum(), exact)
    for gradient, full in zip(gradients, wanted, strict=True):
        assert gradient.dtype == torch.bfloat16
        torch.testing.assert_close(gradient.double(), full, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_opcheck(dtype):
    stack = torch.stack([e.detach() for e in random_embeddings(3, 4, 6, dtype)], 1)
    torch.library.opcheck(_operator, (stack.requires_grad_(), "torch"))
    values, vectors = _operator(stack.detach(), "torch")
    torch.library.opcheck(_operator_backward, (torch.ones_like(values), stack.detach(), values, vectors, "torch"))


@pytest.mark.parametrize("autocast", [False, True])
def test_full_graph_matches_eager(autocast):
    compiled = torch.compile(gram_singular_values, fullgraph=True, backend="aot_eager")
    leaves = random_embeddings(3, 4, 64, torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        eager = value_and_gradients(lambda parts: gram_singular_values(parts).square().sum(), leaves)
        graph = value_and_gradients(lambda parts: compiled(parts).square().sum(), leaves)
    assert eager[0] == graph[0]
    assert all(torch.equal(a, b) for a, b in zip(eager[1], graph[1], strict=True))
    # the squares sum to the squared lengths, whatever autocast would round
    torch.testing.assert_close(eager[0], sum(leaf.detach().square().sum() for leaf in leaves), rtol=1e-6, atol=0)


def test_second_derivative_is_refused():
    leaves = random_embeddings(2, 3, 4, torch.float32)
    gradient = torch.autograd.grad(gram_singular_values(leaves).sum(), leaves[0], create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="second derivative"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("error", "message", "embeddings"),
    [
        (TypeError, "must be a sequence", torch.ones(3, 4, 5)),
        (ValueError, "2 to 8", [torch.ones(4, 5)]),
        (ValueError, r"embeddings\[1\] must have shape \[4, 5\]", [torch.ones(4, 5), torch.ones(4, 6)]),
        (TypeError, "dtype", [torch.ones(4, 5, dtype=torch.int32)] * 2),
    ],
)
def test_bad_arguments_are_named(error, message, embeddings):
    with pytest.raises(error, match=message):
        gram_singular_values(embeddings)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_a_bad_row_spoils_its_sample_alone(count, dtype, bad):
    """It ended the whole batch in LinAlgError."""
    embeddings = [e.to(dtype) for e in torch.randn(count, 6, 5, generator=torch.Generator().manual_seed(0))]
    wanted = gram_singular_values(embeddings)
    embeddings[1][2, 3] = bad
    leaves = [e.requires_grad_() for e in embeddings]
    values = gram_singular_values(leaves)
    gradients = torch.autograd.grad(values[[0, 1, 3, 4, 5]].sum(), leaves)
    others = torch.arange(6) != 2
    assert values[2].isnan().all()
    torch.testing.assert_close(values[others], wanted[others])
    assert all(gradient[others].isfinite().all() for gradient in gradients)
