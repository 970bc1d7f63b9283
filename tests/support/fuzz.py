"""Mutated files for readers of other people's data: whatever comes, only the documented errors may come out."""

import copy
import io
import json
import os
import resource
import select
import signal
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from unihpe_fast.data.errors import SourceError

# how many mutated inputs a reader gets, and for how many seconds at most; `make fuzz` asks for more
CASES = int(os.environ.get("FUZZ", "300"))
BUDGET = float(os.environ.get("FUZZ_SECONDS", "inf"))
# of work for a case, and in all: on a busy machine work takes several times as long
SECONDS = 20
WAIT = 120
# what a process gets beyond that before it is ended: the alarm, where it comes through, tells more
GRACE = 5
MEMORY = 1 << 30
# test, inputs tried and inputs taken, in the order that they were run
TALLY: list[tuple[str, int, int]] = []
Read = Callable[[Path], object]


def fuzz(
    read: Read,
    files: Mapping[str, bytes],
    count: int = CASES,
    seed: int = 0,
    *,
    errors: tuple[type[Exception], ...] = (SourceError, OSError),
    apart: bool = False,
) -> int:
    """Run `read(folder)` to its end on `count` folders, each with one of `files` mutated; returns how many it took.

    Anything but `errors` that escapes, a case of more than SECONDS of work or WAIT in all, or one that asks for more
    than MEMORY bytes at once fails, and names the case: `case(files, seed, number)` makes it again. apart: in a process
    of their own, for readers in C that may never return to Python or end the process.
    """

    def make(folder: Path, number: int) -> None:
        for path, content in case(files, seed, number).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)

    return fuzz_made(read, make, count, seed, errors=errors, apart=apart)


def fuzz_made(
    read: Read,
    make: Callable[[Path, int], None],
    count: int = CASES,
    seed: int = 0,
    *,
    errors: tuple[type[Exception], ...] = (SourceError, OSError),
    apart: bool = False,
) -> int:
    """`fuzz` on folders that `make(folder, number)` fills."""
    tried = accepted = 0
    with TemporaryDirectory() as name, _bounded_memory():
        for took in (_apart if apart else _here)(read, make, Path(name), count, errors, f"of seed {seed}"):
            tried, accepted = tried + 1, accepted + took
    TALLY.append((os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0], tried, accepted))
    return accepted


def _here(
    read: Read,
    make: Callable[[Path, int], None],
    folder: Path,
    count: int,
    errors: tuple[type[Exception], ...],
    whose: str,
) -> Iterator[bool]:
    """Of every case in turn, while there is time, whether the reader took it."""
    end = time.monotonic() + BUDGET
    for number in range(count):
        if time.monotonic() > end:
            return
        make(folder, number)
        # other tests of the process have their own use for these, and none is left to their children
        before = [(each, signal.signal(each, _too_slow)) for each in (signal.SIGALRM, signal.SIGPROF)]
        signal.alarm(WAIT)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        took = False
        try:
            read(folder)
            took = True
        except errors:
            pass
        except BaseException as error:
            error.add_note(f"fuzz case {number} {whose}")
            raise
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            for each, handler in before:
                signal.signal(each, handler)
        yield took


