"""The training loop: stepped, logged, checkpointed and scored, and what stops it.

train: refuse what cannot be used, build the trainer, or take it up from the newest checkpoint; then
  _Run.finish
    _fit: batches from the loader
      _steps, until the last:
        Trainer.advance: forward, losses, backward, optimiser
        stop requests and broken pictures of all ranks are added up, a step late
        every log_every steps, a line; every eval_every, scores; every checkpoint_every, a checkpoint
        where a signal asked for it: save, and Stopped
    the weights that are scored are saved, and scored
summary and plots
"""

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import cattrs
import safetensors.torch
import torch
from rich.console import Console

from unihpe_fast.config import Config, ConfigError, check_resumed, config_of, to_yaml
from unihpe_fast.data.batches import LoaderError
from unihpe_fast.data.describe import data_lines, data_section, trained_and_validated
from unihpe_fast.data.loader import available_modalities, mean_pose, train_batches, val_batches
from unihpe_fast.data.records import Batch
from unihpe_fast.engine.checkpoint import (
    CONFIG,
    JOB,
    METRICS,
    SUMMARY,
    CheckpointError,
    SaveError,
    checkpoints,
    load_latest,
    save_checkpoint,
    save_weights,
    saving,
)
from unihpe_fast.engine.checkpoint_state import fault_of
from unihpe_fast.engine.distributed import LateSums, Ranks, torchrun_job
from unihpe_fast.engine.evaluation import concatenate, predict, predict_some, score
from unihpe_fast.engine.faults import RunError, Stopped, StopRequest, out_of_memory_says_what_to_do, requested
from unihpe_fast.engine.log import RunLog
from unihpe_fast.engine.report import draw_plots, write_summary
from unihpe_fast.engine.runtime import choose_runtime, leave_cores
from unihpe_fast.engine.trainer import Trainer, learning_rate
from unihpe_fast.fileio import atomic_path, write_text
from unihpe_fast.models.unihpe import UniHPE

# fewer samples say nothing about the share of broken ones
FEWEST_SEEN = 1000


