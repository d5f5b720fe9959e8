"""Clients that are connected all the while, and the services that publish to them.

A client is what docs/wire.md asks of one: it keeps the id of the last message, returns after every close whose code
allows it, after the delay that the server names, and continues from that id. It runs on a public WebSocket library.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import random
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field

from checks import Failed
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

CHANNEL = "trades:BTCUSDT"
HEADER = json.dumps({"alg": "HS256", "typ": "JWT"}).encode()
# docs/wire.md, "Codes": what a client does not come back from.
FINAL_CODES = {1000, 1002, 1003, 1007, 1008, 1009, 4002, 4004}
CONNECT_SECONDS_MAX = 10
PUBLISH_SECONDS_MAX = 5


class Login:
    """The service that gives tokens to clients; the secret it signs with can be exchanged."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def token(self, user: str) -> str:
        def part(value: bytes) -> str:
            return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

        now = int(time.time())
        claims = json.dumps({"sub": user, "iat": now, "exp": now + 3600}).encode()
        signed = f"{part(HEADER)}.{part(claims)}"
        return f"{signed}.{part(hmac.digest(self.secret.encode(), signed.encode(), hashlib.sha256))}"


@dataclass
class Absence:
    """One time that a client was not subscribed: from the close until it was subscribed again."""

    client: str
    at: float
    code: int
    seconds: float | None = None
    # What happened to attempts to connect before one succeeded.
    refusals: list[str] = field(default_factory=list)


class Client:
    """One subscriber. `user` is None for a client of the public market channel."""

    def __init__(self, name: str, address: str, user: str | None, login: Login) -> None:
        self.name, self.address, self.user, self.login = name, address, user, login
        self.channel = "orders" if user else CHANNEL
        self.cursor: str | None = None
        self.numbers: list[int] = []
        self.complaints: list[str] = []
        self.absences: list[Absence] = []
        self.subscribed = asyncio.Event()
        self.hint = 0.0
        # How much had been published when it first was subscribed. From the next one on it must have everything.
        self.baseline: int | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._connect_and_listen()
            except (OSError, TimeoutError, InvalidStatus, WebSocketException) as refusal:
                self._refused(refusal)
                await asyncio.sleep(random.uniform(0.1, 0.5))
            else:
                await asyncio.sleep(self.hint)
            self.hint = 0.0

    async def _connect_and_listen(self) -> None:
        path = f"/ws/trading?token={self.login.token(self.user)}" if self.user else "/ws/market"
        # No keep-alive pings of its own: the gateway sends them. No proxy: the environment may name one.
        socket = await connect(f"ws://{self.address}{path}", compression=None, ping_interval=None, proxy=None,
                               open_timeout=CONNECT_SECONDS_MAX, close_timeout=1)  # fmt: skip
        async with socket:
            element = {"channel": self.channel, **({"since": self.cursor} if self.cursor else {})}
            request = {"type": "subscribe", "channels": [element]}
            try:
                await socket.send(json.dumps(request))
                while True:
                    self._take(json.loads(await socket.recv()))
            except ConnectionClosed as closed:
                self._closed(closed.rcvd.code if closed.rcvd else 1006)

    def _take(self, message: dict) -> None:
        kind = message.get("type")
        if kind == "note":
            self.cursor = message["_meta"]["id"]
            self.numbers.append(message["number"])
        elif kind == "subscribed":
            self._take_subscribed(message)
        elif kind == "closing":
            self.hint = message.get("after_ms", 0) / 1000
        elif kind in ("gap", "error"):
            self.complaints.append(json.dumps(message))

    def _take_subscribed(self, message: dict) -> None:
        if message["errors"]:
            self.complaints.append(json.dumps(message))
            return
        # A client that has seen nothing yet continues from where it subscribed.
        self.cursor = self.cursor or message["channels"][0].get("cursor")
        if self.absences and self.absences[-1].seconds is None:
            self.absences[-1].seconds = time.monotonic() - self.absences[-1].at
        self.subscribed.set()

    def _closed(self, code: int) -> None:
        self.subscribed.clear()
        # A close before the client was subscribed again belongs to the absence that it prolongs.
        if self.absences and self.absences[-1].seconds is None:
            self.absences[-1].refusals.append(f"closed with {code}")
        else:
            self.absences.append(Absence(self.name, time.monotonic(), code))
        if code in FINAL_CODES or code >= 4500:
            raise Failed(f"{self.name} was closed with {code}, after which a client does not return")

    def _refused(self, refusal: Exception) -> None:
        if self.absences and self.absences[-1].seconds is None:
            self.absences[-1].refusals.append(str(refusal) or type(refusal).__name__)


