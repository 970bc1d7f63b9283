"""The loss over the samples of a process group: anchors are this rank's samples, tuples are formed from those of all.

Forward: a header; the modalities of every sample where some lack any; then either every rank's embeddings are gathered,
in their own dtype, or, where those would take too much memory, they go around a ring of the ranks, block by block.
"all" of three modalities visits every triple once, on the rank that holds its first sample: normalisers of the other
two directions are sums over ranks. Backward: gradients of others' samples are summed back to their owners.

Every rank takes the same collectives in the same order, whatever it holds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from unihpe_kernels.collectives import Header, Wire, exchange_headers
from unihpe_kernels.group_samples import GATHERED_BYTES, codes_of_ranks, gathers_in, slices_of_ranks, weights_of
from unihpe_kernels.sv_contrastive.arguments import Arguments, warn_of_many_triples
from unihpe_kernels.sv_contrastive.group.torch_pieces import TorchPieces
from unihpe_kernels.sv_contrastive.torch_backend import LOG2_E

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# what unihpe_kernels.contrastive has more, so that ranks that call different losses hear of it
_OF_THE_SCORE: Header = {
    "score": "singular_value",
    "direction": "anchor",
    "form": "softmax",
    "label_smoothing": 0.0,
    "anchors, a bit each": 0,
    "whether losses are pairwise": "False",
    "bias": "None",
}


@torch.compiler.disable
def loss_over_group(group: "ProcessGroup", check: Callable[[], Arguments]) -> Tensor:
    """`singular_value_contrastive_loss` with a group; `check` gives the arguments or raises."""
    if dist.get_world_size(group) < 0:
        raise ValueError("group must hold this process, got one of other ranks")
    try:
        given = check()
    except (TypeError, ValueError):
        exchange_headers(group, (0, 0), None)
        raise
    return _loss(group, given)


def _loss(group: "ProcessGroup", given: Arguments) -> Tensor:
    first = given.embeddings[0]
    tau = given.tau
    inputs = [*given.embeddings, tau, *([] if given.weights is None else [given.weights])]
    shared: Header = {
        "the number of embeddings": len(given.embeddings),
        "the width of embeddings": first.shape[1],
        "the dtype of embeddings": str(first.dtype),
        "negatives": given.negatives,
        "normalize": str(given.normalize),
        "temperature": "a tensor" if isinstance(given.temperature, Tensor) else float(given.temperature),
        "backend": given.backend,
        "whether a gradient is needed": str(torch.is_grad_enabled() and any(x.requires_grad for x in inputs)),
        **_OF_THE_SCORE,
    }
    headers = exchange_headers(group, (len(first), int(given.present is not None)), shared)
    wire = Wire(group, [samples for samples, _ in headers])
    if given.backend == "native":
        raise ValueError('backend="native" is for one process alone, got a group; use backend="torch" or "auto"')
    pieces = _pieces(given.resolve_backend(wire.total))
    if given.has_triples:
        warn_of_many_triples(len(first), wire.total)
    call = _Call(wire, pieces, given.has_triples, given.normalize, masked=any(masked for _, masked in headers))
    with torch.autocast(first.device.type, enabled=False):
        return _GroupLoss.apply(call, tau, given.weights, given.present, *given.embeddings)


def _pieces(backend: str) -> type[TorchPieces]:
    if backend != "triton":
        return TorchPieces
    from unihpe_kernels.sv_contrastive.group.triton_pieces import TritonPieces  # not above: triton may be missing

    return TritonPieces


@dataclass(frozen=True)
class _Call:
    wire: Wire
    pieces: type[TorchPieces]
    triples: bool  # whether complete samples form triples
    normalize: bool
    masked: bool  # whether samples of some rank lack modalities


@dataclass(frozen=True)
class _Part:
    """Anchors of this rank with exactly these modalities, whose tuples are formed from samples with at least these."""

    code: int | None  # bit m: modality m. None: every sample is such an anchor
    modalities: list[int]
    anchors: Tensor | slice  # of this rank's samples

    def of(self, samples: Tensor, index: Tensor | slice) -> Tensor:
        """[n, M, D] -> [those of index, own modalities, D]"""
        return samples[index] if self.code is None else samples[index][:, self.modalities]

    def pool(self, codes: Tensor | None) -> Tensor | slice:
        if self.code is None or codes is None:
            return slice(None)
        return ((codes & self.code) == self.code).nonzero()[:, 0]

    def own(self, places: Tensor, pool: Tensor | slice) -> Tensor:
        """The places of the anchors' samples among the pool of a block, or numbers beyond; from the places [a] of this
        rank's samples in the block."""
        samples = places[self.anchors]
        if isinstance(pool, slice) or not len(pool):
            return samples
        places = torch.searchsorted(pool, samples).clamp_(max=len(pool) - 1)
        return torch.where(pool[places] == samples, places, -1)

    def add(self, total: Tensor, index: Tensor | slice, part: Tensor) -> None:
        """`of`, in the other direction."""
        if self.code is None:
            total[index] += part
            return
        for m, column in zip(self.modalities, part.unbind(1), strict=True):
            total[index, m] += column


