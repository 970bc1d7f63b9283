"""What a neighbour that keeps one core busy costs a training on all cores, and what helps against it.

python -m benchmarks.neighbour [--seconds 4] [--rounds 3]

Each round trains the small poses-only model of `cmu-lifting` in a process for every setting, one after the other,
without a neighbour and beside a process that counts on the last core. Prints the median of steps a second over the
rounds, and its ratio to the same number of threads without a neighbour: machines are compared by ratios alone.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

SETTINGS: dict[str, dict[str, str]] = {
    "as it is": {},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},
    "one thread fewer": {"OMP_NUM_THREADS": str(max(len(os.sched_getaffinity(0)) - 1, 1))},
}


def train_for(seconds: float) -> float:
    """Steps a second of this process."""
    from dataclasses import replace

    from unihpe_fast.data.loader import train_batches
    from unihpe_fast.engine.runtime import choose_runtime
    from unihpe_fast.engine.trainer import Trainer
    from unihpe_fast.presets import PRESETS

    config = PRESETS["cmu-lifting"]
    data = replace(config.data, train=("synthetic",), val=("synthetic",), batch_size=64)
    config = replace(config, data=data, run=replace(config.run, device="cpu", compile="off"))
    trainer = Trainer(config, choose_runtime(config.run))
    batches = list(train_batches(data, seed=0, start_step=0, steps=4))
    for _ in range(2):
        trainer.advance(iter(batches))
    steps, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds:
        trainer.advance(iter(batches[steps % 4 :]))
        steps += 1
    return steps / spent


def measure(environment: dict[str, str], seconds: float, *, neighbour: bool) -> float:
    busy = None
    if neighbour:
        core = max(os.sched_getaffinity(0))
        # it ends with this process, however this one ends
        code = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile os.getppid() == {os.getpid()}: pass"
        busy = subprocess.Popen([sys.executable, "-c", code])
    try:
        command = [sys.executable, "-m", "benchmarks.neighbour", "--child", "--seconds", str(seconds)]
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
        return float(done.stdout.split()[-1])
    finally:
        if busy is not None:
            busy.kill()
            busy.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(train_for(options.seconds))
        return
    found: dict[tuple[str, bool], list[float]] = {}
    for _ in range(options.rounds):
        for name, environment in SETTINGS.items():
            for neighbour in (False, True):
                speed = measure(environment, options.seconds, neighbour=neighbour)
                found.setdefault((name, neighbour), []).append(speed)
    print(f"{'setting':26} {'alone':>8} {'beside':>8} {'kept':>6}   steps a second of every round")
    for name in SETTINGS:
        alone, beside = found[name, False], found[name, True]
        kept = statistics.median(beside) / statistics.median(alone)
        rounds = " ".join(f"{a:.1f}/{b:.1f}" for a, b in zip(alone, beside, strict=True))
        print(f"{name:26} {statistics.median(alone):8.1f} {statistics.median(beside):8.1f} {kept:6.2f}   {rounds}")


if __name__ == "__main__":
    main()
