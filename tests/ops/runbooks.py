"""What docs/operations.md tells operators to do and to look at: commands work, panels and log lines exist.

Its Redis is started by the documented command, and asked what the runbooks tell operators to ask.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from checks import ROOT, Failed, check
from cluster import Process, wait_until
from isolated import isolated, provide
from tools import run

PASSWORD = "of-an-operator"
PORT = 6379
DOCUMENT = ROOT / "docs/operations.md"
# Words in quotation marks that are no panel.
NO_PANEL = {"The dashboard"}
# Lines of other programs' logs.
FOREIGN = {"scheduled to be closed ASAP for overcoming of output buffer limits"}
PROGRAMS = ("kubectl ", "redis-cli ", "helm ", "tickgate ", "just ")


@check("runbooks name panels of the dashboard and lines of the log that exist")
def named() -> str:
    text = DOCUMENT.read_text()
    content = json.loads((ROOT / "deploy/grafana/tickgate.json").read_text())
    titles = {panel["title"] for panel in content["panels"]} | {note["name"] for note in content["annotations"]["list"]}
    code = re.compile(r"```.*?```|`[^`]*`", flags=re.DOTALL)
    panels = set(re.findall(r'"([A-Z][^"\n]*)"', code.sub("", text))) - NO_PANEL
    if unknown := panels - titles:
        raise Failed(f"the dashboard has no {sorted(unknown)}")
    # Words alone, three or more: a sentence, and not a setting or a command.
    lines = {line for line in re.findall(r"`([a-z][A-Za-z ',;]+)`", text) if line.count(" ") >= 2 and not line.startswith(PROGRAMS)} - FOREIGN
    sources = "".join(path.read_text() for path in (ROOT / "src").rglob("*.rs"))
    if unknown := [line for line in lines if f'"{line}"' not in sources]:
        raise Failed(f"the gateway logs no {sorted(unknown)}")
    return f"{len(panels)} panels, {len(lines)} lines"


@check("redis starts by the documented command, and its admin may do what the runbooks say")
@isolated
def runbooks() -> str:
    text = DOCUMENT.read_text()
    (start,) = re.findall(r"^redis-server .*$", text, flags=re.MULTILINE)
    commands = re.findall(r"`redis-cli ((?!-u)[^`]+)`", text)
    if len(commands) < 5:
        raise Failed(f"only these redis-cli commands were found: {commands}")
    shipped = (ROOT / "deploy/redis/users.acl").read_text()
    _with_redis(start, shipped, _refuse_everybody)
    edited = re.sub(r"^user admin off", f"user admin on >{PASSWORD}", shipped, flags=re.MULTILINE)
    _with_redis(start, edited, lambda: [_ask(command) for command in commands])
    return f"{len(commands)} commands"


def _with_redis(start: str, users: str, use) -> None:
    """Does something with a Redis started by this command, whose files are in the places that the command names."""
    # Where Redis keeps its data, and the files: in memory, and gone with the namespaces.
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/var/lib"], check=True)
    Path("/var/lib/redis").mkdir()
    written = Path("/var/lib/users.acl")
    written.write_text(users)
    provide(ROOT / "deploy/redis/redis.conf", "/etc/redis/redis.conf")
    provide(written, "/etc/redis/users.acl")
    redis = Process(Path("/var/lib"), "redis", start.split())
    redis.start()
    try:
        wait_until(lambda: _answers(redis), 10, "Redis answers")
        use()
    finally:
        redis.kill()


def _answers(redis: Process) -> bool:
    if redis.running.poll() is not None:
        raise Failed(f"Redis ended with {redis.running.returncode}: {redis.tail()}")
    return "NOAUTH" in run("redis-cli", "-p", PORT, "ping").stdout


def _refuse_everybody() -> None:
    for words in (["--user", "admin", "--pass", ""], ["--user", "admin", "--pass", PASSWORD], ["--user", "default", "--pass", ""]):
        said = run("redis-cli", "-p", PORT, "--no-auth-warning", *words, "acl", "whoami").stdout
        if "NOAUTH" not in said:
            raise Failed(f"the shipped users let redis-cli {' '.join(words)} in: {said.strip()}")


def _ask(command: str) -> None:
    address = f"redis://admin:{PASSWORD}@127.0.0.1:{PORT}"
    found = run("redis-cli", "-e", "--no-auth-warning", "-u", address, *command.split())
    if found.returncode or re.search(r"NOAUTH|NOPERM|WRONGPASS|\bERR\b", found.stdout):
        raise Failed(f"redis-cli {command}: {found.stdout.strip()[:300]}")
