"""The loss over several ranks: equal to that of one process on the samples of all."""

import itertools
import re

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.kernels.sv_cases import in_float64, random_embeddings
from tests.kernels.sv_group_cases import EVEN, MOST, UNEVEN, Case, compute, on_rank, share, whole
from tests.kernels.test_sv_op import LargestTensor
from tests.tolerances import SV_GROUP
from unihpe_kernels import native, singular_value_contrastive_loss
from unihpe_kernels.contrastive.group import loss as group_loss
from unihpe_kernels.sv_contrastive import arguments as argument_checks
from unihpe_kernels.sv_contrastive import reference


def total_weight(case, ranks):
    """Of all anchors."""
    arguments = whole(case, ranks)
    present = (
        torch.ones(case.count, len(arguments["weights"])) if arguments["present"] is None else arguments["present"]
    )
    counts = present.sum(0)
    return (arguments["weights"] * counts * (counts >= 2)).sum().item()


CASES = [
    *(Case(count, ring=ring) for count in range(2, 9) for ring in (False, True)),
    *(Case(count, masked=True, weighted=True, ring=ring) for count in (2, 3, 5) for ring in (False, True)),
    *(Case(count, dtype=torch.float32, masked=True, ring=ring) for count in (2, 3, 4) for ring in (False, True)),
    Case(weighted=True, dtype=torch.float32, even=True),
    Case(weighted=True, ring=True, even=True, normalize=False, learned=False),
    Case(dtype=torch.bfloat16),
    Case(dtype=torch.bfloat16, ring=True),
    *(
        Case(count, "all", dtype, masked, weighted)
        for count, dtype, (masked, weighted) in itertools.product(
            (2, 3), (torch.float32, torch.float64), ((False, False), (True, False), (False, True), (True, True))
        )
    ),
    Case(negatives="all", even=True, normalize=False, learned=False),
    Case(negatives="all", dtype=torch.bfloat16),
]


def float32_error(case, ranks):
    """Of one process, by modality: of a tuple near a double eigenvalue, what rounding gives is a matter of luck."""
    if case.dtype != torch.float32:
        return [0.0] * case.count
    arguments = whole(case, ranks)
    exact = {name: in_float64(value) for name, value in arguments.items()}
    exact["embeddings"] = [e.double() for e in arguments["embeddings"]]
    pairs = zip(compute(arguments).embeddings, compute(exact).embeddings, strict=True)
    return [abs(rounded - value).max(initial=0) for rounded, value in pairs]


