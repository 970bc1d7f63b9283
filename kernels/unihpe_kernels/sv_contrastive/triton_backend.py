"""The singular-value contrastive loss by Triton kernels: the same functions as `torch_backend`.

Where samples lack modalities, masks inside the kernels make an anchor's tuples those of its own set. No pass
synchronises.
"""

import torch
import triton
from torch import Tensor

from unihpe_kernels.checks import on_device
from unihpe_kernels.launching import Launch, planned, residues
from unihpe_kernels.sv_contrastive import kernels_rows, triton_all
from unihpe_kernels.sv_contrastive.arguments import Arguments, Outputs, modality_codes
from unihpe_kernels.sv_contrastive.triton_paired import Case, Codes

_BLOCK = 1024  # samples of a program where there is nothing to do but add
_HEADER = 32  # float32 numbers before the tables, which so stay aligned; the first is 1/(total weight)


def forward(given: Arguments, learns_temperature: bool = True) -> Outputs:
    """As `torch_backend.forward`; the backward pass computes the temperature's gradient."""
    first, m = given.embeddings[0], given.num_modalities
    n, new = len(first), first.new_empty
    sizes = _sizes_of(given)
    loss, logsumexp, sample_loss, saved = (
        new(shape, dtype=torch.float32) for shape in ((), (m, n), (n,), (sum(sizes),))
    )
    outputs = Outputs(loss, logsumexp, sample_loss, saved, new(0, dtype=torch.int64))
    if n == 0 or n % 32:
        saved.zero_()  # between the tables, too: an output must be the same every time
    if n == 0:
        loss.zero_()
        return outputs
    with on_device(loss):
        batch = _Batch(given, saved)
        if batch.has_pairs:
            plan, tables = batch.case.plan(), batch.case.view_tables(batch.tables)
            plan.prepare(batch.embeddings, tables, batch.used)
            plan.forward(tables, batch.temperature, batch.codes, logsumexp, sample_loss)
        if given.has_triples:
            triples = triton_all.view_saved(batch.triples, n, first.shape[1])
            triton_all.forward(
                batch.embeddings, batch.temperature, batch.weights, batch.complete, given.normalize, triples, logsumexp,
                sample_loss,
            )  # fmt: skip
        _mean(batch.case)(sample_loss, batch.weights, batch.present, loss, saved, n)
    return outputs


def backward(grad: Tensor, given: Arguments, outputs: Outputs) -> list[Tensor]:
    """As `torch_backend.backward`."""
    embeddings, weights, temperature = given.embeddings, given.weights, given.tau
    loss, logsumexp, sample_loss, saved, _ = outputs
    n, dtype = len(embeddings[0]), embeddings[0].dtype
    # gradients of two parts are added up, in float32
    both = given.present is not None and given.has_triples
    outs = [embedding.new_empty(embedding.shape, dtype=torch.float32 if both else dtype) for embedding in embeddings]
    d_weights, d_temperature = sample_loss.new_empty((n,)), loss.new_empty(())
    if n:
        with on_device(grad):
            grad = grad.float()
            batch = _Batch(given, saved, grad, loss, logsumexp, sample_loss, saved)
            d_scale, num_open = _embedding_gradients(grad, given, batch, saved, logsumexp, outs)
            _last(batch.case, num_open, len(d_scale))(
                grad, loss, saved, sample_loss, batch.present, batch.temperature, d_scale, num_open, d_weights,
                d_temperature, n, len(d_scale),
            )  # fmt: skip
    else:
        d_temperature.zero_()
    d_weights = d_weights if weights is None else d_weights.to(weights.dtype)
    if both:
        outs = [out.to(dtype) for out in outs]
    return [*outs, d_temperature.to(temperature.dtype), d_weights]


def saved_size(given: Arguments) -> int:
    """Elements that `forward` hands to `backward`."""
    return sum(_layout(*_layout_of(given)))


