"""The C++ backend: how it is compiled, what happens where that fails, and its threads."""

import grp
import hashlib
import multiprocessing
import os
import pwd
import shlex
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from tests.kernels.pose_cases import pose_pairs
from unihpe_kernels import caller, checks, native, pa_mpjpe, procrustes, singular_value_contrastive_loss, svd3x3
from unihpe_kernels.native import compiling, folders
from unihpe_kernels.procrustes import reference

KERNELS = Path(__file__).parents[2] / "kernels"
SOURCES = sorted({source for sources in checks.NATIVE_SOURCES.values() for source in sources}, key=str)
SAMPLES = 10_000  # several pieces for every thread

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler is found")

CODE = """
import torch
from unihpe_kernels import pa_mpjpe, procrustes
torch.manual_seed(0)
pred, target = torch.randn(2, 50, 17, 3)
print(pa_mpjpe(pred, target).double().sum().item())
try: print(procrustes(pred, target, backend="native").scale.shape)
except ValueError as error: print(error)
"""


def run(cache: Path, code: str = CODE, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(KERNELS)!r})\n{code}"],
        env={**os.environ, "XDG_CACHE_HOME": str(cache), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def quick_compiler(folder: Path) -> str:
    """The compiler with little optimisation, for who asks where its library goes and not how fast that is."""
    script = folder / "quick-compiler"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(native.compiler())} "$@" -O1\n')
    script.chmod(0o755)
    return str(script)


def expected_sum() -> float:
    torch.manual_seed(0)
    pred, target = torch.randn(2, 50, 17, 3).double()
    return reference.pa_mpjpe(pred, target).sum().item()


def test_without_a_compiler_torch_does_the_work(tmp_path):
    done = run(tmp_path, UNIHPE_KERNELS_CXX="")
    total, refusal = done.stdout.splitlines()
    assert float(total) == pytest.approx(expected_sum(), rel=1e-5)
    assert refusal.startswith('backend="native" cannot run procrustes: no C++ compiler is found')
    assert done.stderr == ""
    assert not list(tmp_path.iterdir())


@needs_compiler
def test_a_compiler_that_fails_is_named_with_what_it_said(tmp_path):
    done = run(tmp_path, UNIHPE_KERNELS_CXX=f"{native.compiler()[0]} -include nowhere.h")
    total, refusal = done.stdout.splitlines()[:2]
    assert float(total) == pytest.approx(expected_sum(), rel=1e-5)
    assert "cannot compile procrustes/poses.cpp" in refusal
    assert "nowhere.h" in done.stdout
    assert "plain torch is slower" in done.stderr
    # it points to the line that called, which is line 7 of what is run
    assert "<string>:7: RuntimeWarning" in done.stderr
    assert {path.suffix for path in tmp_path.glob("*/*")} == {".lock", ".failed"}


def test_warnings_point_to_the_caller_and_not_to_torch_that_dispatches():
    scope = {"warn": caller.warn}
    exec(compile("def dispatch():\n    warn('slow', RuntimeWarning)", torch.__file__, "exec"), scope)
    with pytest.warns(RuntimeWarning, match="slow") as caught:
        scope["dispatch"]()
    assert [warning.filename for warning in caught] == [__file__]


@needs_compiler
def test_where_nothing_can_be_written_the_library_is_of_the_process_alone(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "unihpe_kernels").write_text("a file where the folder is wanted")
    done = run(cache, TMPDIR=str(cache), UNIHPE_KERNELS_CXX=quick_compiler(tmp_path))
    assert done.stdout.endswith("torch.Size([50])\n"), done.stderr
    assert float(done.stdout.splitlines()[0]) == pytest.approx(expected_sum(), rel=1e-5)
    assert "<string>:7: RuntimeWarning: C++ is compiled anew in every process" in done.stderr
    assert "unihpe_kernels" in done.stderr
    assert done.stderr.count("RuntimeWarning") == 1
    assert [path.name for path in cache.iterdir()] == ["unihpe_kernels"]


