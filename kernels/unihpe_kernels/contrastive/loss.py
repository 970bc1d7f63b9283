"""The "paired" loss of one process: the parts of a batch, blocks by a backend, the mean over anchors."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unihpe_kernels.contrastive.contract import Backend, Options
from unihpe_kernels.contrastive.paired import Pairs, Result, keeps, products_size
from unihpe_kernels.contrastive.pairwise import Pairwise
from unihpe_kernels.contrastive.parts import Part, make_parts
from unihpe_kernels.contrastive.spec import Spec
from unihpe_kernels.scores import LOG2_E, SCORES

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
    kept = _keep(saved, units, inverse_norms, spec.pairwise) if len(saved) else None
    samples, shares = (
        units.new_zeros(3, batch, dtype=dtype),
        units.new_zeros(shares_shape(spec, count, batch), dtype=dtype),
    )
    if _at_once(spec):
        pairwise = _pairwise(spec, backend, units, present, temperature, route, kept)
        if kept is not None and not pairwise.keeps:
            kept.zero_()  # an output must be the same every time, whatever is used of it
        samples[0], samples[1], of_pairs = pairwise.forward(learns)
        shares[:] = _kept_shares(of_pairs, shares.dtype)
    else:
        parts = PartsOfBatch(backend, units, present, spec, temperature, bias, route, learns=learns, kept=kept)
        parts.forward(samples, shares)
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
    if len(saved):
        units, inverse_norms, kept = _kept(saved, embeddings, spec)
    else:
        units, inverse_norms = backend.units(embeddings, spec.normalize, spec.used(present))
    d_score = d_loss / temperature.to(d_loss.dtype)
    if _at_once(spec):
        pairwise = _pairwise(spec, backend, units, present, temperature, route, kept)
        d_units = pairwise.backward(d_score, _shares(shares, route))
    else:
        parts = PartsOfBatch(backend, units, present, spec, temperature, bias, route, kept=kept)
        d_units = parts.backward(d_score, shares)
    tau = temperature.double()
    d_temperature = -torch.dot(d_loss, samples[1]).double() / (tau * tau)
    d_bias = torch.dot(d_loss, samples[2])
    return [
        *backend.through_units(units, inverse_norms, d_units, embeddings),
        d_temperature.to(temperature.dtype),
        d_bias if bias is None else d_bias.to(bias.dtype),
        d_weights,
    ]


class PartsOfBatch:
    """A batch as dense losses of some of its samples, one after another: the same steps forward and backward."""

    def __init__(
        self,
        backend: Backend,
        units: Tensor,
        present: Tensor | None,
        spec: Spec,
        temperature: Tensor,
        bias: Tensor | None,
        route: int,
        *,
        learns: bool = False,
        kept: Tensor | None = None,
        sets: Sequence[int] | None = None,
    ) -> None:
        """learns, route: as for `forward`. kept: as for `Pairs`. sets: as for `make_parts`."""
        self._backend, self._units, self._present, self._spec, self._kept = backend, units, present, spec, kept
        self._given, self._route = (temperature, bias, route == WIDE, learns), route
        self._batch = units.shape[1]
        parts = make_parts(spec, present, len(units), _masks(spec, backend), sets)
        self._parts = [part for part in parts if part.size(self._batch)]

    def forward(self, samples: Tensor, shares: Tensor) -> None:
        """Add to the `Outputs` of these names."""
        for part in self._parts:
            pairs = self._pairs(part)
            pairs.forward()
            for others in part.others:
                pairs.forward_columns(part.of(self._units, others.index), anchors=others.sought)
            result = pairs.finish(candidates(part, self._present, self._batch), self._spec.smoothing)
            add_result(samples, part, result)
            where = slice(None) if part.index is None else part.index
            for row, of_part in zip(part.rows, result.shares.unbind(1), strict=True):
                shares[:, row, where] = _kept_shares(of_part, shares.dtype)

    def backward(self, d_score: Tensor, shares: Tensor) -> Tensor:
        """Gradients of the units. d_score [B]: of the samples' losses, over the temperature."""
        d_units = torch.zeros_like(self._units, dtype=torch.promote_types(self._units.dtype, torch.float32))
        shares = _shares(shares, self._route)
        for part in self._parts:
            pairs, where = self._pairs(part), slice(None) if part.index is None else part.index
            of_part = d_score[where] if part.counted is None else d_score[where] * part.counted
            tuples = candidates(part, self._present, self._batch)
            given = of_part, shares[:, list(part.rows)][:, :, where], tuples, self._spec.smoothing
            pairs.backward(*given)
            for others in part.others:
                columns = part.of(self._units, others.index)
                add_part(d_units, part, others.index, pairs.backward_columns(columns, anchors=others.sought))
            add_part(d_units, part, part.index, pairs.gradients(*given))
        return d_units

    def _pairs(self, part: Part) -> Pairs:
        options = make_options(self._spec, part, self._batch, *self._given)
        units = part.of(self._units, part.index)
        return Pairs(self._backend, options, units, codes=_codes(part, self._present, self._backend), kept=self._kept)