class _Batch:
    """The arguments as the kernels take them, with masks and views of what is saved."""

    def __init__(self, given: Arguments, saved: Tensor, *others: Tensor) -> None:
        """others: what the kernels read beside."""
        self.embeddings = [embedding.contiguous() for embedding in given.embeddings]
        self.weights = None if given.weights is None else given.weights.contiguous()
        self.temperature = given.tau.float()
        self.present = self.complete = self.used = None  # uint8 [M, n], [n] and [M, n]: rows that some anchor needs
        self.codes = Codes()
        # beside triples, those of incomplete samples
        self.has_pairs = given.present is not None or not given.has_triples
        if given.present is not None:
            present = given.present.contiguous()
            complete, anchors = present.all(0), present.sum(0) >= 2
            codes = modality_codes(present, torch.int32)
            self.used = (present & anchors).view(torch.uint8)
            if given.has_triples:
                anchors &= ~complete
            self.codes = Codes(torch.where(anchors, codes, 0), codes)
            self.present, self.complete = present.view(torch.uint8), complete.view(torch.uint8)
        rest, *self.tables = saved.split_with_sizes(_sizes_of(given))
        self.triples = rest[_HEADER:] if given.has_triples else rest
        first = self.embeddings[0]
        n, dim = first.shape
        self.case = Case(
            len(self.embeddings), n, dim, first.dtype, first.device, given.normalize, self.present is not None,
            None if self.weights is None else self.weights.dtype, None,
            residues(*self.embeddings, self.weights, self.present, self.temperature, *others),
        )  # fmt: skip


def _embedding_gradients(
    grad: Tensor, given: Arguments, batch: _Batch, saved: Tensor, logsumexp: Tensor, outs: list[Tensor]
) -> tuple[Tensor, int]:
    """Write the gradients of the embeddings; returns partial sums of scores times their gradient, and how many of
    these, which come first, lack the mean over anchors."""
    of_pairs = None
    if batch.has_pairs:
        of_pairs = batch.case.plan().backward(
            batch.case.view_tables(batch.tables), batch.temperature, batch.codes, logsumexp, grad, batch.weights, saved,
            outs,
        )  # fmt: skip
        if not given.has_triples:
            return of_pairs, 0
    triples = triton_all.view_saved(batch.triples, *batch.embeddings[0].shape)
    into = outs if of_pairs is None else [torch.empty_like(out) for out in outs]
    of_triples = triton_all.backward(grad, batch.temperature, batch.complete, given.normalize, saved, triples, into)
    if of_pairs is None:
        return of_triples, len(of_triples)
    for out, part in zip(outs, into, strict=True):
        out += part
    return torch.cat([of_triples, of_pairs]), len(of_triples)


@planned
def _mean(case: Case) -> Launch:
    return Launch(kernels_rows.mean_over_anchors, (1,), **_of_samples(case), WEIGHTED=case.weights is not None)


@planned
def _last(case: Case, num_open: int, parts: int) -> Launch:
    blocks = triton.cdiv(case.n, _BLOCK)
    return Launch(kernels_rows.weights_and_temperature_gradient, (blocks,), **_of_samples(case))


def _of_samples(case: Case) -> dict[str, int | bool]:
    return {"M": case.num_modalities, "MASKED": case.masked, "BLOCK": _BLOCK}


def _layout_of(given: Arguments) -> tuple[int, int, int, torch.dtype, torch.device, bool, bool]:
    first = given.embeddings[0]
    masked = given.present is not None
    return given.num_modalities, *first.shape, first.dtype, first.device, given.has_triples, masked


def _layout(
    m: int, n: int, dim: int, dtype: torch.dtype, device: torch.device, has_triples: bool, masked: bool
) -> list[int]:
    """Sizes of what is saved: a header, triples' and pairs' tables."""
    pairs = Case(m, n, dim, dtype, device, masked=masked).table_sizes()
    triples = triton_all.saved_size(n, dim) if has_triples else 0
    return [_HEADER + triples, *(pairs if masked or not has_triples else [0] * len(pairs))]


_kept_layout = planned(_layout)


def _sizes_of(given: Arguments) -> list[int]:
    return _kept_layout(*_layout_of(given))
