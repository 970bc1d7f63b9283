"""The "paired" loss of one process: the parts of a batch, blocks by a backend, the mean over anchors."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from unihpe_kernels.contrastive.contract import Backend, Options
from unihpe_kernels.contrastive.native.triples import NativeTriples
from unihpe_kernels.contrastive.options import Spec
from unihpe_kernels.contrastive.paired import Pairs, keeps, products_size
from unihpe_kernels.contrastive.parts import Part, make_parts
from unihpe_kernels.contrastive.triples import TripleLoss
from unihpe_kernels.scores import LOG2_E, SCORES

if TYPE_CHECKING:
    from unihpe_kernels.contrastive.triton.triples import TritonTriples

# What the forward pass decides by the temperature's value, on a CPU, and the backward pass reads: whether float32 holds
# the exponentials.
NARROW, WIDE = 0, 1


class Outputs(NamedTuple):
    """loss []; shares [2 D, anchors, B] and samples [3, B]: of `Result`, the latter its loss, slope and bias; saved:
    rows and products that were kept, flat; route: int64 []."""

    loss: Tensor
    shares: Tensor
    samples: Tensor
    saved: Tensor
    route: Tensor


def forward(
    embeddings: list[Tensor],
    temperature: Tensor,
    bias: Tensor | None,
    weights: Tensor | None,
    present: Tensor | None,
    spec: Spec,
    learns: bool = True,
) -> Outputs:
    """learns: whether the gradient of the temperature is wanted, which else may come out as zero."""
    count, batch = len(embeddings), len(embeddings[0])
    route = find_route(temperature, spec, count, batch)
    backend = backend_of(spec.backend, route)
    units, inverse_norms = backend.units(embeddings, spec.normalize, spec.used(present))
    dtype = sums_dtype(embeddings[0])
    saved = units.new_empty(saved_size(embeddings, present, spec), dtype=dtype)
    if spec.has_triples(count):
        kept = None
        saved.zero_()  # an output must be the same every time, whatever is used of it
    else:
        kept = _keep(saved, units, inverse_norms) if len(saved) else None
    samples, shares = (
        units.new_zeros(3, batch, dtype=dtype),
        units.new_zeros(shares_shape(spec, count, batch), dtype=dtype),
    )
    for part in make_parts(spec, present, count, _masks(spec, backend, count)) if batch else ():
        where = slice(None) if part.index is None else part.index
        if spec.has_triples(len(part.modalities)):
            triples = _triples(spec, route, saved, part.size(batch), units, temperature)
            shares[0, :, where], samples[0, where] = triples.forward(part.of(units, part.index), learns)
            continue
        options = make_options(spec, part, temperature, bias, route == WIDE, learns)
        pairs = Pairs(backend, options, part.of(units, part.index), codes=_codes(part, present, backend), kept=kept)
        pairs.forward()
        for others in part.others:
            pairs.forward_columns(part.of(units, others.index), anchors=others.sought)
        result = pairs.finish(candidates(part, present, batch), spec.smoothing)
        own = [result.loss, result.slope, *(() if result.bias is None else (result.bias,))]
        for total, of_part in zip(samples, own, strict=False):
            of_part = of_part if part.counted is None else torch.where(part.counted, of_part, 0)
            total[where] += of_part.to(dtype)
        for row, of_part in zip(part.rows, result.shares.unbind(1), strict=True):
            shares[:, row, where] = of_part.to(dtype)
    loss = mean(samples[0], weights, spec.anchor_counts(present), spec.num_anchors(count))
    return Outputs(loss, shares, samples, saved, torch.full((), route, device=loss.device))


def backward(
    grad: Tensor,
    embeddings: list[Tensor],
    temperature: Tensor,
    bias: Tensor | None,
    weights: Tensor | None,
    present: Tensor | None,
    outputs: Outputs,
    spec: Spec,
) -> list[Tensor]:
    """Gradients of the M embeddings, the temperature, the bias and the weights ([B], also where those are None)."""
    count, batch = len(embeddings), len(embeddings[0])
    loss, shares, samples, saved, _ = outputs
    route = int(outputs.route) if loss.device.type == "cpu" else find_route(temperature, spec, count, batch)
    backend = backend_of(spec.backend, route)
    d_loss, d_weights = mean_gradients(
        grad, loss, samples[0], weights, spec.anchor_counts(present), spec.num_anchors(count)
    )
    kept = None
    if len(saved) and not spec.has_triples(count):
        units, inverse_norms, kept = _kept(saved, embeddings, spec)
    else:
        units, inverse_norms = backend.units(embeddings, spec.normalize, spec.used(present))
    d_score = d_loss / temperature.to(d_loss.dtype)
    d_units = torch.zeros_like(units, dtype=torch.promote_types(units.dtype, torch.float32))
    d_scores = d_loss.new_zeros((), dtype=torch.float64)  # of triples, the sum of scores times their gradient
    for part in make_parts(spec, present, count, _masks(spec, backend, count)) if batch else ():
        where = slice(None) if part.index is None else part.index
        if spec.has_triples(len(part.modalities)):
            triples = _triples(spec, route, saved, part.size(batch), units, temperature)
            own, d_scores = triples.backward(shares[0][:, where], d_score[where])
            add_part(d_units, part, part.index, own)
            continue
        options = make_options(spec, part, temperature, bias, route == WIDE, False)
        pairs = Pairs(backend, options, part.of(units, part.index), codes=_codes(part, present, backend), kept=kept)
        of_part = d_score[where] if part.counted is None else d_score[where] * part.counted
        arguments = of_part, shares[:, list(part.rows)][:, :, where], candidates(part, present, batch), spec.smoothing
        pairs.backward(*arguments)
        for others in part.others:
            columns = part.of(units, others.index)
            add_part(d_units, part, others.index, pairs.backward_columns(columns, anchors=others.sought))
        add_part(d_units, part, part.index, pairs.gradients(*arguments))
    tau = temperature.double()
    d_temperature = -(torch.dot(d_loss, samples[1]).double() / tau + d_scores) / tau
    d_bias = torch.dot(d_loss, samples[2])
    return [
        *backend.through_units(units, inverse_norms, d_units, embeddings),
        d_temperature.to(temperature.dtype),
        d_bias if bias is None else d_bias.to(bias.dtype),
        d_weights,
    ]


def backend_of(name: str, route: int) -> Backend:
    if name == "triton":
        from unihpe_kernels.contrastive.triton import BACKEND  # not above: triton may be missing

        return BACKEND
    if name == "native" and route == NARROW:
        from unihpe_kernels.contrastive.native import BACKEND as NATIVE

        return NATIVE
    from unihpe_kernels.contrastive.torch_blocks import BACKEND as TORCH

    return TORCH


def _triples(
    spec: Spec, route: int, saved: Tensor, size: int, units: Tensor, temperature: Tensor
) -> "TripleLoss | NativeTriples | TritonTriples":
    width = units.shape[2]
    if spec.backend == "native" and route == NARROW:
        return NativeTriples(saved, size, width, (LOG2_E / temperature.double()).item())
    if spec.backend == "triton":
        from unihpe_kernels.contrastive.triton.triples import TritonTriples  # not above: triton may be missing

        return TritonTriples(saved, size, width, temperature.float())
    return TripleLoss(saved, size, width, LOG2_E / temperature.to(units.dtype))


def add_part(d_units: Tensor, part: Part, index: Tensor | None, gradients: Tensor) -> None:
    """Add the gradients of a part's units, of the samples of `index`, among which none comes twice."""
    for m, gradient in zip(part.modalities, gradients, strict=True):
        if index is None:
            d_units[m] += gradient
        else:
            d_units[m][index] += gradient


