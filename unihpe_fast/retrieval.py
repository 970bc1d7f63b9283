"""How well one modality's embedding finds the same person and frame among another modality's embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor

from unihpe_kernels import mpjpe
from unihpe_kernels.autocast import without_autocast

GALLERY_SIZE = 512
# cosines of float32 vectors differ by this much from rounding alone; closer ones are ties
TIE = 1e-6


def _check(query: Tensor, gallery: Tensor, poses: Tensor, valid: Tensor | None, gallery_size: int) -> None:
    if query.ndim != 2 or query.shape != gallery.shape or len(query) == 0:
        raise ValueError(
            f"query and gallery: wanted the same shape [N > 0, D], "
            f"found {tuple(query.shape)} and {tuple(gallery.shape)}"
        )
    if poses.ndim != 3 or len(poses) != len(query) or poses.shape[-1] != 3:
        raise ValueError(f"poses: wanted [{len(query)}, J, 3], found {tuple(poses.shape)}")
    if valid is not None and (valid.shape != poses.shape[:-1] or valid.dtype != torch.bool):
        raise ValueError(
            f"valid: wanted bool of shape {tuple(poses.shape[:-1])}, found {valid.dtype} of {tuple(valid.shape)}"
        )
    if gallery_size < 1:
        raise ValueError(f"gallery_size: wanted at least 1, found {gallery_size}")
    for name, x in (("query", query), ("gallery", gallery)):
        if not x.isfinite().all():
            raise ValueError(f"{name}: found NaN or infinity")


def _recall(above: Tensor, ties: Tensor, k: int) -> Tensor:
    """Chance that the own sample is among the first k when ties are ordered at random; `ties` counts itself."""
    return ((k - above) / ties).clamp(0, 1)


@without_autocast
def retrieve(
    query: Tensor,
    gallery: Tensor,
    poses: Tensor,
    valid: Tensor | None = None,
    *,
    gallery_size: int = GALLERY_SIZE,
    seed: int = 0,
) -> dict[str, float | None]:
    """Cosine retrieval between two modalities whose row i shows the same person and frame.

    query, gallery: [N, D], any length. poses: [N, J, 3] mm, the true pose of each row, any origin; valid: [N, J] bool,
    None: all. The samples are shuffled by `seed` into disjoint galleries of `gallery_size` (what is left over is
    dropped, unless it is all there is), and each query looks in its own gallery only: recall depends on the gallery's
    size, so state it with the number.

    Returns "r1" and "r5", the share (0 to 1) of queries whose own sample is among the first 1 or 5, and "mpjpe", the
    mean root-centred distance in mm between the query's pose and the pose ranked first, over joints valid in both
    (None where no pair has one). Equally similar samples are ranked at random: r1 and r5 are the expected values, so
    that constant embeddings score 1 / `gallery_size` and five times that. Takes N * gallery_size time and
    gallery_size^2 memory.

    Raises ValueError for wrong shapes, no rows, and values that are not finite.
    """
    _check(query, gallery, poses, valid, gallery_size)
    if valid is None:
        valid = torch.ones(poses.shape[:-1], dtype=torch.bool, device=poses.device)
    size = min(gallery_size, len(query))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(query), generator=generator)[: len(query) // size * size]

    above, ties, best = [], [], []
    for rows in order.to(query.device).split(size):
        # [size, size]; row i's own sample is column i
        # float64, which no setting rounds to TF32, and whose squares do not overflow
        similarity = F.normalize(query[rows].double(), dim=-1) @ F.normalize(gallery[rows].double(), dim=-1).T
        lead = similarity - similarity.diagonal()[:, None]
        above.append((lead > TIE).sum(-1))
        # a rounded diagonal ties with itself by definition
        ties.append((lead.abs() <= TIE).sum(-1))
        first = similarity >= similarity.amax(-1, keepdim=True) - TIE
        draw = torch.rand(first.shape, generator=generator).to(first.device)
        best.append(rows[torch.where(first, draw, -1).argmax(-1)])
    rank, tied, found = torch.cat(above), torch.cat(ties), torch.cat(best).to(poses.device)

    own = order.to(poses.device)
    both = valid[own] & valid[found]
    scored = both.any(-1)
    error = mpjpe(poses[own], poses[found], weights=both)[scored]
    return {
        "r1": _recall(rank, tied, 1).double().mean().item(),
        "r5": _recall(rank, tied, 5).double().mean().item(),
        "mpjpe": error.double().mean().item() if len(error) else None,
    }
