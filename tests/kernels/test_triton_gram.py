"""The Triton backend of `gram_singular_values`, against torch.linalg.svdvals in float64."""

import pytest
import torch

from tests.kernels.sv_cases import random_embeddings
from tests.kernels.triton_device import DEVICE, guarded_outputs, needs_triton  # noqa: F401
from tests.tolerances import EPS
from unihpe_kernels import gram_singular_values
from unihpe_kernels.small_linalg.gram import _operator, _operator_backward

pytestmark = [needs_triton, pytest.mark.usefixtures("guarded_outputs")]
BATCH = 11  # prime, and not a multiple of the samples of a program


def values_of(stack):
    return _operator(stack, "triton")[0]


def random_stack(count, width, dtype=torch.float32, batch=BATCH):
    return torch.stack([e.detach() for e in random_embeddings(count, batch, width, dtype)], 1).to(DEVICE)


def exact_values(stack):
    """svdvals in float64, padded with zeros to [B, M]."""
    wide = stack.detach().cpu().double()
    return torch.linalg.svdvals(torch.nn.functional.pad(wide, (0, max(0, wide.shape[1] - wide.shape[2]))))


def assert_values(values, stack):
    """Off by rounding of the largest. Measured at most 1.5 eps for M = 2 to 6.7 eps for M = 8 in the interpreter, at
    equal singular values; a GPU's square roots and quotients are an ulp looser."""
    count = stack.shape[1]
    exact = exact_values(stack)
    assert values.dtype == torch.float32
    assert (values.diff(dim=1) <= 0).all()
    assert ((values.cpu().double() - exact).abs() <= (3 + count) * EPS * exact[:, :1]).all()


@pytest.mark.parametrize(
    ("count", "width"),
    [
        (2, 1), (2, 16), (3, 1), (3, 16), (5, 2), (8, 5), (2, 67), (3, 67), (4, 67),
        # the interpreter takes seconds for each
        *(pytest.param(count, 67, marks=pytest.mark.slow) for count in range(5, 9)),
    ],
)  # fmt: skip
def test_matches_svd(count, width):
    stack = random_stack(count, width)
    values = values_of(stack)
    assert_values(values, stack)
    assert not values[:, width:].any()


def test_long_rows():
    stack = random_stack(3, 300, batch=3)
    assert_values(values_of(stack), stack)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    stack = random_stack(3, 19, dtype)
    assert_values(values_of(stack), stack)
    gradient = _operator_backward(torch.ones(BATCH, 3, device=DEVICE), stack, *both(stack), "triton")
    assert gradient.dtype == dtype
    wanted = exact_gradient(stack, torch.ones(BATCH, 3))
    assert (gradient.cpu().double() - wanted).abs().max() <= torch.finfo(dtype).eps / 2


def strided(kind, stack):
    """The same values in another layout; NaN between them, where there is a between."""
    batch, count, width = stack.shape
    if kind == "transposed":
        return stack.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    if kind == "gaps":
        wide = torch.full((batch, 2 * count, width + 3), torch.nan, device=DEVICE)
        view = wide[:, ::2, 1:-2]
        return view.copy_(stack)
    return stack[:1].expand(batch, count, width)


@pytest.mark.parametrize("kind", ["transposed", "gaps", "one sample"])
def test_strides(kind):
    stack = random_stack(3, 21)
    view = strided(kind, stack)
    dense = view.contiguous()
    assert view.stride() != dense.stride()
    values, vectors = _operator(view, "triton")
    assert torch.equal(values, values_of(dense))
    # the gradient of a sum has strides 0
    grad = torch.ones((), device=DEVICE).expand(BATCH, 3)
    gradient = _operator_backward(grad, view, values, vectors, "triton")
    assert gradient.is_contiguous()
    assert torch.equal(gradient, _operator_backward(grad.clone(), dense, values, vectors, "triton"))


