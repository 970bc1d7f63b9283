"""The multilinear inner product of M rows, Symile's score: the sum over d of the product of all z_m[d].

It is no function of the tuple's Gram matrix, so it is no score of the block engine. With the keys w_j = the product of
the members of sample j it is a problem of two modalities an anchor, s_ij = x_i . w_j.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unihpe_kernels.autocast import without_autocast
from unihpe_kernels.checks import Backend
from unihpe_kernels.contrastive.options import Arguments, check_arguments
from unihpe_kernels.scaling import inverse_power
from unihpe_kernels.scores.product.pairs import other_logsumexps
from unihpe_kernels.scores.product.ranks import Alone, Ranks
from unihpe_kernels.scores.product.triples import triple_logsumexps
from unihpe_kernels.sv_contrastive.arguments import MIN_NORM

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# Of every anchor modality, a permutation of the samples for each other one.
Orders = Sequence[Sequence[Tensor]]
MODALITIES = range(3, 9)
# of negatives="all", which knows no others
_OF_ALL: dict[str, Any] = {"anchors": None, "direction": "anchor", "label_smoothing": 0.0}


def product_contrastive_loss(
    embeddings: Sequence[Tensor], *, negatives: str, group: "ProcessGroup | None", **arguments: Any
) -> Tensor:
    """`tuple_contrastive_loss` with score="product": its other arguments, all of them."""
    case = f'score="product" and negatives="{negatives}"'
    check = partial(_check, embeddings, negatives=negatives, case=case, **arguments)
    return _loss(check, negatives, group, draws=False)


@without_autocast
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
    negatives = "all" if all_tuples else "paired"
    case = f'negative_sampling="{negative_sampling}"'
    check = partial(_check, embeddings, temperature, negatives, weights, normalize, case)
    return _loss(check, negatives, group, draws=not all_tuples)


def draw_orders(num_modalities: int, batch: int, device: torch.device) -> Orders:
    """In the order in which Symile's package draws them, and from torch's generator of the CPU as that does, so that
    the same seed gives the same negatives."""
    return [
        [torch.randperm(batch).to(device, non_blocking=True) for _ in range(num_modalities - 1)]
        for _ in range(num_modalities)
    ]


def _check(
    embeddings: Sequence[Tensor],
    temperature: float | Tensor,
    negatives: str,
    weights: Tensor | None,
    normalize: bool,
    case: str,
    present: Tensor | None = None,
    form: str = "softmax",
    bias: float | Tensor | None = None,
    backend: Backend = "auto",
    **options: Any,
) -> Arguments:
    if present is not None:
        raise ValueError(f'present must be None for score="product", which takes all {len(embeddings)} modalities')
    if form == "sigmoid":
        raise ValueError('form must be "softmax" for score="product", got "sigmoid"')
    if backend not in ("auto", "torch"):
        raise ValueError(f'backend must be "auto" or "torch" for score="product", got {backend!r}')
    every = negatives == "all"
    if every and any(options.get(name, value) != value for name, value in _OF_ALL.items()):
        raise ValueError(
            'negatives must be "paired" for score="product" with anchors, direction or label_smoothing, got "all"'
        )
    # the rest is as for any score
    given = check_arguments(
        embeddings, temperature=temperature, form=form, bias=bias, weights=weights, normalize=normalize,
        backend="torch", negatives="paired" if every else negatives, modalities=range(3, 4) if every else MODALITIES,
        case=case, any_length=True, **options,
    )  # fmt: skip
    return given._replace(spec=given.spec._replace(score="product"))


def _loss(check: Callable[[], Arguments], negatives: str, group: "ProcessGroup | None", draws: bool) -> Tensor:
    """draws: the negatives of anchors of modality m are products of rows permuted by permutations that are drawn, one
    for each modality but m, and only positives are tuples of one sample (Symile's "n")."""
    if group is not None and torch.distributed.get_world_size(group) != 1:
        from unihpe_kernels.contrastive.group.headers import checked  # it brings torch.distributed

        given = checked(group, check)
        ranks: Alone | Ranks = Ranks(group, given, negatives)
    else:
        given, ranks = check(), Alone()
    first, spec, tau = given.embeddings[0], given.spec, given.tau
    dtype = torch.promote_types(first.dtype, torch.float32)
    rows = [_unit(z.to(dtype)) if spec.normalize else z.to(dtype) for z in given.embeddings]
    scale = ranks.shared(1 / tau.to(dtype))
    weights = rows[0].new_ones(len(first)) if given.weights is None else given.weights.to(dtype)
    if negatives == "all":
        return _all_tuples(rows, scale, weights, ranks)
    orders = draw_orders(len(rows), len(first), first.device) if draws else None
    losses = [
        _paired(rows, m, scale, spec.both, spec.smoothing, orders[m] if orders else None, ranks)
        for m in spec.anchors_of(len(rows))
    ]
    return ranks.mean((torch.stack(losses) * weights).sum(), weights.sum() * len(losses))


def _unit(rows: Tensor) -> Tensor:
    """As the block engine's: a row shorter than 1e-12 counts as zero and gets no gradient."""
    power = inverse_power(rows, 1)
    scaled = rows * power  # squares of rows as they are could overflow or vanish
    short = torch.linalg.vector_norm(scaled.detach(), dim=1, keepdim=True) < MIN_NORM * power
    scaled = torch.where(short, 0, scaled)
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
    of_others = reduce(torch.add, (ranks.logsumexp(sums) for sums in partial))  # [all B]
    positives = scale * (x * y * z).sum(1)
    own = slice(ranks.begin, ranks.begin + len(x))
    # the sums of another rank's samples are a part of its loss, of which this rank has the gradient
    elsewhere = ranks.gather(weights).detach() * (of_others - of_others.detach())
    total = (weights * (of_x + of_others[own].detach() - 3 * positives)).sum() + elsewhere.sum()
    return ranks.mean(total, 3 * weights.sum())
