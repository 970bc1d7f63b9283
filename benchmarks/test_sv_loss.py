"""The singular-value loss, forward plus backward, against its peers: python -m pytest benchmarks --benchmark-only"""

import functools
from functools import partial

import pytest
import torch

from benchmarks.harness import DEVICE, OURS, Competitor, Group, copies_for, measure
from benchmarks.peers import published
from benchmarks.peers import sv_loss as peers
from benchmarks.static_cost import limit
from unihpe_fast.config import LossConfig
from unihpe_fast.data.records import MODALITIES
from unihpe_fast.losses import TERMS, Criterion
from unihpe_fast.models.unihpe import Outputs
from unihpe_kernels import singular_value_contrastive_loss
from unihpe_kernels.sv_contrastive import reference

GPU = DEVICE == "cuda"
WIDTH = 512 if GPU else 256
TEMPERATURE = 0.07
USES = {64: "a small GPU's batch", 256: "a large GPU's batch", 1024: "eight GPUs' batch", 4096: "gathered embeddings"}
# the smallest sizes are for peers that take a second there already
ALL_SIZES = [16, 64, 128, 256, 512, 1024, 2048] if GPU else [8, 16, 24, 32, 64, 96, 128, 256]
PAIRED_SIZES = [64, 256, 1024, 4096, 16384] if GPU else [16, 32, 64, 128, 256, 512]
# seconds a round with more modalities beyond
LARGEST_OF_MANY = 4096
# compiling takes longest: not for sizes that nobody compiles for
COMPILED_FROM, COMPILED_TO = (256, 4096) if GPU else (64, float("inf"))
ROUNDS = 20 if GPU else 7
TRAINED = ("ours, as the trainer calls it", "ours, by the trainer with masks and weights of ones")


def ours(negatives):
    def loss(embeddings, temperature):
        return singular_value_contrastive_loss(embeddings, temperature=temperature, negatives=negatives)

    return loss


def as_trained(negatives, count, dense=True):
    """As `unihpe_fast.train` calls it: through Criterion, which is told of a batch's masks and weights. dense=False: of
    one that is not known to be complete."""
    modalities = MODALITIES[-count:]

    @functools.cache
    def criterion(temperature):
        terms = dict.fromkeys(TERMS, 0.0) | {"singular_value": 1.0}
        config = LossConfig(**terms, temperature=temperature, learnable_temperature=True, negatives=negatives)
        return Criterion(config, modalities).to(DEVICE)

    @functools.lru_cache(maxsize=1)
    def batch_of(size):
        return torch.ones(len(MODALITIES), size, dtype=torch.bool), torch.ones(size)

    @functools.lru_cache(maxsize=1)
    def target_of(size):
        present, weights = batch_of(size)
        return {"present": present.to(DEVICE), "weights": weights.to(DEVICE)}

    def loss(embeddings, temperature):
        size, of = len(embeddings[0]), criterion(temperature)
        outputs = Outputs(torch.stack(embeddings), *embeddings[:2])  # no poses, which no term reads
        return of(outputs, target_of(size), of.is_dense(*batch_of(size)) if dense else False)[0]

    return loss


def trained_competitors(negatives, count, exact):
    """The loss as a training run calls it beside the bare call."""
    make = partial(competitor, exact=exact, count=count)
    return [make(name, as_trained(negatives, count, dense)) for name, dense in zip(TRAINED, (True, False), strict=True)]


def make_embeddings(count, batch, dtype=torch.float32, seed=0):
    generator = torch.Generator(DEVICE).manual_seed(seed)
    drawn = (torch.randn(batch, WIDTH, generator=generator, device=DEVICE) for _ in range(count))
    return [x.to(dtype).requires_grad_() for x in drawn]


@functools.lru_cache(maxsize=2)
def copies(count, batch, dtype):
    """The same for all competitors; no work writes to its inputs."""
    bytes_each = count * batch * WIDTH * dtype.itemsize
    return [make_embeddings(count, batch, dtype, seed) for seed in range(copies_for(bytes_each))]


def step(loss, embeddings):
    """One forward and backward; the loss and its gradients."""
    value = loss(embeddings, TEMPERATURE)
    return value.detach(), torch.autograd.grad(value, embeddings)


def prepare(loss, count, dtype, batch):
    inputs = copies(count, batch, dtype)
    return lambda k: step(loss, inputs[k % len(inputs)])


def check(loss, exact, count, batch=16, dtype=torch.float32):
    """Against an independent form in float64, of the same rounded embeddings."""
    embeddings = make_embeddings(count, batch, dtype)
    torch.manual_seed(1)
    value, gradients = step(loss, embeddings)
    torch.manual_seed(1)
    wanted, wanted_gradients = step(exact, [e.detach().double().requires_grad_() for e in embeddings])
    assert abs(value - wanted) < (1e-4 if dtype == torch.float32 else 2e-2), f"loss {value}, in float64 {wanted}"
    # 1e-5 of embeddings as long as sqrt(D); bfloat16 has 8 bits
    size = max(g.abs().max() for g in wanted_gradients)
    for gradient, other in zip(gradients, wanted_gradients, strict=True):
        off = (gradient.double() - other).abs().max() / size
        assert off < (1e-3 if dtype == torch.float32 else 3e-2), f"a gradient is off by {off:.1e} of the largest"


def competitor(name, loss, exact, count, dtype=torch.float32, **more):
    return Competitor(
        name,
        prepare=partial(prepare, loss, count, dtype),
        check=partial(check, loss, exact, count, dtype=dtype),
        **more,
    )