def make_options(spec: Spec, part: Part, temperature: Tensor, bias: Tensor | None, wide: bool, learns: bool) -> Options:
    score, count = SCORES[spec.score], len(part.modalities)
    scale = LOG2_E / temperature.double()
    shift = torch.zeros_like(scale) if bias is None else bias.double() * LOG2_E
    if temperature.device.type != "cpu":
        dtype = torch.float64 if temperature.dtype == torch.float64 or wide else torch.float32
        scale, shift = scale.to(dtype), shift.to(dtype)
    on_host = temperature.device.type == "cpu"
    return Options(
        score=score,
        num_modalities=count,
        anchors=part.anchors,
        scale=scale.item() if on_host else scale,
        middle=score.middle(count),
        sigmoid=spec.sigmoid,
        bias=shift.item() if on_host else shift,
        both=spec.both,
        with_scores=learns,
        with_totals=spec.smoothing > 0 or spec.sigmoid,
        sought=spec.pairwise,
        wide=wide,
    )


def candidates(part: Part, present: Tensor | None, batch: int) -> float | Tensor:
    """The tuples of an anchor of the part: a number, or [B] where a backend has all samples at once."""
    if part.index is not None:
        return float(len(part.index) + sum(len(others.index) for others in part.others))
    codes = part.codes(present)
    if codes is None:
        return float(batch)
    sets = torch.arange(1 << len(part.modalities), device=codes.device)
    of_code = (codes[None] == sets[:, None]).sum(1)
    at_least = (sets[:, None] & ~sets[None]) == 0  # [set, those that have it]
    return torch.where(at_least, of_code, 0).sum(1)[codes.long()].float()


def shapes(embeddings: list[Tensor], present: Tensor | None, spec: Spec) -> list[tuple[int, ...]]:
    """Of the floating `Outputs`."""
    count, batch = len(embeddings), embeddings[0].shape[0]
    return [(), shares_shape(spec, count, batch), (3, batch), (saved_size(embeddings, present, spec),)]