@needs_compiler
def test_the_second_process_finds_the_library_of_the_first(tmp_path):
    compiler = quick_compiler(tmp_path)
    assert run(tmp_path, UNIHPE_KERNELS_CXX=compiler).stdout.endswith("torch.Size([50])\n")
    (library,) = tmp_path.glob("unihpe_kernels/*.so")
    written = library.stat().st_mtime_ns
    assert run(tmp_path, UNIHPE_KERNELS_CXX=compiler).stdout.endswith("torch.Size([50])\n")
    assert [path.stat().st_mtime_ns for path in tmp_path.glob("unihpe_kernels/*.so")] == [written]


LOSSES = """
from unihpe_kernels import singular_value_contrastive_loss
for count, negatives in ((3, "all"), (4, "paired")):
    rows = torch.randn(count, 37, 20)
    for given, backend in ((rows, "native"), (rows.double(), "torch")):
        given = given.clone().requires_grad_()
        loss = singular_value_contrastive_loss(list(given), temperature=0.1, negatives=negatives, backend=backend)
        loss.backward()
        print(loss.item(), *given.grad.flatten().tolist())
"""


@needs_compiler
@pytest.mark.skipif(
    "avx" not in torch.backends.cpu.get_cpu_capability().lower(), reason="no wider vectors to leave out"
)
@pytest.mark.parametrize("flag", [pytest.param("-mno-avx512f", marks=pytest.mark.slow), "-mno-avx"])
def test_on_lesser_cpus(flag, tmp_path):
    done = run(tmp_path, CODE + LOSSES, UNIHPE_KERNELS_CXX=f"{native.compiler()[0]} {flag}")
    total, shape, *losses = done.stdout.splitlines()
    assert float(total) == pytest.approx(expected_sum(), rel=1e-5)
    assert shape == "torch.Size([50])"
    numbers = [torch.tensor([float(word) for word in line.split()], dtype=torch.float64) for line in losses]
    assert len(numbers) == 4, done.stderr
    for got, want in (numbers[:2], numbers[2:]):
        assert (got - want).abs().max() <= 1e-5 * want.abs().max()


@needs_compiler
@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_no_warning_of_the_compiler(source, tmp_path):
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-fsyntax-only"]
    package = KERNELS / "unihpe_kernels"
    file, _, defines = source if isinstance(source, native.Source) else native.Source(source)
    command = [*native.compiler(), *flags, *(f"-D{name}" for name in defines), "-I", package, package / file]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def everything():
    pred, target = (points.float().requires_grad_() for points in pose_pairs(SAMPLES))
    error, similarity = pa_mpjpe(pred, target), procrustes(pred, target)
    factors = svd3x3(similarity.rotation.detach() * 3 + 1)
    loss = error.sum() + sum(part.sum() for part in similarity)
    return [error, *similarity, *factors, *torch.autograd.grad(loss, (pred, target))]


@needs_compiler
@pytest.mark.parametrize("count", [2, 3])
def test_bits_do_not_depend_on_the_threads(count, threads):
    threads(1)
    expected = everything()
    threads(count)
    for got, want in zip(everything(), expected, strict=True):
        assert torch.equal(got, want)


@needs_compiler
def test_in_inference_mode(threads):
    threads(2)
    pred, target = (points.float() for points in pose_pairs(SAMPLES))
    expected = pa_mpjpe(pred, target)
    with torch.inference_mode():
        assert torch.equal(pa_mpjpe(pred, target), expected)
        assert torch.equal(pa_mpjpe(pred.clone(), target.clone()), expected)


@needs_compiler
def test_bits_do_not_depend_on_callers_at_once(threads):
    threads(2)
    pred, target = (points.float() for points in pose_pairs(SAMPLES))
    rows = list(torch.randn(3, 101, 64, generator=torch.Generator().manual_seed(0)))

    def results() -> list[torch.Tensor]:
        losses = [singular_value_contrastive_loss(rows, temperature=0.1, negatives=kind) for kind in ("all", "paired")]
        return [pa_mpjpe(pred, target), *losses]

    expected = results()
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(results) for _ in range(12)]:
            for got, want in zip(future.result(), expected, strict=True):
                assert torch.equal(got, want)


def _error_in_child(pred, target, results):
    torch.get_num_threads = lambda: 2  # type: ignore[assignment]
    results.put(pa_mpjpe(pred, target).tolist())


@needs_compiler
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_a_forked_process(threads):
    threads(2)
    pred, target = (points.float() for points in pose_pairs(SAMPLES))
    expected = pa_mpjpe(pred, target).tolist()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_error_in_child, args=(pred, target, results), daemon=True)
    child.start()
    assert results.get(timeout=60) == expected
    child.join(60)