def check(results, case, ranks, wanted, grads=None):
    """The rule: every rank has the loss; gradients of a rank's own tensors are those of all ranks' results together,
    that of the temperature is their mean. grads: what each rank multiplied its result with."""
    grads = grads or [1] * ranks
    tolerance = SV_GROUP[case.dtype]
    assert len({result.loss for result in results}) == 1
    assert results[0].loss == pytest.approx(wanted.loss, rel=min(tolerance, 1e-6), abs=1e-15)
    for m, (gradient, error) in enumerate(zip(wanted.embeddings, float32_error(case, ranks), strict=True)):
        found = np.concatenate([result.embeddings[m] for result in results])
        bound = max(tolerance * abs(gradient).max(initial=0), 2 * error) * sum(grads)
        np.testing.assert_allclose(found, gradient * sum(grads), rtol=0, atol=bound)
    if case.learned:
        # of two terms, mean score and own score over tau^2, neither of which is above sqrt(M)
        scale = case.count**0.5 / 0.1**2
        for result in results:
            assert result.temperature == pytest.approx(
                wanted.temperature * sum(grads) / ranks, rel=0, abs=min(tolerance, 1e-6) * scale * sum(grads) / ranks
            )
        assert len({result.temperature for result in results}) == 1
    if case.weighted:
        # of two terms again, the sample's losses and as many mean losses over the total weight
        found = np.concatenate([result.weights for result in results])
        scale = case.count * wanted.loss / total_weight(case, ranks) * sum(grads)
        np.testing.assert_allclose(found, wanted.weights * sum(grads), rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_one_process(processes, case, ranks):
    results = processes.run(on_rank, case, ranks, ranks=ranks)
    arguments = whole(case, ranks)
    if case.dtype == torch.bfloat16:
        arguments["embeddings"] = [e.float() for e in arguments["embeddings"]]
    wanted = compute(arguments)
    check(results, case, ranks, wanted)
    if ranks == 1 and case.dtype != torch.bfloat16:
        assert results[0].loss == wanted.loss
        assert all(map(np.array_equal, results[0].embeddings, wanted.embeddings))


@pytest.mark.parametrize(
    "case",
    [Case(3, masked=True, weighted=True), Case(5, ring=True), Case(3, "all", masked=True, weighted=True)],
    ids=str,
)
def test_agrees_with_the_definition(processes, case):
    given = whole(case, 3)
    leaves = [in_float64(given[name]).requires_grad_() for name in ("temperature",)]
    embeddings = [in_float64(e).requires_grad_() for e in given["embeddings"]]
    exact = reference.singular_value_contrastive_loss(
        embeddings,
        temperature=leaves[0],
        negatives=case.negatives,
        weights=in_float64(given["weights"]),
        present=given["present"],
    )
    exact.backward()
    results = processes.run(on_rank, case, 3, ranks=3)
    assert results[1].loss == pytest.approx(exact.item(), rel=1e-12)
    assert results[1].temperature == pytest.approx(leaves[0].grad.item(), rel=1e-10)
    for m, embedding in enumerate(embeddings):
        found = np.concatenate([result.embeddings[m] for result in results])
        np.testing.assert_allclose(found, 3 * embedding.grad.numpy(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("sizes", [(0, 5, 2), (0, 0, 4), (0, 0, 0), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("negatives", ["all", "paired", "ring"])
def test_empty_ranks(processes, sizes, negatives):
    case = Case(negatives="all" if negatives == "all" else "paired", ring=negatives == "ring", sizes=sizes)
    check(processes.run(on_rank, case, 3, ranks=3), case, 3, compute(whole(case, 3)))


@pytest.mark.parametrize("case", [Case(weighted=True, ring=True), Case(negatives="all", weighted=True)], ids=str)
def test_unlike_incoming_gradients(processes, case):
    results = processes.run(on_rank, case, MOST, True)
    check(results, case, MOST, compute(whole(case, MOST)), grads=[1, 2, 3, 4])


class Encoders(nn.Module):
    """A linear layer a modality, and a temperature."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleList(nn.Linear(9, 6, dtype=torch.float64) for _ in range(3))
        self.temperature = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def forward(self, inputs):
        return [layer(x) for layer, x in zip(self.layers, inputs, strict=True)], self.temperature


def train(model, arguments, group=None):
    inputs = arguments["embeddings"]
    embeddings, temperature = model(inputs)
    options = {name: arguments[name] for name in ("weights", "present", "negatives")}
    singular_value_contrastive_loss(embeddings, temperature=temperature, group=group, **options).backward()
    return [p.grad for p in model.parameters()]


def train_on_rank(group, rank, case, ranks, ddp):
    group_loss.GATHERED_BYTES = 0 if case.ring else 2**31
    model = Encoders()
    wrapped = DistributedDataParallel(model, process_group=group) if ddp else model
    gradients = train(wrapped, share(whole(case, ranks), case.split(ranks), rank), group)
    if not ddp:
        for gradient in gradients:
            dist.all_reduce(gradient, group=group)
            gradient /= ranks
    return [gradient.numpy() for gradient in gradients]


@pytest.mark.parametrize("ddp", [True, False])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "case",
    [Case(masked=True, weighted=True), Case(ring=True), Case(negatives="all", masked=True, weighted=True)],
    ids=str,
)
def test_averaged_gradients_of_parameters(processes, case, ranks, ddp):
    wanted = train(Encoders(), whole(case, ranks))
    for gradients in processes.run(train_on_rank, case, ranks, ddp, ranks=ranks):
        for gradient, exact in zip(gradients, wanted, strict=True):
            scale = max(1.0, float(exact.abs().max()))
            np.testing.assert_allclose(gradient, exact.numpy(), rtol=0, atol=1e-12 * scale)


def refused(group, rank, changes, places):
    """The message of the error that a rank gets when those in `places` call with other arguments."""
    given = {**share(whole(Case(), 3), UNEVEN[3], rank), **(changes if rank in places else {})}
    needed = given.pop("requires_grad", True)
    embeddings = [e.clone().requires_grad_(needed) for e in given.pop("embeddings")]
    try:
        singular_value_contrastive_loss(embeddings, group=group, **given)
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def other_embeddings(count=3, width=9, dtype=torch.float64):
    return [e.detach() for e in random_embeddings(count, 2, width, dtype)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embeddings": other_embeddings(count=2)}, "number of embeddings must be the same .* got 3, 2, 3 on ranks"),
        ({"embeddings": other_embeddings(width=8)}, "width of embeddings must be the same .* got 9, 8, 9"),
        (
            {"embeddings": other_embeddings(dtype=torch.float32)},
            "dtype of embeddings .* got torch.float64, torch.float32, torch.float64",
        ),
        ({"negatives": "all"}, "negatives must be the same .* got paired, all, paired"),
        ({"normalize": False}, "normalize must be the same .* got True, False, True"),
        ({"temperature": 0.2}, "temperature must be the same .* got a tensor, 0.2, a tensor"),
        ({"backend": "auto"}, "backend must be the same .* got torch, auto, torch"),
        (
            {"requires_grad": False, "temperature": torch.tensor(0.1, dtype=torch.float64)},
            "whether a gradient is needed must be the same",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_ranks_must_agree(processes, changes, message):
    for found in processes.run(refused, changes, (1,), ranks=3):
        assert found.startswith("ValueError")
        assert re.search(message, found), found


def test_bad_arguments_of_one_rank_stop_all(processes):
    found = processes.run(refused, {"negatives": "some"}, (0, 2), ranks=3)
    assert found[0] == found[2] == 'ValueError: negatives must be "paired" or "all", got \'some\''
    assert found[1] == "ValueError: arguments were refused on rank 0, 2 of the group: see the error there"


def native_on_rank(group, rank):
    try:
        return singular_value_contrastive_loss(
            other_embeddings(dtype=torch.float32), group=group, negatives="all", backend="native"
        ).item()
    except ValueError as error:
        return str(error)


@pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler is found")
def test_triples_over_ranks_have_no_cpp(processes):
    for found in processes.run(native_on_rank, ranks=2):
        assert found.startswith('backend="native" has no triples over a group')


def outside(group, rank):
    pair = dist.new_group([0, 1])
    given = share(whole(Case(), MOST), UNEVEN[MOST], rank)
    try:
        return singular_value_contrastive_loss(given["embeddings"], group=pair).item()
    except ValueError as error:
        return str(error)


def test_a_process_outside_the_group(processes):
    *inside, message, _ = processes.run(outside)
    assert inside[0] == inside[1]
    assert "group must hold this process" in message


def compiled_on_rank(group, rank, case, autocast):
    def model(leaves, **options):
        return singular_value_contrastive_loss([2 * leaf for leaf in leaves], group=group, **options) * 3

    given = share(whole(case, 2), case.split(2), rank)
    results = []
    for function in (model, torch.compile(model, backend="aot_eager")):
        leaves = [e.clone().requires_grad_() for e in given["embeddings"]]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = function(leaves, negatives=case.negatives, weights=given["weights"], present=given["present"])
        loss.backward()
        results.append((loss.item(), [leaf.grad.float().numpy() for leaf in leaves]))
    return results


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("negatives", ["all", "paired"])
def test_compiled_equals_eager(processes, negatives, autocast):
    """With a break in the graph at the loss."""
    case = Case(negatives=negatives, masked=True, weighted=True, dtype=torch.bfloat16 if autocast else torch.float32)
    for eager, compiled in processes.run(compiled_on_rank, case, autocast, ranks=2):
        assert eager[0] == compiled[0]
        assert all(map(np.array_equal, eager[1], compiled[1]))


def largest_on_rank(group, rank, ring):
    group_loss.GATHERED_BYTES = 0 if ring else 2**31
    embeddings = [e.detach().requires_grad_() for e in random_embeddings(3, 128, 256, torch.float32, seed=rank)]
    with LargestTensor() as largest:
        singular_value_contrastive_loss(embeddings, group=group, backend="torch").backward()
    return largest.elements


def test_memory_of_the_ring_is_that_of_a_block(processes):
    # a block's products are 3 x 2 x 128 x 128 = 98,304 numbers, and so are its samples, 3 x 256 x 128; gathered, four
    assert max(processes.run(largest_on_rank, True)) == 98_304
    assert min(processes.run(largest_on_rank, False)) == 4 * 98_304


def test_many_triples_are_warned_of(monkeypatch):
    monkeypatch.setattr(argument_checks, "MANY_TRIPLES", 4**3)
    embeddings = [e.detach() for e in random_embeddings(3, 4, 5, torch.float32)]
    singular_value_contrastive_loss(embeddings, negatives="all")
    embeddings = [torch.cat([e, e]) for e in embeddings]
    singular_value_contrastive_loss(embeddings, negatives="paired")
    with pytest.warns(UserWarning, match="work grows with the batch cubed") as warned:
        singular_value_contrastive_loss(embeddings, negatives="all")
    assert [warning.filename for warning in warned] == [__file__]


def test_splits_are_of_all_kinds():
    assert all(0 in UNEVEN[ranks] for ranks in (3, 4))
    assert all(len(set(EVEN[ranks])) == 1 for ranks in EVEN)
