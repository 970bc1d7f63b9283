"""A terminal that shows what it can, and whose end is not the end of the work."""

import contextlib
import os
import sys
from typing import Any

from rich.console import Console


class Terminal(Console):
    """Standard output, or standard error, of a command.

    Characters that its encoding lacks are shown as question marks, and when whoever reads it goes away (`| head`) the
    work goes on unseen.
    """

    def __init__(self, **options: Any) -> None:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        super().__init__(**options)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        # Python flushes the stream at its end, and would complain then
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.file.fileno())
            os.close(nowhere)
