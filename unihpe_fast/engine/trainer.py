"""What a run carries from step to step, and one step of it."""

import contextlib
import copy
import math
import time
from collections.abc import Iterator
from itertools import chain
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from unihpe_fast.config import Config, OptimConfig
from unihpe_fast.data.records import Batch
from unihpe_fast.engine.distributed import Ranks
from unihpe_fast.engine.nonfinite import BadSteps, StepRecord
from unihpe_fast.engine.optimizer import make_optimizer
from unihpe_fast.engine.parameters import parameter_groups
from unihpe_fast.engine.runtime import Runtime
from unihpe_fast.engine.sharded import divided, own_part, shard, whole
from unihpe_fast.losses import Criterion
from unihpe_fast.models.unihpe import UniHPE


def learning_rate(config: OptimConfig, step: int) -> float:
    """Of the step with this 0-based number: linear warm-up, then half a cosine down to final_lr * lr."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return config.lr * (config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * min(done, 1))) / 2)


class LossStep(nn.Module):
    """A batch's tensors -> the total loss and its terms.

    Forward and losses are compiled as one graph where the losses can be; otherwise, as among several processes, the
    model alone. sharded: the model is divided among the ranks, and its blocks are compiled already.
    """

    def __init__(self, model: UniHPE, criterion: Criterion, runtime: Runtime, *, sharded: bool = False) -> None:
        super().__init__()
        self.model, self.criterion, self._runtime = model, criterion, runtime
        mode = runtime.compile_mode
        # in a list: it is no second module
        self._forward: list[Any] = [model]
        if mode is None or sharded:
            return
        if criterion.can_be_compiled:
            self.compile(fullgraph=True, dynamic=False, mode=mode)
        else:
            self._forward = [torch.compile(model, fullgraph=True, dynamic=False, mode=mode)]

    def forward(self, tensors: dict[str, Tensor], dense: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """dense: as for `Criterion.forward`."""
        return self._losses(self._forward[0], tensors, dense)

    def eagerly(self, tensors: dict[str, Tensor]) -> Tensor:
        """The total loss, nothing compiled."""
        return self._losses(self.model, tensors, False)[0]

    def _losses(self, forward: Any, tensors: dict[str, Tensor], dense: bool) -> tuple[Tensor, dict[str, Tensor]]:
        runtime = self._runtime
        with torch.autocast(runtime.device.type, dtype=runtime.dtype, enabled=runtime.dtype != torch.float32):
            outputs = forward(
                tensors["image"], tensors["keypoints_2d"], tensors["joints_3d"], tensors["box"], tensors["present"]
            )
        return self.criterion(outputs, tensors, dense)


class Trainer:
    """Everything a run carries from step to step, and nothing that can be recomputed from the options.

    Among several ranks `advance`, `scored_model`, `state` and `load_state` are to be called by all of them. With
    config.run.shard "fsdp" each of them holds a part of the model, of its average and of the optimiser's state; the
    temperatures, single numbers that cannot be divided, are on every rank.
    """

    def __init__(self, config: Config, runtime: Runtime, ranks: Ranks | None = None) -> None:
        torch.manual_seed(config.run.seed)
        self.config, self.runtime, self.ranks = config, runtime, ranks or Ranks()
        self.model = UniHPE(config.model, image_size=config.data.image_size).to(runtime.device)
        self._sharded = self.ranks.size > 1 and config.run.shard == "fsdp"
        # torch's FSDP takes weights in their own memory format only
        if not self._sharded and (runtime.device.type == "cpu" or runtime.dtype == torch.bfloat16):
            # convolutions read channels_last faster on both
            self.model.to(memory_format=torch.channels_last)
        modalities, group = config.model.modalities, self.ranks.group
        self.criterion = Criterion(config.loss, modalities, backend=runtime.backend, group=group).to(runtime.device)
        self.ema: AveragedModel | None = None
        if config.optim.ema:
            self.ema = AveragedModel(self.model, multi_avg_fn=_averaging(config.optim.ema), use_buffers=True)
        if self._sharded:
            self._undivided = copy.deepcopy(self.model).to("meta")
            shard(self.model, runtime.device, self.ranks.size, compile_mode=runtime.compile_mode)
            if self.ema is not None:
                shard(self.ema.module, runtime.device, self.ranks.size)
        optim = config.optim
        groups = parameter_groups(
            self.model, self.criterion, optim.weight_decay, muon=optim.muon, conv_lr=optim.conv_lr
        )
        self.parameters = [p for part in groups for p in part["params"]]
        self.optimizer = make_optimizer(groups, optim)
        self.step = 0
        self.broken, self.seen = 0, 0
        """samples that could not be read, and all samples, up to now and of all ranks"""
        self.bad_steps = BadSteps(runtime.device, remembered=config.run.max_bad_steps + config.run.log_every)
        self.bad_total = 0
        """bad steps, as of the last look"""
        self._loss_step = LossStep(self.model, self.criterion, runtime, sharded=self._sharded)
        self._parallel: DistributedDataParallel | None = None
        self._keep_buffers()
        if not self.ranks.first:
            # dropout is another one on each rank; the weights are the same
            self._seed_rank()

    def scored_model(self) -> UniHPE:
        """The one to score and save, with all of its weights on every rank: averaged where averaging is on."""
        source = self.model if self.ema is None else cast(UniHPE, self.ema.module)
        model = source
        if self._sharded:
            model = copy.deepcopy(self._undivided).to_empty(device=self.runtime.device)
            tensors, sources = chain(model.parameters(), model.buffers()), chain(source.parameters(), source.buffers())
            with torch.no_grad():
                for tensor, part in zip(tensors, sources, strict=True):
                    tensor.copy_(part.full_tensor() if isinstance(part, DTensor) else part)
        self.ranks.copy_first(model.buffers())
        return model

    @property
    def parameter_names(self) -> list[str]:
        """Of `parameters`, in their order."""
        names = {id(p): name for name, p in self._loss_step.named_parameters()}
        return [names[id(p)] for p in self.parameters]

    def advance(self, batches: Iterator[Batch]) -> tuple[dict[str, Tensor], float]:
        """One optimiser step over `accumulate` batches; returns its loss terms (on the device) and seconds waited.

        A step whose loss or gradient is not finite on any rank changes no weight; it is counted in `bad_steps`.
        """
        config = self.config.optim
        waited = 0.0
        sums: dict[str, Tensor] = {}
        indices = []
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step) * group.get("lr_factor", 1)
        for number in range(config.accumulate):
            start = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - start
            indices.append(batch.info.index)
            # asked of the batch on the host, so that the device is not waited for
            dense = self.criterion.is_dense(batch.present, batch.weights)
            tensors = batch.to(self.runtime.device).tensors()
            with self._reduced_only_at(number == config.accumulate - 1, tensors) as step:
                total, terms = step(tensors, dense)
                (total / config.accumulate).backward()
            for name, value in {"loss": total.detach(), **{f"loss/{k}": v for k, v in terms.items()}}.items():
                # cloned: with CUDA graphs the next replay overwrites the graph's own outputs
                sums[name] = sums[name] + value if name in sums else value.clone()
        terms = {k: v / config.accumulate for k, v in sums.items()}
        if self._sharded:
            self._average_undivided()
        norms = self._gradient_norms()
        norm = torch.linalg.vector_norm(norms)
        if config.clip:
            # nn.utils.clip_grads_with_norm_, of this rank's part
            torch._foreach_mul_(self._gradients(), (config.clip / (norm + 1e-6)).clamp(max=1))
        # where it is 1 everything stays as it is: a fused optimiser reads it on the device, Muon waits for it
        self.optimizer.found_inf = self.bad_steps.judge(terms["loss"], norm)  # type: ignore[union-attr]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        self.step += 1
        terms["grad_norm"] = norm
        self.bad_steps.records.append(StepRecord(self.step, indices, terms, norms))
        return terms, waited

    @contextlib.contextmanager
    def _reduced_only_at(self, last: bool, tensors: dict[str, Tensor]) -> Iterator[nn.Module]:
        """The module to run; the ranks' gradients are averaged in the last batch of a step only."""
        if self.ranks.group is None or self._sharded:
            # FSDP adds up what it has divided: whole gradients would need the memory that it saves
            yield self._loss_step
            return
        if self._parallel is None:
            self._parallel = self._replicated(tensors)
        with contextlib.nullcontext() if last else self._parallel.no_sync():
            yield self._parallel

    def _replicated(self, tensors: dict[str, Tensor]) -> DistributedDataParallel:
        # its default makes rank 0's running statistics everybody's before each forward pass
        return DistributedDataParallel(
            self._loss_step,
            find_unused_parameters=self._leaves_some_untrained(tensors),
            gradient_as_bucket_view=True,
        )

    def _leaves_some_untrained(self, tensors: dict[str, Tensor]) -> bool:
        """Whether the loss does not reach some parameter, as where a term is off that alone needs it.

        Tried on a batch; looking for them at every step would cost a walk through the graph. The same on every rank.
        """
        self.model.eval()
        gradients = torch.autograd.grad(self._loss_step.eagerly(tensors), self.parameters, allow_unused=True)
        self.model.train()
        return self.ranks.sum([sum(gradient is None for gradient in gradients)])[0] > 0

    def _average_undivided(self) -> None:
        """What FSDP does for the model's gradients, for those of the temperatures."""
        given = [p.grad for p in self.parameters if p.grad is not None and not isinstance(p, DTensor)]
        if not given:
            return
        means = torch.cat([gradient.flatten() for gradient in given]) / self.ranks.size
        dist.all_reduce(means)
        for gradient, mean in zip(given, means.split([x.numel() for x in given]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def _gradients(self) -> list[Tensor]:
        """Those that there are of `parameters`, this rank's part of each."""
        return [own_part(p.grad) for p in self.parameters if p.grad is not None]

    def _gradient_norms(self) -> Tensor:
        """[P] of `parameters`; 0 where there is no gradient."""
        norms = iter(torch._foreach_norm(self._gradients()))
        zero = torch.zeros((), device=self.runtime.device)
        found = torch.stack([zero if p.grad is None else next(norms) for p in self.parameters])
        if not self._sharded:
            return found
        squares = found.square()
        dist.all_reduce(squares)
        # what is whole on every rank is not to be added up
        divided = torch.tensor([isinstance(p, DTensor) for p in self.parameters], device=self.runtime.device)
        return torch.where(divided, squares.sqrt(), found)

    def settle(self) -> int:
        """Look at the counts on the device, which waits for it; the number of new bad steps since the last look.

        A forward pass that was not finite has left its traces in BatchNorm's running statistics, which training does
        not read: they go back to what they were at the last look.
        """
        total = int(self.bad_steps.counts[2])
        new, self.bad_total = total - self.bad_total, total
        if new:
            for buffer, kept in zip(self._buffers(), self._kept, strict=True):
                buffer.copy_(kept)
        else:
            self._keep_buffers()
        return new

    def _buffers(self) -> list[Tensor]:
        return [*self.model.buffers(), *(self.ema.module.buffers() if self.ema is not None else ())]

    def _keep_buffers(self) -> None:
        self._kept = [buffer.clone() for buffer in self._buffers()]

    def _seed_rank(self) -> None:
        """Random numbers of this rank's own from here on, for the same seed and step the same."""
        words = np.random.SeedSequence([self.config.run.seed, self.ranks.rank, self.step]).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0]) >> 1)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, on rank 0; elsewhere {}."""
        on_gpu = self.runtime.device.type == "cuda"
        rng = self.ranks.gather(torch.get_rng_state())
        cuda_rng = self.ranks.gather(torch.cuda.get_rng_state(self.runtime.device)) if on_gpu else []
        large = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
        }
        if self._sharded:
            large = whole(large, keep=self.ranks.first)
        if not self.ranks.first:
            return {}
        return {
            "step": self.step,
            "criterion": self.criterion.state_dict(),
            **large,
            "bad_steps": self.bad_steps.counts,
            "broken": self.broken,
            "seen": self.seen,
            "rng": rng,
            "cuda_rng": cuda_rng,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, on as many ranks as then or on others, divided among them or not.

        It must have no `checkpoint_state.fault_of`; how the optimiser works is this trainer's, not the checkpoint's.
        """
        _load(self.model, state["model"])
        self.criterion.load_state_dict(state["criterion"])
        moments = {
            number: {name: divided(value, self.parameters[number]) for name, value in of_one.items()}
            for number, of_one in state["optimizer"]["state"].items()
        }
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        if self.ema is not None:
            _load(self.ema, state["ema"])
        self.step, self.broken, self.seen = state["step"], state["broken"], state["seen"]
        self.bad_steps.counts = state["bad_steps"].to(self.runtime.device)
        self.bad_total = int(state["bad_steps"][2])
        self._keep_buffers()
        # on another kind or number of devices the run goes on, though not bit for bit
        if len(state["rng"]) == self.ranks.size:
            torch.set_rng_state(state["rng"][self.ranks.rank])
        else:
            self._seed_rank()
        if self.runtime.device.type == "cuda" and len(state["cuda_rng"]) == self.ranks.size:
            torch.cuda.set_rng_state(state["cuda_rng"][self.ranks.rank], self.runtime.device)


def _averaging(decay: float) -> Any:
    average = get_ema_multi_avg_fn(decay)

    def of_own_parts(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        average([own_part(x) for x in averaged], [own_part(x) for x in current], count)

    return of_own_parts


def _load(module: nn.Module, state: dict[str, Any]) -> None:
    own = module.state_dict()
    module.load_state_dict({name: divided(value, own.get(name)) for name, value in state.items()})
