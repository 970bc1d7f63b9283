"""What the README and docs say: their Python runs, their commands and files are there, and the pages build."""

import ast
import logging
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.fakes import STANDING
from tests.test_predictor import Found
from unihpe_fast import detector

ROOT = Path(__file__).parent.parent
TEXTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")]
# the others have tests of their own: test_recipes.py, kernels/test_adding_a_score.py
TEXTS += sorted(
    set((ROOT / "docs").glob("*.md")) - {ROOT / "docs" / name for name in ("recipes.md", "adding-a-score.md")}
)
# blocks that are read and not run, by a line of theirs, and why
READ = {
    "def read(inputs: Sequence[Path]": "a pattern for a reader of one's own",
    "get_local_kernel(": "tests/test_hf_kernel.py does it",
}


def blocks() -> Iterator[tuple[str, str]]:
    for path in TEXTS:
        for block in re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            yield path.name, block


BLOCKS = sorted(set(blocks()))


@pytest.mark.parametrize(("name", "block"), BLOCKS, ids=[f"{name}-{at}" for at, (name, _) in enumerate(BLOCKS)])
def test_python_in_the_docs_runs(name: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = compile(block, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if any(line in block for line in READ):
        return
    monkeypatch.chdir(tmp_path)
    # a detector without weights, and what a reader has at hand
    person = STANDING[None, :, :2].numpy() / 2 + [640, 360]
    monkeypatch.setattr(detector, "open_detector", lambda _: Found(person))
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (720, 1280, 3), np.uint8)
    names: dict[str, Any] = {
        "keypoints_2d": generator.random((2, 17, 2)) * 700,
        "confidence": np.ones((2, 17)),
        "picture": picture,
        "image": picture,
    }
    torch.manual_seed(0)
    exec(code, names)


def test_blocks_that_are_only_read_are_there() -> None:
    assert len(BLOCKS) > 6
    for line in READ:
        assert any(line in block for _, block in BLOCKS), line


def test_files_and_extras_that_are_named_are_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    found = 0
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        for extra in re.findall(r"pip install '(?:unihpe-fast|\.)\[([\w,-]+)\]'", text):
            assert set(extra.split(",")) <= set(extras), f"{path.name}: {extra}"
        for script in re.findall(
            r"\b((?:examples|scripts|tests|benchmarks|docs)/[\w/.-]+\.(?:py|ipynb|md|json|png))\b", text
        ):
            found += 1
            # a file that a command is about to write is named with a capital
            assert (ROOT / script).is_file() or "NAME" in script or script.startswith("benchmarks/results/"), (
                f"{path.name}: {script}"
            )
        if path.parent.name != "docs":
            for link in re.findall(r"\]\(([^)#:]+)\)", text):
                assert (path.parent / link).exists(), f"{path.name}: {link}"
    assert found > 10


def test_the_pages_build_and_a_dead_link_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort

    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    page = tmp_path / "pages" / "index.md"
    page.parent.mkdir()
    page.write_text("[nowhere](gone.md)\n")
    small = {"docs_dir": str(page.parent), "site_dir": str(tmp_path / "small"), "nav": ["index.md"], "plugins": []}
    with pytest.raises(Abort, match="1 warning"):
        build(load_config(str(ROOT / "mkdocs.yml"), strict=True, **small))
    caplog.clear()
    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path / "site")))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING and "mkdocs" in record.name]
    # every page is in the menu, and the docstrings are in theirs
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages <= {path.name for path in (tmp_path / "site").iterdir()}
    menu = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert all(f'href="{name}/"' in menu for name in pages)
    api = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("singular_value_contrastive_loss", "pa_mpjpe", "PAMPJPE", "UniHPE", "from_pretrained", "Predictor"):
        assert re.search(rf'id="[\w.]*\b{name}"', api), name