def _kept_shares(shares: Tensor, dtype: torch.dtype) -> Tensor:
    """`Result.shares` as `Outputs` has them: of float64 sums, whose inverses float32 may not hold, their logarithms."""
    if shares.dtype == dtype:
        return shares
    return torch.stack([shares[0::2].log2(), shares[1::2]], 1).flatten(0, 1).to(dtype)


def _shares(kept: Tensor, route: int) -> Tensor:
    """`Result.shares` from those of `Outputs`."""
    if route == NARROW or kept.dtype == torch.float64:
        return kept
    inverse, others = kept.double().unflatten(0, (-1, 2)).unbind(1)
    return torch.stack([inverse.exp2(), others], 1).flatten(0, 1)


def _at_once(spec: Spec) -> bool:
    """Whether every two modalities are done together, without parts."""
    return spec.pairwise and spec.backend != "triton"


def _pairwise(
    spec: Spec,
    backend: Backend,
    units: Tensor,
    present: Tensor | None,
    temperature: Tensor,
    route: int,
    kept: Tensor | None,
) -> Pairwise:
    dtype = torch.float64 if route == WIDE else units.dtype
    scale, shift = logit(spec, 2, units.shape[1], temperature, None, route == WIDE)
    return Pairwise(backend, units, present, scale, shift, dtype, kept if dtype == units.dtype else None)


def backend_of(name: str, route: int) -> Backend:
    if name == "triton":
        from unihpe_kernels.contrastive.triton import BACKEND  # not above: triton may be missing

        return BACKEND
    if name == "native" and route == NARROW:
        from unihpe_kernels.contrastive.native import BACKEND as NATIVE

        return NATIVE
    from unihpe_kernels.contrastive.torch_blocks import BACKEND as TORCH

    return TORCH


def add_part(d_units: Tensor, part: Part, index: Tensor | None, gradients: Tensor) -> None:
    """Add the gradients of a part's units, of the samples of `index`, among which none comes twice."""
    for m, gradient in zip(part.modalities, gradients, strict=True):
        if index is None:
            d_units[m] += gradient
        else:
            d_units[m].index_add_(0, index, gradient)


def add_result(samples: Tensor, part: Part, result: Result) -> None:
    """Add a part's losses and slopes to those of all samples, [3, B]."""
    where = slice(None) if part.index is None else part.index
    own = [result.loss, result.slope, *(() if result.bias is None else (result.bias,))]
    for total, of_part in zip(samples, own, strict=False):
        of_part = of_part if part.counted is None else torch.where(part.counted, of_part, 0)
        total[where] += of_part.to(total.dtype)


def make_options(
    spec: Spec, part: Part, batch: int, temperature: Tensor, bias: Tensor | None, wide: bool, learns: bool
) -> Options:
    """batch: the most tuples that an anchor has."""
    score, count = SCORES[spec.score], len(part.modalities)
    scale, shift = logit(spec, count, batch, temperature, bias, wide)
    beyond = False if wide or spec.sigmoid else scale * score.half_range(count) > score.room(batch)
    return Options(
        score=score,
        num_modalities=count,
        anchors=part.anchors,
        scale=scale,
        shift=shift,
        middle=score.middle(count),
        sigmoid=spec.sigmoid,
        both=spec.both,
        with_scores=learns,
        with_totals=spec.smoothing > 0 or spec.sigmoid,
        sought=spec.pairwise,
        wide=wide,
        beyond=beyond,
    )


