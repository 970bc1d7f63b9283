"""JSON files of hundreds of MB read record by record: memory for one record, whatever the file holds or claims."""

import codecs
import json
import re
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.untrusted import LARGEST, file_size, read_bytes

CHUNK = 1 << 20
# characters of one record; COCO's longest are some 100 thousand
LONGEST = 16 << 20
_NO_SPACE = re.compile(r"[^ \t\r\n]")


def records(path: Path, *, constants: bool = False) -> Iterator[tuple[str, int, Any]]:
    """Name, index and value of each element of each array that the file's one object has, in the file's order.

    A file that is one array has the name ""; members that are no arrays are left out. constants: NaN and Infinity,
    which Python writes though JSON has none, are numbers. Raises SourceError naming file and record for what is no
    JSON, nests too deeply or is longer than LONGEST; OSError.
    """
    file_size(path)
    with open(path, "rb") as file:
        text = _Text(path, file, float if constants else _refuse)
        if text.peek() == "[":
            yield from _elements(text, "")
        elif text.peek() == "{":
            for name in _members(text):
                if text.peek() == "[":
                    yield from _elements(text, name)
                else:
                    text.value(name)
        else:
            raise text.wrong("the file", "an object or an array")
        if text.peek():
            raise text.wrong("the file", "its end")


def document(path: Path, largest: int, writer: str = "") -> Any:
    """A whole JSON file of at most `largest` bytes, as `writer`, a program, leaves it.

    Raises SourceError for what is no JSON, as a file that is cut short; OSError.
    """
    try:
        return json.loads(read_bytes(path, largest))
    except (ValueError, RecursionError) as error:
        form = f" as {writer} writes it" if writer else ""
        raise SourceError(f"{path}: must be JSON{form}, got {error}; cut short?") from error


def field_of(record: dict[str, Any], key: str, types: tuple[type, ...], where: str) -> Any:
    """The value of a key, of one of the types; SourceError otherwise. True and False are no int."""
    value = record.get(key)
    if not isinstance(value, types) or isinstance(value, bool):
        found = type(value).__name__ if key in record else "nothing"
        raise SourceError(f"{where}: {key}: found {found}, wanted {' or '.join(kind.__name__ for kind in types)}")
    return value


def numbers_of(record: dict[str, Any], key: str, count: int, where: str) -> array:
    """That many float32 of a key's list, none beyond LARGEST; SourceError otherwise."""
    value = field_of(record, key, (list,), where)
    if len(value) != count:
        raise SourceError(f"{where}: {key}: found {len(value)} values, wanted {count}")
    try:
        numbers = array("f", value)
    except (TypeError, OverflowError) as error:
        raise SourceError(f"{where}: {key}: {error}, wanted {count} numbers") from error
    if not -LARGEST <= min(numbers) <= max(numbers) <= LARGEST:
        raise SourceError(f"{where}: {key}: found {min(numbers)} to {max(numbers)}, wanted numbers up to {LARGEST:.0f}")
    return numbers


def _members(text: "_Text") -> Iterator[str]:
    """The names of the object's members; whoever asks for the next one has read the value."""
    text.take("{", "the file")
    while text.peek() != "}":
        name = text.value("the file")
        if not isinstance(name, str):
            raise text.wrong("the file", "a member's name")
        text.take(":", name)
        yield name
        if text.peek() != "}":
            text.take(",", name)
            if text.peek() == "}":
                raise text.wrong(name, "a member's name")
    text.take("}", "the file")


def _elements(text: "_Text", name: str) -> Iterator[tuple[str, int, Any]]:
    text.take("[", name)
    index = 0
    while text.peek() != "]":
        yield name, index, text.value(f"{name}[{index}]")
        index += 1
        if text.peek() != "]":
            text.take(",", f"{name}[{index}]")
            if text.peek() == "]":
                raise text.wrong(f"{name}[{index}]", "a value")
    text.take("]", name)


class _Text:
    """The characters of a file from where parsing has come to."""

    def __init__(self, path: Path, file: BinaryIO, constant: Callable[[str], float]) -> None:
        self._path, self._file = path, file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._json = json.JSONDecoder(parse_constant=constant)
        # _start: characters of the file ahead of the buffer
        self._buffer, self._at, self._start, self._ended = "", 0, 0, False

    def peek(self) -> str:
        """The next character that is no space, not taken; "" at the end."""
        while not (found := _NO_SPACE.search(self._buffer, self._at)):
            self._at = len(self._buffer)
            if self._ended:
                return ""
            self._more()
        self._at = found.start()
        return found[0]

    def take(self, character: str, where: str) -> None:
        if self.peek() != character:
            raise self.wrong(where, repr(character))
        self._at += 1

    def value(self, where: str) -> Any:
        self.peek()
        while True:
            try:
                value, end = self._json.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                # perhaps only because the rest is not read yet
                if self._ended:
                    place = self._start + error.pos
                    raise SourceError(
                        f"{self._path}: {where}: no JSON at character {place}: {error.msg}; cut short?"
                    ) from error
            except (ValueError, RecursionError) as error:
                raise SourceError(f"{self._path}: {where}: no JSON that can be read: {error}") from error
            else:
                # a number may go on
                if end < len(self._buffer) or self._ended:
                    self._at = end
                    return value
            if len(self._buffer) - self._at > LONGEST:
                raise SourceError(
                    f"{self._path}: {where}: found more than {LONGEST} characters or no JSON, wanted a record"
                )
            self._more()

    def wrong(self, where: str, wanted: str) -> SourceError:
        found = repr(self.peek()) if self.peek() else "the end"
        return SourceError(
            f"{self._path}: {where}: found {found} at character {self._start + self._at}, wanted {wanted}"
        )

    def _more(self) -> None:
        # twice as much each time: a long record is scanned again from its start
        found = self._file.read(max(CHUNK, len(self._buffer) - self._at))
        self._ended = not found
        self._start += self._at
        try:
            self._buffer = self._buffer[self._at :] + self._decoder.decode(found, final=self._ended)
        except UnicodeDecodeError as error:
            raise SourceError(f"{self._path}: no UTF-8 text: {error}") from error
        self._at = 0


def _refuse(word: str) -> float:
    raise ValueError(f"found {word}, wanted a number")
