"""The cosine of the anchor and one member."""

from collections.abc import Sequence

from torch import Tensor

from unihpe_kernels.contrastive.contract import Pullback


def members(gram: Sequence[Tensor], num_members: int) -> list[Tensor]:
    return []


def score(products: Sequence[Tensor], members: Sequence[Tensor]) -> tuple[Tensor, Pullback]:
    return products[0], lambda weight: ([weight], [])


def own(sums: Sequence[Tensor], members: Sequence[Tensor], num_members: int) -> list[Tensor]:
    return []
