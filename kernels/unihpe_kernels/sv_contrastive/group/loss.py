"""The loss over the samples of a process group. Pairs are the engine's (unihpe_kernels.contrastive.group); here are the
triples of "all": every one is visited once, on the rank that holds its first sample, and the normalisers of the other
two directions are sums over ranks. Gradients of others' samples are summed back to their owners.

Every rank takes the same collectives in the same order, whatever it holds.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unihpe_kernels.collectives import Collectives
from unihpe_kernels.contrastive.group.headers import agree, checked
from unihpe_kernels.contrastive.group.loss import Call, Sweep, gradients_of_others, loss_of, others, samples_of
from unihpe_kernels.contrastive.group.mean import Mean
from unihpe_kernels.contrastive.options import Arguments as TupleArguments
from unihpe_kernels.group_samples import codes_of_ranks, weights_of
from unihpe_kernels.sv_contrastive.arguments import Arguments, warn_of_many_triples
from unihpe_kernels.sv_contrastive.group.torch_triples import TorchTriples
from unihpe_kernels.sv_contrastive.torch_backend import SETS_OF_TWO

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@torch.compiler.disable
def loss_over_group(group: "ProcessGroup", check: Callable[[], Arguments]) -> Tensor:
    """`singular_value_contrastive_loss` with a group; `check` gives the arguments or raises."""
    given = checked(group, check)
    of_tuples = TupleArguments(given.embeddings, given.temperature, None, given.weights, given.present, given.spec)
    if not given.has_triples:
        return loss_of(group, of_tuples)
    sizes, masked = agree(group, of_tuples, negatives="all")
    collectives = Collectives(group, sizes)
    if given.backend == "native":
        raise ValueError('backend="native" has no triples over a group; use backend="torch" or "auto"')
    warn_of_many_triples(len(given.embeddings[0]), collectives.total)
    call = Call(collectives, given.spec._replace(backend=given.resolve_backend(collectives.total)), masked)
    return _GroupLoss.apply(call, given.tau, given.weights, given.present, *given.embeddings)


def _triples(backend: str) -> type[TorchTriples]:
    if backend != "triton":
        return TorchTriples
    from unihpe_kernels.sv_contrastive.group.triton_triples import TritonTriples  # not above: triton may be missing

    return TritonTriples


class _GroupLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        call: Call,
        temperature: Tensor,
        weights: Tensor | None,
        present: Tensor | None,
        *embeddings: Tensor,
    ) -> Tensor:
        collectives = call.collectives
        own = samples_of(embeddings, present, call.spec)
        codes = codes_of_ranks(collectives, own, present) if call.masked else None
        weighted, gathered = weights_of(weights, own), collectives.gather(own)
        every_weight = collectives.gather(weighted)
        sample_loss, slopes = weighted.new_zeros(2, len(own)).unbind()
        shares: list[Tensor] = []
        log_sums = weighted.new_zeros(3, len(own))
        if codes is not None:
            sweep = _sweep(call, own, codes, temperature)
            sweep.forward(others(call, own, gathered, codes))
            (losses, slopes, _), shares = sweep.finish(weighted.dtype)
            sample_loss += losses

        complete, mine, first = _complete(collectives, codes)
        chosen, kinds = gathered[complete], _triples(call.spec.backend).num_sums
        by_jk = torch.zeros(2, kinds, len(chosen), dtype=torch.float64, device=own.device)
        saved = None
        if mine_count := _length(mine, len(own)):
            triples = _triples(call.spec.backend)(temperature, call.spec.normalize, chosen, first, mine_count, None)
            by_i, own_jk = triples.sums()
            by_jk += own_jk
        collectives.sum(by_jk)
        if mine_count:
            log_sums[:, mine], sample_loss[mine] = triples.finish(by_i, by_jk)
            saved = triples.saved
        mean = Mean.over(collectives, sample_loss, weighted, call.spec.anchor_counts(present), 3)
        ctx.call, ctx.num_shares = call, len(shares)
        ctx.save_for_backward(
            *shares, *embeddings, temperature, weights, present, codes, gathered, log_sums, slopes, by_jk[:, 0],
            every_weight, saved, *mean,
        )  # fmt: skip
        return mean.loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad.device.type, enabled=False):
            return _GroupLoss._gradients(ctx, grad)

    @staticmethod
    def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        shares, saved_tensors = ctx.saved_tensors[: ctx.num_shares], ctx.saved_tensors[ctx.num_shares :]
        (
            *embeddings, temperature, weights, present, codes, gathered, log_sums, slopes, sums_jk, every_weight, saved,
        ) = saved_tensors[: -len(Mean._fields)]  # fmt: skip
        mean = Mean(*saved_tensors[-len(Mean._fields) :])
        call: Call = ctx.call
        collectives = call.collectives
        own = samples_of(embeddings, present, call.spec)
        over_tau = mean.inverse_total / temperature.to(mean.inverse_total.dtype)
        d_score = weights_of(weights, own) * over_tau
        d_scores = torch.dot(d_score, slopes).double()
        if codes is None:
            d_columns = torch.zeros(gathered.shape, dtype=d_score.dtype, device=own.device)
        else:
            sweep = _sweep(call, own, codes, temperature)
            sweep.backward(d_score, shares)
            d_columns = gradients_of_others(call, sweep, gathered, codes)
        if saved is not None:
            complete, mine, first = _complete(collectives, codes)
            triples = _triples(call.spec.backend)(
                temperature, call.spec.normalize, gathered[complete], first, _length(mine, len(own)), saved
            )
            d_triples, d_part = triples.gradients(log_sums[:, mine], sums_jk, (every_weight * over_tau)[complete])
            d_columns[complete] += d_triples
            d_scores += d_part
        d_own = collectives.scatter_sum(d_columns)
        if codes is not None:
            d_own = d_own + sweep.gradients()

        # Each rank's result is the one loss, so what is differentiated is the sum of all of them.
        grads, d_scores = collectives.sum_of_few(torch.stack([grad.double(), d_scores]))
        d_temperature = -d_scores / temperature.double() * (grads / collectives.ranks)
        d_own *= grads.to(d_own.dtype)
        d_weights = mean.weight_gradients(weights, grads)
        d_embeddings = [d.to(own.dtype) for d in d_own.unbind(1)]
        return None, d_temperature.to(temperature.dtype), d_weights, None, *d_embeddings


def _sweep(call: Call, own: Tensor, codes: Tensor, temperature: Tensor) -> Sweep:
    """Of the samples that have two of the modalities."""
    return Sweep(call, own, codes, temperature, None, temperature.requires_grad, SETS_OF_TWO)


def _complete(collectives: Collectives, codes: Tensor | None) -> tuple[Tensor | slice, Tensor | slice, int]:
    """Samples with all modalities, among all; those of this rank, among its own; and the place of the first of these
    among the complete."""
    if codes is None:
        return slice(None), slice(None), collectives.begin
    complete = codes == 0b111
    mine = complete[collectives.begin : collectives.begin + collectives.sizes[collectives.rank]]
    before = int(complete[: collectives.begin].sum())
    return complete.nonzero()[:, 0], mine.nonzero()[:, 0], before


def _length(index: Tensor | slice, size: int) -> int:
    return size if isinstance(index, slice) else len(index)
