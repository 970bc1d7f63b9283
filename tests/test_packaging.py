"""What a stranger looks for in a package: one version, the licence, type information, and workflows that call make."""

import re
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

import unihpe_fast
import unihpe_kernels

ROOT = Path(__file__).parent.parent


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = re.search(r"^## (\S+),", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert unihpe_fast.__version__ == unihpe_kernels.__version__ == citation["version"] == newest[1]


@pytest.mark.parametrize("package", [unihpe_fast, unihpe_kernels])
def test_packages_are_marked_as_typed(package) -> None:
    assert files(package).joinpath("py.typed").is_file()


def test_workflows_and_forms_parse_and_name_what_is_there() -> None:
    forms = sorted((ROOT / ".github").rglob("*.yml"))
    assert {form.name for form in forms} >= {"test.yml", "release.yml", "bug.yml"}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for form in forms:
        said = yaml.safe_load(form.read_text(encoding="utf-8"))
        commands = [step["run"] for job in said.get("jobs", {}).values() for step in job["steps"] if "run" in step]
        for command in commands:
            assert set(re.findall(r"\bmake ([a-z-]+)", command)) <= targets, form.name
            assert ".ci/run" not in command or (ROOT / ".ci/run").is_file()
    assert "python -m unihpe_fast.env" in (ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text(encoding="utf-8")
