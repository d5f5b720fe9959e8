"""Checks that run in a network of their own, where the names, addresses and ports of the shipped files are free.

`isolated` runs a check's function in a process of its own, in fresh network, mount and process namespaces: the shipped
files run as they are, and nothing survives the check. Without root it requires user namespaces, as Debian has them.
"""

from __future__ import annotations

import fcntl
import contextlib
import functools
import importlib
import json
import os
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from checks import Failed, Missing
from tools import debian

# The address of each name in docker-compose.yml, in the range that its gateways trust.
ADDRESSES = {
    "redis": "172.31.0.10", "gateway-1": "172.31.0.11", "gateway-2": "172.31.0.12", "gateway-3": "172.31.0.13", "nginx": "172.31.0.14",
}  # fmt: skip
SECONDS_MAX = 540
# What the checks in there run. It is installed outside: there is no way to a mirror inside.
PROGRAMS = ("nginx", "haproxy", "prometheus", "promtool")

_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _IFF_UP = 0x8914, 0x8916, 0x891C, 0x1


def isolated(function: Callable[[], str | None]) -> Callable[[], str]:
    """The check, run in a network of its own; its outcome is that of the function."""

    @functools.wraps(function)
    def outside() -> str:
        for program in PROGRAMS:
            # A check that needs a missing one says so.
            with contextlib.suppress(Missing):
                debian(program)
        rights = [] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
        namespaces = ["unshare", *rights, "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = [*namespaces, sys.executable, __file__, function.__module__, function.__name__]
        try:
            found = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired as late:
            raise Failed(f"not done within {SECONDS_MAX} s: {(late.stdout or '')[-1500:]}") from None
        *said, last = found.stdout.strip().splitlines() or [""]
        try:
            outcome = json.loads(last)
        except json.JSONDecodeError:
            raise Failed(f"ended with {found.returncode}: {found.stdout.strip()[-1500:]}") from None
        if outcome["passed"]:
            return outcome["note"]
        raise Failed("\n".join([*said, outcome["note"]]))

    return outside


def _enter() -> None:
    """Brings the loopback up with the addresses, and gives them their names. The first thing in the namespaces."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:

        def of(name: bytes, address: str) -> bytes:
            return struct.pack("16sH2x4s8x", name, socket.AF_INET, socket.inet_aton(address))

        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
        # On the loopback, the whole network of an address is local.
        for name, address in ((b"lo:1", "172.31.0.1"), (b"lo:2", "10.0.0.1")):
            fcntl.ioctl(control, _SIOCSIFADDR, of(name, address))
            fcntl.ioctl(control, _SIOCSIFNETMASK, of(name, "255.255.255.0"))
    # Changes to /etc stay in memory: a file can appear at the path that it has in a container.
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=True)
    for folder in ("changes", "work"):
        Path("/mnt", folder).mkdir()
    layers = "lowerdir=/etc,upperdir=/mnt/changes,workdir=/mnt/work"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", "/etc"], check=True)
    names = "".join(f"{address} {name}\n" for name, address in ADDRESSES.items())
    Path("/etc/hosts").write_text(f"127.0.0.1 localhost\n{names}")


def provide(source: Path, target: str) -> None:
    """Makes a file appear at a path below /etc, as a container's mount does."""
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    subprocess.run(["mount", "--bind", source, path], check=True)


def _main(module: str, name: str) -> None:
    _enter()
    try:
        outcome = {"passed": True, "note": getattr(importlib.import_module(module), name).__wrapped__() or ""}
    except Failed as reason:
        outcome = {"passed": False, "note": str(reason)}
    except Exception:  # a defect of the check itself: told like any other failure
        outcome = {"passed": False, "note": traceback.format_exc()}
    print("\n" + json.dumps(outcome), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
