"""Every command line in the README, in docs and in comments and docstrings is one that its command takes."""

import argparse
import ast
import importlib
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro

from unihpe_fast import prepare, train
from unihpe_fast.config import Config
from unihpe_fast.data.sources import source_module
from unihpe_fast.detector.__main__ import Fetch

ROOT = Path(__file__).parent.parent
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "benchmarks").glob("*.md"))]
CODE = [path for folder in ("unihpe_fast", "kernels", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
# what stands for a word of the user's; other capitals are names of files and folders, which is what they stand for
WORDS = {"SOURCE": "coco", "PRESET": "synthetic", "NAME": "3dpw", "N": "2", "F": "30"}
COMMAND = re.compile(r"(?:python|torchrun(?: [^`\"]*?)?) -m ((?:unihpe_fast|benchmarks)[\w.]*)(?=([^`]*))")
# options of training, mentioned alone
OPTION = re.compile(r"(?<![\w-])(--(?:data|model|optim|loss|run)\.[\w.-]+)(?: (True|False|[\d.]+)\b)?")


def comments_and_docstrings(path: Path) -> str:
    """The prose of a module; other strings are there to be printed, with holes in them."""
    source = path.read_text(encoding="utf-8")
    docs = [
        ast.get_docstring(node, clean=True) or ""
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return "\n".join([*docs, *re.findall(r"^\s*# (.*)$", source, re.MULTILINE)])


def prose() -> Iterator[tuple[str, str]]:
    for path in TEXTS:
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for path in CODE:
        yield str(path.relative_to(ROOT)), comments_and_docstrings(path)


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Module and arguments of each command line; those of a lone mention are empty."""
    text = text.replace("\\\n", " ")
    for match in COMMAND.finditer(text):
        module, rest = match.groups()
        if text[match.start() - 1 : match.start()] == "`":
            # in a sentence, which may go on in the next line
            rest = rest.replace("\n", " ")
        # to the end of the line, without the comment or the sentence that goes on behind it
        line = rest.split("\n")[0]
        ends = r"\s&&|\s#|\s{3,}[a-z]|;" if '"' in line else r"\s&&|\s#|\s{3,}[a-z]|, | \(|(?<!\.)\.\s|;"
        line = re.split(ends, line, maxsplit=1)[0]
        # what may be left out, and "and so on"
        line = re.sub(r"\[[^][]*\]", "", line)
        # an apostrophe belongs to the sentence behind the command
        line = line.partition("'")[0] if line.count("'") % 2 else line
        line = line.rpartition('"')[0] if line.count('"') % 2 else line
        words = [WORDS.get(word, word) for word in shlex.split(line) if word != ".."]
        yield module.rstrip("."), [re.sub(r"\.\.$", "", word) for word in words]


LINES = sorted({(name, module, *words) for name, text in prose() for module, words in commands(text)})


def parse_prepare(arguments: list[str]) -> None:
    name, *rest = arguments or ["--help"]
    if name == "--help":
        raise SystemExit(0)
    kind: Any = prepare.CheckJob if name == "check" else prepare.Job[source_module(name).Options]  # type: ignore[misc]
    job = tyro.cli(kind, args=rest)
    paths = [job.path] if name == "check" else job.paths
    assert paths[-1].suffix in prepare.SUFFIXES


def parse_train(arguments: list[str]) -> None:
    # a run to go on with is a folder that is not there
    known = [word for at, word in enumerate(arguments) if "--resume" not in (word, arguments[at - 1] if at else "")]
    train.parse(known)


def parse_record(arguments: list[str]) -> None:
    at = arguments.index("--json")
    parse_train(arguments[:at] + arguments[at + 2 :])


def parse_by_arguments(module: str) -> Callable[[list[str]], Any]:
    """Of a command that has a dataclass `Arguments` for tyro, or that makes an argparse parser in its `main`."""
    loaded = importlib.import_module(module)
    if not hasattr(loaded, "main"):
        loaded = importlib.import_module(f"{module}.__main__")
    if hasattr(loaded, "Arguments"):
        return lambda arguments: tyro.cli(loaded.Arguments, args=arguments)
    return lambda arguments: stop_after_parsing(loaded.main, arguments)


class Parsed(BaseException):
    """The arguments were taken; what the command does with them is not wanted."""


def stop_after_parsing(main: Callable[..., Any], arguments: list[str]) -> None:
    parse = argparse.ArgumentParser.parse_known_args

    def parsed(self: argparse.ArgumentParser, *_: Any, **options: Any) -> Any:
        _, unknown = parse(self, arguments, **options)
        if unknown:
            raise SystemExit(2)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parsed)
        patch.setattr(argparse.ArgumentParser, "parse_known_args", parsed)
        with pytest.raises(Parsed):
            main()


def parse_detector(arguments: list[str]) -> None:
    assert arguments[0] == "fetch"
    tyro.cli(Fetch, args=arguments[1:])


# commands whose arguments are not simply those of `parse_by_arguments`; one that is added is found by itself
PARSERS: dict[str, Callable[[list[str]], Any]] = {
    "benchmarks.record": parse_record,
    "unihpe_fast.detector": parse_detector,
    "unihpe_fast.prepare": parse_prepare,
    "unihpe_fast.train": parse_train,
}


@pytest.mark.parametrize("line", LINES, ids=lambda line: " ".join(line)[:100])
def test_a_command_line_is_taken(line: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    _, module, *arguments = line
    path = ROOT.joinpath(*module.split("."))
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"no module {module}"
    # a mention of the command by its name alone
    if not arguments or module == "unihpe_fast.env":
        return
    code = None
    try:
        (PARSERS.get(module) or parse_by_arguments(module))(arguments)
    except SystemExit as stop:
        code = stop.code
    assert not code, capsys.readouterr()


def test_the_lines_are_found() -> None:
    assert len(LINES) > 35
    for line in (
        ("docs/datasets.md", "unihpe_fast.evaluate", "runs/mixed-w48", "--data", "3dpw.h5", "--protocol", "3dpw"),
        ("unihpe_fast/evaluate.py", "unihpe_fast.evaluate", "RUN", "--data", "FILE.h5"),
    ):
        assert line in LINES


def test_options_that_are_mentioned_alone_are_options() -> None:
    found = {(name, option.rstrip(".-"), value) for name, text in prose() for option, value in OPTION.findall(text)}
    assert len(found) > 10
    parser = tyro.extras.get_parser(Config, default=Config())
    options = {text for action in parser._actions for text in action.option_strings}
    for name, option, value in sorted(found):
        assert option in options, f"{name}: {option} is no option of training"
        # yes or no is said by the option's name, --option or --no-option
        assert value not in ("True", "False"), f"{name}: {option} {value}"


def test_a_validation_file_is_not_marked_as_one_to_train_on() -> None:
    for name, module, *words in LINES:
        if module == "unihpe_fast.prepare" and any(re.search(r"(val|test)[^/]*\.h5$", word) for word in words):
            line = f"{name}: {' '.join(words)}"
            assert "--split" in words, line
            assert words[words.index("--split") + 1] != "train", line


def test_make_has_the_targets_that_are_named() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {word for _, text in prose() for word in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)}
    assert {"train", "test", "bench"} <= named <= targets
