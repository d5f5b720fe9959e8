"""docs/machines.md by its own commands: three machines, played by one in a network of its own.

Every block below a comment `on: …` runs as it stands, in the order of the page. What one machine can't play is stood in
for: `apt-get`, `scp`, `systemctl`, `sudo`, the owners of files, and a folder of settings for each replica.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from checks import ROOT, Failed, check, expect
from cluster import gateway_binary, get, wait_until
from isolated import isolated
from tools import debian

PAGE = ROOT / "docs/machines.md"
ADDRESSES = {"edge": "10.0.0.10", "gw1": "10.0.0.11", "gw2": "10.0.0.12"}
SECONDS = 60
# `$MACHINE` is the one that the commands are typed on.
STAND_INS = r"""
set -eu
apt-get() {
  case $2 in
    *.deb)
      mkdir -p "$WORK/etc-$MACHINE/secrets"
      sed "s#/etc/tickgate#$WORK/etc-$MACHINE#" "$ROOT/deploy/systemd/tickgate.toml" > "$WORK/etc-$MACHINE/tickgate.toml" ;;
  esac
}
scp() { local to=${!#}; mkdir -p "$WORK/home-${to%:}"; cp "${@:1:$#-1}" "$WORK/home-${to%:}/"; }
install() {
  local words=()
  while [ $# -gt 0 ]; do
    case $1 in -o|-g) shift 2 ;; *) words+=("$1"); shift ;; esac
  done
  command install "${words[@]}"
}
sudo() { shift 2; "$@"; }
tickgate() { "$PROGRAM" "$@"; }
nginx() { "$NGINX" "$@" -g "error_log $WORK/nginx.log;"; }
systemctl() {
  case $* in
    "restart redis-server") redis-server /etc/redis/redis.conf >> "$WORK/redis.log" 2>&1 & ;;
    "restart nginx") "$NGINX" -g "daemon off; error_log $WORK/nginx.log;" >> "$WORK/nginx.log" 2>&1 & ;;
    "enable --now tickgate" | "restart tickgate")
      TICKGATE__SERVER__NAME=$MACHINE "$PROGRAM" serve --config "$WORK/etc-$MACHINE/tickgate.toml" >> "$WORK/$MACHINE.log" 2>&1 &
      echo $! > "$WORK/$MACHINE.pid" ;;
    "reload tickgate") kill -HUP "$(cat "$WORK/$MACHINE.pid")" ;;
    "stop tickgate") kill "$(cat "$WORK/$MACHINE.pid")" ;;
    *) echo "systemctl $*: not on the page" >&2; return 1 ;;
  esac
}
"""


def blocks() -> list[tuple[str, str]]:
    """Machine and commands, in the order of the page."""
    found = re.findall(r"<!-- on: ([\w ]+) -->\n```sh\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    return [(machine, text) for machines, text in found for machine in machines.split()]


def script(work: Path) -> str:
    """All of it, as one shell's input."""
    lines = [STAND_INS]
    for machine, text in blocks():
        if machine in ADDRESSES:
            text = re.sub(r"^own=.*$", f"own={ADDRESSES[machine]}", text, flags=re.MULTILINE)
            text = text.replace("/etc/tickgate", f"{work}/etc-{machine}")
        for path in ("/var/lib/redis", "/var/log/nginx", "/run/nginx.pid"):
            text = text.replace(path, f"{work}{path}")
        # On admin the page works in the repository; the files that it makes belong elsewhere.
        text = text.replace("deploy/", f"{ROOT}/deploy/") if machine == "admin" else text
        home = work / f"home-{machine}"
        lines.append(f'MACHINE={machine}; mkdir -p "{home}"; cd "{home}"\n{text}')
    return "\n".join(lines)


@check("machines: the page's own commands lead to a running pair", live=True)
@isolated
def typed_through() -> str:
    work = Path(tempfile.mkdtemp(prefix="tickgate-machines-"))
    for folder in ("var/lib/redis", "var/log/nginx", "run"):
        (work / folder).mkdir(parents=True)
    for folder in ("/etc/redis", "/etc/nginx"):
        Path(folder).mkdir(exist_ok=True)
    with Path("/etc/hosts").open("a") as hosts:
        hosts.write("".join(f"{address} {name}\n" for name, address in {**ADDRESSES, "edge.example.com": ADDRESSES["edge"]}.items()))
    environment = {**os.environ, "WORK": str(work), "ROOT": str(ROOT), "PROGRAM": str(gateway_binary()), "NGINX": str(debian("nginx"))}
    try:
        with (work / "said").open("w") as said:
            done = subprocess.run(["bash", "-c", script(work)], env=environment, stdout=said, stderr=said, timeout=SECONDS, cwd=work, check=False)
        text = (work / "said").read_text()
        if done.returncode:
            logs = {log.name: "\n".join(log.read_text(errors="replace").splitlines()[-8:]) for log in sorted(work.glob("*.log"))}
            raise Failed(f"the commands end with {done.returncode}: {text[-2500:]}\n{logs}")
        expect(PAGE, "all steps passed" in text, f"check said {text[-1500:]}")
        return _the_unit(work, environment)
    except subprocess.TimeoutExpired:
        raise Failed(f"not done within {SECONDS} s: {(work / 'said').read_text()[-2500:]}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _the_unit(work: Path, environment: dict[str, str]) -> str:
    """What the page says about the unit, on the pair that runs."""

    def metric(machine: str, name: str) -> float:
        text = get(f"http://{ADDRESSES[machine]}:8001/metrics")[1]
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    def on(machine: str, command: str) -> None:
        done = subprocess.run(["bash", "-c", f"{STAND_INS}\nMACHINE={machine}\n{command}"], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"{command} on {machine}: {done.stderr}")

    wait_until(lambda: metric("gw1", "tickgate_replicas ") == 2, 15, "both replicas know each other")
    expect(PAGE, metric("gw1", 'tickgate_replica_info{name="gw1"}') == 1, "gw1 has another name")
    on("gw2", "systemctl reload tickgate")
    wait_until(lambda: metric("gw2", 'tickgate_reloads_total{result="ok"}') >= 1, 15, "the reload")
    on("gw2", "systemctl stop tickgate")
    wait_until(lambda: metric("gw1", "tickgate_replicas ") == 1, 60, "gw2 has left")
    return f"{len(blocks())} blocks on {len({machine for machine, _ in blocks()})} machines"
