"""Real servers for the checks: gateways and a redis-server, each on free ports, gone when the checks are over."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import signal
import socket
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

HERE = Path(__file__).parent
SECRET = "a secret that only these checks and their gateways share"
API_KEY = "an API key that only these checks and their gateways share"
# Seconds to wait for what must happen.
SOON = 15


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def token(user: str, claim: str = "sub", ttl: int = 600, **claims: Any) -> str:
    """A token as a login service makes it, HS256."""

    def part(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    body = {claim: user, "exp": int(time.time()) + ttl, **claims}
    text = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(body).encode())
    return (text + b"." + part(hmac.new(SECRET.encode(), text, hashlib.sha256).digest())).decode()


class Process:
    """A child process whose output is read line by line."""

    def __init__(self, process: asyncio.subprocess.Process, group: bool):
        self.process, self.group = process, group
        self.lines: list[str] = []
        self.grown = asyncio.Event()
        self.position = 0
        self.reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, *command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None, group: bool = False
    ) -> Process:
        """Starts a program; with `group`, one that starts others, which end with it."""
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            env={**os.environ, **(env or {})},
            cwd=cwd,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=1 << 20,
            start_new_session=group,
        )
        return cls(process, group)

    async def _read(self) -> None:
        async for line in self.process.stdout:
            self.lines.append(line.decode(errors="replace").rstrip("\n"))
            self.grown.set()

    async def line(self, pattern: str) -> str:
        """The next line that contains a match, behind the last one found so."""

        async def find() -> str:
            while True:
                while self.position < len(self.lines):
                    line = self.lines[self.position]
                    self.position += 1
                    if re.search(pattern, line):
                        return line
                self.grown.clear()
                await self.grown.wait()

        try:
            return await asyncio.wait_for(find(), SOON)
        except TimeoutError:
            raise AssertionError(f"no line with {pattern!r} in:\n" + "\n".join(self.lines[-30:])) from None

    def has(self, pattern: str) -> bool:
        return any(re.search(pattern, line) for line in self.lines)

    async def say(self, line: str) -> None:
        self.process.stdin.write(line.encode() + b"\n")
        await self.process.stdin.drain()

    async def finished(self) -> str:
        """Waits for a good end. Returns all it said."""
        self.process.stdin.close()
        code = await asyncio.wait_for(self.process.wait(), SOON)
        await self.reader
        said = "\n".join(self.lines)
        assert code == 0, f"ended with {code}:\n{said}"
        return said

    async def stop(self, kill: bool = False) -> None:
        if self.group and self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.returncode is None:
            self.process.kill() if kill else self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), SOON)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        self.reader.cancel()


class Gateway:
    """One replica."""

    def __init__(self, env: dict[str, str]):
        self.port, self.ops_port = free_port(), free_port()
        self.url, self.api = f"ws://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.ops_port}"
        self.env = {
            "TICKGATE__SERVER__LISTEN": f"127.0.0.1:{self.port}",
            "TICKGATE__SERVER__OPS_LISTEN": f"127.0.0.1:{self.ops_port}",
            "TICKGATE__AUTH__HS256_SECRETS": SECRET,
            "TICKGATE__AUTH__API_KEYS": API_KEY,
            **env,
        }
        self.process: Process | None = None

    async def start(self) -> Gateway:
        self.process = await Process.start(os.environ["TICKGATE_BIN"], "serve", "--development", env=self.env)
        deadline = time.monotonic() + SOON
        while True:
            assert self.process.process.returncode is None, "\n".join(self.process.lines)
            try:
                if (await self.get("/readyz"))[0] == 200:
                    return self
            except OSError:
                pass
            assert time.monotonic() < deadline, "not ready\n" + "\n".join(self.process.lines[-30:])
            await asyncio.sleep(0.02)

    async def stop(self, kill: bool = False) -> None:
        if self.process:
            await self.process.stop(kill)

    async def request(self, url: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()

        def send() -> tuple[int, bytes]:
            try:
                with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=SOON) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        status, text = await asyncio.to_thread(send)
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text.decode()

    async def get(self, path: str) -> tuple[int, Any]:
        """Of the public listener."""
        return await self.request(f"http://127.0.0.1:{self.port}{path}")

    async def call(self, path: str, body: Any = None) -> Any:
        """Of the HTTP API."""
        status, answer = await self.request(self.api + path, body)
        assert status in (200, 202), f"{path}: {status} {answer}"
        return answer

    async def publish(self, channel: str, data: Any, user: str | None = None, **more: Any) -> dict[str, Any]:
        return await self.call("/api/v1/publish", {"channel": channel, "data": data, **({"user": user} if user else {}), **more})

    async def settled(self, **figures: int) -> None:
        """Waits until the status shows these figures."""
        deadline = time.monotonic() + SOON
        while True:
            status = (await self.get("/ws/status"))[1]
            if all(status[name] == value for name, value in figures.items()):
                return
            assert time.monotonic() < deadline, f"{figures} never came: {status}"
            await asyncio.sleep(0.05)


class Client:
    """A WebSocket of the checks' own."""

    def __init__(self, socket: ClientConnection):
        self.socket = socket

    @classmethod
    async def open(cls, gateway: Gateway, path: str, **options: Any) -> Client:
        """Connects and takes the greeting."""
        self = cls(await connect(gateway.url + path, **options))
        self.welcome = await self.next()
        assert self.welcome["type"] == "connection_established", self.welcome
        return self

    async def next(self) -> dict[str, Any]:
        return json.loads(await asyncio.wait_for(self.socket.recv(), SOON))

    async def expect(self, kind: str) -> dict[str, Any]:
        """The next message, which must be of this type. Heartbeats and the ends of replays may come between."""
        while True:
            message = await self.next()
            if message["type"] == kind:
                return message
            if message["type"] == "caught_up":
                assert all(end["complete"] for end in message["channels"]), message
                continue
            assert message["type"] == "heartbeat", f"wanted {kind}, got {message}"

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def subscribe(self, *channels: str, **options: Any) -> dict[str, Any]:
        elements = [{"channel": channel, **options} for channel in channels] if options else list(channels)
        await self.send(type="subscribe", channels=elements)
        answer = await self.expect("subscribed")
        assert not answer["errors"], answer
        return answer

    async def nothing_more(self) -> None:
        """Whatever the server had sent before the answer to this has arrived: there was nothing."""
        await self.send(type="ping", id="last")
        pong = await self.expect("pong")
        assert pong["id"] == "last", pong

    async def close(self) -> None:
        await self.socket.close()


