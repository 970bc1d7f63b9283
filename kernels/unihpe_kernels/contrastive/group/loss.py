"""The loss over the samples of a process group: anchors are this rank's samples, tuples are formed from those of all.

Forward: a header; the modalities of every sample where some lack any; then either every rank's embeddings are gathered,
in their own dtype, or, where those would take too much memory, they go around a ring of the ranks, block by block. The
sums by tuple of the other direction are sums over ranks. Backward: gradients of others' samples are summed back to
their owners.

Every rank takes the same collectives in the same order, whatever it holds.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unihpe_kernels.collectives import Collectives
from unihpe_kernels.contrastive.group.headers import agree, checked
from unihpe_kernels.contrastive.group.mean import Mean
from unihpe_kernels.contrastive.loss import WIDE, add_part, add_result, backend_of, find_route, make_options
from unihpe_kernels.contrastive.options import Arguments
from unihpe_kernels.contrastive.paired import Pairs
from unihpe_kernels.contrastive.parts import Part, further, make_parts
from unihpe_kernels.contrastive.spec import Spec
from unihpe_kernels.group_samples import GATHERED_BYTES, codes_of_ranks, gathers_in, slices_of_ranks, weights_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


_AT_ONCE = 4096  # gathered samples: some blocks of a GPU


@torch.compiler.disable
def loss_over_group(group: "ProcessGroup", check: Callable[[], Arguments]) -> Tensor:
    """The loss with a group; `check` gives the arguments or raises."""
    return loss_of(group, checked(group, check))


def loss_of(group: "ProcessGroup", given: Arguments) -> Tensor:
    """The same of arguments that were checked."""
    sizes, masked = agree(group, given)
    collectives = Collectives(group, sizes)
    spec = given.spec._replace(backend=given.resolve_backend(collectives.total))
    tau, bias = given.tau, given.bias_tensor
    return _GroupLoss.apply(Call(collectives, spec, masked), tau, bias, given.weights, given.present, *given.embeddings)


@dataclass(frozen=True)
class Call:
    collectives: Collectives
    spec: Spec
    masked: bool  # whether samples of some rank lack modalities


class Sweep:
    """This rank's anchors against the samples of all ranks, in pairs; the same steps forward and backward."""

    def __init__(
        self,
        call: Call,
        own: Tensor,
        codes: Tensor | None,
        temperature: Tensor,
        bias: Tensor | None,
        learns: bool,
        sets: Sequence[int] | None = None,
    ) -> None:
        """own: [a, M, D]; codes: of all ranks' samples; sets: as for `make_parts`."""
        self._call, self._codes, spec, collectives = call, codes, call.spec, call.collectives
        self.count = own.shape[1]
        route = find_route(temperature, spec, self.count, collectives.total)
        self.backend = backend_of(spec.backend, route)
        self.units, self._inverse_norms = self._units(own)
        own_codes = None if codes is None else codes[collectives.begin : collectives.begin + len(own)]
        if spec.both and codes is not None:
            sets = codes.unique().tolist()
        present = None
        if own_codes is not None:
            bits = 1 << torch.arange(self.count, device=own.device)
            present = (own_codes & bits[:, None]) > 0
        self.parts: list[tuple[Part, Pairs]] = []
        for part in make_parts(spec, present, self.count, False, sets):
            if not part.size(len(own)) and not spec.both:
                continue
            options = make_options(spec, part, collectives.total, temperature, bias, route == WIDE, learns)
            self.parts.append((part, Pairs(self.backend, options, part.of(self.units, part.index))))

    def forward(self, blocks: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """blocks: the samples of other ranks [b, M, D], with their codes."""
        collectives, of_tuples = self._call.collectives, []
        for part, pairs in self.parts:
            pairs.forward()
            for others in part.others:
                pairs.forward_columns(part.of(self.units, others.index), anchors=others.sought)
        for block, codes in blocks:
            units, _ = self._units(block)
            for part, pairs in self.parts:
                for index, sought in further(self._call.spec, part, codes):
                    columns = part.of(units, index)
                    if columns.shape[1]:
                        by_tuple = pairs.forward_columns(columns, anchors=sought)
                        if by_tuple is not None:
                            of_tuples.append(self._spread(by_tuple, index, block))
                    elif self._call.spec.both:
                        of_tuples.append(pairs.by_tuple.new_zeros(*pairs.by_tuple.shape[:2], len(block)))
        if self._call.spec.both and of_tuples:  # other ranks' anchors against this rank's tuples
            for place, (part, pairs) in enumerate(self.parts):
                elsewhere = of_tuples[place]
                whole = elsewhere.new_zeros(*elsewhere.shape[:2], collectives.total)
                end = collectives.begin + self.units.shape[1]
                whole[..., : collectives.begin], whole[..., end:] = (
                    elsewhere[..., : collectives.begin],
                    elsewhere[..., collectives.begin :],
                )
                mine = collectives.sum(whole)[..., collectives.begin : end]
                pairs.by_tuple.add_(mine if part.index is None else mine[..., part.index])

    def finish(self, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
        """`Result`'s losses, slopes and biases [3, a], and its shares of each part."""
        samples = torch.zeros(3, self.units.shape[1], dtype=dtype, device=self.units.device)
        shares = []
        for part, pairs in self.parts:
            result = pairs.finish(self._candidates(part), self._call.spec.smoothing)
            add_result(samples, part, result)
            shares.append(result.shares)
        return samples, shares

    def backward(self, d_score: Tensor, shares: Sequence[Tensor]) -> None:
        """d_score [a]: gradient of the samples' losses, over the temperature. Others' samples: `gradients_of`."""
        spec, self._given = self._call.spec, []
        self._of_tuples: list[list[Tensor | None]] = []
        for (part, pairs), own_shares in zip(self.parts, shares, strict=True):
            of_part = d_score if part.index is None else d_score[part.index]
            of_part = of_part if part.counted is None else of_part * part.counted
            given = of_part, own_shares, self._candidates(part), spec.smoothing
            pairs.backward(*given)
            self._given.append(given)
            if spec.both:
                self._of_tuples.append(
                    [self._gather(part, x) for x in (pairs.factors.tuple, pairs.factors.tuple_level)]
                )
        self._others = [
            [(o.index, pairs.backward_columns(part.of(self.units, o.index), anchors=o.sought)) for o in part.others]
            for part, pairs in self.parts
        ]

    def gradients_of(self, block: Tensor, codes: Tensor | None) -> Tensor:
        """This rank's part of the gradient of other ranks' samples [b, M, D]."""
        units, inverse_norms = self._units(block)
        d_units = torch.zeros_like(units, dtype=torch.promote_types(units.dtype, torch.float32))
        for place, (part, pairs) in enumerate(self.parts):
            for index, sought in further(self._call.spec, part, codes):
                columns = part.of(units, index)
                if not columns.shape[1]:
                    continue
                factors = None
                if self._call.spec.both:
                    tuples, levels = (
                        None if x is None else x if index is None else x[:, index] for x in self._of_tuples[place]
                    )
                    factors = pairs.factors._replace(tuple=tuples, tuple_level=levels)
                d_columns = pairs.backward_columns(columns, anchors=sought, factors=factors)
                add_part(d_units, part, index, d_columns)
        return self._rows(units, inverse_norms, d_units)

    def gradients(self) -> Tensor:
        """Of this rank's samples [a, M, D], from its own pairs alone."""
        d_units = torch.zeros_like(self.units, dtype=torch.promote_types(self.units.dtype, torch.float32))
        for (part, pairs), given, others in zip(self.parts, self._given, self._others, strict=True):
            add_part(d_units, part, part.index, pairs.gradients(*given))
            for index, d_columns in others:
                add_part(d_units, part, index, d_columns)
        return self._rows(self.units, self._inverse_norms, d_units)

    def _units(self, samples: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.backend.units(list(samples.unbind(1)), self._call.spec.normalize, None)

    def _rows(self, units: Tensor, inverse_norms: Tensor | None, d_units: Tensor) -> Tensor:
        return torch.stack(self.backend.through_units(units, inverse_norms, d_units, list(d_units)), dim=1)

    def _candidates(self, part: Part) -> float:
        if self._codes is None:
            return float(self._call.collectives.total)
        code = sum(1 << m for m in part.modalities)
        return float(((self._codes & code) == code).sum())

    def _spread(self, by_tuple: Tensor, index: Tensor | None, block: Tensor) -> Tensor:
        """Over all samples of a block."""
        if index is None:
            return by_tuple
        whole = by_tuple.new_zeros(*by_tuple.shape[:2], len(block))
        whole[..., index] = by_tuple
        return whole

    def _gather(self, part: Part, factors: Tensor | None) -> Tensor | None:
        """[anchors, total - a], of other ranks' tuples."""
        if factors is None:
            return None
        collectives, length = self._call.collectives, self.units.shape[1]
        whole = factors.new_zeros(length, len(factors))
        whole[slice(None) if part.index is None else part.index] = factors.T
        every = collectives.gather(whole)
        return torch.cat([every[: collectives.begin], every[collectives.begin + length :]]).T.contiguous()


class _GroupLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        call: Call,
        temperature: Tensor,
        bias: Tensor | None,
        weights: Tensor | None,
        present: Tensor | None,
        *embeddings: Tensor,
    ) -> Tensor:
        collectives, spec = call.collectives, call.spec
        own = samples_of(embeddings, present, spec)
        count = own.shape[1]
        codes = codes_of_ranks(collectives, own, present) if call.masked else None
        weighted = weights_of(weights, own)
        gathered = collectives.gather(own) if spec.both or gathers_in(collectives, own, GATHERED_BYTES) else None
        learns = temperature.requires_grad or (bias is not None and bias.requires_grad)
        sweep = Sweep(call, own, codes, temperature, bias, learns)
        sweep.forward(others(call, own, gathered, codes))
        samples, shares = sweep.finish(weighted.dtype)
        mean = Mean.over(collectives, samples[0], weighted, spec.anchor_counts(present), spec.num_anchors(count))
        ctx.call, ctx.num_shares = call, len(shares)
        ctx.save_for_backward(
            *shares, *embeddings, temperature, bias, weights, present, codes, gathered, samples, *mean
        )
        return mean.loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad.device.type, enabled=False):
            return _GroupLoss._gradients(ctx, grad)

    @staticmethod
    def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        shares, saved_tensors = ctx.saved_tensors[: ctx.num_shares], ctx.saved_tensors[ctx.num_shares :]
        *embeddings, temperature, bias, weights, present, codes, gathered, samples = saved_tensors[: -len(Mean._fields)]
        mean = Mean(*saved_tensors[-len(Mean._fields) :])
        call: Call = ctx.call
        collectives, spec = call.collectives, call.spec
        own = samples_of(embeddings, present, spec)
        over_tau = mean.inverse_total / temperature.to(mean.inverse_total.dtype)
        d_loss = weights_of(weights, own) * mean.inverse_total
        sweep = Sweep(call, own, codes, temperature, bias, False)
        sweep.backward(weights_of(weights, own) * over_tau, shares)
        # the sums of scores times their gradient, and of the bias's
        d_scores = torch.dot(d_loss, samples[1]).double() / temperature.double()
        d_bias = torch.dot(d_loss, samples[2]).double()
        if gathered is None:
            places = slices_of_ranks(collectives)
            none = torch.zeros(own.shape, dtype=d_loss.dtype, device=own.device)
            d_own = collectives.circulate_gradients(
                own,
                lambda owner, block: (
                    none
                    if owner == collectives.rank
                    else sweep.gradients_of(block, None if codes is None else codes[places[owner]])
                ),
            )
        else:
            d_own = collectives.scatter_sum(gradients_of_others(call, sweep, gathered, codes))
        d_own = d_own + sweep.gradients()

        # Each rank's result is the one loss, so what is differentiated is the sum of all of them.
        grads, d_scores, d_bias = collectives.sum_of_few(torch.stack([grad.double(), d_scores, d_bias]))
        d_temperature = -d_scores / temperature.double() * (grads / collectives.ranks)
        d_own *= grads.to(d_own.dtype)
        d_weights = mean.weight_gradients(weights, grads)
        d_embeddings = [d.to(own.dtype) for d in d_own.unbind(1)]
        of_bias = None if bias is None else (d_bias * (grads / collectives.ranks)).to(bias.dtype)
        return None, d_temperature.to(temperature.dtype), of_bias, d_weights, None, *d_embeddings


def samples_of(embeddings: tuple[Tensor, ...] | list[Tensor], present: Tensor | None, spec: Spec) -> Tensor:
    """[a, M, D]; what no tuple reads is zero, as NaN would pass through a zero factor."""
    samples, used = torch.stack(list(embeddings), dim=1), spec.used(present)
    return samples if used is None else samples.masked_fill_(~used.T[:, :, None], 0)


def others(
    call: Call, own: Tensor, gathered: Tensor | None, codes: Tensor | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The samples of other ranks, with their codes."""
    collectives = call.collectives
    if gathered is not None:
        for index in _indices_of_others(call):
            yield gathered[index], None if codes is None else codes[index]
        return
    places = slices_of_ranks(collectives)
    for owner, block in collectives.circulate(own):
        if owner != collectives.rank:
            yield block, None if codes is None else codes[places[owner]]


def gradients_of_others(call: Call, sweep: Sweep, gathered: Tensor, codes: Tensor | None) -> Tensor:
    """This rank's part of the gradient of all samples [total, M, D], without its own."""
    gradients = torch.zeros(
        gathered.shape, dtype=torch.promote_types(gathered.dtype, torch.float32), device=gathered.device
    )
    for index in _indices_of_others(call):
        gradients[index] = sweep.gradients_of(gathered[index], None if codes is None else codes[index])
    return gradients


def _indices_of_others(call: Call) -> list[Any]:
    """Of the samples of other ranks among all: some at a time, since half a dozen copies of those being worked on are
    alive; all at once for both directions, whose sums by tuple are one collective."""
    collectives = call.collectives
    begin, end = collectives.begin, collectives.begin + collectives.sizes[collectives.rank]
    if call.spec.both:
        return [torch.cat([torch.arange(begin), torch.arange(end, collectives.total)])]
    ranges = (0, begin), (end, collectives.total)
    return [slice(i, min(i + _AT_ONCE, last)) for first, last in ranges for i in range(first, last, _AT_ONCE)]
