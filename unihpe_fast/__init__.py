"""Unified 2D and 3D human pose from image, 2D keypoints and 3D joints, aligned by a singular-value contrastive loss."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unihpe_fast.losses import PairwiseInfoNCE, SingularValueContrastiveLoss
    from unihpe_fast.models.unihpe import UniHPE
    from unihpe_kernels.modules import GRAMLoss, OpenClipLoss, SigLIPLoss, SymileLoss, TriangleLoss
    from unihpe_kernels.version import __version__

__all__ = [
    "GRAMLoss",
    "OpenClipLoss",
    "PairwiseInfoNCE",
    "SigLIPLoss",
    "SingularValueContrastiveLoss",
    "SymileLoss",
    "TriangleLoss",
    "UniHPE",
    "__version__",
]

_HOMES = {
    **dict.fromkeys(("GRAMLoss", "OpenClipLoss", "SigLIPLoss", "SymileLoss", "TriangleLoss"), "unihpe_kernels.modules"),
    **dict.fromkeys(("PairwiseInfoNCE", "SingularValueContrastiveLoss"), "unihpe_fast.losses"),
    "UniHPE": "unihpe_fast.models.unihpe",
    "__version__": "unihpe_kernels.version",
}


def __getattr__(name: str) -> Any:
    # on first use: the losses need torch alone, the model also what the extra `train` installs
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
