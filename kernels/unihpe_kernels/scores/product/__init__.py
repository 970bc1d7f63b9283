"""The multilinear inner product of M rows, Symile's score: the sum over d of the product of all z_m[d].

It is no function of the tuple's Gram matrix, so it is no score of the block engine. With the keys w_j = the product of
the members of sample j it is a problem of two modalities an anchor, s_ij = x_i . w_j.
"""

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unihpe_kernels.checks import Backend, check_tensor
from unihpe_kernels.contrastive.options import check_arguments
from unihpe_kernels.scores.product.pairs import other_logsumexps
from unihpe_kernels.scores.product.ranks import Alone, Ranks
from unihpe_kernels.scores.product.triples import triple_logsumexps

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# Of every anchor modality, a permutation of the samples for each other one.
Orders = Sequence[Sequence[Tensor]]
MODALITIES = range(3, 9)


def tuple_loss(
    embeddings: Sequence[Tensor],
    *,
    temperature: float | Tensor,
    negatives: str,
    anchors: int | Sequence[int] | None,
    direction: str,
    label_smoothing: float,
    form: str,
    bias: float | Tensor | None,
    weights: Tensor | None,
    present: Tensor | None,
    normalize: bool,
    group: "ProcessGroup | None",
    backend: Backend,
) -> Tensor:
    """`tuple_contrastive_loss` with score="product"."""
    case = f'score="product" and negatives="{negatives}"'
    if isinstance(embeddings, Sequence):
        check_embeddings(embeddings, range(3, 4) if negatives == "all" else MODALITIES, case)
    if present is not None:
        raise ValueError(f'present must be None for score="product", which takes all {len(embeddings)} modalities')
    if form == "sigmoid":
        raise ValueError('form must be "softmax" for score="product", got "sigmoid"')
    if backend not in ("auto", "torch"):
        raise ValueError(f'backend must be "auto" or "torch" for score="product", got {backend!r}')
    # the rest is as for any score
    given = check_arguments(
        embeddings, temperature=temperature, negatives=negatives, anchors=anchors, direction=direction,
        label_smoothing=label_smoothing, form=form, bias=bias, weights=weights, normalize=normalize, backend="torch",
    )  # fmt: skip
    spec = given.spec
    return product_contrastive_loss(
        given.embeddings,
        temperature,
        negatives=negatives,
        anchors=spec.anchors or None,
        both=spec.both,
        label_smoothing=spec.smoothing,
        weights=weights,
        normalize=normalize,
        group=group,
    )


def symile_loss(
    embeddings: Sequence[Tensor],
    *,
    temperature: float | Tensor,
    negative_sampling: str,
    weights: Tensor | None = None,
    normalize: bool = True,
    group: "ProcessGroup | None" = None,
) -> Tensor:
    """Symile's loss. negative_sampling: "n", whose negatives are drawn here, or "n_squared", of three modalities.

    With `group`, candidates are those of all ranks; each draws the negatives of "n" from its own samples.
    """
    all_tuples = negative_sampling == "n_squared"
    check_embeddings(embeddings, range(3, 4) if all_tuples else MODALITIES, f'negative_sampling="{negative_sampling}"')
    first = embeddings[0]
    if weights is not None:
        check_tensor("weights", weights, (len(first),), like=first)
    orders = None if all_tuples else draw_orders(len(embeddings), len(first), first.device)
    return product_contrastive_loss(
        embeddings,
        temperature,
        negatives="all" if all_tuples else "paired",
        weights=weights,
        normalize=normalize,
        orders=orders,
        group=group,
    )


def draw_orders(num_modalities: int, batch: int, device: torch.device) -> Orders:
    """In the order in which Symile's package draws them, and from torch's generator of the CPU as that does, so that
    the same seed gives the same negatives."""
    return [
        [torch.randperm(batch).to(device, non_blocking=True) for _ in range(num_modalities - 1)]
        for _ in range(num_modalities)
    ]


def check_embeddings(embeddings: Sequence[Tensor], modalities: range, case: str) -> None:
    if len(embeddings) not in modalities:
        wanted = str(modalities[0]) if len(modalities) == 1 else f"{modalities[0]} to {modalities[-1]}"
        raise ValueError(f"embeddings must hold {wanted} tensors for {case}, got {len(embeddings)}")
    check_tensor("embeddings[0]", embeddings[0], ("B", "D"))
    for m, z in enumerate(embeddings[1:], start=1):
        check_tensor(f"embeddings[{m}]", z, tuple(embeddings[0].shape), like=embeddings[0])


