"""A gateway as a separate process in development mode, which ends with the test."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from typing import Any, Self

import httpx

from ..gateway import AsyncGateway, Gateway
from ..token import mint

# For a gateway to become ready, in seconds.
_READY_TIMEOUT = 30.0
_STOP_TIMEOUT = 10.0


def find_program(binary: str | os.PathLike[str] | None = None) -> str:
    """The program `tickgate`: as given, as `TICKGATE_BIN` says, or on the `PATH`."""
    found = str(binary) if binary is not None else os.environ.get("TICKGATE_BIN") or shutil.which("tickgate")
    if not found:
        raise FileNotFoundError("the program `tickgate` is neither on the PATH nor named by TICKGATE_BIN")
    return found


def _free_ports() -> tuple[int, int]:
    """Two at once: a port that is given back may be the next one that is given out."""
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


class GatewayProcess:
    """A replica of a gateway: `with GatewayProcess() as gateway: …`.

    Attributes:
        url: of the public listener, such as `ws://127.0.0.1:40123`; endpoints follow: `f"{gateway.url}/ws/trading"`.
        api: of the operations listener.
        key: an API key.
        secret: what tokens are signed with.

    Args:
        binary: the program; by default as `find_program` finds it.
        redis_url: a Redis that replicas share; without one, the gateway keeps everything in its memory.
        settings: further ones, as environment variables, such as `{"TICKGATE__AUTH__ANONYMOUS": "never"}`.
        secret: of another replica, if they are to take the same tokens.
        key: the same for API keys.
    """

    def __init__(
        self,
        binary: str | os.PathLike[str] | None = None,
        *,
        redis_url: str | None = None,
        settings: dict[str, str] | None = None,
        secret: str | None = None,
        key: str | None = None,
    ) -> None:
        self._program = find_program(binary)
        self._redis_url = redis_url
        self._settings = settings or {}
        self.secret = secret or secrets.token_urlsafe(32)
        self.key = key or secrets.token_urlsafe(32)
        self.url = ""
        self.api = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Any = None

    def start(self) -> Self:
        """Starts it, and waits until it is ready. After `stop` it comes back on the same ports."""
        if not self.url:
            public, operations = _free_ports()
            self.url, self.api = f"ws://127.0.0.1:{public}", f"http://127.0.0.1:{operations}"
        arguments = ["serve", "--development", "--listen", self.url.removeprefix("ws://")]
        arguments += ["--ops-listen", self.api.removeprefix("http://")]
        if self._redis_url is not None:
            arguments += ["--redis", self._redis_url]
        environment = {
            **os.environ,
            "TICKGATE__AUTH__HS256_SECRETS": self.secret,
            "TICKGATE__AUTH__API_KEYS": self.key,
            "TICKGATE__FEEDS__SYNTHETIC__ENABLED": "off",
            **self._settings,
        }
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [self._program, *arguments], env=environment, stdout=self._log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + _READY_TIMEOUT
        ready = "http" + self.url.removeprefix("ws") + "/readyz"
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if httpx.get(ready, timeout=2.0, trust_env=False).status_code == 200:
                    return self
            except httpx.HTTPError:
                pass
            time.sleep(0.02)
        log = self.log
        self.kill()
        raise RuntimeError(f"the gateway did not become ready:\n{log[-4000:]}")

    def stop(self) -> None:
        """Ends it with SIGTERM: it drains, and clients reconnect."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it with SIGKILL."""
        self._end(signal.SIGKILL)

    @property
    def log(self) -> str:
        """What it has written."""
        if self._log is None:
            return ""
        self._log.seek(0)
        text: bytes = self._log.read()
        self._log.seek(0, os.SEEK_END)
        return text.decode(errors="replace")

    def token(self, user: str, **rights: Any) -> str:
        """A token for a user; `tickgate.token.mint` says what `rights` are."""
        return mint(user, secret=self.secret, **rights)

    def gateway(self, **options: Any) -> Gateway:
        """A client of its HTTP API."""
        return Gateway(self.api, self.key, **options)

    def async_gateway(self, **options: Any) -> AsyncGateway:
        """The same for `asyncio`."""
        return AsyncGateway(self.api, self.key, **options)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._log.close()
        self._log = None
