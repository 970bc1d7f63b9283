"""The full training step in the forms that are compared, and profiled: synthetic people, real backbones."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.peers.sv_loss import paired_svdvals_of_stacks
from unihpe_fast.config import Config, ImageEncoderConfig, RunConfig
from unihpe_fast.data.loader import train_batches
from unihpe_fast.data.records import Batch
from unihpe_fast.engine.runtime import choose_runtime
from unihpe_fast.engine.trainer import Trainer
from unihpe_fast.presets import PRESETS

# name -> torch.compile's mode ("off": eager), and whether the contrastive term is the naive one
VARIANTS: dict[str, tuple[str, bool]] = {
    "ours, compiled": ("default", False),
    "ours, compiled with CUDA graphs": ("reduce-overhead", False),
    "ours, eager": ("off", False),
    "ours, eager, masks and weights of ones": ("off", False),
    "naive SVD loss, eager": ("off", True),
}
BACKBONES = {
    "resnet50": ImageEncoderConfig("resnet50", fuse_width=256),
    "hrnet_w48": PRESETS["hrnet-w48"].model.image,
}


class NaiveLoss(nn.Module):
    """The contrastive term by `torch.linalg.svdvals` of every stack, with the temperature of the one it replaces."""

    def __init__(self, temperature: nn.Module) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, *embeddings: Tensor, weights: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """weights and present are those of whole, equal samples here."""
        return paired_svdvals_of_stacks(embeddings, self.temperature())


def config(backbone: str, image_size: int, batch: int) -> Config:
    preset = PRESETS["hrnet-w48"]
    return replace(
        preset,
        data=replace(preset.data, image_size=image_size, batch_size=batch, workers=0),
        model=replace(preset.model, image=BACKBONES[backbone]),
    )


def batches(config: Config, count: int) -> list[Batch]:
    return list(train_batches(config.data, seed=0, start_step=0, steps=count))


def trainer(config: Config, variant: str, device: str, dtype: str = "auto") -> Trainer:
    mode, naive = VARIANTS[variant]
    run = replace(RunConfig(), device=device, dtype=dtype, compile=mode)
    made = Trainer(replace(config, run=run), choose_runtime(run))
    made.model.train()
    if "masks" in variant:
        # as if no batch were known to be complete
        made.criterion.is_dense = lambda present, weights: False
    if naive:
        made.criterion.singular_value = NaiveLoss(made.criterion.singular_value.temperature)
    return made


def first_loss(made: Trainer, batch: Batch) -> float:
    """The total loss before any step. With its backward pass: CUDA graphs wait for that of every forward pass."""
    dense = made.criterion.is_dense(batch.present, batch.weights)
    total, _ = made._loss_step(batch.to(made.runtime.device).tensors(), dense)
    value = total.item()
    total.backward()
    made.optimizer.zero_grad(set_to_none=True)
    return value


def exact_loss(config: Config, batch: Batch, device: str) -> float:
    """The same with the model in float64 (the losses compute in float32)."""
    made = trainer(config, "ours, eager", device, dtype="float32")
    made.model.double()
    doubled = {k: v.double() if v.is_floating_point() else v for k, v in batch.to(device).tensors().items()}
    with torch.no_grad():
        total, _ = made._loss_step(doubled)
    return total.item()
