"""`connect`: a connection to an endpoint of a gateway, awaited or blocking."""

from __future__ import annotations

import asyncio
import inspect
import json
import queue
import ssl as ssl_module
import threading
from collections.abc import Awaitable, Callable, Mapping
from os import PathLike
from typing import Any, TypeVar, Unpack, overload

from ._core.read import Json, Loads
from ._core.status import Status
from ._engine import Engine, TokenSource, log, new_msg_id
from ._store import CursorStore, store_of
from .errors import Invalid
from .messages import AsyncBatches, AsyncMessages, Batches, Messages, OnGap
from .results import HistoryPage, Presence, Published, ReadOptions, page_of, presence_of, published_of
from .value import AsyncValue, Value

__all__ = ["AsyncConnection", "Connection", "connect"]

T = TypeVar("T")

# How long a request may take, by default, in seconds.
WITHIN = 10.0

# How many messages to this connection alone wait for `on_direct`.
DIRECT_MAX = 1_000

OnState = Callable[[Status], object]
OnDirect = Callable[[dict[str, Any]], object]


class _Base:
    """The base of `Connection` and `AsyncConnection`."""

    _engine: Engine

    @property
    def status(self) -> Status:
        """The state of the connection."""
        return self._engine.status

    @property
    def user(self) -> str | None:
        """The user of the token, once there was a welcome."""
        known = self._engine.hub.user
        return known[0] if known else None

    @property
    def connection_id(self) -> str | None:
        """The id that `Gateway.send` uses for this connection, while it is connected; it changes with each reconnect."""
        return self._engine.link.connection_id

    def cursors(self) -> dict[str, str]:
        """The last handled position of each channel, for `since`."""
        with self._engine.lock:
            return self._engine.hub.cursors()