def test_rows_all_alike_have_stride_zero():
    stack = random_stack(1, 21).expand(BATCH, 4, 21)
    assert_values(values_of(stack), stack)


def test_offsets_beyond_32_bits():
    """The stride fits 32 bits, its double does not; memory that is never touched costs nothing on a CPU."""
    stack = torch.empty_strided((3, 2, 4), (2**30 + 16, 4, 1), dtype=torch.bfloat16, device=DEVICE)
    stack.copy_(torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)))
    assert_values(values_of(stack), stack)


HARD = ["nearly aligned", "closer", "small and close", "graded", "equal", "one cluster", "two clusters", "rank 1",
        "rank 2", "sparse", "unlike rows", "zero"]  # fmt: skip


def hard_stack(count, width=16, each=2):
    """[len(HARD) * each, M, D]: where singular values are small, close, equal or 0."""
    generator = torch.Generator().manual_seed(count)

    def randn(*size):
        return torch.randn(each, *size, generator=generator, dtype=torch.float64)

    left, right = torch.linalg.qr(randn(count, count)).Q, torch.linalg.qr(randn(width, count)).Q

    def with_values(values):
        return (left * values[..., None, :]) @ right.mT

    index = torch.arange(count, dtype=torch.float64)
    kinds = {
        "nearly aligned": randn(1, width) + 1e-3 * randn(count, width),
        "closer": randn(1, width) + 3e-6 * randn(count, width),
        # the Gram matrix of the rows rounds these two away
        "small and close": with_values(torch.where(index < count - 2, 1.0, 1e-4 + 2e-4 * (index - count + 2))),
        "graded": with_values(10**-index),
        "equal": with_values(torch.ones(count, dtype=torch.float64)),
        "one cluster": with_values(1 + 1e-5 * randn(count)),
        "two clusters": with_values(torch.where(randn(count) < 0, 0.0, 1.0) + 1e-4 * randn(count)),
        "rank 1": randn(1, width).expand(each, count, width),
        "rank 2": randn(count, 2) @ randn(2, width),
        "sparse": torch.where(randn(count, width) < 1, 0.0, randn(count, width)),
        "unlike rows": randn(count, width) * 10 ** (-3 * randn(count, 1).abs()),
        "zero": torch.zeros(each, count, width, dtype=torch.float64),
    }
    return torch.cat([kinds[kind] for kind in HARD])


@pytest.mark.parametrize("scale", [1.0, 1e-15, 1e15, 1e-30, 1e30])
@pytest.mark.parametrize("count", [2, 3])
def test_hard_matrices(count, scale):
    stack = (hard_stack(count) * scale).float().to(DEVICE)
    values, vectors = _operator(stack, "triton")
    assert_values(values, stack)
    square = vectors.cpu().double()
    assert (square.mT @ square - torch.eye(count)).abs().max() <= (4 + 2 * count) * EPS


@pytest.mark.parametrize("count", [5, pytest.param(8, marks=pytest.mark.slow)])
def test_hard_matrices_with_many_rows(count):
    stack = hard_stack(count, each=1).float().to(DEVICE)
    assert_values(values_of(stack), stack)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's numpy speaks of inf - inf
def test_bad_samples_are_spoiled_alone():
    stack = random_stack(3, 21)
    grad = torch.ones(BATCH, 3, device=DEVICE)
    clean = both(stack)
    clean_gradient = _operator_backward(grad, stack, *clean, "triton")
    stack[4, 1, 20] = torch.nan
    stack[7, 0, 0] = torch.inf
    values, vectors = both(stack)
    gradient = _operator_backward(grad, stack, values, vectors, "triton")
    assert values[[4, 7]].isnan().all()
    assert gradient[[4, 7]].isnan().all()
    others = [b for b in range(BATCH) if b not in (4, 7)]
    assert torch.equal(values[others], clean[0][others])
    assert torch.equal(gradient[others], clean_gradient[others])


def both(stack):
    return _operator(stack, "triton")