class Publisher:
    """A backend: publishes over one keep-alive connection, and repeats with the same `msg_id` until it is accepted."""

    def __init__(self, address: str, key: str) -> None:
        self.host, self.port = address.rsplit(":", 1)
        self.key = key
        self.counts: Counter[str | None] = Counter()
        self.repeats: Counter[str] = Counter()
        self.link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def publish(self, user: str | None) -> None:
        """The next number for a user, or for the market."""
        self.counts[user] += 1
        data = {"type": "note", "number": self.counts[user]}
        body = {"channel": "orders" if user else CHANNEL, "data": data, "msg_id": uuid.uuid4().hex, **({"user": user} if user else {})}
        text = json.dumps(body).encode()
        while True:
            try:
                status, answer = await asyncio.wait_for(self._post(text), PUBLISH_SECONDS_MAX)
            except (OSError, EOFError, TimeoutError) as fault:
                status, answer = 0, type(fault).__name__
            if status == 200:
                return
            if 400 <= status < 500 and status != 429:
                raise Failed(f"a publication is refused with {status}: {answer}")
            self.repeats[str(status or answer)] += 1
            self._hang_up()
            await asyncio.sleep(0.05)

    async def _post(self, body: bytes) -> tuple[int, str]:
        if self.link is None:
            self.link = await asyncio.open_connection(self.host, int(self.port))
        reader, writer = self.link
        head = (f"POST /api/v1/publish HTTP/1.1\r\nHost: {self.host}\r\nAuthorization: Bearer {self.key}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n")  # fmt: skip
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next((int(line.split(":")[1]) for line in answer.split("\r\n") if line.startswith("content-length:")), 0)
        text = (await reader.readexactly(length)).decode()
        if "connection: close" in answer:
            self._hang_up()
        return int(answer.split(" ", 2)[1]), text

    def _hang_up(self) -> None:
        if self.link:
            self.link[1].close()
        self.link = None


class Crowd:
    """All clients and both publishers. Runs in an event loop; what is done to the cluster runs beside it."""

    def __init__(self, clients: str, operations: str, login: Login, key: str) -> None:
        self.clients_address, self.login = clients, login
        self.clients: list[Client] = []
        self.market, self.orders = Publisher(operations, key), Publisher(operations, key)
        self.tasks: list[asyncio.Task] = []
        self.flows: list[asyncio.Task] = []
        self.publishing = False

    async def join(self, count: int) -> None:
        """More clients: every other one on the market channel, the rest users of their own."""
        joined = []
        for number in range(len(self.clients), len(self.clients) + count):
            user = f"user-{number}" if number % 2 else None
            client = Client(f"client-{number}", self.clients_address, user, self.login)
            joined.append(client)
            self.clients.append(client)
            self.tasks.append(asyncio.create_task(client.run()))
            await asyncio.sleep(0.01)
        await self.wait_for("new clients to be subscribed", lambda: all(client.subscribed.is_set() for client in joined), 60)
        for client in joined:
            client.baseline = self.published(client)

    def start_publishing(self) -> None:
        self.publishing = True
        self.flows = [asyncio.create_task(self._publish_market()), asyncio.create_task(self._publish_orders())]

    async def stop_publishing(self) -> None:
        """What is under way comes to its end."""
        self.publishing = False
        await asyncio.gather(*self.flows)

    def set_key(self, key: str) -> None:
        self.market.key = self.orders.key = key

    async def leave(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def wait_for(self, what: str, holds, seconds: float) -> None:
        """Fails early if a client or a publisher has given up."""
        deadline = time.monotonic() + seconds
        while not holds():
            self.check()
            if time.monotonic() > deadline:
                away = [client.name for client in self.clients if not client.subscribed.is_set()]
                raise Failed(f"timed out after {seconds:g} s waiting for {what}; away: {away[:5]} ({len(away)})")
            await asyncio.sleep(0.1)

    def check(self) -> None:
        for task in [*self.tasks, *self.flows]:
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error

    def published(self, client: Client) -> int:
        return (self.orders if client.user else self.market).counts[client.user]

    async def _publish_market(self) -> None:
        while self.publishing:
            await self.market.publish(None)
            await asyncio.sleep(0.2)

    async def _publish_orders(self) -> None:
        at = 0
        while self.publishing:
            users = [client.user for client in self.clients if client.user and client.baseline is not None]
            await self.orders.publish(users[at % len(users)])
            at += 1
            await asyncio.sleep(0.02)