class _GroupLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        call: _Call,
        temperature: Tensor,
        weights: Tensor | None,
        present: Tensor | None,
        *embeddings: Tensor,
    ) -> Tensor:
        wire = call.wire
        own = _samples(embeddings, present)
        codes = codes_of_ranks(wire, own, present) if call.masked else None
        weighted = weights_of(weights, own)
        pieces = call.pieces(temperature, call.normalize, own)
        gathered = wire.gather(own) if call.triples or gathers_in(wire, own, GATHERED_BYTES) else None
        count = own.shape[1]

        # of anchors set against pairs: their losses to base 2, log2 of normalisers relative to the own exponentials
        log_sums = weighted.new_full((count, len(own)), -torch.inf)
        sample_loss, anchor_counts = weighted.new_zeros(2, len(own)).unbind(0)
        parts = _parts(call, own, codes)
        for columns, its_codes, places in _blocks(call, own, gathered, codes):
            for part in parts:
                pool = part.pool(its_codes)
                chosen = part.of(columns, pool)
                if len(chosen):
                    piece = pieces.paired(part.of(own, part.anchors), chosen, part.own(places, pool))
                    for m, log_sum in zip(part.modalities, piece, strict=True):
                        log_sums[m, part.anchors] = torch.logaddexp2(log_sums[m, part.anchors], log_sum)
        for part in parts:
            losses = pieces.paired_losses(log_sums[part.modalities][:, part.anchors])
            for m, loss in zip(part.modalities, losses, strict=True):
                log_sums[m, part.anchors] = loss
            sample_loss[part.anchors] = losses.sum(0) / LOG2_E
            anchor_counts[part.anchors] = len(part.modalities)

        of_triples: list[Tensor | None] = [None] * 3
        if call.triples:
            assert gathered is not None
            complete, mine, first = _complete(wire, gathered, codes)
            chosen = gathered[complete]
            every_weight = wire.gather(weighted)
            kinds = 1 + pieces.score_sums
            by_jk = torch.zeros(2, kinds, len(chosen), dtype=torch.float64, device=own.device)
            if mine_count := _length(mine, len(own)):
                triples = pieces.triples(chosen, first, mine_count, None)
                by_i, own_jk = triples.sums()
                by_jk += own_jk
            wire.sum(by_jk)
            if mine_count:
                log_sums[:, mine], sample_loss[mine] = triples.finish(by_i, by_jk)
                anchor_counts[mine] = 3
                of_triples = [by_jk[:, 0], every_weight, triples.saved]

        sums = torch.stack([(weighted * sample_loss).sum(), (weighted * anchor_counts).sum()])
        loss_sum, weight_sum = wire.sum_of_few(sums.double())
        inverse_total = weight_sum.reciprocal().masked_fill_(weight_sum == 0, 0)
        loss = (loss_sum * inverse_total).to(weighted.dtype)
        ctx.call = call
        ctx.save_for_backward(
            *embeddings, temperature, weights, present, codes, gathered, log_sums, sample_loss, anchor_counts,
            inverse_total.to(weighted.dtype), loss, *of_triples,
        )  # fmt: skip
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad.device.type, enabled=False):
            return _GroupLoss._gradients(ctx, grad)

    @staticmethod
    def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (
            *embeddings, temperature, weights, present, codes, gathered, log_sums, sample_loss, anchor_counts,
            inverse_total, loss, sums_jk, every_weight, saved,
        ) = ctx.saved_tensors  # fmt: skip
        call: _Call = ctx.call
        wire = call.wire
        own = _samples(embeddings, present)
        pieces = call.pieces(temperature, call.normalize, own)
        over_tau = inverse_total / temperature.to(inverse_total.dtype)
        d_score = weights_of(weights, own) * over_tau
        d_own = torch.zeros(own.shape, dtype=d_score.dtype, device=own.device)
        d_scores = torch.zeros((), dtype=torch.float64, device=own.device)
        parts = _parts(call, own, codes)
        d_positives = []  # gradients of the positives' scores, by part
        for part in parts:
            d_positive = pieces.own_gradients(d_score[part.anchors], log_sums[part.modalities][:, part.anchors])
            d_scores += torch.dot(d_positive, pieces.positives(part.of(own, part.anchors)))
            d_positives.append(d_positive)

        def of_columns(columns: Tensor, its_codes: Tensor | None, places: Tensor) -> Tensor:
            """This rank's part of the gradient of these samples; what falls to anchors is added up beside."""
            d_columns = torch.zeros(columns.shape, dtype=d_own.dtype, device=own.device)
            for part, d_positive in zip(parts, d_positives, strict=True):
                pool = part.pool(its_codes)
                chosen = part.of(columns, pool)
                if len(chosen):
                    d_rows, d_chosen, d_part, d_own_part = pieces.paired_gradients(
                        part.of(own, part.anchors),
                        chosen,
                        part.own(places, pool),
                        log_sums[part.modalities][:, part.anchors],
                        d_score[part.anchors],
                    )
                    part.add(d_own, part.anchors, d_rows)
                    part.add(d_columns, pool, d_chosen)
                    d_scores.add_(d_part)
                    d_positive += d_own_part
            return d_columns

        if gathered is None:
            slices = slices_of_ranks(wire)
            d_own += wire.circulate_gradients(
                own,
                lambda owner, block: of_columns(
                    block,
                    None if codes is None else codes[slices[owner]],
                    _places(own, 0 if owner == wire.rank else len(block)),
                ),
            )
        else:
            d_columns = of_columns(gathered, codes, _places(own, wire.begin))
            if saved is not None:
                complete, mine, first = _complete(wire, gathered, codes)
                triples = pieces.triples(gathered[complete], first, _length(mine, len(own)), saved)
                d_triples, d_part = triples.gradients(log_sums[:, mine], sums_jk, (every_weight * over_tau)[complete])
                d_columns[complete] += d_triples
                d_scores += d_part
            d_own += wire.scatter_sum(d_columns)
        for part, d_positive in zip(parts, d_positives, strict=True):
            part.add(d_own, part.anchors, pieces.positive_gradients(part.of(own, part.anchors), d_positive))

        # Each rank's result is the one loss, so what is differentiated is the sum of all of them.
        grads, d_scores = wire.sum_of_few(torch.stack([grad.double(), d_scores]))
        d_temperature = -d_scores / temperature.double() * (grads / wire.ranks)
        d_own *= grads.to(d_own.dtype)
        d_weights = None
        if weights is not None:
            d_weights = (sample_loss - anchor_counts * loss) * (inverse_total * grads.to(loss.dtype))
            d_weights = d_weights.to(weights.dtype)
        d_embeddings = [d.to(own.dtype) for d in d_own.unbind(1)]
        return None, d_temperature.to(temperature.dtype), d_weights, None, *d_embeddings