def exact_gradient(stack, grad):
    leaf = stack.detach().cpu().double().requires_grad_()
    return torch.autograd.grad(torch.linalg.svdvals(leaf), leaf, grad.cpu().double())[0]


@pytest.mark.parametrize(("count", "width"), [(2, 3), (3, 37), (4, 16), pytest.param(8, 21, marks=pytest.mark.slow)])
def test_gradient(count, width):
    stack = random_stack(count, width).requires_grad_()
    grad = torch.randn(BATCH, count, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    gradient = torch.autograd.grad(values_of(stack), stack, grad)[0]
    # vectors are off by rounding over the relative distance of their values
    exact = exact_values(stack)
    distance = (exact.diff(dim=1).abs() / exact[:, :1]).amin(1).minimum(exact[:, -1] / exact[:, 0])
    error = (gradient.cpu().double() - exact_gradient(stack, grad)).abs().amax((1, 2))
    assert (error <= 8 * EPS * grad.abs().amax(1).cpu() / distance).all()


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_gradient_does_not_depend_on_scale(scale):
    stack = random_stack(3, 16)
    grad = torch.ones(BATCH, 3, device=DEVICE)
    gradient = _operator_backward(grad, stack * scale, *both(stack * scale), "triton")
    assert (gradient.cpu().double() - exact_gradient(stack, grad)).abs().max() <= 1e-5


@pytest.mark.parametrize("count", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_gradient_is_bounded_where_values_meet(count):
    stack = hard_stack(count, each=1).float().to(DEVICE).requires_grad_()
    gradient = torch.autograd.grad(values_of(stack).sum(), stack)[0].cpu().double()
    assert gradient.isfinite().all()
    # sum of u_k v_k^T. Not far above rounding the v_k are as long as they should be, but not orthogonal
    size = torch.linalg.matrix_norm(gradient, 2)
    for kind, found in zip(HARD, size, strict=True):
        wanted = {"zero": 0.0, "rank 1": 1.0, "equal": 1.0, "one cluster": 1.0, "graded": 1.0 if count == 3 else 2.0}
        assert found <= wanted.get(kind, 1.1) + 32 * EPS, kind
    rank_one = torch.linalg.matrix_norm(gradient[HARD.index("rank 1")])
    assert abs(rank_one - 1) <= 16 * EPS  # Frobenius: nothing but u_1 v_1^T


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype):
    stack = random_stack(3, 6, dtype, batch=4)
    torch.library.opcheck(_operator, (stack.clone().requires_grad_(), "triton"))
    values, vectors = both(stack)
    torch.library.opcheck(_operator_backward, (torch.ones_like(values), stack, values, vectors, "triton"))


def test_full_graph_matches_eager():
    def loss(stack):
        return (values_of(stack * 2) ** 3).sum()

    stack = random_stack(3, 21).requires_grad_()
    eager = loss(stack)
    graph = torch.compile(loss, fullgraph=True, backend="aot_eager")(stack)
    assert torch.equal(eager, graph)
    gradients = [torch.autograd.grad(result, stack)[0] for result in (eager, graph)]
    assert torch.equal(*gradients)


def test_empty_batch_and_rows():
    assert values_of(torch.zeros(0, 3, 4, device=DEVICE)).shape == (0, 3)
    stack = torch.zeros(5, 3, 0, device=DEVICE)
    values, vectors = both(stack)
    assert values.shape == (5, 3)
    assert not values.any()
    assert _operator_backward(values, stack, values, vectors, "triton").shape == (5, 3, 0)


@pytest.mark.skipif(DEVICE != "cuda", reason="no CUDA device: the public function takes the torch backend")
def test_public_function_takes_these_kernels():
    leaves = [e.detach().to(DEVICE) for e in random_embeddings(3, BATCH, 21, torch.float32)]
    assert torch.equal(gram_singular_values(leaves), values_of(torch.stack(leaves, 1)))
