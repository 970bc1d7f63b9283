"""`unihpe_kernels` as a package of Hugging Face's `kernels`, which loads it from a folder or a hub without installing.

python scripts/hf_kernel.py OUT

OUT/build/torch-cuda and OUT/build/torch-cpu hold the same sources, with relative imports, since the package is loaded
under another name, and with torch operators of a namespace of their own, so that several versions can be loaded beside
each other and beside an installed one. Nothing is compiled here: Triton does it on a GPU, and C++ is compiled at its
first use on a CPU. What was in OUT/build before is replaced.
"""

import argparse
import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "kernels" / "unihpe_kernels"
BACKENDS = ("cuda", "cpu")
# of the interface, as the hub counts it: a change that breaks callers makes it one more
VERSION = 1
_IMPORT = re.compile(r"^(\s*)from unihpe_kernels(?:\.([\w.]+))? import ", re.MULTILINE)
_NAMESPACE = '_NAMESPACE = "unihpe_kernels"'


def relative(text: str, folders: int) -> str:
    """The source of a module with its imports of the package made relative; `folders` is how deep it lies."""
    dots = "." * (folders + 1)
    return _IMPORT.sub(lambda match: f"{match[1]}from {dots}{match[2] or ''} import ", text)


def sources() -> dict[Path, bytes]:
    """The package's files by their place in it."""
    found = sorted(path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(PACKAGE): path.read_bytes() for path in found}


def build(out: Path) -> list[Path]:
    """Write the package; returns the folders of its variants. Raises ValueError, OSError."""
    files = sources()
    digest = hashlib.sha256(b"".join(str(path).encode() + text for path, text in files.items())).hexdigest()[:10]
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".build-") as made:
        for backend in BACKENDS:
            name = f"_unihpe_kernels_{backend}_{digest}"
            folder = Path(made) / f"torch-{backend}"
            for path, text in files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(_adapted(path, text, name))
            metadata = {
                "id": name,
                "name": "unihpe-kernels",
                "version": VERSION,
                "license": "Apache-2.0",
                "python-depends": [],
                "backend": {"type": backend},
            }
            (folder / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
            shutil.copy(ROOT / "LICENSE", folder)
        shutil.rmtree(out / "build", ignore_errors=True)
        shutil.move(made, out / "build")
        Path(made).mkdir()  # for the context manager to remove
    (out / "build").chmod(0o755)
    return [out / "build" / f"torch-{backend}" for backend in BACKENDS]


def _adapted(path: Path, text: bytes, name: str) -> bytes:
    if path.suffix != ".py":
        return text
    adapted = relative(text.decode(), len(path.parent.parts))
    if path.name == "registration.py":
        if adapted.count(_NAMESPACE) != 1:
            raise ValueError(f"{path}: must hold {_NAMESPACE} once, for the operators to be renamed")
        adapted = adapted.replace(_NAMESPACE, f'_NAMESPACE = "{name}"')
    return adapted.encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for folder in build(parser.parse_args().out):
        print(folder)


if __name__ == "__main__":
    main()