def train(
    config: Config,
    run_dir: Path,
    *,
    resume: bool = False,
    console: Console | None = None,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Run the training of `config` in `run_dir` (laid out as docs/training.md says); returns the final scores.

    resume: go on from the folder's newest readable checkpoint, bit for bit on a CPU and as many ranks; from step 0 when
    it has none yet. ranks: this process among those that train together; all of them call this. Raises ConfigError,
    StoreError or FileNotFoundError before anything is written where options or data cannot be used, RunError where the
    run cannot go on, and Stopped when a signal asked for it and all that is needed to go on is saved.
    """
    console, ranks = console or Console(), ranks or Ranks()

    def say(text: str) -> None:
        if ranks.first:
            console.print(text, highlight=False, markup=False, soft_wrap=True)

    def warn(text: str) -> None:
        who = f"rank {ranks.rank}: " if ranks.size > 1 else ""
        console.print(who + text, style="bold red", highlight=False, markup=False, soft_wrap=True)

    runtime = choose_runtime(config.run)
    for line in runtime.lines():
        say(line)
    if runtime.device.type == "cpu":
        say(f"threads: {leave_cores(config.data.workers)} ({config.data.workers} loader processes beside)")
    # all that can be refused is refused before the folder is touched
    _check_data(config, ranks)
    for line in data_lines(config.data):
        say(line)
    if ranks.first:
        for name in trained_and_validated(config.data):
            warn(
                f"{name}: is trained on and validated on: its scores say nothing about data that the model has not seen"
            )
    stop = StopRequest()
    with stop.listening():
        try:
            with out_of_memory_says_what_to_do(config, ranks=ranks.size):
                trainer = Trainer(config, runtime, ranks)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        saved = ranks.from_first(lambda: _to_go_on_from(run_dir, trainer, warn)) if resume else None
        offset = 0
        if saved is None:
            trainer.model.set_mean_pose(mean_pose(config.data, seed=config.run.seed))
        else:
            try:
                trainer.load_state(saved)
            except (RuntimeError, ValueError) as error:
                # of torch's random generators, which alone know what a state of theirs is
                raise CheckpointError(f"{run_dir}: its checkpoint does not fit this run ({error})") from error
            offset = saved["metrics_offset"]
            say(f"resumed at step {trainer.step}")
        if ranks.first:
            run_dir.mkdir(parents=True, exist_ok=True)
            write_text(run_dir / CONFIG, to_yaml(config))
            if job := torchrun_job():
                write_text(run_dir / JOB, job)
        parameters = sum(p.numel() for p in trainer.model.parameters())
        processes = f"; {ranks.size} processes" if ranks.size > 1 else ""
        say(f"run folder: {run_dir}; {parameters / 1e6:.2f} M parameters{processes}")

        log = None
        if ranks.first:
            board = config.run.tensorboard
            log = RunLog(run_dir, config.optim.steps, trainer.step, offset=offset, tensorboard=board, console=console)
        try:
            scores, model = _Run(trainer, run_dir, log, stop, warn).finish()
        finally:
            if log is not None:
                log.close()
        if ranks.first:
            with saving(run_dir / SUMMARY):
                write_summary(run_dir / SUMMARY, scores)
            if config.run.plots:
                draw_plots(run_dir / "plots", *predict_some(model, config.data, runtime), metrics=run_dir / METRICS)
    return scores


def _to_go_on_from(run_dir: Path, trainer: Trainer, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The run's newest sound checkpoint; CheckpointError where that is another run's, which some copy put there."""

    def fault(path: Path, state: Any) -> str:
        if isinstance(state, dict) and isinstance(state.get(CONFIG), str):
            try:
                check_resumed(config_of(state[CONFIG], CONFIG), trainer.config)
            except ConfigError as error:
                message = f"{path}: is another run's: {error}; move it away to go on without it"
                raise CheckpointError(message) from error
        return fault_of(state, trainer)

    return load_latest(run_dir, warn, fault)


def _check_data(config: Config, ranks: Ranks) -> None:
    """Open every file of the run once; ConfigError when no training sample has a modality that the model wants."""
    if config.data.batch_size < ranks.size:
        raise ConfigError(f"--data.batch-size {config.data.batch_size}: wanted a sample for each of {ranks.size} ranks")
    lacking = set(config.model.modalities) - available_modalities(config.data)
    if lacking:
        raise ConfigError(f"--data.train {', '.join(config.data.train)}: no sample has {', '.join(sorted(lacking))}")
    val_batches(config.data, limit=config.data.val_samples)


class _Counted:
    """Batches, counted on their way; what could not be read is named, each once."""

    def __init__(self, batches: Iterable[Batch], warn: Callable[[str], None]) -> None:
        self._batches, self._warn = iter(batches), warn
        self._named: set[str] = set()
        self._counts = [0, 0]

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = next(self._batches)
        for line in batch.broken:
            if line not in self._named:
                self._named.add(line)
                self._warn(f"{line}; another sample stands in for it")
        self._counts[0] += len(batch.broken)
        self._counts[1] += len(batch)
        return batch

    def close(self) -> None:
        """End the loader's processes now, and not when Python tires of waiting for them at its exit."""
        if isinstance(self._batches, Generator):
            self._batches.close()
        self._batches = iter(())

    def take(self) -> list[int]:
        """Broken samples and all samples since the last call."""
        counts, self._counts = self._counts, [0, 0]
        return counts


class _Run:
    """A trainer at work in a run folder. log: None on the ranks that do not write."""

    def __init__(
        self, trainer: Trainer, run_dir: Path, log: RunLog | None, stop: StopRequest, warn: Callable[[str], None]
    ) -> None:
        self.trainer, self.run_dir, self.log, self.stop, self.warn = trainer, run_dir, log, stop, warn
        self.ranks, self.config = trainer.ranks, trainer.config
        self._sums = LateSums(self.ranks)
        self._asked = 0

    def finish(self) -> tuple[dict[str, Any], UniHPE]:
        """Train what is left, save the weights and score them; the scores and the model that has them."""
        self._fit()
        model = self.trainer.scored_model()
        if self.ranks.first:
            save_weights(self.run_dir, model.state_dict())
        scores = self.validate(model) | data_section(self.config.data)
        if self.log is not None:
            self.log.validation(self.trainer.step, scores)
        return scores, model

    def _fit(self) -> None:
        trainer, config, run = self.trainer, self.config, self.config.run
        batches = _Counted(
            train_batches(
                config.data,
                seed=run.seed,
                start_step=trainer.step * config.optim.accumulate,
                steps=config.optim.steps * config.optim.accumulate,
                rank=self.ranks.rank,
                world_size=self.ranks.size,
                warn=self.warn,
            ),
            self.warn,
        )
        with contextlib.closing(batches):
            try:
                self._steps(batches)
            except LoaderError as error:
                raise RunError(f"step {trainer.step}: {error}; {self._kept()}") from error

    def _steps(self, batches: _Counted) -> None:
        trainer, config, run = self.trainer, self.config, self.config.run
        trainer.model.train()
        waited, last_step, last_time = 0.0, trainer.step, time.perf_counter()
        while trainer.step < config.optim.steps:
            rate = learning_rate(config.optim, trainer.step)
            with out_of_memory_says_what_to_do(config, ranks=self.ranks.size):
                terms, wait = trainer.advance(batches)
            self._absorb(self._sums.exchange([*self.stop.flags(), *batches.take()]))
            waited += wait
            final = trainer.step == config.optim.steps
            logging = trainer.step % run.log_every == 0 or final
            scoring = bool(run.eval_every) and trainer.step % run.eval_every == 0 and not final
            keeping = trainer.step % run.checkpoint_every == 0 or final
            if logging or scoring or keeping or self._asked:
                self._look_for_bad_steps()
            if logging and self.log is not None:
                values = {name: value.item() for name, value in terms.items()}
                seconds = time.perf_counter() - last_time
                samples = (trainer.step - last_step) * config.data.batch_size * config.optim.accumulate
                speed = {"images_per_s": samples / seconds, "data_wait": waited / seconds}
                faults = {"bad_steps": trainer.bad_total, "broken": trainer.broken}
                self.log.step(trainer.step, {"lr": rate, **values, **faults, **speed})
                waited, last_step, last_time = 0.0, trainer.step, time.perf_counter()
            if scoring and not self._asked:
                start = time.perf_counter()
                self._score()
                last_time += time.perf_counter() - start
            if keeping or self._asked:
                self._save(must=final or self._asked > 0)
            if self._asked and not final:
                raise Stopped(self._asked)

    def _kept(self) -> str:
        """Save what there is, and say from where the run can go on."""
        if self.ranks.size > 1:
            # the others are in the middle of their step
            return "the newest checkpoint is what --resume goes on from"
        self._save(must=True)
        return f"saved; go on with --resume {self.run_dir}"

    def _absorb(self, sums: list[int]) -> None:
        """Take in what `LateSums` says of all ranks."""
        *flags, broken, seen = sums
        self._asked = self._asked or requested(flags)
        trainer, most = self.trainer, self.config.data.max_broken
        trainer.broken += broken
        trainer.seen += seen
        if trainer.broken > most * max(trainer.seen, FEWEST_SEEN):
            raise RunError(
                f"step {trainer.step}: {trainer.broken} of {trainer.seen} samples could not be read, more than "
                f"--data.max-broken {most} allows; they are named above. Mend the files, or allow more"
            )

    def _look_for_bad_steps(self) -> None:
        trainer = self.trainer
        if not trainer.settle():
            return
        longest = int(trainer.bad_steps.counts[1])
        if self.ranks.first:
            self.warn(
                f"step {trainer.step}: {trainer.bad_total} steps skipped so far, their loss or gradient was not finite"
            )
        if longest >= self.config.run.max_bad_steps:
            folder = self._dump()
            raise RunError(
                f"step {trainer.step}: {longest} steps in a row whose loss or gradient was not finite, as many as "
                f"--run.max-bad-steps allows; {folder} has their samples, terms and gradient norms"
            )

    def _dump(self) -> Path:
        trainer, config = self.trainer, self.config
        folder = self.run_dir / f"bad_step_{trainer.step:08d}"
        records = list(trainer.bad_steps.records)
        # a batch is made by its number, so it can be made again
        first = next(record.step - 1 for record in records if record.bad) * config.optim.accumulate
        again = train_batches(
            config.data,
            seed=config.run.seed,
            start_step=first,
            steps=first + 1,
            rank=self.ranks.rank,
            world_size=self.ranks.size,
        )
        inputs = next(iter(again))
        indices = self.ranks.gather([[batch.tolist() for batch in record.indices] for record in records])
        path = folder / f"inputs_rank{self.ranks.rank}.safetensors"
        # copies: safetensors refuses tensors that share their memory, as an index that is the frame does
        numbers = {name: torch.tensor(getattr(inputs.info, name)) for name in ("index", "frame")}
        with saving(path), atomic_path(path) as temporary:
            safetensors.torch.save_file(inputs.tensors() | numbers, temporary)
        if self.ranks.first:
            # [rank][record] -> [record][rank]
            trainer.bad_steps.dump(folder, cattrs.unstructure(config), trainer.parameter_names, [*zip(*indices)])  # noqa: B905
        return folder

    def validate(self, model: UniHPE) -> dict[str, Any]:
        """Scores over the validation samples that config.data.val_samples asks for, the same on every rank.

        model: `Trainer.scored_model`. Each rank predicts its part, rank 0 scores all of them together. Raises Stopped
        on all ranks when one was asked to stop meanwhile.
        """
        runtime, data, ranks = self.trainer.runtime, self.config.data, self.ranks
        batches = val_batches(data, limit=data.val_samples, rank=ranks.rank, world_size=ranks.size)
        mine = None
        try:
            with out_of_memory_says_what_to_do(self.config, ranks=ranks.size, scoring=True):
                if len(batches):
                    mine = predict(model, self.stop.until(batches), device=runtime.device, dtype=runtime.dtype)
        except Stopped:
            pass
        if signum := requested(ranks.sum(self.stop.flags())):
            raise Stopped(signum)
        parts = [part for part in ranks.gather(mine) if part is not None]
        return ranks.from_first(lambda: score(concatenate(parts), self.trainer.model.mean_pose))

    def _score(self) -> None:
        """A validation on the way."""
        try:
            scores = self.validate(self.trainer.scored_model())
        except Stopped as stopped:
            # saved at the end of the step
            self._asked = stopped.signum
            return
        if self.log is not None:
            self.log.validation(self.trainer.step, scores)

    def _save(self, *, must: bool) -> None:
        """Write a checkpoint; where that fails the run goes on with the one before, unless this one `must` be."""
        if late := self._sums.settle():
            self._absorb(late)
        state = self.trainer.state()
        if self.log is None:
            return
        self._look_for_the_folder()
        state |= {"metrics_offset": self.log.offset, CONFIG: to_yaml(self.config)}
        try:
            save_checkpoint(self.run_dir, self.trainer.step, state, self.config.run.keep)
        except SaveError as error:
            newest = next((path.name for path in checkpoints(self.run_dir)), "none")
            message = f"{error}; the newest checkpoint there is: {newest}"
            if must:
                raise SaveError(message) from error
            self.warn(f"{message}; the training goes on")

    def _look_for_the_folder(self) -> None:
        """Make the run folder anew where someone removed it: what is saved from now on shall be found and go on."""
        if self.log is None or self.log.still_there():
            return
        self.warn(f"{self.run_dir}: was removed while training; it is made anew, the metrics up to here are lost")
        with saving(self.run_dir / CONFIG):
            write_text(self.run_dir / CONFIG, to_yaml(self.config))
            self.log.reopen()
