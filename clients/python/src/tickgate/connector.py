"""A producer that uses the `SocketMessage` format: each message is acknowledged, and sent again after a lost connection.
Requires the extra `models`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from socket_models import (
    IngestEventType,
    LogLevel,
    SocketMessage,
    SocketMessageType,
    create_heartbeat_message,
    create_ingest_message,
    create_log_message,
)
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException

from ._core.backoff import after_code, back_off
from .errors import GatewayError, Invalid, OutboxFull, Refused, Unauthorized, Unknown, milliseconds
from .outbox import Outbox
from .shared import default_outbox, gateway_of

__all__ = ["Connector", "QuantowerConnector", "SocketHandler"]

log = logging.getLogger("tickgate.connector")

HEARTBEAT_INTERVAL = 30.0
_OPENING_TIMEOUT = 10.0
_HELD = 5.0
# For the acknowledgement of a message, before it is sent again on another connection, in seconds.
_ACK_TIMEOUT = 12.0
# For the first connection, in `connect`.
_CONNECT_TIMEOUT = 10.0

TokenSource = str | Callable[[], str | Awaitable[str]]


class _Waiting:
    """A message without an acknowledgement."""

    def __init__(self, msg_id: str, text: str) -> None:
        self.msg_id = msg_id
        self.text = text
        self.sent = False
        self.not_before = 0.0
        self.error: GatewayError | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Connector:
    """Sends events and logs of one source to `/ws/ingest`, in their order.

    After a lost connection it connects again, and sends what was not acknowledged with the same `msg_id`: it is published
    once. Waits for a minute at most for each message, by default; then nothing of it is sent any more.

    Args:
        server_url: such as `ws://localhost:8000`; without a path, `/ws/ingest` is meant.
        client_id: the `source` of the messages.
        token: a token with a `publish` right, a function that returns one, or an API key.
        within: how long a message may take, in seconds.
        size: how many messages may wait for their acknowledgement.
        heartbeat_interval: seconds between two heartbeats.
        on_message: called with each message that comes, acknowledgements included.
    """

    def __init__(
        self,
        server_url: str,
        client_id: str = "quantower-connector",
        *,
        token: TokenSource | None = None,
        within: float = 60.0,
        size: int = 10_000,
        heartbeat_interval: float = HEARTBEAT_INTERVAL,
        on_message: Callable[[SocketMessage], object] | None = None,
    ) -> None:
        parts = urlsplit(server_url)
        if parts.scheme not in ("ws", "wss"):
            raise Invalid("the URL must begin with ws:// or wss://")
        path = parts.path if parts.path not in ("", "/") else "/ws/ingest"
        self.server_url = urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))
        self.client_id = client_id
        #: It is connected, or connects again.
        self.running = False
        #: The present connection.
        self.websocket: ClientConnection | None = None
        self._token = token
        self._within = within
        self._size = size
        self._interval = heartbeat_interval
        self._on_message = on_message
        self._waiting: dict[str, _Waiting] = {}
        self._connected = asyncio.Event()
        self._wake = asyncio.Event()
        self._failure: GatewayError | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> None:
        """Begins to connect, and waits at most ten seconds for a connection. It keeps trying after that, and messages wait.
        Raises `Unauthorized` or `Refused` if the gateway permanently refuses it."""
        if self.running:
            return
        self.running = True
        self._failure = None
        self._tasks = [asyncio.create_task(self._live()), asyncio.create_task(self._heartbeats())]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                await self._connected.wait()
        if self._failure is not None:
            raise self._failure

    async def disconnect(self) -> None:
        """Ends the connection. What is not acknowledged fails."""
        self.running = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._give_up(Refused("the connector is disconnected"))

    async def send_order_event(self, run_id: str, order_data: dict[str, Any]) -> None:
        """Sends an event of an order; returns when it is stored."""
        await self.send_event(run_id, IngestEventType.ORDER, order_data)

    async def send_execution_event(self, run_id: str, execution_data: dict[str, Any]) -> None:
        """Sends an event of a fill; returns when it is stored."""
        await self.send_event(run_id, IngestEventType.EXECUTION, execution_data)

    async def send_event(self, run_id: str, event_type: IngestEventType | str, payload: dict[str, Any]) -> None:
        """Sends an event of any type; returns when it is stored."""
        await self.send_message(
            create_ingest_message(source=self.client_id, run_id=run_id, event_type=event_type, payload=payload)
        )

    async def send_log(
        self,
        level: LogLevel | str,
        message: str,
        meta: dict[str, Any] | None = None,
        *,
        logger_name: str = "quantower_connector",
    ) -> None:
        """Sends a log record; returns when it is stored."""
        await self.send_message(
            create_log_message(source=self.client_id, level=level, logger_name=logger_name, message=message, meta=meta)
        )

    async def send_message(self, message: SocketMessage) -> None:
        """Sends a message; returns when it is acknowledged.

        Raises:
            Invalid, Unauthorized, Refused: it is certainly not stored.
            Unknown: it may be: send it again with the same `msg_id`.
            OutboxFull: too many messages wait.
        """
        if not self.running:
            raise self._failure or Refused("the connector is not connected", msg_id=message.msg_id)
        if message.msg_id in self._waiting:
            raise Invalid("a message with this `msg_id` is already waiting", msg_id=message.msg_id)
        if len(self._waiting) >= self._size:
            raise OutboxFull(f"{self._size} messages wait for their acknowledgement")
        waiting = _Waiting(message.msg_id, message.json())
        self._waiting[message.msg_id] = waiting
        self._wake.set()
        try:
            async with asyncio.timeout(self._within):
                await waiting.done
        except TimeoutError:
            if waiting.sent:
                raise Unknown("not acknowledged in time", msg_id=message.msg_id, error="outcome_unknown") from waiting.error
            raise waiting.error or Refused("not sent in time", msg_id=message.msg_id) from None
        finally:
            self._waiting.pop(message.msg_id, None)

    async def handle_server_message(self, message: SocketMessage) -> None:
        """Handles what the gateway sends. A class that overrides it calls this one as well."""
        payload = message.payload
        if message.msg_type == SocketMessageType.ACK:
            waiting = self._waiting.get(str(payload.get("acknowledged_msg_id")))
            if waiting is not None and not waiting.done.done():
                waiting.done.set_result(None)
        elif message.msg_type == SocketMessageType.ERROR:
            self._refused(payload)
        if self._on_message is not None:
            result = self._on_message(message)
            if inspect.isawaitable(result):
                await result

    def _refused(self, payload: dict[str, Any]) -> None:
        name = str(payload.get("code", "error")).lower()
        retry = milliseconds(payload.get("retry_after_ms"))
        kind: type[GatewayError] = Refused
        if payload.get("outcome") == "unknown":
            kind = Unknown
        elif name in ("forbidden", "auth_required", "policy", "user_inactive"):
            kind = Unauthorized
        elif retry is None:
            kind = Invalid
        msg_id = payload.get("msg_id")
        error = kind(str(payload.get("message", name)), error=name, retry_after_ms=retry, msg_id=msg_id)
        waiting = self._waiting.get(str(msg_id))
        if waiting is None:
            log.error("the gateway refused a message: %s", error)
        elif retry is not None or kind is Unknown:
            waiting.error = error
            waiting.not_before = time.monotonic() + (retry or 1000) / 1000
            self._wake.set()
        elif not waiting.done.done():
            waiting.done.set_exception(error)

    def _give_up(self, error: GatewayError) -> None:
        self._failure = error if not self.running else self._failure
        for waiting in list(self._waiting.values()):
            if waiting.done.done():
                continue
            if waiting.sent:
                waiting.done.set_exception(Unknown("not acknowledged", msg_id=waiting.msg_id, error="outcome_unknown"))
            else:
                waiting.done.set_exception(error)

    async def _live(self) -> None:
        failures = refused = 0
        while True:
            began = None
            reconnect: str = "yes"
            try:
                headers = await self._headers()
                async with connect(
                    self.server_url,
                    additional_headers=headers,
                    compression=None,
                    open_timeout=_OPENING_TIMEOUT,
                    close_timeout=1.0,
                ) as websocket:
                    began = time.monotonic()
                    refused = 0
                    await self._converse(websocket)
            except ConnectionClosed as error:
                reconnect = after_code(error.rcvd.code if error.rcvd else None)
                reason = str(error)
            except InvalidStatus as error:
                status = error.response.status_code
                reconnect = "new_token" if status in (401, 403) else "no" if status in (400, 404) else "yes"
                reason = f"the gateway answered HTTP {status}"
            except (OSError, WebSocketException, TimeoutError, EOFError) as error:
                reconnect = "no" if isinstance(error, InvalidURI) else "yes"
                reason = str(error) or type(error).__name__
            except Exception as error:
                reason = f"no token: {error}"
            else:
                reason = "a message was not acknowledged"
            self.websocket = None
            if reconnect == "new_token":
                refused += 1
                reconnect = "yes" if refused < 2 and callable(self._token) else "no"
                final: GatewayError = Unauthorized(reason)
            else:
                final = Refused(reason)
            if reconnect == "no":
                self.running = False
                self._give_up(final)
                self._connected.set()
                return
            failures = 0 if began is not None and time.monotonic() - began >= _HELD else failures
            wait = back_off(failures, random.random())
            failures += 1
            log.warning("%s; the next attempt follows in %.1f s", reason, wait)
            await asyncio.sleep(wait)

    async def _headers(self) -> dict[str, str]:
        token: Any = self._token() if callable(self._token) else self._token
        if inspect.isawaitable(token):
            async with asyncio.timeout(30):
                token = await token
        return {"Authorization": f"Bearer {token}"} if token else {}

    async def _converse(self, websocket: ClientConnection) -> None:
        self.websocket = websocket
        self._connected.set()
        reader = asyncio.create_task(self._read(websocket))
        writer = asyncio.create_task(self._write(websocket))
        try:
            done, _ = await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _read(self, websocket: ClientConnection) -> None:
        async for text in websocket:
            try:
                message = SocketMessage(**json.loads(text))
            except (ValueError, TypeError) as error:
                log.error("a message that cannot be read: %s", error)
                return
            await self.handle_server_message(message)
        # The iteration ends quietly after a code that ends it well.
        await websocket.recv()

    async def _write(self, websocket: ClientConnection) -> None:
        """Sends what waits, in its order; ends when something is not acknowledged in time."""
        sent: dict[str, float] = {}
        while True:
            self._wake.clear()
            now = time.monotonic()
            due = now + 1.0
            for msg_id, waiting in list(self._waiting.items()):
                at = sent.get(msg_id)
                if at is not None and waiting.not_before <= at:
                    if now - at > _ACK_TIMEOUT:
                        return
                elif waiting.not_before > now:
                    due = min(due, waiting.not_before)
                elif not waiting.done.done():
                    sent[msg_id] = now
                    waiting.sent = True
                    await websocket.send(waiting.text)
            for msg_id in sent.keys() - self._waiting.keys():
                del sent[msg_id]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(due - time.monotonic(), 0.0)):
                    await self._wake.wait()

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            if self.websocket is not None:
                try:
                    await self.send_message(create_heartbeat_message(source=self.client_id))
                except (GatewayError, OutboxFull) as error:
                    log.warning("a heartbeat was not acknowledged: %s", error)


QuantowerConnector = Connector


# Where subscribers have the topics of services under another name: a user's own channel has this one.
_TOPICS = {"orders": "order_events", "trades": "trade_events"}


class SocketHandler:
    """What services call that used to hold sockets: messages go to all subscribers of a topic, on every replica. Without an
    `outbox`, it uses the program's shared one. The topics `orders` and `trades` are `order_events` and `trade_events` on
    `/ws`."""

    def __init__(self, outbox: Outbox | None = None) -> None:
        self._outbox = outbox

    @property
    def outbox(self) -> Outbox:
        """Where messages wait to be sent."""
        if self._outbox is None:
            self._outbox = default_outbox()
        return self._outbox

    async def broadcast_to_subscribers(self, topic: str, message: SocketMessage) -> None:
        """Sends a message to the subscribers of a topic, now or later, in the background. Its `msg_id` is that of the
        publication: the same message is published once."""
        await self.outbox.put_async(_TOPICS.get(topic, topic), json.loads(message.json()), msg_id=message.msg_id)

    async def send_to_client(self, client_id: str, message: SocketMessage) -> bool:
        """Sends a message to one connection, on whatever replica it is; `client_id` is the `connection_id` of its welcome.
        False if it is not connected."""
        data = json.loads(message.json())
        return await asyncio.to_thread(gateway_of(self.outbox).send, client_id, data)