def needs_of_all(batch):
    """Bytes of the dozen float32 [B, B, B] that autograd keeps of a closed form, and as many as it makes."""
    return 20 * 4 * batch**3


def in_cuda_graph(name, loss, exact, count):
    """A competitor: the step captured once and replayed, so that the host does next to nothing."""

    def prepare_graph(batch):
        leaves = [e.detach().clone().requires_grad_() for e in copies(count, batch, torch.float32)[0]]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                step(loss, leaves)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step(loss, leaves)
        return lambda k: graph.replay()

    return Competitor(name, prepare_graph, partial(check, loss, exact, count), largest=4096)


def compiled(loss, mode="default"):
    """Without CUDA graphs, which the others could be put into as well."""
    return torch.compile(loss, fullgraph=True, dynamic=False, mode=mode)


def stacked_svd(embeddings, temperature):
    return reference.singular_value_contrastive_loss(embeddings, temperature=temperature, negatives="paired")


@functools.cache
def all_group():
    exact = peers.eigvalsh_of_grams
    make = partial(competitor, exact=exact, count=3)
    return Group(
        "sv_loss_all",
        "B",
        [
            make(OURS, ours("all")),
            *trained_competitors("all", 3, exact),
            make("svdvals of stacks", peers.svdvals_of_stacks, largest=64),
            make("svdvals of Grams", peers.svdvals_of_grams, largest=256 if GPU else 64),
            make("eigvalsh of Grams", peers.eigvalsh_of_grams, largest=256 if GPU else 64),
            *([in_cuda_graph("ours, replayed as a CUDA graph", ours("all"), exact, 3)] if GPU else []),
            make("closed form", peers.closed_form, needs=needs_of_all),
            make(
                "closed form, torch.compile",
                compiled(peers.closed_form),
                smallest=COMPILED_FROM,
                largest=COMPILED_TO,
                needs=needs_of_all,
            ),
            make(
                "closed form, torch.compile max-autotune",
                compiled(peers.closed_form, "max-autotune-no-cudagraphs"),
                smallest=COMPILED_FROM,
                absent="left out: it is tuned for minutes" if GPU else "",
            ),
            competitor(
                "symile, n_squared (another loss)",
                published.symile_all,
                published.symile_exact,
                3,
                same=False,
                absent=published.absent("symile"),
            ),
        ],
        {"M": 3, "D": WIDTH, "dtype": "float32"},
        {"": (3, 3), OURS: (3, 2), **dict.fromkeys(TRAINED, (3, 2))},
        {size: limit.sv_all(size) for size in ALL_SIZES},
        USES,
    )


@functools.cache
def paired_group(count):
    make = partial(competitor, exact=stacked_svd, count=count)
    others = [
        make("svdvals of stacks", peers.paired_svdvals_of_stacks),
        make("svdvals of Grams", peers.paired_svdvals_of_grams),
        make("eigvalsh of Grams", peers.paired_eigvalsh_of_grams),
    ]
    if count <= 3:
        others += [
            make("closed form, B x B kept", peers.paired_closed_form),
            make(
                "closed form, B x B kept, torch.compile",
                compiled(peers.paired_closed_form),
                smallest=COMPILED_FROM,
                largest=COMPILED_TO,
            ),
        ]
    others.append(
        competitor(
            "symile, n (another loss)",
            published.symile_paired,
            published.symile_paired_exact,
            count,
            same=False,
            absent=published.absent("symile"),
        )
    )
    if count == 2:
        more = {"exact": peers.cosine_infonce, "count": 2, "same": False}
        others += [
            competitor(
                "cosine InfoNCE, torch.compile (another loss)",
                compiled(peers.cosine_infonce),
                smallest=COMPILED_FROM,
                largest=COMPILED_TO,
                **more,
            ),
            competitor("inf_cl (another loss)", published.inf_cl, absent=published.absent("inf_cl", True), **more),
            competitor(
                "siglip-kernel (another loss)",
                published.siglip,
                published.siglip_exact,
                2,
                same=False,
                absent=published.absent("siglip_kernel", True),
            ),
        ]
    if GPU:
        others.append(make("ours, bfloat16", ours("paired"), dtype=torch.bfloat16))
        others.append(in_cuda_graph("ours, replayed as a CUDA graph", ours("paired"), stacked_svd, count))
    return Group(
        f"sv_loss_paired, M = {count}",
        "B",
        [
            make(OURS, ours("paired")),
            *(trained_competitors("paired", count, stacked_svd) if count <= len(MODALITIES) else []),
            *others,
        ],
        {"M": count, "D": WIDTH, "dtype": "float32"},
        {"": (2, 2), OURS: (2, 1), "ours, bfloat16": (2, 1), **dict.fromkeys(TRAINED, (2, 1))},
        {size: limit.paired(size, count, WIDTH, "fp32") for size in PAIRED_SIZES},
        USES,
    )


@pytest.mark.parametrize("batch", PAIRED_SIZES)
@pytest.mark.parametrize("count", [3, 2, 4, 8] if GPU else [2, 3, 4, 6])
def test_paired(benchmark, count, batch):
    if count > 4 and batch > LARGEST_OF_MANY:
        pytest.skip("takes seconds a round")
    measure(benchmark, paired_group(count), batch, rounds=ROUNDS)


@pytest.mark.parametrize("batch", ALL_SIZES)
def test_all(benchmark, batch):
    measure(benchmark, all_group(), batch, rounds=ROUNDS)