def shares_shape(spec: Spec, count: int, batch: int) -> tuple[int, int, int]:
    return (0 if spec.sigmoid else 4 if spec.both else 2), spec.num_anchors(count), batch


def saved_size(embeddings: list[Tensor], present: Tensor | None, spec: Spec) -> int:
    """Numbers that `forward` hands to `backward`: how many is a matter of the shapes alone."""
    count, (batch, width) = len(embeddings), embeddings[0].shape
    if spec.has_triples(count):
        if spec.backend == "triton":
            from unihpe_kernels.contrastive.triton.triples import TritonTriples  # not above: triton may be missing

            return TritonTriples.saved_size(batch, width)
        size = TripleLoss.saved_size(batch, width)
        return max(size, NativeTriples.saved_size(batch, width)) if spec.backend == "native" else size
    if present is not None or spec.pairwise or not keeps(count, batch, embeddings[0].device):
        return 0
    return sum(_sizes(count, batch, width))


def sums_dtype(embedding: Tensor) -> torch.dtype:
    return torch.float64 if embedding.dtype == torch.float64 else torch.float32


def mean(sample_loss: Tensor, weights: Tensor | None, anchor_counts: Tensor | None, count: int) -> Tensor:
    """[]. anchor_counts: [B], or None: all `count`."""
    weighted = sample_loss if weights is None else weights.to(sample_loss.dtype) * sample_loss
    return weighted.sum() * inverse_total(weights, anchor_counts, count, sample_loss)


def mean_gradients(
    grad: Tensor, loss: Tensor, sample_loss: Tensor, weights: Tensor | None, anchor_counts: Tensor | None, count: int
) -> tuple[Tensor, Tensor]:
    """Gradients of the samples' losses [B], each the sum over its anchors, and of the weights."""
    grad = grad.to(sample_loss.dtype) * inverse_total(weights, anchor_counts, count, sample_loss)
    d_weights = (sample_loss - (count if anchor_counts is None else anchor_counts) * loss).mul_(grad)
    d_loss = grad.expand_as(sample_loss) if weights is None else weights.to(sample_loss.dtype) * grad
    return d_loss, d_weights if weights is None else d_weights.to(weights.dtype)


def inverse_total(weights: Tensor | None, anchor_counts: Tensor | None, count: int, like: Tensor) -> Tensor | float:
    """One over the total weight of all anchors; 0 where there is none."""
    if weights is None and anchor_counts is None:
        return 1 / (count * len(like)) if len(like) else 0.0
    weighted = torch.ones_like(like) if weights is None else weights.to(like.dtype)
    total = (weighted * (count if anchor_counts is None else anchor_counts)).sum()
    return total.reciprocal().masked_fill_(total == 0, 0)


def find_route(temperature: Tensor, spec: Spec, count: int, batch: int) -> int:
    """A GPU is not asked for the temperature: its kernels are of float32, and what has none sums in float64."""
    if temperature.device.type != "cpu":
        return NARROW if spec.backend == "triton" else WIDE
    if spec.backend == "triton":
        return NARROW
    tuples = batch**2 if spec.has_triples(count) else batch
    scale, modalities = (LOG2_E / temperature.double()).item(), 2 if spec.pairwise else count
    return NARROW if spec.sigmoid or SCORES[spec.score].holds(scale, modalities, tuples) else WIDE


def _codes(part: Part, present: Tensor | None, backend: Backend) -> Tensor | None:
    return part.codes(present) if backend.masks and part.index is None else None


def _masks(spec: Spec, backend: Backend, count: int) -> bool:
    """Whether pairs of all samples come at once, with codes: triples are of the complete ones alone, and the other
    forms and directions want dense sets, for which a GPU is waited for."""
    plain = not (spec.both or spec.smoothing or spec.sigmoid)
    return backend.masks and plain and not spec.has_triples(count)


def _sizes(count: int, batch: int, width: int) -> list[int]:
    return [count * batch * width, count * batch, products_size(count, batch)]


def _keep(saved: Tensor, units: Tensor, inverse_norms: Tensor | None) -> Tensor:
    """Where the products go."""
    count, batch, width = units.shape
    of_units, of_norms, products = saved.split(_sizes(count, batch, width))
    of_units.copy_(units.flatten())
    if inverse_norms is None:
        of_norms.zero_()  # an output must be the same every time
    else:
        of_norms.copy_(inverse_norms.flatten())
    return products


def _kept(saved: Tensor, embeddings: list[Tensor], spec: Spec) -> tuple[Tensor, Tensor | None, Tensor]:
    count, (batch, width) = len(embeddings), embeddings[0].shape
    units, inverse_norms, products = saved.contiguous().split(_sizes(count, batch, width))
    norms = inverse_norms.view(count, batch) if spec.normalize else None
    return units.view(count, batch, width), norms, products
