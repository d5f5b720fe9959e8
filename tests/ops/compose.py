"""What docker-compose.yml starts, as processes: its commands, its environment and the files that it mounts, unchanged.

Runs inside `isolated`, where the names and ports of the file are real, and mounted files are where a container has them.
Only what a container provides differs: a path outside of /etc is that of the mounted file itself, and a replica listens on
the address of its name instead of on all of its container's.
"""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from pathlib import Path

from checks import ROOT, Failed
from cluster import Cluster, Process, Replica, get, wait_until
from isolated import ADDRESSES, provide
from redis_servers import installed
from tools import debian, library_path, module, run

PROXY = "127.0.0.1:8080"


@functools.cache
def services() -> dict:
    """The services of the file, with what they inherit and the secrets of its first step filled in."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "env"
        subprocess.run([ROOT / "deploy/compose-secrets.sh", file], check=True)
        if file.stat().st_mode & 0o077:
            raise Failed("others can read what deploy/compose-secrets.sh writes")
        secrets = dict(line.split("=", 1) for line in file.read_text().splitlines())
    text = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: secrets[found[1]], (ROOT / "docker-compose.yml").read_text())
    return module("yaml").safe_load(text)["services"]


class ComposeCluster(Cluster):
    """`with ComposeCluster() as cluster:`: Redis and the three replicas of the file; `overrides` are environment variables."""

    def __init__(self, overrides: dict[str, str] | None = None) -> None:
        names = sorted(name for name in services() if name.startswith("gateway-"))
        if names != sorted(name for name in ADDRESSES if name.startswith("gateway-")):
            raise Failed(f"docker-compose.yml has the replicas {names}")
        super().__init__(len(names), overrides)
        settings = services()[names[0]]["environment"]
        self.token_secret, self.api_key = settings["TICKGATE__AUTH__HS256_SECRETS"], settings["TICKGATE__AUTH__API_KEYS"]

    def _start_redis(self) -> None:
        self.redis_port = 6379
        name, *arguments = self.command("redis")
        if name != "redis-server":
            raise Failed(f"docker-compose.yml starts {name}, not redis-server")
        self.redis = self.run("redis", [*installed(), *arguments])
        self.wait_for_redis()
        found = run(*services()["redis"]["healthcheck"]["test"][1:])
        if found.returncode:
            raise Failed(f"the health check of redis fails: {found.stdout.strip()}")

    def _replica(self, name: str) -> Replica:
        settings = services()[name]["environment"]
        ports = [int(settings[f"TICKGATE__SERVER__{key}"].rsplit(":", 1)[1]) for key in ("LISTEN", "OPS_LISTEN")]
        return Replica(self.folder, name, ADDRESSES[name], *ports, {**settings, **self.environment})

    def command(self, service: str) -> list[str]:
        """A service's command, with its files mounted."""
        mounts = self.mount(service)
        return [str(mounts.get(word, word)) for word in services()[service]["command"]]

    def mount(self, service: str) -> dict[str, Path]:
        """Provides a service's files at their paths, as far as they are below /etc; answers with where the others are."""
        elsewhere = {}
        for volume in services()[service].get("volumes", []):
            source, target = volume.split(":")[:2]
            path = ROOT / source if source.startswith("./") else self.folder / source
            if not source.startswith("./"):
                path.mkdir(exist_ok=True)
            if target.startswith("/etc/"):
                provide(path, target)
            else:
                elsewhere[target] = path
        return elsewhere

    def start_nginx(self) -> Process:
        """nginx by its service's command."""
        _, *arguments = self.command("nginx")
        # The file writes below /tmp, which is the container's own there and a fresh one here. Messages of its own go to the
        # standard error, as in its image.
        command = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /tmp && exec "$@"', "sh", debian("nginx"), "-e", "/dev/stderr"]
        return self._started("nginx", [*command, *arguments])

    def start_haproxy(self) -> Process:
        """HAProxy with the shipped file."""
        return self._started("haproxy", [debian("haproxy"), "-db", "-f", ROOT / "deploy/haproxy/haproxy.cfg"])

    def _started(self, name: str, command: list[object]) -> Process:
        proxy = self.run(name, command, library_path())

        def answers() -> bool:
            if proxy.running.poll() is not None:
                raise Failed(f"{name} ended with {proxy.running.returncode}: {proxy.tail()}")
            return get(f"http://{PROXY}/health")[0] == 200

        wait_until(answers, 10, f"{name} answers")
        return proxy
