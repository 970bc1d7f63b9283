"""`python -m unihpe_fast.prepare SOURCE IN.. OUT.h5 [--option VALUE ..]`: turn a dataset into a prepared file."""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from unihpe_fast.data.render import render_crops
from unihpe_fast.data.sources import SOURCES, Reading, Request, load_source
from unihpe_fast.data.store import write_store
from unihpe_fast.data.types import Sample

USAGE = f"""usage: python -m unihpe_fast.prepare SOURCE IN.. OUT.h5 [--option VALUE ..]

Turn a dataset into one prepared HDF5 file. SOURCE is one of {", ".join(sorted(SOURCES))};
python -m unihpe_fast.prepare SOURCE --help lists its options."""
SUFFIXES = (".h5", ".hdf5")
OptionsT = TypeVar("OptionsT")


@dataclass(frozen=True)
class Job(Generic[OptionsT]):
    """Turn a dataset into one prepared HDF5 file."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """IN.. OUT.h5: files or folders to read, then the file to write"""
    dataset: tyro.conf.OmitArgPrefixes[OptionsT]
    split: str = "train"
    """name of the split, kept in the file"""
    image_size: int = 128
    """side of the crops in px; 0: no images"""
    seed: int = 0
    """of everything that is made up: cameras, appearances, synthetic people"""


def prepare(source_name: str, job: Job[Any], console: Console) -> None:
    """Write the prepared file of a job and print what became of the samples."""
    if not job.paths:
        raise ValueError("no paths: want IN.. OUT.h5, the last one is the file to write")
    *inputs, out = job.paths
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{out}: the last path is the file to write and should end in {' or '.join(SUFFIXES)}")
    if job.image_size < 0:
        raise ValueError(f"--image-size {job.image_size}: want 0 or more")
    if job.seed < 0:
        raise ValueError(f"--seed {job.seed}: want 0 or more")
    source = load_source(source_name)
    reading = source.read(inputs, job.dataset, Request(None, job.image_size, job.seed))
    for note in reading.tally.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    samples = reading.samples
    if reading.draw and job.image_size:
        samples = render_crops(samples, job.image_size, job.seed)
    written: Counter[tuple[str, str]] = Counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(source_name, total=reading.total)

        def counted(samples: Iterator[Sample]) -> Iterator[Sample]:
            for sample in samples:
                written[sample.subject, sample.action] += 1
                progress.advance(task)
                yield sample

        summary = write_store(
            out,
            counted(samples),
            dataset=reading.dataset,
            split=job.split,
            source_files=reading.files,
            licence=reading.licence,
        )
    console.print(summary_table(reading, written))
    console.print(f"{summary.samples} samples in {out}", markup=False, highlight=False, soft_wrap=True)


def summary_table(reading: Reading, written: Counter[tuple[str, str]]) -> Table:
    """Samples written and skipped, with the reasons, by subject and action."""
    table = Table("subject", "action", title=f"{reading.dataset}: samples", show_footer=True)
    skipped = reading.tally.skipped
    table.add_column("written", str(written.total()), justify="right")
    table.add_column("skipped", str(skipped.total()), justify="right")
    table.add_column("why")
    for subject, action in sorted(set(written) | {key[:2] for key in skipped}):
        reasons = {key[2]: count for key, count in skipped.items() if key[:2] == (subject, action)}
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        table.add_row(subject, action, str(written[subject, action]), str(sum(reasons.values())), why)
    return table


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, 1 for input that cannot be used, 2 for a command line that cannot, 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    console, errors = Console(), Console(stderr=True)
    if not arguments or arguments[0] in ("-h", "--help"):
        console.print(USAGE, markup=False, highlight=False)
        return 0 if arguments else 2
    name, *rest = arguments
    try:
        # Any: the type of the dataset's own options is known from here on only
        kind: Any = Job
        job = tyro.cli(kind[load_source(name).Options], args=rest, prog=f"python -m unihpe_fast.prepare {name}")
        prepare(name, job, console)
    except KeyboardInterrupt:
        errors.print("interrupted; nothing was written")
        return 130
    except (ValueError, OSError) as error:
        errors.print(f"error: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