def _apart(
    read: Read,
    make: Callable[[Path, int], None],
    folder: Path,
    count: int,
    errors: tuple[type[Exception], ...],
    whose: str,
) -> Iterator[bool]:
    """`_here` in another process, which says a byte a case; one that says nothing for WAIT, or ends, has failed."""
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        try:
            for took in _here(read, make, folder, count, errors, whose):
                os.write(send, b"1" if took else b"0")
            os.write(send, b".")
        except BaseException:
            os.write(send, b"!" + traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(0)
    os.close(send)
    number = 0
    try:
        while select.select([receive], [], [], WAIT + GRACE)[0]:
            said = os.read(receive, 1)
            if said in (b"1", b"0"):
                number += 1
                yield said == b"1"
                continue
            if said == b".":
                return
            raise AssertionError(f"fuzz case {number} {whose} ended the process: {os.read(receive, 4000).decode()}")
        raise AssertionError(f"fuzz case {number} {whose} took more than {WAIT} s and did not return")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(receive)


def case(files: Mapping[str, bytes], seed: int, number: int) -> dict[str, bytes]:
    """The files with one of them mutated, the same ones for the same numbers."""
    rng = np.random.default_rng([seed, number])
    name = sorted(files)[rng.integers(len(files))]
    return {**files, name: mutate(files[name], rng)}


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Flipped bits, cut ends, spans removed, repeated, overwritten or swapped; zip members and JSON values too."""
    if data[:4] == b"PK\3\4" and rng.random() < 0.8:
        return _mutate_zip(data, rng)
    if data[:1] in (b"{", b"[") and data.isascii() and rng.random() < 0.6:
        # of a file of lines, each of them JSON, one
        lines = data.splitlines(keepends=True) if data.count(b"\n{") else [data]
        number = rng.integers(len(lines))
        lines[number] = _mutate_json(lines[number], rng) + b"\n" * (len(lines) > 1)
        return b"".join(lines)
    for _ in range(rng.integers(1, 4)):
        data = _CHANGES[rng.integers(len(_CHANGES))](data, rng)
    return data


def _mutate_zip(data: bytes, rng: np.random.Generator) -> bytes:
    """One member changed, its checksum right; or two members' contents swapped, or one of them gone."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    names = sorted(members)
    one, other = (names[index] for index in rng.integers(len(names), size=2))
    match rng.integers(8):
        case 0:
            members[one], members[other] = members[other], members[one]
        case 1:
            del members[one]
        case 2:
            # mostly the header or the first instructions
            head = members[one][:128]
            members[one] = mutate(head, rng) + members[one][128:]
        case _:
            members[one] = mutate(members[one], rng)
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return result.getvalue()


# what stands where a number, a name or a list should
_ODD = (
    None, True, False, 0, -1, 3, 0.5, -0.0, 1e-320, 1e39, -1e300, float("nan"), float("inf"), 2**31, 2**63, 10**400, "",
    "1", "../x", "\ud800", "\0", [], {}, [[]], [None], {"id": 1}, [1] * 51,
)  # fmt: skip


def _mutate_json(data: bytes, rng: np.random.Generator) -> bytes:
    """Still JSON: some of its values replaced by odd ones or by one another, gone, or there twice."""
    root = [json.loads(data)]
    for _ in range(rng.integers(1, 4)):
        places: list[tuple[Any, Any]] = []
        pending: list[Any] = [root]
        while pending:
            container = pending.pop()
            keys = container if isinstance(container, dict) else range(len(container))
            places += [(container, key) for key in keys]
            pending += [container[key] for key in keys if isinstance(container[key], dict | list)]
        # as often a container, of which there are few, as a number
        if rng.random() < 0.5:
            places = [place for place in places if isinstance(place[0], dict)] or places
        if not places:
            break
        (one, key), (other, other_key) = (places[index] for index in rng.integers(len(places), size=2))
        match rng.integers(4):
            case 0 if one is not root:
                del one[key]
            case 1 if isinstance(one, list):
                one.insert(key, copy.deepcopy(one[key]))
            case 2:
                one[key] = copy.deepcopy(other[other_key])
            case _:
                one[key] = copy.deepcopy(_ODD[rng.integers(len(_ODD))])
    return json.dumps(root[0]).encode()


def _span(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    start = int(rng.integers(len(data) + 1))
    return start, min(len(data), start + int(2 ** rng.uniform(0, np.log2(len(data) + 2))))


def _flip(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for position in rng.integers(len(data), size=rng.integers(1, 9)) if data else ():
        changed[position] ^= 1 << rng.integers(8)
    return bytes(changed)


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data) + 1)]


def _remove(data: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + data[stop:]


def _repeat(data: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + data[start:stop] * int(rng.integers(2, 6)) + data[stop:]


def _overwrite(data: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes become those that numbers are made of at their limits: all zeros, all ones, infinities and NaNs."""
    start, stop = _span(data, rng)
    stop = min(stop, start + 16)
    value = (b"\0", b"\xff", b"\x7f\x80\0\0"[::-1], b"\x7f\xf8\0\0\0\0\0\0"[::-1], b"9")[rng.integers(5)]
    return data[:start] + (value * 16)[: stop - start] + data[stop:]


def _splice(data: bytes, rng: np.random.Generator) -> bytes:
    """A span of the file over another place in it."""
    start, stop = _span(data, rng)
    target = int(rng.integers(len(data) + 1))
    return data[:target] + data[start:stop] + data[target + stop - start :]


_CHANGES = (_flip, _flip, _cut, _remove, _repeat, _overwrite, _overwrite, _splice)


def _too_slow(*_: object) -> None:
    raise AssertionError(f"reading took more than {SECONDS} s of work or {WAIT} s in all")


class _bounded_memory:
    """The address space may grow by MEMORY and no more; MemoryError beyond."""

    def __enter__(self) -> None:
        self.limits = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, self.limits[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self.limits)
