"""Real gateways and a real Redis for the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tickgate import Gateway, Outbox
from tickgate.testing import GatewayProcess

# How long anything may take that has to happen, in seconds.
SOON = 20.0


def eventually(what: str, holds: Callable[[], Any], seconds: float = SOON) -> Any:
    """Waits until a condition holds, and returns what it returned."""
    deadline = time.monotonic() + seconds
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def gateway(tickgate_gateway: GatewayProcess) -> GatewayProcess:
    """One gateway for all tests that do not stop it."""
    return tickgate_gateway


@pytest.fixture
def api(gateway: GatewayProcess) -> Iterator[Gateway]:
    with gateway.gateway() as api:
        yield api


@pytest.fixture
def outbox(gateway: GatewayProcess) -> Iterator[Outbox]:
    with Outbox(gateway.api, gateway.key) as outbox:
        yield outbox


@pytest.fixture
def user() -> str:
    """A user that no other test has."""
    return f"user-{uuid.uuid4().hex[:8]}"


class RedisServer:
    """A `redis-server` of its own."""

    def __init__(self) -> None:
        program = shutil.which("redis-server")
        assert program, "redis-server is required"
        self._directory = tempfile.TemporaryDirectory()
        self._program = program
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]
        arguments += ["--appendfsync", "always", "--dir", self._directory.name]
        self._process = subprocess.Popen([self._program, *arguments], stdout=subprocess.DEVNULL)
        eventually("redis-server listens", self._listens)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(SOON)

    def close(self) -> None:
        self.stop()
        self._directory.cleanup()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def replicas(redis_server: RedisServer) -> Iterator[list[GatewayProcess]]:
    """Two replicas over one Redis, which engines may publish into."""
    settings = {"TICKGATE__REDIS__ENGINES": "true"}
    first = GatewayProcess(redis_url=redis_server.url, settings=settings)
    second = GatewayProcess(redis_url=redis_server.url, settings=settings, secret=first.secret, key=first.key)
    with first, second:
        yield [first, second]


# What a test of the package is given by its caller is not for the package.
for _name in ("TICKGATE_API", "TICKGATE_API_KEY", "TICKGATE_URL"):
    os.environ.pop(_name, None)