class World:
    """Replicas, and client programs run against them."""

    def __init__(self, replicas: int = 1, redis: bool = False, env: dict[str, str] | None = None):
        self.count, self.with_redis, self.env = replicas, redis, env or {}
        self.replicas: list[Gateway] = []
        self.programs: list[Process] = []
        self.clients: list[Client] = []
        self.redis: Process | None = None
        self.redis_port = 0

    async def __aenter__(self) -> World:
        self.dir = Path(tempfile.mkdtemp(prefix="tickgate-clients-"))
        env = dict(self.env)
        if self.with_redis:
            self.redis_port = free_port()
            self.redis = await Process.start(
                "redis-server", "--port", str(self.redis_port), "--dir", self.dir, "--save", "", "--bind", "127.0.0.1"
            )
            await self.redis.line("Ready to accept connections")
            env["TICKGATE__REDIS__URL"] = f"redis://127.0.0.1:{self.redis_port}"
        self.replicas = [Gateway(env) for _ in range(self.count)]
        await asyncio.gather(*(replica.start() for replica in self.replicas))
        return self

    async def after_each(self) -> None:
        """Ends what a check has started, and waits until the replicas have noticed."""
        for program in self.programs:
            await program.stop(kill=True)
        self.programs.clear()
        for client in self.clients:
            await client.close()
        self.clients.clear()
        await self.gateway.settled(active_connections=0)

    async def __aexit__(self, *_: Any) -> None:
        for program in self.programs:
            await program.stop(kill=True)
        await asyncio.gather(*(replica.stop() for replica in self.replicas))
        if self.redis:
            await self.redis.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    @property
    def gateway(self) -> Gateway:
        return self.replicas[0]

    async def run(self, program: str, *arguments: str, at: Gateway | None = None) -> Process:
        """Starts one of the programs under programs/."""
        interpreter = ["node"] if program.endswith(".js") else [os.environ.get("PYTHON", "python3"), "-u"]
        env = {"GATEWAY": (at or self.gateway).url, "PYTHONWARNINGS": "ignore"}
        started = await Process.start(*interpreter, HERE / "programs" / program, *arguments, env=env)
        self.programs.append(started)
        return started

    async def client(self, path: str, at: Gateway | None = None, **options: Any) -> Client:
        """Opens a WebSocket of the checks' own."""
        client = await Client.open(at or self.gateway, path, **options)
        self.clients.append(client)
        return client

    def log(self) -> str:
        """The ends of the replicas' logs."""
        tails = [replica.process.lines[-40:] for replica in self.replicas if replica.process]
        return "\n".join(line for tail in tails for line in ["-- log of a replica", *tail])
