"""A missing tool is a failure that names it, in these checks and in tests/kubernetes: nothing is ever skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from checks import ROOT, Failed, check
from isolated import isolated
from tools import run

# Checks, and the tool that each of them names when it is missing.
NEEDED = {
    "nginx as shipped: a short rolling restart": "nginx",
    "haproxy as shipped: a short rolling restart": "haproxy",
    "prometheus rules (promtool check, unit tests)": "promtool",
}
OLD_GO = "#!/bin/sh\necho go1.21.3\n"
NEW_GO = "#!/bin/sh\necho go1.99.0\n"


@check("a check whose tool is missing fails and names it")
@isolated
def tools() -> str:
    search = os.environ["PATH"] + ":/usr/sbin:/sbin"
    for tool in NEEDED.values():
        if found := shutil.which(tool, path=search):
            # What is no program any more is not found.
            subprocess.run(["mount", "--bind", "/dev/null", os.path.realpath(found)], check=True)
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TICKGATE_OPS_OFFLINE": "1", "TICKGATE_OPS_CACHE": cache}
        found = run(sys.executable, ROOT / "tests/ops/main.py", *NEEDED, env=environment)
    lines = [line for line in found.stdout.splitlines() if line.startswith("FAIL ")]
    for name, tool in NEEDED.items():
        if not any(name in line and f"{tool} is not installed" in line for line in lines):
            raise Failed(f"{name} without {tool}: {found.stdout.strip()[-800:]}")
    if found.returncode != 1 or f"0 passed, {len(NEEDED)} failed" not in found.stdout:
        raise Failed(f"ended with {found.returncode}: {found.stdout.strip()[-800:]}")
    return ", ".join(NEEDED.values())


@check("just kubernetes checks Go first, and fails when a part is missing")
def kubernetes() -> str:
    needs_root = "needs root" if os.geteuid() else None
    cases = [
        (None, ["Go is missing", "https://go.dev/dl"]),
        (OLD_GO, ["Go 1.21.3 is too old", "requires Go"]),
        (NEW_GO, [needs_root or "missing: nftables"]),
    ]
    for go, said in cases:
        with tempfile.TemporaryDirectory() as folder:
            programs = _programs(Path(folder), without={"go", "nft", "apt-get"})
            if go:
                (programs / "go").write_text(go)
                (programs / "go").chmod(0o755)
            found = run(ROOT / "tests/kubernetes/run.sh", env={**os.environ, "PATH": str(programs)})
        if found.returncode != 1 or any(words not in found.stdout for words in said):
            raise Failed(f"with {go!r} for Go it ended with {found.returncode} and not with {said}: {found.stdout.strip()[-500:]}")
    return f"{len(cases)} cases"


def _programs(folder: Path, without: set[str]) -> Path:
    """A folder for PATH that has all of this machine's programs but some."""
    for place in os.environ["PATH"].split(":") + ["/usr/sbin", "/sbin"]:
        for program in Path(place).glob("*") if place else []:
            link = folder / program.name
            if program.name not in without and not link.is_symlink():
                link.symlink_to(program)
    return folder
