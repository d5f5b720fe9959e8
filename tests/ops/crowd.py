"""Thousands of clients in one process, that notice everything: order, holes, repeats, close codes, times.

A WebSocket client of its own, because a library's costs a tenth of a core per thousand messages a second. It speaks
just enough of RFC 6455 to read what a server sends; live_proxies.py uses somebody else's client.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import struct
import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Report:
    """What all clients of a crowd went through."""

    closes: list[tuple[float, int]] = field(default_factory=list)
    refused: Counter = field(default_factory=Counter)
    gaps: list[dict] = field(default_factory=list)
    errors: list[dict] = field(default_factory=list)
    away: list[float] = field(default_factory=list)


class Trader:
    """One client: connects, subscribes, and after every close comes back and resumes from its cursor."""

    def __init__(self, name: str, address: str, path: str, channel: str, report: Report, source: str = "127.0.0.1") -> None:
        """`address` is `host:port`; `source` is the client's own address."""
        self.name, self.path, self.channel, self.report, self.source = name, path, channel, report, source
        self.host, port = address.split(":")
        self.port = int(port)
        self.cursor: str | None = None
        self.numbers: list[int] = []
        self.repeated = 0
        self.ready = asyncio.Event()
        self.stopping = False
        self.hint = 0.0
        self.left_at: float | None = None

    async def run(self) -> None:
        """Until told to stop. Back-off as any client should have it: jittered, growing, the server's hint first."""
        attempt = 0
        while not self.stopping:
            try:
                reader, writer = await self._connect()
            except (OSError, asyncio.IncompleteReadError, ConnectionError, asyncio.TimeoutError) as fault:
                self.report.refused[str(fault) or type(fault).__name__] += 1
                attempt += 1
                await asyncio.sleep(random.uniform(0.1, min(5.0, 0.25 * 2**attempt)))
                continue
            attempt = 0
            code = await self._converse(reader, writer)
            writer.close()
            self.ready.clear()
            if self.stopping:
                return
            self.left_at = time.monotonic()
            self.report.closes.append((self.left_at, code))
            if code >= 4500:
                raise AssertionError(f"{self.name} was closed with {code}, which never reconnects")
            await asyncio.sleep(self.hint or random.uniform(0.05, 0.5))
            self.hint = 0.0

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(self.host, self.port, local_addr=(self.source, 0)), 10)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET {self.path} HTTP/1.1\r\nHost: {self.host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        status = head.split(b" ", 2)[1]
        if status != b"101":
            writer.close()
            raise ConnectionError(f"HTTP {status.decode()}")
        return reader, writer

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        """Reads until the end; answers with the close code, 1006 if there was none."""
        element = {"channel": self.channel, **({"since": self.cursor} if self.cursor else {})}
        writer.write(_frame(1, json.dumps({"type": "subscribe", "channels": [element]}).encode()))
        try:
            while True:
                opcode, payload = await _read_frame(reader)
                if opcode == 1:
                    self._take(json.loads(payload))
                elif opcode == 9:
                    writer.write(_frame(10, payload))
                elif opcode == 8:
                    writer.write(_frame(8, payload[:2]))
                    return struct.unpack(">H", payload[:2])[0] if len(payload) >= 2 else 1005
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            return 1006

    def _take(self, message: dict) -> None:
        kind = message.get("type")
        if kind == "note":
            self._take_note(message)
        elif kind == "subscribed":
            self._take_subscribed(message)
        elif kind == "gap":
            self.report.gaps.append({"client": self.name, **message})
        elif kind == "closing":
            self.hint = message.get("after_ms", 0) / 1000
        elif kind == "error":
            self.report.errors.append({"client": self.name, **message})

    def _take_note(self, message: dict) -> None:
        self.cursor = message["_meta"]["id"]
        number = message["number"]
        if self.numbers and number <= self.numbers[-1]:
            self.repeated += 1
        self.numbers.append(number)

    def _take_subscribed(self, message: dict) -> None:
        (channel,) = message["channels"]
        # The position of a client that has seen nothing yet: what comes after it must reach it.
        self.cursor = self.cursor or channel.get("cursor")
        if self.left_at is not None:
            self.report.away.append(time.monotonic() - self.left_at)
            self.left_at = None
        self.ready.set()


def _frame(opcode: int, payload: bytes) -> bytes:
    """A masked frame; the mask is zero, which the protocol allows and costs nothing."""
    size = len(payload)
    head = struct.pack(">BB", 0x80 | opcode, 0x80 | size) if size < 126 else struct.pack(">BBH", 0x80 | opcode, 0xFE, size)
    return head + b"\0\0\0\0" + payload


async def _read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack(">H", await reader.readexactly(2))
    elif size == 127:
        (size,) = struct.unpack(">Q", await reader.readexactly(8))
    return first & 0x0F, await reader.readexactly(size)


class Publisher:
    """A backend: one keep-alive connection, numbers what it publishes, repeats with the same msg_id on another replica."""

    def __init__(self, addresses: list[str], key: str) -> None:
        """`addresses` are those of the replicas' HTTP API, as `host:port`."""
        self.addresses, self.key = [address.split(":") for address in addresses], key
        self.at = 0
        self.link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.repeated = 0
        self.counts: Counter = Counter()

    async def publish(self, channel: str, user: str | None = None) -> int:
        """Publishes the next number of a channel until a replica says that it is accepted. Answers with the number."""
        self.counts[channel, user] += 1
        number = self.counts[channel, user]
        body = {"channel": channel, "data": {"type": "note", "number": number}, "msg_id": os.urandom(16).hex()}
        if user:
            body["user"] = user
        text = json.dumps(body).encode()
        while True:
            try:
                status, answer = await asyncio.wait_for(self._post(text), 5)
            except (OSError, ConnectionError, asyncio.IncompleteReadError, asyncio.TimeoutError):
                status, answer = 0, b""
            if status in (200, 201, 202):
                return number
            if 400 <= status < 500 and status != 429:
                raise AssertionError(f"the API refuses: {status} {answer.decode(errors='replace')}")
            self.repeated += 1
            self.link = None
            self.at = (self.at + 1) % len(self.addresses)
            await asyncio.sleep(0.02)

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        if self.link is None:
            self.link = await asyncio.open_connection(*self.addresses[self.at])
        reader, writer = self.link
        writer.write(
            f"POST /api/v1/publish HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
        answer = await reader.readexactly(length)
        if b"connection: close" in head.lower():
            writer.close()
            self.link = None
        return int(head.split(b" ", 2)[1]), answer
