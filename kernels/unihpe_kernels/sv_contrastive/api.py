"""The public loss: arguments checked, then one operator call, of its own kernels or of the engine of all scores."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unihpe_kernels.autocast import without_autocast
from unihpe_kernels.checks import Backend
from unihpe_kernels.contrastive.op import call_contrastive
from unihpe_kernels.sv_contrastive.arguments import check_arguments, warn_of_many_triples
from unihpe_kernels.sv_contrastive.op import call_sv_contrastive

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@without_autocast
def singular_value_contrastive_loss(
    embeddings: Sequence[Tensor],
    *,
    temperature: float | Tensor = 0.07,
    negatives: str = "paired",
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = True,
    group: "ProcessGroup | None" = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Contrast tuples of M embeddings by the largest singular value of their stack.

    With z_m[i] the L2-normalised embedding of sample i in modality m, the score of a tuple (i_1 .. i_M) is sigma_1 of
    the M x D matrix of its rows: sqrt(M) when all are parallel, 1 when all are orthogonal. Anchor (m, i) is to score
    its positive (i, .., i) above the tuples N(m, i) that it is set against:

        L[m, i] = -log( exp(score(i, .., i)/tau) / sum over t in N(m, i) of exp(score(t)/tau) )

    and the loss is the mean of L over all anchors, sample i weighted with weights[i]. The idea is that of UniHPE (Jiang
    et al., arXiv 2311.16477).

    sigma_1 is blind to the sign of a whole modality: x and -x score the same. Train a cosine term beside it where the
    sign matters.

    Missing modalities: S_i, the modalities present in sample i, decides its loss. Sample i has an anchor for each m in
    S_i if |S_i| >= 2, and none otherwise. Its tuples run over the modalities S_i alone, and are formed from the samples
    that have all of them, {j: S_i is a subset of S_j}. So the loss is that of dense batches: for each set S that
    occurs, the samples with at least S, of which those with exactly S are counted. The mean is over all anchors
    together. What stands in an absent embedding is of no effect. With no anchor at all, or no weight, the loss and its
    gradient are 0.

    With `group`, anchors are the samples of this process and tuples are formed from those of all its ranks, which may
    hold different numbers of samples, or none. Every rank gets the loss of the concatenated batch. The rule of its
    gradients: what is differentiated is the sum of all ranks' results. So the embeddings and weights of a rank, which
    are its own, get N times the gradient of the loss (N ranks), and the temperature, which all share, gets that of the
    loss, the same on every rank. Averaged over ranks, as DDP and FSDP do, parameters' gradients are exactly those of
    one process with the whole batch. Without either, average them all the same, or divide those of the embeddings by N.
    Every rank must call forward and backward. docs/scaling.md says what is sent and computed.

    Args:
        embeddings: M tensors [B, D], any strides; float32, float64, bfloat16 or float16, unlike ones are promoted.
        temperature: tau, a float of at least 0.001 (0.0014 for eight modalities), or a tensor [] that receives a
            gradient and whose range is not checked. "all" of three modalities sums in float32 where that cannot
            underflow (tau >= 0.0062 at B = 4096). Below, the torch backend sums in float64, and does so for the native
            one, too. The Triton backend cannot: "auto" leaves a float that small to torch, and a tensor that small
            gives NaN, not a wrong number. So it is with "paired" over a group (from 0.0055 up, M = 3).
        negatives: "paired": i_m = i and the other M - 1 members all from one sample j; B tuples, 2 <= M <= 8, O(B D)
            memory. "all": every tuple with i_m = i; B^(M-1) tuples, M = 2 or 3, O(B^2) memory; warns where one process
            visits more than 2^35 of them in a step.
        weights: [B], floating point; receives a gradient. A sample of weight 0 is still a negative. Negative and NaN
            weights raise on a CPU; a GPU is not waited for, and the loss is NaN there, as under torch.compile and vmap.
        present: bool [M, B], which modality each sample has; None: all.
        normalize: a row shorter than 1e-12 counts as orthogonal to everything and gets no gradient; longer ones may be
            of any size that their dtype holds. False takes the rows to be unit vectors already, or zero: other lengths
            (beyond 1e-3, in half types rounding, from 1) raise on a CPU and give NaN where weights do.
        group: a torch.distributed process group; None or of one rank: this process alone. M, D, dtype, negatives,
            normalize, temperature and backend must be the same on every rank, else each raises. The graph of
            torch.compile breaks at the loss. A GPU is synchronised with present= and by a group that has no CPU
            backend (make it with "cpu:gloo,cuda:nccl"). float16 and bfloat16 embeddings are sent as they are.
        backend: "auto", "triton", "native" or "torch". "native" has plain torch do what has no C++, "all" with
            `present`; "all" over a group has none: "auto" takes torch on a CPU. On a GPU "torch" sums in float64.
            A graph that torch.export is to make for any batch size takes "torch" and "paired".

    Returns:
        The loss, a tensor []: float64 for float64 embeddings, else float32; also under autocast. Inner products follow
        torch.set_float32_matmul_precision. It has no second derivative.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.
    """
    check = functools.partial(check_arguments, embeddings, temperature, negatives, weights, present, normalize, backend)
    if group is not None and torch.distributed.get_world_size(group) != 1:
        from unihpe_kernels.sv_contrastive.group.loss import loss_over_group  # it brings torch's compiler: a second

        return loss_over_group(group, check)
    given = check()
    batch = given.embeddings[0].shape[0]
    if given.has_triples:
        warn_of_many_triples(batch, batch)
    given = given._replace(backend=given.resolve_backend(batch))
    if given.is_fused:
        return call_sv_contrastive(given.embeddings, given.tau, *given[2:])
    return call_contrastive(given.embeddings, given.tau, None, given.weights, given.present, given.spec.text)
