"""A prepared file looked over by a process of its own: a damaged one may keep HDF5 busy for ever, or end it."""

import contextlib
import multiprocessing
import signal
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from unihpe_fast.data.check import Report, check_store

# seconds without a word; a block of rows is read and decoded in one
PATIENCE = 120.0


def check_apart(path: Path, advance: Callable[[int], None], *, patience: float = PATIENCE) -> Report:
    """`check_store` in a process that is ended where no rows come for `patience` seconds; both that and its own end are
    problems in the report."""
    # the child starts at once, with what is imported already; Windows has none of these
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    context = multiprocessing.get_context(method)
    receive, send = context.Pipe(duplex=False)
    # Any: a context's Process is a class of its own by each method
    child = context.Process(target=_tell, args=(path, send), daemon=True)  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        # of threads that a fork does not take along: the child uses none of theirs
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    send.close()
    try:
        while receive.poll(patience):
            try:
                said = receive.recv()
            except EOFError:
                child.join()
                with contextlib.suppress(ValueError):
                    return _only(f"{path}: reading it ended the process with {signal.Signals(-child.exitcode).name}")
                return _only(f"{path}: reading it ended the process with {child.exitcode}")
            if isinstance(said, Exception):
                raise said
            if isinstance(said, Report):
                return said
            advance(said)
        return _only(f"{path}: reading it came to no end within {patience:g} seconds, damaged perhaps")
    finally:
        child.kill()
        child.join()
        receive.close()


def _only(problem: str) -> Report:
    return Report(problems=[problem])


def _tell(path: Path, send: Connection) -> None:
    # Ctrl-C is for the one who asked, who ends this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # threads of OpenMP do not come along with a fork, and are waited for
    torch.set_num_threads(1)
    try:
        send.send(check_store(path, send.send))
    except Exception as error:
        send.send(error)