class _Losses(Dataset):
    """Computes in a loader process, which torch gives one thread."""

    def __getitem__(self, number: int) -> torch.Tensor:
        rows = torch.randn(3, 40, 16, generator=torch.Generator().manual_seed(number)).requires_grad_()
        losses = [singular_value_contrastive_loss(list(rows), temperature=0.1, negatives=k) for k in ("all", "paired")]
        (gradient,) = torch.autograd.grad(sum(losses), rows)
        return torch.stack([loss.detach() for loss in losses] + [gradient.norm()])

    def __len__(self) -> int:
        return 3


@needs_compiler
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_loader_processes_compute(threads):
    threads(2)
    losses = _Losses()
    expected = [losses[number] for number in range(len(losses))]
    loader = DataLoader(losses, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    for got, want in zip(loader, expected, strict=True):
        assert torch.equal(got, want)


@needs_compiler
def test_chosen_for_what_it_takes_alone():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert checks.check_backend("auto", torch.empty(0, dtype=dtype), "svd3x3") == "native"
    assert checks.check_backend("auto", torch.empty(0).double(), "svd3x3") == "torch"
    with pytest.raises(ValueError, match=r"takes torch.float32, .* got torch.float64"):
        checks.check_backend("native", torch.empty(0).double(), "svd3x3")
    with pytest.raises(ValueError, match="needs CPU tensors, got meta"):
        checks.check_backend("native", torch.empty(0, device="meta"), "svd3x3")
    with pytest.raises(ValueError, match=r"has no C\+\+"):
        checks.check_backend("native", torch.empty(0), "other")


# What follows builds sources of one line; each test has its own, which this process has not loaded.


@pytest.fixture
def tiny(request, tmp_path, monkeypatch):
    """Makes sources whose function `answer` writes 42."""
    monkeypatch.setattr(native, "_PACKAGE", tmp_path / "package")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "package" / request.node.name
    folder.mkdir(parents=True)

    def make(name: str = "tiny") -> str:
        (folder / f"{name}.cpp").write_text('extern "C" void answer(double* out) { *out = 42; }\n')
        return f"{request.node.name}/{name}.cpp"

    return make


@pytest.fixture
def wrap(tmp_path, monkeypatch):
    """Puts lines of shell before the compiler, and returns the file to which it adds a line for every `$source`."""

    compiler = native.compiler()

    def make(lines: str = "") -> Path:
        script, log = tmp_path / "compiler", tmp_path / "log"
        script.write_text(
            f"""#!/bin/sh
for word; do case $word in *.cpp) source=$(basename "$word" .cpp);; esac; done
if [ "$source" ]; then
    echo "$source" >> {shlex.quote(str(log))}
    {lines}
fi
exec {shlex.join(compiler)} "$@"
"""
        )
        script.chmod(0o755)
        monkeypatch.setenv("UNIHPE_KERNELS_CXX", str(script))
        return log

    return make


def _answer(source: str, results) -> None:
    out = torch.zeros(1, dtype=torch.float64)
    with warnings.catch_warnings():
        # that no cache can be used has a test of its own
        warnings.simplefilter("ignore", RuntimeWarning)
        native.call(source, "answer", out)
    results.put(out.item())


def answers(source: str, processes: int = 1) -> list[float]:
    """Of new processes that start at once."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [context.Process(target=_answer, args=(source, results), daemon=True) for _ in range(processes)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * processes
    return [results.get(timeout=60) for _ in children]


def library(tmp_path: Path) -> Path:
    (path,) = tmp_path.glob("cache/unihpe_kernels/*.so")
    return path


builds = pytest.mark.skipif(
    native.compiler() is None or "fork" not in multiprocessing.get_all_start_methods(),
    reason="no C++ compiler is found, or nothing forks here",
)
forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@builds
@forks
@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_damaged_library_is_built_again(kept, tiny, tmp_path):
    source = tiny()
    assert answers(source) == [42]
    whole = library(tmp_path).read_bytes()
    os.truncate(library(tmp_path), int(kept * len(whole)))
    assert answers(source) == [42]
    assert library(tmp_path).read_bytes() == whole


@builds
@forks
def test_a_library_that_cannot_be_loaded_is_built_for_the_process(tiny, wrap, tmp_path):
    source, log = tiny(), wrap()
    assert answers(source) == [42]
    built, junk = library(tmp_path), b"of another system"
    name = f"{built.name.rsplit('-', 1)[0]}-{hashlib.sha256(junk).hexdigest()[:20]}.so"
    built.rename(built.with_name(name)).write_bytes(junk)
    assert answers(source) == [42]
    assert log.read_text() == "tiny\n" * 2


def link_from_where_all_may_write(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "link").symlink_to(tmp_path / "cache")
    (tmp_path / "open").chmod(0o777)
    os.environ["XDG_CACHE_HOME"] = str(tmp_path / "open" / "link")


@builds
@forks
@pytest.mark.parametrize(
    "spoil",
    [
        lambda tmp_path: library(tmp_path).parent.chmod(0o777),
        lambda tmp_path: (tmp_path / "cache").chmod(0o777),
        link_from_where_all_may_write,
        lambda tmp_path: os.chown(tmp_path / "cache", os.getuid() + 1, -1),
        lambda tmp_path: os.chown(library(tmp_path).parent, os.getuid() + 1, -1),
    ],
    ids=["folder", "parent", "link", "another's parent", "another's folder"],
)
def test_nothing_is_loaded_from_where_others_can_write(spoil, tiny, wrap, tmp_path, monkeypatch):
    source, log = tiny(), wrap()
    assert answers(source) == [42]
    before = library(tmp_path).stat()
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ["XDG_CACHE_HOME"])
    try:
        spoil(tmp_path)
    except PermissionError:
        pytest.skip("only root can give files away")
    assert answers(source) == [42]
    assert log.read_text() == "tiny\n" * 2
    assert library(tmp_path).stat().st_ino == before.st_ino


@builds
@forks
@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.chmod(0o766),
        lambda file: os.chown(file, os.getuid() + 1, -1),
        lambda file: (file.unlink(), os.mkfifo(file)),
        lambda file: (file.rename(file.with_suffix(".mine")), file.symlink_to(file.with_suffix(".mine"))),
    ],
    ids=["all may write", "another's", "a pipe", "a link"],
)
def test_a_library_that_is_not_the_user_s_own_is_built_again(spoil, tiny, wrap, tmp_path):
    source, log = tiny(), wrap()
    assert answers(source) == [42]
    try:
        spoil(library(tmp_path))
    except PermissionError:
        pytest.skip("only root can give files away")
    assert answers(source) == [42]
    assert log.read_text() == "tiny\n" * 2
    status = library(tmp_path).lstat()
    assert (status.st_uid, status.st_mode & 0o170077) == (os.getuid(), 0o100000)


@builds
@forks
def test_a_folder_of_the_user_s_own_group_is_trusted(tiny, wrap, tmp_path, monkeypatch):
    """As umask 002 makes them where every user has a group; with another member it is no longer the user's own."""
    user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(os.getgid())
    alone = SimpleNamespace(gr_name=user.pw_name, gr_mem=[])
    source, log = tiny(), wrap()
    assert answers(source) == [42]
    (tmp_path / "cache").chmod(0o775)
    for found, compiled in ((alone, 1), (SimpleNamespace(gr_name=user.pw_name, gr_mem=["other"]), 2)):
        monkeypatch.setattr(grp, "getgrgid", lambda gid, found=found: found if gid == user.pw_gid else group)
        assert answers(source) == [42]
        assert log.read_text() == "tiny\n" * compiled


@builds
@forks
def test_what_is_made_is_for_the_user_alone_whatever_the_umask(tiny, tmp_path):
    before = os.umask(0)
    try:
        assert answers(tiny()) == [42]
    finally:
        os.umask(before)
    made = [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]
    assert len(made) == 4
    assert not [path for path in made if path.stat().st_mode & 0o077]


@builds
@forks
def test_a_relative_cache_is_not_one(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    source = tiny()
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert answers(source) == [42]
    assert not Path("cache").exists()
    assert len(list(tmp_path.glob(".cache/unihpe_kernels/*.so"))) == 1


@builds
@forks
@pytest.mark.parametrize("home", [".", "no passwd entry"])
def test_without_a_home_the_library_is_of_the_process_alone(home, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME")
    if home == ".":
        monkeypatch.setenv("HOME", home)
    else:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    source = tiny()
    before = set(tmp_path.rglob("*"))
    with pytest.warns(RuntimeWarning, match="home"):
        assert native.obstacle(source) is None
    assert answers(source) == [42]
    # a forked process that is measured leaves what it has covered where it is
    assert {path for path in tmp_path.rglob("*") if not path.name.startswith(".coverage")} == before


@builds
@forks
def test_a_path_that_is_no_utf_8(tiny, wrap, tmp_path, monkeypatch):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    monkeypatch.setenv("XDG_CACHE_HOME", folder)
    assert answers(tiny()) == [42]
    assert len(list(Path(folder).glob("unihpe_kernels/*.so"))) == 1
    wrap("exit 1")
    with pytest.warns(RuntimeWarning):
        reason = native.obstacle(tiny("other"))
    with pytest.warns(RuntimeWarning):
        again = native.obstacle(f"../package/{tiny('other')}")
    assert "without" in again
    for text in (reason, again):
        # a terminal, or a file of UTF-8, takes it
        assert text.encode()


@builds
@forks
def test_a_pipe_in_the_lock_s_place_is_not_waited_for(tiny, tmp_path):
    folder = tmp_path / "cache" / "unihpe_kernels"
    folder.mkdir(mode=0o700, parents=True)
    os.mkfifo(folder / "tiny.lock")
    source = tiny()
    with pytest.warns(RuntimeWarning, match=r"tiny\.lock is no regular file"):
        assert native.obstacle(source) is None
    assert answers(source) == [42]


@builds
@forks
def test_a_lock_that_is_never_given_back_is_not_waited_for_for_ever(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(native, "_PATIENCE", 0.5)
    folder = tmp_path / "cache" / "unihpe_kernels"
    folder.mkdir(mode=0o700, parents=True)
    with (
        folders.locked(folder / "tiny.lock", 1),
        pytest.warns(RuntimeWarning, match=r"tiny\.lock has been held by another process for 0\.5 seconds"),
    ):
        assert native.obstacle(tiny()) is None


@builds
@forks
def test_one_of_racing_processes_compiles(tiny, wrap):
    log = wrap("sleep 0.5")
    assert answers(tiny(), processes=4) == [42] * 4
    assert log.read_text() == "tiny\n"


def _obstacle(source: str, results) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        results.put(native.obstacle(source))


def obstacles(source: str, processes: int) -> list[str | None]:
    """What new processes that start at once say of a source."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    for _ in range(processes):
        context.Process(target=_obstacle, args=(source, results), daemon=True).start()
    return [results.get(timeout=60) for _ in range(processes)]


@builds
@forks
def test_a_compiler_that_hangs_is_ended_with_its_children_and_asked_once(tiny, wrap, tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "TIMEOUT", 1.0)
    log = wrap(f"sleep 300 & echo $! > {shlex.quote(str(tmp_path / 'child'))}; wait")
    begun = time.monotonic()
    first, *others = sorted(obstacles(tiny(), 3), key=len)
    assert "cannot compile" in first
    assert "did not end within 1 seconds" in first
    assert all(first in other and "tried again" in other for other in others)
    assert log.read_text() == "tiny\n"
    assert obstacles(tiny(), 1)[0].startswith(first)
    assert log.read_text() == "tiny\n"
    assert time.monotonic() - begun < 30
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    give_up = time.monotonic() + 10
    # what nobody waits for stays as a zombie where process 1 takes no orphans
    while child.exists() and child.read_text().rsplit(")", 1)[1].split()[0] != "Z":
        assert time.monotonic() < give_up, "the compiler's child lives on"
        time.sleep(0.02)
    # a minute or so later it is asked again
    (verdict,) = tmp_path.glob("cache/unihpe_kernels/*.failed")
    os.utime(verdict, (0, time.time() - native._VERDICT - 1))
    wrap()
    assert answers(tiny()) == [42]


@builds
@pytest.mark.parametrize("lines", ["yes", "yes >&2"])
def test_a_compiler_that_prints_without_end_is_ended(lines, tiny, wrap):
    wrap(lines)
    with pytest.warns(RuntimeWarning, match="it printed more than 16 MiB: y"):
        assert len(native.obstacle(tiny())) < 3000


@builds
def test_a_child_that_the_compiler_leaves_behind_does_not_hold_its_reader(tiny, wrap):
    wrap("sleep 300 &")
    begun = time.monotonic()
    assert native.obstacle(tiny()) is None
    assert time.monotonic() - begun < 60


@builds
def test_an_interrupted_compiler_leaves_no_verdict(tiny, wrap, tmp_path):
    wrap("sleep 300")
    timer = threading.Timer(0.5, compiling.stop)
    timer.start()
    with pytest.raises(compiling.Interrupted):
        native.obstacle(tiny())
    timer.join()
    assert {path.name for path in tmp_path.glob("cache/*/*")} == {"tiny.lock"}


@builds
@forks
def test_a_library_without_its_function_is_built_again_and_else_torch_does_the_work(tiny, wrap, tmp_path):
    source = tiny()
    log = wrap('set -- -Danswer=other "$@"')
    (tmp_path / "cache").write_text("a file where a folder should be")
    (reason,) = obstacles(source, 1)
    # of a library for the process alone too
    assert "the library lacks a function: answer" in reason
    (tmp_path / "cache").unlink()
    log.unlink()
    (reason,) = obstacles(source, 1)
    assert "the library lacks a function: answer" in reason
    lacking = library(tmp_path)
    wrap()
    assert answers(source) == [42]
    assert log.read_text() == "tiny\n" * 2
    assert not lacking.exists()


@builds
@forks
def test_sources_are_compiled_at_once(tiny, wrap, tmp_path):
    """Each compiler waits for the other."""
    folder = shlex.quote(str(tmp_path))
    wrap(
        f"touch {folder}/at-$source; for i in $(seq 200); do [ -e {folder}/at-a -a -e {folder}/at-b ] && break;"
        f" sleep 0.05; done; [ -e {folder}/at-a -a -e {folder}/at-b ] || exit 1"
    )
    assert native.obstacle(tiny("a"), tiny("b")) is None


@builds
@forks
def test_what_is_left_over_goes(tiny, tmp_path):
    folder = tmp_path / "cache" / "unihpe_kernels"
    folder.mkdir(mode=0o700, parents=True)
    names = ["tiny-0.part", "tiny-old-0.so", "tiny-new-0.so", "other-0.part", "other-old-0.so"]
    for name in names:
        (folder / name).write_text("")
        age = 31 * 24 * 3600 if "old" in name else 0
        os.utime(folder / name, (time.time() - age, time.time()))
    assert answers(tiny()) == [42]
    built = {path.name for path in folder.iterdir()} - set(names)
    assert {name.split("-")[0] for name in built} == {"tiny", "tiny.lock"}
    assert {path.name for path in folder.iterdir()} - built == set(names[2:])


@builds
@forks
def test_a_compiler_that_does_not_know_the_cpu(tiny, wrap):
    log = wrap('case "$*" in *=native*) exit 1;; esac')
    assert answers(tiny()) == [42]
    assert log.read_text() == "tiny\n" * 2


@builds
def test_a_call_that_cannot_be_says_why(tiny, wrap, monkeypatch):
    wrap("echo it is 'Sunday' >&2; exit 1")
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(RuntimeError, match=r'backend="native": .* cannot compile .*Sunday'),
    ):
        native.call(tiny("a"), "answer")
    monkeypatch.setenv("UNIHPE_KERNELS_CXX", "")
    with pytest.raises(RuntimeError, match=r'backend="native": no C\+\+ compiler is found'):
        native.call(tiny("b"), "answer")


@builds
def test_a_compiler_may_say_any_bytes(tiny, wrap):
    wrap(r"printf 'caf\351' >&2; exit 1")
    with pytest.warns(RuntimeWarning, match="caf\ufffd"):
        assert native.obstacle(tiny()).endswith("caf\ufffd")


@pytest.mark.parametrize("variable", ["CXX", "UNIHPE_KERNELS_CXX"])
def test_an_open_quotation_is_named(variable, tiny, monkeypatch):
    monkeypatch.delenv("UNIHPE_KERNELS_CXX", raising=False)
    monkeypatch.setenv(variable, "g++ '")
    assert native.compiler() is None
    with pytest.warns(RuntimeWarning, match="plain torch is slower"):
        reason = native.obstacle(tiny())
    assert reason == f"the environment's {variable} is \"g++ '\": No closing quotation"