def logit(
    spec: Spec, count: int, batch: int, temperature: Tensor, bias: Tensor | None, wide: bool
) -> tuple[float | Tensor, float | Tensor]:
    """`Options.scale` and `Options.shift` of tuples of `count` modalities, of which an anchor has at most `batch`."""
    score = SCORES[spec.score]
    middle, room, half_range = score.middle(count), score.room(batch), score.half_range(count)
    if temperature.device.type == "cpu":
        scale = LOG2_E / temperature.item()
        if spec.sigmoid:
            return scale, 0.0 if bias is None else bias.item() * LOG2_E
        return scale, (0.0 if wide else min(0.0, room - scale * half_range)) - middle * scale
    exact = LOG2_E / temperature.double()
    if spec.sigmoid:
        shift = torch.zeros_like(exact) if bias is None else bias.double() * LOG2_E
    else:
        shift = -middle * exact
        if not wide:
            shift += (room - exact * half_range).clamp(max=0)
    dtype = torch.float64 if temperature.dtype == torch.float64 or wide else torch.float32
    return exact.to(dtype), shift.to(dtype)


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
    keeping = _at_once(spec) if spec.pairwise else present is None
    # the exported graph of plain torch is to hold for a batch of any size
    if spec.backend == "torch" or not keeping or not keeps(count, batch, embeddings[0].device):
        return 0
    return sum(_sizes(count, batch, width, spec.pairwise))


def sums_dtype(embedding: Tensor) -> torch.dtype:
    return torch.float64 if embedding.dtype == torch.float64 else torch.float32


def inverse_total(weights: Tensor | None, anchor_counts: Tensor | None, count: int, like: Tensor) -> Tensor | float:
    """One over the total weight of all anchors; 0 where there is none. anchor_counts: [B], or None: all `count`."""
    if weights is None and anchor_counts is None:
        return 1 / (count * len(like)) if len(like) else 0.0
    weighted = torch.ones_like(like) if weights is None else weights.to(like.dtype)
    total = (weighted * (count if anchor_counts is None else anchor_counts)).sum()
    return total.reciprocal().masked_fill_(total == 0, 0)


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


def find_route(temperature: Tensor, spec: Spec, count: int, batch: int) -> int:
    """A GPU is not asked for the temperature: its kernels are of float32, and what has none sums in float64."""
    if temperature.device.type != "cpu":
        return NARROW if spec.backend == "triton" else WIDE
    if spec.backend == "triton":
        return NARROW
    scale, modalities = (LOG2_E / temperature.double()).item(), 2 if spec.pairwise else count
    return NARROW if spec.sigmoid or SCORES[spec.score].holds(scale, modalities, batch) else WIDE


def _codes(part: Part, present: Tensor | None, backend: Backend) -> Tensor | None:
    return part.codes(present) if backend.masks and part.index is None else None


def _masks(spec: Spec, backend: Backend) -> bool:
    """Whether pairs of all samples come at once, with codes: the other forms and directions want dense sets, for which
    a GPU is waited for."""
    return backend.masks and not (spec.both or spec.smoothing or spec.sigmoid)


def _sizes(count: int, batch: int, width: int, pairwise: bool) -> list[int]:
    return [count * batch * width, count * batch, products_size(count, batch) // (1 + pairwise)]


def _keep(saved: Tensor, units: Tensor, inverse_norms: Tensor | None, pairwise: bool) -> Tensor:
    """Where the products go, or the exponentials of pairs."""
    count, batch, width = units.shape
    of_units, of_norms, products = saved.split(_sizes(count, batch, width, pairwise))
    of_units.copy_(units.flatten())
    if inverse_norms is None:
        of_norms.zero_()  # an output must be the same every time
    else:
        of_norms.copy_(inverse_norms.flatten())
    return products


def _kept(saved: Tensor, embeddings: list[Tensor], spec: Spec) -> tuple[Tensor, Tensor | None, Tensor]:
    count, (batch, width) = len(embeddings), embeddings[0].shape
    units, inverse_norms, products = saved.contiguous().split(_sizes(count, batch, width, spec.pairwise))
    norms = inverse_norms.view(count, batch) if spec.normalize else None
    return units.view(count, batch, width), norms, products