def _samples(embeddings: tuple[Tensor, ...] | list[Tensor], present: Tensor | None) -> Tensor:
    """[a, M, D]; what no tuple reads is zero, as NaN would pass through a zero factor."""
    samples = torch.stack(list(embeddings), dim=1)
    if present is None:
        return samples
    return samples.masked_fill_(~(present & (present.sum(0) >= 2)).T[:, :, None], 0)


def _blocks(
    call: _Call, own: Tensor, gathered: Tensor | None, codes: Tensor | None
) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """The samples of all ranks, with their codes and the places of this rank's samples."""
    if gathered is not None:
        yield gathered, codes, _places(own, call.wire.begin)
        return
    slices = slices_of_ranks(call.wire)
    for owner, block in call.wire.circulate(own):
        its_codes = None if codes is None else codes[slices[owner]]
        yield block, its_codes, _places(own, 0 if owner == call.wire.rank else len(block))


def _places(own: Tensor, first: int) -> Tensor:
    """Of this rank's samples, from the first one's on; a first one beyond the block puts all of them beyond."""
    return torch.arange(first, first + len(own), device=own.device)


def _parts(call: _Call, own: Tensor, codes: Tensor | None) -> list[_Part]:
    """Of the anchors of this rank that are set against pairs; which there are, the host must know of `codes`."""
    count = own.shape[1]
    if codes is None:
        return [] if call.triples or not len(own) else [_Part(None, list(range(count)), slice(None))]
    own_codes = codes[call.wire.begin : call.wire.begin + len(own)]
    parts = []
    for code in own_codes.unique().tolist():
        modalities = [m for m in range(count) if code >> m & 1]
        if len(modalities) >= 2 and not (call.triples and len(modalities) == 3):
            parts.append(_Part(code, modalities, (own_codes == code).nonzero()[:, 0]))
    return parts


def _complete(wire: Wire, gathered: Tensor, codes: Tensor | None) -> tuple[Tensor | slice, Tensor | slice, int]:
    """Samples with all modalities, among all; those of this rank, among its own; and the place of the first of these
    among the complete."""
    if codes is None:
        return slice(None), slice(None), wire.begin
    complete = codes == 2 ** gathered.shape[1] - 1
    mine = complete[wire.begin : wire.begin + wire.sizes[wire.rank]]
    before = int(complete[: wire.begin].sum())
    return complete.nonzero()[:, 0], mine.nonzero()[:, 0], before


def _length(index: Tensor | slice, size: int) -> int:
    return size if isinstance(index, slice) else len(index)
