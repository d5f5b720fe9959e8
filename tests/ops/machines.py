"""Machines without containers: the systemd unit is valid and hardened, and the package installs the documented files."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from checks import ROOT, Failed, Missing, check, expect
from cluster import gateway_binary
from tools import run

UNIT = ROOT / "deploy/systemd/tickgate.service"
PAGE = (ROOT / "docs/machines.md").read_text()
FILES = {"usr/bin/tickgate": 0o755, "lib/systemd/system/tickgate.service": 0o644, "etc/tickgate/tickgate.toml": 0o644}


def tool(name: str, package: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not found:
        raise Missing(f"{name} is not installed (apt-get install {package})")
    return found


@check("the systemd unit is as hardened as the page says")
def hardened() -> str:
    done = run(tool("systemd-analyze", "systemd"), "security", "--offline=true", "--no-pager", UNIT)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    if not found:
        raise Failed(f"systemd-analyze: {done.stdout}")
    # The unit does not depend on whether the program is installed here.
    verified = run(tool("systemd-analyze", "systemd"), "verify", "--no-pager", UNIT).stdout.splitlines()
    wrong = [line for line in verified if "tickgate.service" in line and "/usr/bin/tickgate is not executable" not in line]
    expect(UNIT, not wrong, "\n".join(wrong))
    expect(UNIT, f"gives it {found[1]} of 10" in PAGE, f"its score is {found[1]}, but docs/machines.md gives another")
    return found[1]


@check("the systemd unit gives a replica enough time to drain")
def patient() -> None:
    text = UNIT.read_text()
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    defaults = (ROOT / "config/default.toml").read_text()
    drain = sum(int(number) for number in re.findall(r'^(?:delay|spread) = "(\d+)s"$', defaults, re.MULTILINE))
    # Seven seconds for the last clients, three each for publishers and tasks (src/connection/drain.rs, src/app.rs).
    expect(UNIT, drain + 13 <= int(seconds), f"TimeoutStopSec is {seconds}, and a drain may take {drain + 13} s")


@check("the Debian package installs a gateway that accepts its settings")
def package() -> str:
    dpkg, build = tool("dpkg", "dpkg"), ROOT / "deploy/debian/build.sh"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Compress little: the program of the checks is large, and the package is not kept.
        built = run(build, gateway_binary(), folder, env={**os.environ, "COMPRESSION": "-Zgzip -z1"})
        expect(build, built.returncode == 0, built.stdout)
        root = folder / "root"
        (root / "var/lib/dpkg").mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        installed = run(dpkg, f"--root={root}", "--force-script-chrootless", "--force-depends", "--force-not-root", "-i", built.stdout.strip())
        expect(build, installed.returncode == 0, installed.stdout)
        for path, mode in FILES.items():
            expect(path, (root / path).is_file() and (root / path).stat().st_mode & 0o777 == mode, "is not installed with the documented mode")
        secrets = folder / "secrets"
        secrets.mkdir()
        for secret, text in {"token-secrets": "a1" * 16, "api-keys": "b2" * 16, "redis-url": "redis://127.0.0.1"}.items():
            (secrets / secret).write_text(text + "\n")
        settings = folder / "tickgate.toml"
        settings.write_text((root / "etc/tickgate/tickgate.toml").read_text().replace("/etc/tickgate/secrets", str(secrets)))
        checked = run(root / "usr/bin/tickgate", "check-config", "--config", settings)
        expect(build, checked.returncode == 0, checked.stdout)
        removed = run(dpkg, f"--root={root}", "--force-script-chrootless", "--force-not-root", "--purge", "tickgate")
        expect(build, removed.returncode == 0 and not (root / "usr/bin/tickgate").exists(), removed.stdout)
        return Path(built.stdout.strip()).name
