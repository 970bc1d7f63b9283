"""The code blocks of docs/loss.md and docs/recipes.md run, where the packages that they are for are installed."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BLOCKS = [
    (f"{name}, block {number}", block)
    for name in ("loss.md", "recipes.md")
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), re.DOTALL), 1)
]


def packages(block: str) -> set[str]:
    """The top-level ones that it imports."""
    found = set()
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("block", [block for _, block in BLOCKS], ids=[name for name, _ in BLOCKS])
def test_block_runs(block: str) -> None:
    for package in sorted(packages(block)):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    exec(compile(block, "block", "exec"), {})


def test_there_are_blocks() -> None:
    assert {name.split(",")[0] for name, _ in BLOCKS} == {"loss.md", "recipes.md"}
    assert len(BLOCKS) >= 12
