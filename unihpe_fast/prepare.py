"""`python -m unihpe_fast.prepare SOURCE IN.. OUT.h5 [--option VALUE ..]`: turn a dataset into a prepared file.

`python -m unihpe_fast.prepare check FILE.h5 [--png OUT]` looks a prepared file over.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import tyro
from rich.console import Console

from unihpe_fast.data.check_apart import check_apart
from unihpe_fast.data.crop_cache import CropCache
from unihpe_fast.data.crop_photos import CROP_SIZE, PhotoError, crop_photos
from unihpe_fast.data.plausible import keep_plausible
from unihpe_fast.data.progress import Counting
from unihpe_fast.data.records import Sample
from unihpe_fast.data.render import render_crops
from unihpe_fast.data.sources import SOURCES, Reading, Request, source_module
from unihpe_fast.data.store import write_store
from unihpe_fast.data.summary import summary_tables
from unihpe_fast.locks import alone
from unihpe_fast.terminal import Terminal

USAGE = f"""usage: python -m unihpe_fast.prepare SOURCE IN.. OUT.h5 [--images ROOT] [--option VALUE ..]
       python -m unihpe_fast.prepare check FILE.h5 [--png OUT]

Turn a dataset into one prepared HDF5 file, or look one over. SOURCE is one of {", ".join(sorted(SOURCES))};
python -m unihpe_fast.prepare SOURCE --help lists its options."""
SUFFIXES = (".h5", ".hdf5")
# of the crops that are drawn; photographs have their own
DRAWN_SIZE = 128
OptionsT = TypeVar("OptionsT")


@dataclass(frozen=True)
class Job(Generic[OptionsT]):
    """Turn a dataset into one prepared HDF5 file."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """IN.. OUT.h5: files or folders to read, then the file to write"""
    dataset: tyro.conf.OmitArgPrefixes[OptionsT]
    split: str = "train"
    """name of the split, kept in the file"""
    images: Path | None = None
    """folder of the dataset's photographs; without it, none are read"""
    image_size: int | None = None
    """side of the crops in px; 0: no images. By default 320 for photographs (256 px of network input and the margin
    around it), 128 for drawn ones"""
    skip_broken_images: bool = False
    """leave out samples whose photograph is missing or broken, instead of giving up at the first"""
    seed: int = 0
    """of everything that is made up: cameras, appearances, synthetic people"""


def prepare(source_name: str, job: Job[Any], console: Console) -> None:
    """Write the prepared file of a job and print what became of the samples."""
    if not job.paths:
        raise ValueError("no paths: want IN.. OUT.h5, the last one is the file to write")
    *inputs, out = job.paths
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{out}: the last path is the file to write and should end in {' or '.join(SUFFIXES)}")
    if job.image_size is not None and job.image_size < 0:
        raise ValueError(f"--image-size {job.image_size}: want 0 or more")
    if job.seed < 0:
        raise ValueError(f"--seed {job.seed}: want 0 or more")
    if job.images is not None and not job.images.is_dir():
        raise ValueError(f"--images {job.images}: no such folder")
    size = job.image_size if job.image_size is not None else CROP_SIZE if job.images else DRAWN_SIZE
    source = source_module(source_name)
    reading = source.read(inputs, job.dataset, Request(job.images if size else None, size, job.seed))

    if reading.render and job.images is not None:
        raise ValueError(f"--images {job.images}: {source_name} has no photographs")

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    shown = 0

    def say_notes() -> None:
        """Those that came up since the last time."""
        nonlocal shown
        for note in reading.tally.notes[shown:]:
            say(f"note: {note}")
        shown = len(reading.tally.notes)

    say_notes()
    if reading.caveat:
        say(f"caveat: {reading.caveat}")
    written: Counter[tuple[str, str]] = Counter()
    with ExitStack() as stack:
        # two jobs with one output would write into each other's crops and take each other's temporary file
        stack.enter_context(alone(out.with_name(f".{out.name}.lock"), out))
        samples = keep_plausible(reading.samples, reading.tally)
        if reading.render and size:
            samples = render_crops(samples, size, job.seed)
        elif job.images and size:
            cache = stack.enter_context(CropCache(out, size))
            goes_on = "an interrupted job goes on from them when the command is given again"
            say(f"crops are kept in {cache.path} until the end: {goes_on}; {cache.found} are there")
            samples = _photographed(samples, size, cache, reading, job.skip_broken_images)
        counting = stack.enter_context(Counting(source_name, reading.total, console))

        def counted() -> Iterator[Sample]:
            for sample in counting.over(samples):
                written[sample.subject, sample.action] += 1
                yield sample
            say_notes()
            if not written and (skipped := reading.tally.skipped):
                reasons = ", ".join(sorted({reason for _, _, reason in skipped}))
                raise ValueError(f"{out}: all {skipped.total()} samples were left out ({reasons}); nothing was written")

        summary = write_store(
            out,
            counted(),
            dataset=reading.dataset,
            split=job.split,
            source_files=reading.files,
            licence=reading.licence,
            caveat=reading.caveat,
        )
    for table in summary_tables(reading.dataset, written, reading.tally):
        console.print(table)
    parts = ", ".join(f"{summary.present[name]} with {name}" for name in summary.present)
    say(f"{summary.samples} samples in {out} ({parts})")
    if job.images and size and not summary.present["image"]:
        say(f"note: no sample names a photograph under {job.images}")
    if reading.caveat:
        say(f"caveat: {reading.caveat}")


def _photographed(
    samples: Iterator[Sample], size: int, cache: CropCache, reading: Reading, skip_broken: bool
) -> Iterator[Sample]:
    def count(sample: Sample, error: PhotoError) -> None:
        reading.tally.skip(sample.subject, sample.action, error.reason)

    return crop_photos(samples, size, cache=cache, broken=count if skip_broken else None)


@dataclass(frozen=True)
class CheckJob:
    """Look a prepared file over: every column, every picture, and whether its parts agree."""

    path: tyro.conf.Positional[Path]
    """prepared file"""
    png: Path | None = None
    """draw random samples with their skeletons here"""
    seed: int = 0
    """of the choice of samples"""


def check(job: CheckJob, console: Console) -> bool:
    """Print what is in the file and what is wrong with it; True when nothing is."""
    with Counting("check", None, console) as counting:
        report = check_apart(job.path, counting.advance)

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    for fact in report.facts:
        say(fact)
    for problem in report.problems:
        say(f"wrong: {problem}", "bold red")
    # a file that cannot be read has nothing to draw
    if job.png and report.facts:
        # matplotlib takes a second to import
        from unihpe_fast.contact_sheet import draw_contact_sheet

        say(f"drawn: {draw_contact_sheet(job.path, job.png, seed=job.seed)}")
    count = len(report.problems)
    say(f"{count} problem{'s' if count > 1 else ''}" if count else "nothing is wrong with it")
    return not count


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, 1 for input that cannot be used, 2 for a command line that cannot, 130 for Ctrl-C.

    `check` gives 1 for a file with problems.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    console, errors = Terminal(), Terminal(stderr=True)
    if not arguments or arguments[0] in ("-h", "--help"):
        console.print(USAGE, markup=False, highlight=False)
        return 0 if arguments else 2
    name, *rest = arguments
    try:
        if name == "check":
            prog = "python -m unihpe_fast.prepare check"
            return 0 if check(tyro.cli(CheckJob, args=rest, prog=prog), console) else 1
        # Any: the type of the dataset's own options is known from here on only
        kind: Any = Job
        job = tyro.cli(kind[source_module(name).Options], args=rest, prog=f"python -m unihpe_fast.prepare {name}")
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
