"""What a run on a GPU asks of the kernels: cases that are checked first, compiled ahead, watched by the sanitizer.

Sizes that 16 divides, as a training run has them, so that what is compiled for a case serves the timings, too.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unihpe_kernels import pa_mpjpe, procrustes, singular_value_contrastive_loss, svd3x3

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# a run is gone through without a GPU, by Triton's interpreter: smaller cases, up to three modalities
REHEARSAL = os.environ.get("UNIHPE_REHEARSAL", "0") == "1"
_BATCH, _WIDTH, _MOST = (32, 16, 3) if REHEARSAL else (256, 64, 8)


@dataclass(frozen=True)
class LossCase:
    """One kind of call of the loss, forward and backward."""

    negatives: str
    count: int  # modalities
    dtype: str
    masked: bool = False
    batch: int = _BATCH
    width: int = _WIDTH

    def __str__(self) -> str:
        return f"{self.negatives}-{self.count}-{self.dtype}-{'masked' if self.masked else 'dense'}-{self.batch}"

    def inputs(self) -> tuple[list[Tensor], Tensor | None]:
        """Embeddings, and which samples have what; on the CPU."""
        generator = torch.Generator().manual_seed(self.count)
        drawn = torch.randn(self.count, self.batch, self.width, generator=generator)
        # they agree in part, as those of a trained model do
        drawn[1:] += drawn[0]
        present = torch.rand(self.count, self.batch, generator=generator) < 0.75 if self.masked else None
        return [rows.to(DTYPES[self.dtype]) for rows in drawn], present

    def results(
        self, embeddings: Sequence[Tensor], present: Tensor | None, backend: str = "auto"
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss and its gradients in the embeddings and in the temperature."""
        leaves = [rows.detach().requires_grad_() for rows in embeddings]
        dtype = torch.promote_types(leaves[0].dtype, torch.float32)
        tau = torch.tensor(0.1, dtype=dtype, device=leaves[0].device, requires_grad=True)
        loss = singular_value_contrastive_loss(
            leaves, temperature=tau, negatives=self.negatives, present=present, backend=backend
        )
        return loss.detach(), list(torch.autograd.grad(loss, [*leaves, tau]))


@dataclass(frozen=True)
class PoseCase:
    """One kind of call of the alignment, forward and backward."""

    operation: str  # "pa_mpjpe", "procrustes" or "svd3x3"
    joints: int = 17
    weighted: bool = False
    samples: int = _BATCH

    def __str__(self) -> str:
        return f"{self.operation}-{self.joints}{'-weighted' * self.weighted}-{self.samples}"

    def inputs(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self.joints)
        if self.operation == "svd3x3":
            return [torch.randn(self.samples, 3, 3, generator=generator)]
        target = torch.randn(self.samples, self.joints, 3, generator=generator)
        noise = torch.randn(target.shape, generator=generator)
        weights = [torch.rand(self.samples, self.joints, generator=generator) + 0.1] if self.weighted else []
        return [target.flip(2) + 0.1 * noise, target, *weights]

    def results(self, inputs: Sequence[Tensor], backend: str = "auto") -> list[Tensor]:
        """What the operation gives, as numbers that a sign does not change, and the gradients of their sum."""
        leaves = [x.detach().requires_grad_() for x in inputs[:2]]
        if self.operation == "svd3x3":
            u, s, vh = svd3x3(leaves[0], backend=backend)
            found = [s, u @ vh]
        else:
            operation = {"pa_mpjpe": pa_mpjpe, "procrustes": procrustes}[self.operation]
            result = operation(*leaves, weights=inputs[2] if self.weighted else None, backend=backend)
            found = [result] if isinstance(result, Tensor) else list(result)
        return [*found, *torch.autograd.grad(sum(part.sum() for part in found), leaves)]


# beside every block's edge, few enough for a tool that watches each access
SANITIZED = [
    LossCase("paired", 4, "float32", batch=35, width=19),
    LossCase("paired", 3, "float32", masked=True, batch=35, width=19),
    LossCase("paired", 3, "bfloat16", batch=35, width=19),
    LossCase("all", 3, "float32", batch=35, width=19),
    PoseCase("pa_mpjpe", samples=131),
    PoseCase("svd3x3", 3, samples=131),
]
# the longest to compile first
LOSSES = [
    *(
        LossCase("paired", count, dtype, masked)
        for masked in (True, False)
        for count in range(_MOST, 1, -1)
        for dtype in DTYPES
    ),
    *(LossCase("all", 3, dtype, masked) for masked in (True, False) for dtype in DTYPES),
    LossCase("all", 2, "float32"),
    *(case for case in SANITIZED if isinstance(case, LossCase)),
]
POSES = [
    *(PoseCase("pa_mpjpe", joints, weighted) for joints in (17, 14, 24) for weighted in (False, True)),
    *(PoseCase("procrustes", joints, weighted) for joints in (17, 24) for weighted in (False, True)),
    PoseCase("svd3x3", 3),
    *(case for case in SANITIZED if isinstance(case, PoseCase)),
]
# what is timed beside: sizes beyond the settings of small batches, and in panels
LARGE = [
    LossCase(negatives, count, dtype, batch=2048, width=512)
    for negatives, count in (("paired", 8), ("paired", 4), ("paired", 3), ("paired", 2), ("all", 3))
    for dtype in ("float32", "bfloat16")
]
