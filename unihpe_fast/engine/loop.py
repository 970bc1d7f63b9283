"""The training loop: one compiled model-plus-loss step, stepped, logged, checkpointed and scored."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from unihpe_fast.config import Config, ConfigError, OptimConfig, to_yaml
from unihpe_fast.data.describe import caveat_section, data_lines
from unihpe_fast.data.loader import available_modalities, mean_pose, train_batches, val_batches
from unihpe_fast.data.types import Batch
from unihpe_fast.engine.checkpoint import CONFIG, SUMMARY, load_latest, save_checkpoint, save_weights
from unihpe_fast.engine.evaluation import predict, score
from unihpe_fast.engine.log import RunLog
from unihpe_fast.engine.report import draw_plots, write_summary
from unihpe_fast.engine.runtime import Runtime, choose_runtime
from unihpe_fast.fileio import write_text
from unihpe_fast.losses import Criterion, parameter_groups
from unihpe_fast.models.unihpe import UniHPE

LossStep = Callable[[dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]


def learning_rate(config: OptimConfig, step: int) -> float:
    """Of the step with this 0-based number: linear warm-up, then half a cosine down to final_lr * lr."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return config.lr * (config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * min(done, 1))) / 2)


def loss_step(model: UniHPE, criterion: Criterion, runtime: Runtime) -> LossStep:
    """A function from a batch's tensors to the total loss and its terms: forward and losses as one graph."""
    autocast = runtime.dtype != torch.float32

    def step(tensors: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(runtime.device.type, dtype=runtime.dtype, enabled=autocast):
            outputs = model(
                tensors["image"], tensors["keypoints_2d"], tensors["joints_3d"], tensors["box"], tensors["present"]
            )
        return criterion(outputs, tensors)

    if runtime.compile_mode is None:
        return step
    return torch.compile(step, fullgraph=True, dynamic=False, mode=runtime.compile_mode)


class Trainer:
    """Everything a run carries from step to step, and nothing that can be recomputed from the options."""

    def __init__(self, config: Config, runtime: Runtime) -> None:
        torch.manual_seed(config.run.seed)
        self.config, self.runtime = config, runtime
        self.model = UniHPE(config.model, image_size=config.data.image_size).to(runtime.device)
        if runtime.device.type == "cpu" or runtime.dtype == torch.bfloat16:
            # convolutions read channels_last faster on both
            self.model.to(memory_format=torch.channels_last)
        self.criterion = Criterion(config.loss, config.model.modalities, backend=runtime.backend).to(runtime.device)
        groups = parameter_groups(self.model, self.criterion, config.optim.weight_decay)
        self.parameters = [p for group in groups for p in group["params"]]
        self.optimizer = torch.optim.AdamW(groups, lr=config.optim.lr, fused=True)
        self.ema: AveragedModel | None = None
        if config.optim.ema:
            average = get_ema_multi_avg_fn(config.optim.ema)
            self.ema = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.step = 0
        self._loss_step = loss_step(self.model, self.criterion, runtime)

    @property
    def best_model(self) -> UniHPE:
        """The one to score and save: averaged where averaging is on."""
        return self.model if self.ema is None else cast(UniHPE, self.ema.module)

    def advance(self, batches: Iterator[Batch]) -> tuple[dict[str, Tensor], float]:
        """One optimiser step over `accumulate` batches; returns its loss terms (on the device) and seconds waited."""
        config = self.config.optim
        waited = 0.0
        sums: dict[str, Tensor] = {}
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step)
        for _ in range(config.accumulate):
            start = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - start
            total, terms = self._loss_step(batch.to(self.runtime.device).tensors())
            (total / config.accumulate).backward()
            for name, value in {"loss": total.detach(), **{f"loss/{k}": v for k, v in terms.items()}}.items():
                # cloned: with CUDA graphs the next replay overwrites the graph's own outputs
                sums[name] = sums[name] + value if name in sums else value.clone()
        norm = nn.utils.clip_grad_norm_(self.parameters, config.clip or math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        self.step += 1
        return {**{k: v / config.accumulate for k, v in sums.items()}, "grad_norm": norm}, waited

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "criterion": self.criterion.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self.runtime.device.type == "cuda" else [],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.criterion.load_state_dict(state["criterion"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        torch.set_rng_state(state["rng"])
        # on another kind or number of devices the run goes on, though not bit for bit
        if self.runtime.device.type == "cuda" and len(state["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.step = state["step"]


def validate(trainer: Trainer) -> dict[str, Any]:
    """Scores of the model over the validation samples that config.data.val_samples asks for."""
    runtime = trainer.runtime
    batches = val_batches(trainer.config.data, limit=trainer.config.data.val_samples)
    predictions = predict(trainer.best_model, batches, device=runtime.device, dtype=runtime.dtype)
    return score(predictions, trainer.model.mean_pose)


def train(config: Config, run_dir: Path, *, resume: bool = False, console: Console | None = None) -> dict[str, Any]:
    """Run the training of `config` in `run_dir` (laid out as the README says); returns the final scores.

    resume: go on from the folder's newest readable checkpoint, bit for bit on a CPU; from step 0 when it has none yet.
    Raises ConfigError, StoreError or FileNotFoundError before anything is written where options or data cannot be used,
    and FloatingPointError when the loss stops being finite.
    """
    console = console or Console()

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    runtime = choose_runtime(config.run)
    for line in runtime.lines():
        say(line)
    # all that can be refused is refused before the folder is touched
    _check_data(config)
    for line in data_lines(config.data):
        say(line)
    try:
        trainer = Trainer(config, runtime)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    saved = load_latest(run_dir, lambda text: say(text, "bold red")) if resume else None
    if saved is None:
        trainer.model.set_mean_pose(mean_pose(config.data, seed=config.run.seed))
    else:
        trainer.load_state(saved)
        say(f"resumed at step {trainer.step}")
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(run_dir / CONFIG, to_yaml(config))
    parameters = sum(p.numel() for p in trainer.model.parameters())
    say(f"run folder: {run_dir}; {parameters / 1e6:.2f} M parameters")

    log = RunLog(
        run_dir,
        config.optim.steps,
        trainer.step,
        offset=0 if saved is None else saved["metrics_offset"],
        tensorboard=config.run.tensorboard,
        console=console,
    )
    try:
        _fit(trainer, run_dir, log)
        save_weights(run_dir, trainer.best_model.state_dict())
        scores = validate(trainer) | caveat_section(config.data.val)
        log.validation(trainer.step, scores)
    finally:
        log.close()
    write_summary(run_dir / SUMMARY, scores)
    if config.run.plots:
        draw_plots(run_dir, config, trainer.best_model, runtime)
    return scores


def _check_data(config: Config) -> None:
    """Open every file of the run once; ConfigError when no training sample has a modality that the model wants."""
    lacking = set(config.model.modalities) - available_modalities(config.data)
    if lacking:
        raise ConfigError(f"--data.train {', '.join(config.data.train)}: no sample has {', '.join(sorted(lacking))}")
    val_batches(config.data, limit=config.data.val_samples)


def _fit(trainer: Trainer, run_dir: Path, log: RunLog) -> None:
    config, run = trainer.config, trainer.config.run
    batches = iter(
        train_batches(
            config.data,
            seed=run.seed,
            start_step=trainer.step * config.optim.accumulate,
            steps=config.optim.steps * config.optim.accumulate,
        )
    )
    trainer.model.train()
    waited, last_step, last_time = 0.0, trainer.step, time.perf_counter()
    while trainer.step < config.optim.steps:
        rate = learning_rate(config.optim, trainer.step)
        terms, wait = trainer.advance(batches)
        waited += wait
        final = trainer.step == config.optim.steps
        if trainer.step % run.log_every == 0 or final:
            values = {name: value.item() for name, value in terms.items()}
            if not math.isfinite(values["loss"]):
                raise FloatingPointError(f"step {trainer.step}: the loss is {values['loss']}; its terms: {values}")
            seconds = time.perf_counter() - last_time
            samples = (trainer.step - last_step) * config.data.batch_size * config.optim.accumulate
            speed = {"images_per_s": samples / seconds, "data_wait": waited / seconds}
            log.step(trainer.step, {"lr": rate, **values, **speed})
            waited, last_step, last_time = 0.0, trainer.step, time.perf_counter()
        if run.eval_every and trainer.step % run.eval_every == 0 and not final:
            start = time.perf_counter()
            log.validation(trainer.step, validate(trainer))
            last_time += time.perf_counter() - start
        if trainer.step % run.checkpoint_every == 0 or final:
            save_checkpoint(run_dir, trainer.step, {**trainer.state(), "metrics_offset": log.offset}, run.keep)
