"""A cluster of real processes on loopback: one Redis, replicas of the gateway, a proxy or Prometheus beside them.

Everything listens on free ports of 127.0.0.1, writes below one temporary folder, and ends with the `with` block.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from checks import ROOT, Failed, Missing
from redis_servers import installed

TOKEN_SECRET = "a-secret-of-these-checks-0123456789abcdef"
API_KEY = "an-api-key-of-these-checks-0123456789abcdef"


def gateway_binary() -> Path:
    """The gateway: TICKGATE_BIN, or what cargo built last."""
    if given := os.environ.get("TICKGATE_BIN"):
        return Path(given)
    built = [path for path in (ROOT / "target" / profile / "tickgate" for profile in ("dist", "release", "debug")) if path.exists()]
    if not built:
        raise Missing("no gateway: cargo build --release, or set TICKGATE_BIN")
    return max(built, key=lambda path: path.stat().st_mtime)


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on; all held at once, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def token(user: str, seconds: int = 3600, secret: str = TOKEN_SECRET, **claims) -> str:
    """A JWT, signed here and not by the gateway."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    now = int(time.time())
    body = {"sub": user, "iat": now, "exp": now + seconds, **claims}
    head = json.dumps({"alg": "HS256", "typ": "JWT"})
    signed = f"{part(head.encode())}.{part(json.dumps(body).encode())}"
    return f"{signed}.{part(hmac.digest(secret.encode(), signed.encode(), hashlib.sha256))}"


def get(url: str, timeout: float = 5) -> tuple[int, str]:
    """Status and body; status 0 when nothing answers. Checks no certificate, as Kubernetes' probes do not."""
    try:
        with urllib.request.urlopen(url, timeout=timeout, context=ssl._create_unverified_context()) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except OSError:
        return 0, ""


def wait_until(holds: Callable[[], bool], seconds: float, what: str, every: float = 0.05) -> None:
    """Asks again and again until it holds; for things that tell nobody when they happen."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds:g} s")
        time.sleep(every)


class Process:
    """A program with its log in the cluster's folder."""

    def __init__(self, folder: Path, name: str, command: list[object], environment: dict[str, str] | None = None) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.command = [str(part) for part in command]
        self.environment = {"PATH": os.environ["PATH"], **(environment or {})}
        self.running: subprocess.Popen | None = None

    def start(self) -> None:
        with self.log.open("a") as log:
            self.running = subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=subprocess.STDOUT)

    def send(self, number: signal.Signals) -> None:
        self.running.send_signal(number)

    def ended(self, seconds: float) -> int:
        """Waits for the end; answers with the exit code."""
        try:
            return self.running.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} has not ended after {seconds:g} s: {self.tail()}") from None

    def kill(self) -> None:
        """Ends it at once."""
        if self.running and self.running.poll() is None:
            self.running.kill()
            self.running.wait()

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


class Replica(Process):
    """One gateway process."""

    def __init__(self, folder: Path, name: str, host: str, port: int, ops: int, settings: dict[str, str]) -> None:
        self.host, self.port, self.ops = host, port, ops
        listen = {"TICKGATE__SERVER__LISTEN": self.public, "TICKGATE__SERVER__OPS_LISTEN": self.operations}
        super().__init__(folder, name, [gateway_binary(), "serve"], {**settings, **listen})

    @property
    def public(self) -> str:
        """Where clients reach it."""
        return f"{self.host}:{self.port}"

    @property
    def operations(self) -> str:
        """Where metrics and the HTTP API are."""
        return f"{self.host}:{self.ops}"

    def start(self) -> None:
        super().start()
        wait_until(self.is_ready, 20, f"{self.name} is ready: {self.log}")

    def is_ready(self) -> bool:
        if self.running.poll() is not None:
            raise Failed(f"{self.name} ended with {self.running.returncode}: {self.tail()}")
        return get(f"http://{self.public}/readyz")[0] == 200

    def metrics(self) -> str:
        status, text = get(f"http://{self.operations}/metrics")
        if status != 200:
            raise Failed(f"{self.name} answers /metrics with {status}")
        return text

    def connections(self) -> int:
        lines = [line for line in self.metrics().splitlines() if line.startswith("tickgate_connections{")]
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines)


class Cluster:
    """`with Cluster(3) as cluster:`: Redis with the shipped settings and users, and replicas that are ready."""

    token_secret, api_key = TOKEN_SECRET, API_KEY

    def __init__(self, replicas: int, environment: dict[str, str] | None = None, redis: list[str] | None = None) -> None:
        """`redis` is the words that run another Redis than the installed one."""
        self.count = replicas
        self.environment = environment or {}
        self.redis_command = redis
        self.folder = Path(tempfile.mkdtemp(prefix="tickgate-ops-"))
        self.processes: list[Process] = []
        self.replicas: list[Replica] = []

    def __enter__(self) -> Cluster:
        try:
            self._start_redis()
            for number in range(1, self.count + 1):
                replica = self._replica(f"gateway-{number}")
                self.processes.append(replica)
                self.replicas.append(replica)
                replica.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind, value, trace) -> None:
        for process in reversed(self.processes):
            process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, name: str, command: list[object], environment: dict[str, str] | None = None) -> Process:
        """Starts another program beside the replicas."""
        process = Process(self.folder, name, command, environment)
        self.processes.append(process)
        process.start()
        return process

    def _replica(self, name: str) -> Replica:
        settings = {
            "TICKGATE__SERVER__MODE": "production",
            "TICKGATE__SERVER__TRUSTED_PROXIES": "127.0.0.1",
            "TICKGATE__REDIS__URL": f"redis://tickgate:change-me@127.0.0.1:{self.redis_port}/0",
            "TICKGATE__AUTH__HS256_SECRETS": self.token_secret,
            "TICKGATE__AUTH__API_KEYS": self.api_key,
            "TICKGATE__LIMITS__CONNECTIONS_PER_ADDRESS_MAX": "0",
            "TICKGATE__LOG__FORMAT": "json",
            **self.environment,
        }
        return Replica(self.folder, name, "127.0.0.1", *free_ports(2), settings)

    def _start_redis(self) -> None:
        """Redis as shipped, with the shipped users: what they lack shows as an error in a replica."""
        (self.redis_port,) = free_ports(1)
        command = [*(self.redis_command or installed()), ROOT / "deploy/redis/redis.conf", "--port", self.redis_port, "--bind", "127.0.0.1",
                   "--dir", self.folder, "--aclfile", ROOT / "deploy/redis/users.acl"]  # fmt: skip
        self.redis = self.run("redis", command)
        self.wait_for_redis()

    def wait_for_redis(self) -> None:
        """Until a Redis that was just started has read its files."""

        def is_ready() -> bool:
            if self.redis.running.poll() is not None:
                raise Failed(f"Redis ended: {self.redis.tail()}")
            started = self.redis.log.read_text(errors="replace").rsplit("oO0OoO0OoO0Oo", 1)[-1]
            return "eady to accept connections" in started

        wait_until(is_ready, 10, "Redis is ready")

    def publish(self, channel: str, data: dict, user: str | None = None, replica: int = 0, msg_id: str | None = None) -> dict:
        """Publishes over the HTTP API of one replica."""
        body = {"channel": channel, "data": data, **({"user": user} if user else {}), **({"msg_id": msg_id} if msg_id else {})}
        request = urllib.request.Request(
            f"http://{self.replicas[replica].operations}/api/v1/publish",
            data=json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Failed(f"publishing to {channel}: {error.code} {error.read().decode(errors='replace')}") from None