class AsyncConnection(_Base):
    """A connection for `asyncio`. It reads on a separate thread, so an event loop that is busy for a minute loses nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @overload
    def messages(
        self, *channels: str, on_gap: OnGap | None = None, **options: Unpack[ReadOptions]
    ) -> AsyncMessages[dict[str, Any]]: ...
    @overload
    def messages(
        self, *channels: str, type: type[T], on_gap: OnGap | None = None, **options: Unpack[ReadOptions]
    ) -> AsyncMessages[T]: ...
    def messages(
        self, *channels: str, type: Any = None, on_gap: OnGap | None = None, **options: Unpack[ReadOptions]
    ) -> AsyncMessages[Any]:
        """Reads channels of class `reliable` or `event`: every message, in order, once.

        Args:
            channels: their names; more can be added later.
            on_gap: called in the place of messages that are missing, before the next one; may be a coroutine function.
                What it raises comes out of the loop, and it is called again. Required for channels of class `reliable`.
            since: a cursor to continue after. Otherwise the stored one counts, if there is one; then `since="earliest"` begins
                with all that is kept, and `last` with the newest. Without any, a channel begins with what happens next.
            last: begin with this number of the newest publications.
            max_rate: values a second, for channels of class `state`.
            snapshot: `False` leaves out the current value of a channel of class `state`.
            type: what `data` is to be: a dataclass, a Pydantic model, a `msgspec.Struct` or a function; a `dict` otherwise.
            manual: messages are handled at `done()` only.
            buffer: how many messages of a channel may wait or be handled, 1,000 by default. Beyond that, a channel of
                class `event` loses the oldest to a gap with the reason `slow_application`; any other is left, and caught up
                from the gateway once half of the room is free.
        """
        return AsyncMessages(self._engine, channels, on_gap=on_gap, type=type, **options)

    @overload
    def batches(
        self, *channels: str, on_gap: OnGap | None = None, **options: Unpack[ReadOptions]
    ) -> AsyncBatches[dict[str, Any]]: ...
    @overload
    def batches(
        self, *channels: str, type: type[T], on_gap: OnGap | None = None, **options: Unpack[ReadOptions]
    ) -> AsyncBatches[T]: ...
    def batches(
        self, *channels: str, type: Any = None, on_gap: OnGap | None = None, **options: Unpack[ReadOptions]
    ) -> AsyncBatches[Any]:
        """Like `messages`, but in lists of all messages that have arrived in the meantime."""
        return AsyncBatches(self._engine, channels, on_gap=on_gap, type=type, **options)

    @overload
    def value(
        self, channel: str, *, max_rate: int | None = None, snapshot: bool | None = None
    ) -> AsyncValue[dict[str, Any]]: ...
    @overload
    def value(
        self, channel: str, *, type: type[T], max_rate: int | None = None, snapshot: bool | None = None
    ) -> AsyncValue[T]: ...
    def value(
        self, channel: str, *, max_rate: int | None = None, snapshot: bool | None = None, type: Any = None
    ) -> AsyncValue[Any]:
        """Reads a channel of class `state`: the newest value, at most `max_rate` a second."""
        return AsyncValue(self._engine, channel, max_rate=max_rate, snapshot=snapshot, type=type)

    async def publish(
        self,
        channel: str,
        data: Mapping[str, Any],
        *,
        user: str | None = None,
        msg_id: str | None = None,
        count: bool = False,
        within: float = WITHIN,
    ) -> Published:
        """Publishes an object. Without a connection it waits, and after a lost one it is sent again with the same `msg_id`,
        for `within` seconds; nothing is sent after that. With `count`, the result says how many connections follow the
        channel.

        Raises:
            Refused: it is certainly not stored.
            Unknown: it may be: publish it again with the same `msg_id`.
        """
        fields = {"channel": channel, "user": user, "data": dict(data), "count": count or None}
        return published_of(await self._request("publish", fields, within, msg_id or new_msg_id()))

    async def command(self, command: str, args: Any = None, *, msg_id: str | None = None, within: float = WITHIN) -> Published:
        """Sends a command to the engine of a run. Raises `Refused` at once while there is no connection."""
        fields = {"command": command, "args": args}
        return published_of(await self._request("command", fields, within, msg_id or new_msg_id(), at_once=True))

    async def history(
        self, channel: str, *, since: str | None = None, last: int | None = None, within: float = WITHIN
    ) -> HistoryPage:
        """A page of past publications, without subscribing."""
        return page_of(await self._request("history", {"channel": channel, "since": since, "last": last}, within))

    async def presence(self, channel: str, *, within: float = WITHIN) -> Presence:
        """The number of clients that follow a channel."""
        return presence_of(await self._request("presence", {"channel": channel}, within))

    async def close(self) -> None:
        """Stops permanently, and saves the cursors."""
        await asyncio.to_thread(self._engine.stop)

    async def _request(self, *arguments: Any, **options: Any) -> Json:
        return await asyncio.wrap_future(self._engine.request(*arguments, **options))


class Connection(_Base):
    """A blocking connection; it may be used by several threads. The methods are those of `AsyncConnection`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @overload
    def messages(
        self, *channels: str, on_gap: OnGap | None = None, **options: Unpack[ReadOptions]
    ) -> Messages[dict[str, Any]]: ...
    @overload
    def messages(
        self, *channels: str, type: type[T], on_gap: OnGap | None = None, **options: Unpack[ReadOptions]
    ) -> Messages[T]: ...
    def messages(
        self, *channels: str, type: Any = None, on_gap: OnGap | None = None, **options: Unpack[ReadOptions]
    ) -> Messages[Any]:
        """As `AsyncConnection.messages`."""
        return Messages(self._engine, channels, on_gap=on_gap, type=type, **options)

    @overload
    def batches(
        self, *channels: str, on_gap: OnGap | None = None, **options: Unpack[ReadOptions]
    ) -> Batches[dict[str, Any]]: ...
    @overload
    def batches(
        self, *channels: str, type: type[T], on_gap: OnGap | None = None, **options: Unpack[ReadOptions]
    ) -> Batches[T]: ...
    def batches(
        self, *channels: str, type: Any = None, on_gap: OnGap | None = None, **options: Unpack[ReadOptions]
    ) -> Batches[Any]:
        """As `AsyncConnection.batches`."""
        return Batches(self._engine, channels, on_gap=on_gap, type=type, **options)

    @overload
    def value(self, channel: str, *, max_rate: int | None = None, snapshot: bool | None = None) -> Value[dict[str, Any]]: ...
    @overload
    def value(self, channel: str, *, type: type[T], max_rate: int | None = None, snapshot: bool | None = None) -> Value[T]: ...
    def value(self, channel: str, *, max_rate: int | None = None, snapshot: bool | None = None, type: Any = None) -> Value[Any]:
        """As `AsyncConnection.value`."""
        return Value(self._engine, channel, max_rate=max_rate, snapshot=snapshot, type=type)

    def publish(
        self,
        channel: str,
        data: Mapping[str, Any],
        *,
        user: str | None = None,
        msg_id: str | None = None,
        count: bool = False,
        within: float = WITHIN,
    ) -> Published:
        """As `AsyncConnection.publish`."""
        fields = {"channel": channel, "user": user, "data": dict(data), "count": count or None}
        return published_of(self._engine.request("publish", fields, within, msg_id or new_msg_id()).result())

    def command(self, command: str, args: Any = None, *, msg_id: str | None = None, within: float = WITHIN) -> Published:
        """As `AsyncConnection.command`."""
        fields = {"command": command, "args": args}
        return published_of(self._engine.request("command", fields, within, msg_id or new_msg_id(), at_once=True).result())

    def history(
        self, channel: str, *, since: str | None = None, last: int | None = None, within: float = WITHIN
    ) -> HistoryPage:
        """As `AsyncConnection.history`."""
        fields = {"channel": channel, "since": since, "last": last}
        return page_of(self._engine.request("history", fields, within).result())

    def presence(self, channel: str, *, within: float = WITHIN) -> Presence:
        """As `AsyncConnection.presence`."""
        return presence_of(self._engine.request("presence", {"channel": channel}, within).result())

    def close(self) -> None:
        """Stops permanently, and saves the cursors."""
        self._engine.stop()