def product_contrastive_loss(
    embeddings: Sequence[Tensor],
    temperature: float | Tensor,
    *,
    negatives: str = "paired",
    anchors: Sequence[int] | None = None,
    both: bool = False,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
    normalize: bool = True,
    orders: Orders | None = None,
    group: "ProcessGroup | None" = None,
) -> Tensor:
    """The loss of `tuple_contrastive_loss(score="product")`, of arguments that are checked.

    orders: for "paired", the negatives of anchors of modality m are products of rows permuted by orders[m], one
    permutation for each modality but m, and only positives are tuples of one sample (Symile's "n").
    """
    dtype = torch.promote_types(reduce(torch.promote_types, (z.dtype for z in embeddings)), torch.float32)
    rows = [_unit(z.to(dtype)) if normalize else z.to(dtype) for z in embeddings]
    several = group is not None and torch.distributed.get_world_size(group) > 1
    ranks = Ranks(len(rows[0]), group) if several else Alone()  # type: ignore[arg-type]
    scale = ranks.shared(1 / torch.as_tensor(temperature, dtype=dtype, device=rows[0].device))
    weights = rows[0].new_ones(len(rows[0])) if weights is None else weights.to(dtype)
    chosen = range(len(rows)) if anchors is None else anchors
    if negatives == "all":
        return _all_tuples(rows, scale, weights, ranks)
    losses = [_paired(rows, m, scale, both, label_smoothing, orders[m] if orders else None, ranks) for m in chosen]
    return ranks.mean((torch.stack(losses) * weights).sum(), weights.sum() * len(losses))


def _unit(rows: Tensor) -> Tensor:
    """As the block engine's: a row shorter than 1e-12 counts as zero and gets no gradient."""
    largest = rows.detach().abs().amax(1, keepdim=True) if rows.numel() else rows.new_ones(len(rows), 1)
    short = largest * rows.shape[1] ** 0.5 < 1e-12
    # squares of rows as they are could overflow
    scaled = torch.where(short, 0, rows / torch.where(short, 1, largest))
    return scaled / torch.where(short, 1, torch.linalg.vector_norm(torch.where(short, 1, scaled), dim=1, keepdim=True))


def _paired(
    rows: list[Tensor],
    m: int,
    scale: Tensor,
    both: bool,
    smoothing: float,
    orders: Sequence[Tensor] | None,
    ranks: Alone | Ranks,
) -> Tensor:
    """Of every anchor of modality m [B]."""
    x, members = rows[m], [z for n, z in enumerate(rows) if n != m]
    own = reduce(torch.mul, members)
    keys = reduce(torch.mul, [z[order] for z, order in zip(members, orders, strict=True)]) if orders else own
    positives = scale * (x * own).sum(1)
    losses = _cross_entropy(x, keys, positives, scale, smoothing, ranks)
    return (losses + _cross_entropy(keys, x, positives, scale, smoothing, ranks)) / 2 if both else losses


def _cross_entropy(
    x: Tensor, keys: Tensor, positives: Tensor, scale: Tensor, smoothing: float, ranks: Alone | Ranks
) -> Tensor:
    """[B]: of x_i against its positive and everybody's other keys."""
    every = ranks.gather(keys)
    losses = torch.logaddexp(other_logsumexps(x, every, scale, ranks.begin), positives) - positives
    if smoothing:
        others = scale * (x * (every.sum(0) - keys)).sum(1)
        losses = losses + smoothing * (positives - (others + positives) / len(every))
    return losses


def _all_tuples(rows: list[Tensor], scale: Tensor, weights: Tensor, ranks: Alone | Ranks) -> Tensor:
    """Symile's "n_squared". A rank visits the triples of its own rows of modality 0 with all rows of the others, whose
    sums over i are added up over ranks."""
    x, y, z = rows
    of_x, *partial = triple_logsumexps(x, ranks.gather(y), ranks.gather(z), scale)
    of_others = sum(ranks.logsumexp(sums) for sums in partial)  # [all B]
    positives = scale * (x * y * z).sum(1)
    own = slice(ranks.begin, ranks.begin + len(x))
    # the sums of another rank's samples are a part of its loss, of which this rank has the gradient
    elsewhere = ranks.gather(weights).detach() * (of_others - of_others.detach())
    total = (weights * (of_x + of_others[own].detach() - 3 * positives)).sum() + elsewhere.sum()
    return ranks.mean(total, 3 * weights.sum())
