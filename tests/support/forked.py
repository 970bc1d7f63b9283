"""Processes that are forked from the test's own: what torch takes seconds to import is there already."""

import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch


class Forked:
    """`act()` in a process of its own, whose output goes to a file; its result is the exit code.

    variables: of its environment; PYTHONIOENCODING holds for its stdout and stderr too.
    """

    def __init__(self, act: Callable[[], int | None], said: Path, **variables: str) -> None:
        self._said = said
        self._code: int | None = None
        self.pid = os.fork()
        if not self.pid:
            self._run(act, variables)

    def _run(self, act: Callable[[], int | None], variables: dict[str, str]) -> None:
        code = 70
        try:
            file = os.open(self._said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1)
            os.dup2(file, 2)
            os.environ.update(variables)
            encoding = variables.get("PYTHONIOENCODING", "utf-8")
            sys.stdout, sys.stderr = (
                io.TextIOWrapper(io.FileIO(number, "w", closefd=False), encoding, write_through=True)
                for number in (1, 2)
            )
            # threads of OpenMP do not come along with a fork
            torch.set_num_threads(1)
            code = act() or 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)

    @property
    def said(self) -> str:
        return self._said.read_text("utf-8", "replace") if self._said.exists() else ""

    def wait(self, timeout: float = 120) -> int:
        """The exit code, -N for signal N; AssertionError with what it said after `timeout` seconds."""
        end = time.monotonic() + timeout
        while self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"no end after {timeout} s: {self.said}")
            else:
                time.sleep(0.01)
        return self._code