class _Teller:
    """Calls `on_state` and `on_direct` of a blocking connection, in order, on a thread that ends with it."""

    def __init__(self, tell: Callable[[Status | Json], None]) -> None:
        self._tell = tell
        self._queue: queue.SimpleQueue[Status | Json] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="tickgate-state", daemon=True).start()

    def put(self, event: Status | Json) -> None:
        self._queue.put(event)

    def _run(self) -> None:
        while True:
            event = self._queue.get()
            self._tell(event)
            if isinstance(event, Status) and event.state == "closed":
                return


class connect:
    """Connects to an endpoint of a gateway: `async with` gives an `AsyncConnection`, `with` a `Connection`.

    It returns before there is a connection, and reconnects for as long as that can help; `status` says how it goes. A
    connection does not survive `os.fork`: connect in the child.

    Args:
        url: such as `wss://example.com/ws/trading`.
        token: a token, or a function that returns one, which may be a coroutine function. It is called for the first
            connection and whenever a token is about to expire or was refused, never twice at once, and has 30 seconds.
        auth: `handshake` offers the token as a sub-protocol, `message` sends it as the first message.
        cursors: a file, or an own `CursorStore`: where the cursors are kept over a restart of the program.
        on_state: called with each change of the state.
        on_direct: called with each object that a backend sends to this connection alone (`Gateway.send`). It is not kept and
            not sent again; beyond 1,000 that wait, the newest is dropped with a warning in the log.
        loads: reads JSON; `json.loads` by default, which reads prices that are JSON numbers as `float`. For decimals:
            `functools.partial(json.loads, parse_float=decimal.Decimal)`.
        ssl: for `wss://`, if the default is not right.
        proxy: an HTTP or SOCKS proxy; by default, what the environment says; `None` for none.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | TokenSource | None = None,
        auth: str = "handshake",
        cursors: str | PathLike[str] | CursorStore | None = None,
        on_state: OnState | None = None,
        on_direct: OnDirect | None = None,
        loads: Loads = json.loads,
        ssl: ssl_module.SSLContext | None = None,
        proxy: str | bool | None = True,
    ) -> None:
        if auth not in ("handshake", "message"):
            raise Invalid("`auth` must be `handshake` or `message`")
        options: dict[str, Any] = {"proxy": proxy}
        if ssl is not None:
            options["ssl"] = ssl
        self._on_state = on_state
        self._on_direct = on_direct
        self._room = threading.Semaphore(DIRECT_MAX)
        self._arguments: dict[str, Any] = {
            "url": url,
            "token": token,
            "late": auth == "message",
            "loads": loads,
            "store": store_of(cursors),
            "options": options,
        }
        self._entered: AsyncConnection | Connection | None = None

    async def __aenter__(self) -> AsyncConnection:
        loop = asyncio.get_running_loop()

        async def wait(token: Awaitable[str]) -> str:
            return await token

        def resolve(token: Awaitable[str]) -> str:
            return asyncio.run_coroutine_threadsafe(wait(token), loop).result()

        def tell(event: Status | Json) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._tell, event)

        engine = self._engine(resolve, tell)
        self._entered = connection = AsyncConnection(engine)
        engine.start()
        return connection

    async def __aexit__(self, *_: object) -> None:
        assert isinstance(self._entered, AsyncConnection)
        await self._entered.close()

    def __enter__(self) -> Connection:
        async def wait(token: Awaitable[str]) -> str:
            return await token

        is_told = self._on_state is not None or self._on_direct is not None
        tell = _Teller(self._tell).put if is_told else lambda event: None
        engine = self._engine(lambda token: asyncio.run(wait(token)), tell)
        self._entered = connection = Connection(engine)
        engine.start()
        return connection

    def __exit__(self, *_: object) -> None:
        assert isinstance(self._entered, Connection)
        self._entered.close()

    def _engine(self, resolve: Callable[[Awaitable[str]], str], tell: Callable[[Status | Json], None]) -> Engine:
        def direct(data: Json) -> None:
            if self._on_direct is None:
                return
            if self._room.acquire(blocking=False):
                tell(data)
            else:
                log.warning("on_direct is too slow: a message to this connection was dropped")

        return Engine(**self._arguments, resolve=resolve, changed=tell, direct=direct)

    def _tell(self, event: Status | Json) -> None:
        if isinstance(event, Status):
            self._call("on_state", self._on_state, event)
        else:
            self._room.release()
            self._call("on_direct", self._on_direct, event)

    def _call(self, name: str, function: Callable[[Any], object] | None, event: Status | Json) -> None:
        if function is None:
            return
        try:
            result = function(event)
            if inspect.iscoroutine(result):
                result.close()
                raise Invalid(f"`{name}` must not be a coroutine function")
        except Exception:
            log.exception("%s failed", name)
