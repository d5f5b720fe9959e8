"""The WebSocket of a connection: opens one after the other, and decides whether and when to reconnect. Runs on an event loop
of its own; everything but waiting is done under the connection's lock."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from math import inf, isfinite
from threading import RLock
from typing import Any
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidURI, WebSocketException

from . import _socket
from ._core.backoff import after_code, back_off
from ._core.channels import Channels, Options
from ._core.hub import Gap, Hub
from ._core.pace import Pace
from ._core.pending import Pending, Request
from ._core.read import Json, Loads, Unreadable, check, messages_of, object_of, push_of
from ._core.status import Status
from ._core.token import Token
from .errors import Refused, refusal

# From the token at hand to the welcome, in seconds.
OPENING_TIMEOUT = 10.0
# For the reply to a request of the client's own.
ANSWER_TIMEOUT = 12.0
# A connection that lasted this long resets the back-off.
HELD = 5.0
# A delay that is believed, in seconds.
DELAY_MAX = 86_400.0
# Bytes of a `subscribe` besides its elements.
_ENVELOPE = 64
# How many unknown types are reported.
_UNKNOWN_MAX = 64


class _Ending:
    """Why a connection, or the attempt to open one, has ended."""

    def __init__(
        self, reason: str, code: int | None = None, reconnect: object = None, after: float = 0.0, final: bool = False
    ) -> None:
        self.reason = reason
        self.code = code
        self.reconnect = reconnect
        self.after = after
        self.final = final


class _Welcome:
    """What the welcome said."""

    def __init__(self, message: Json, now: float) -> None:
        limits = message["limits"]
        self.at = now
        self.interval = min(max(float(message["heartbeat_interval"]), 1.0), 3600.0)
        self.size = int(limits.get("message_bytes") or 65_536) - _ENVELOPE
        self.most = int(limits.get("subscriptions") or 200)
        self.pace = Pace(limits["names_per_second"], limits.get("names_burst") or 1, now)


class Link:
    """`show` and `log` are called under the lock, and only take note."""

    def __init__(
        self,
        url: str,
        *,
        lock: RLock,
        token: str | None,
        fetch: Callable[[], Awaitable[str]] | None,
        late: bool,
        loads: Loads,
        show: Callable[[Status], None],
        log: Callable[[str], None],
        options: dict[str, Any],
    ) -> None:
        self.url = url
        self.hub: Hub
        self._lock = lock
        self._fixed = token
        self._fetch = fetch
        self._late = late
        self._loads = loads
        self._show_status = show
        self._log = log
        self._options = options
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channels = Channels(lambda name, cursor: self.hub.moved(name, cursor))
        self._pending = Pending()
        self._token = Token(fetch is not None)
        self._unknown: set[str] = set()
        self._open: dict[int, tuple[str, float, str]] = {}
        self._socket: ClientConnection | None = None
        self._ended: asyncio.Future[_Ending] | None = None
        self._outgoing: deque[str] = deque()
        self._writable = asyncio.Event()
        self._welcome: _Welcome | None = None
        self._session: str | None = None
        self._state = ""
        self._failures = 0
        self._tokens_refused = 0
        self._number = 0
        self._heard = 0.0
        self._stale = False
        self._deadline = inf
        self._timer: asyncio.TimerHandle | None = None
        self._posted = False
        self._tasks: set[asyncio.Task[None]] = set()

    # For the hub and the application, on any thread, under the lock.

    def want(self, name: str, options: Options, cursor: str | None) -> None:
        self._channels.want(name, options, cursor)
        if self._state == "live":
            self._show(Status("catching_up"))
        self._post()

    def drop(self, name: str) -> None:
        self._unsubscribe(name, self._channels.drop(name))

    def suspend(self, name: str) -> None:
        self._unsubscribe(name, self._channels.suspend(name))

    def request(self, request: Request, at_once: bool) -> None:
        """Takes a request of the application; `at_once`: refused while there is no connection."""
        if self._state == "closed" or (at_once and self._welcome is None):
            request.done(None, Refused("not connected", msg_id=request.msg_id))
        else:
            self._pending.add(request)
            self._post()

    # The life of the link, on its loop.

    async def run(self) -> None:
        """Connects until the gateway or the application ends it."""
        self._loop = asyncio.get_running_loop()
        self._act()
        while True:
            with self._lock:
                self._show(Status("connecting"))
            ending = await self._attempt()
            with self._lock:
                wait = self._after(ending)
            if wait is None:
                return
            await asyncio.sleep(wait)

    async def stop(self, run: asyncio.Task[None]) -> None:
        """Closes with 1000, sends and delivers nothing after that."""
        with self._lock:
            socket = self._leave()
            if self._state != "closed":
                self._close(_Ending("closed by the application"))
        if socket is not None:
            await _socket.leave(socket, 1000)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _attempt(self) -> _Ending:
        try:
            token = await self._current_token()
        except Exception as error:
            return _Ending(f"no token: {error}")
        deadline = time.monotonic() + OPENING_TIMEOUT
        url = self.url
        if self._session is not None:
            url += ("&" if "?" in url else "?") + "session=" + quote(self._session, safe="")
        try:
            socket = await _socket.connect(url, None if self._late else token, OPENING_TIMEOUT, self._hear, self._options)
        except InvalidURI as error:
            return _Ending(str(error), final=True)
        except (OSError, WebSocketException, TimeoutError, EOFError) as error:
            return _Ending(_socket.failure(error))
        if socket.subprotocol != _socket.PROTOCOL:
            self._abandon(socket)
            return _Ending(f"the server did not select {_socket.PROTOCOL}")
        return await self._converse(socket, token, deadline)

    async def _converse(self, socket: ClientConnection, token: str | None, deadline: float) -> _Ending:
        ended: asyncio.Future[_Ending] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._socket, self._ended, self._deadline = socket, ended, deadline
            self._open.clear()
            self._outgoing.clear()
            self._number, self._stale = 0, False
            if self._late and token:
                self._ask("auth", {"token": token}, token)
        reader = asyncio.ensure_future(self._read(socket, ended))
        writer = asyncio.ensure_future(self._write(socket, ended))
        self._act()
        try:
            return await ended
        finally:
            reader.cancel()
            writer.cancel()
            self._abandon(socket)

    async def _read(self, socket: ClientConnection, ended: asyncio.Future[_Ending]) -> None:
        ending = _Ending("the connection was lost")
        try:
            while True:
                self._receive(ended, await socket.recv())
        except Unreadable as error:
            with self._lock:
                self._log(f"unreadable: {error}")
            ending = _Ending(f"unreadable: {error}")
        except WebSocketException as error:
            ending = _Ending(*_socket.ending(error))
        except Exception as error:
            with self._lock:
                self._log(f"failed: {error!r}")
            ending = _Ending(f"failed: {error!r}")
        finally:
            if not ended.done():
                ended.set_result(ending)

    async def _write(self, socket: ClientConnection, ended: asyncio.Future[_Ending]) -> None:
        try:
            while True:
                while self._outgoing:
                    await socket.send(self._outgoing.popleft())
                self._writable.clear()
                await self._writable.wait()
        except WebSocketException:
            # The reader finds the reason.
            pass

    async def _current_token(self) -> str | None:
        if self._fetch is None:
            return self._fixed
        token = self._token.current(time.monotonic())
        if token is None:
            token = await self._fetch()
            self._token.fetched(token)
        return token

    async def _renew(self) -> None:
        assert self._fetch is not None
        ended = self._ended
        try:
            token = await self._fetch()
        except Exception as error:
            with self._lock:
                self._log(f"no token: {error}")
                if ended is self._ended:
                    self._token.failed(time.monotonic(), random.random())
        else:
            with self._lock:
                if ended is self._ended and ended is not None and not ended.done():
                    self._ask("auth", {"token": token}, token)
        self._act()

    # What arrives.

    def _hear(self) -> None:
        """Bytes have come, of whatever kind."""
        self._heard = time.monotonic()

    def _receive(self, ended: asyncio.Future[_Ending], data: str | bytes) -> None:
        messages = messages_of(data, self._loads)
        with self._lock:
            quiet = not self._stale
            self._stale = False
            try:
                for element in messages:
                    if ended.done():
                        return
                    message = object_of(element)
                    if message.get("_meta") is not None:
                        push = push_of(message)
                        if self._channels.push(push):
                            self.hub.push(push)
                    else:
                        quiet = False
                        if message.get("id") is not None:
                            self._reply(message)
                        else:
                            self._notice(message)
            except Unreadable:
                raise
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
                raise Unreadable(f"a field of another type: {error!r}") from error
            if not quiet and not ended.done():
                self._act()

    def _reply(self, message: Json) -> None:
        now = time.monotonic()
        number = message["id"]
        kind, _, secret = self._open.pop(number, ("", 0.0, "")) if isinstance(number, int) else ("", 0.0, "")
        if not kind:
            self._pending.reply(now, number, message)
            return
        check(message)
        failed = message.get("type") == "error"
        if kind == "auth":
            if not failed:
                self._token.accepted(secret, message.get("expires_at"), now)
                return
            error = refusal(message)
            retry = None if error.retry_after_ms is None else error.retry_after_ms / 1000
            if self._welcome is None:
                self._end(_Ending(error.message, error.code, "new_token"))
            elif self._token.refused(secret, retry, now):
                self._end(_Ending(error.message, error.code, "yes"))
        elif kind == "subscribe":
            if failed:
                for name in self._channels.asked_by(number):
                    self._refused(name, message)
                return
            for grant in message["channels"]:
                if self._channels.granted(grant, number):
                    self.hub.granted(grant["channel"], str(grant.get("class")), bool(grant.get("live")))
            asked = self._channels.asked_by(number)
            for one in message["errors"]:
                if one["channel"] in asked:
                    self._refused(one["channel"], one)
            self._channels.unnamed(number, now)

    def _notice(self, message: Json) -> None:
        check(message)
        match message["type"]:
            case "connection_established":
                self._welcomed(message)
            case "caught_up":
                for one in message["channels"]:
                    if self._channels.caught_up(one["channel"], one.get("cursor")):
                        self.hub.caught_up(one["channel"])
            case "gap":
                cursor = message.get("cursor")
                names = self._channels.gap(message["channels"], cursor)
                if names:
                    told = (message.get("after"), message.get("before"), message.get("count"), message["reason"])
                    self.hub.gap(Gap(tuple(names), *told), cursor)
            case "heartbeat":
                self._channels.heartbeat(message.get("cursors") or {})
            case "token_expiring":
                self._token.expiring(time.monotonic())
            case "unsubscribed":
                for name in message["channels"]:
                    self._refused(name, message)
            case "closing":
                after = message.get("after_ms")
                after = min(max(after / 1000, 0.0), DELAY_MAX) if isinstance(after, int | float) else 0.0
                reason = str(message.get("message") or message.get("error") or "closing")
                self._end(_Ending(reason, message["code"], message["reconnect"], after))
            case "error" if self._welcome is None and self._late:
                self._end(_Ending(refusal(message).message, message["code"], "new_token"))
            case "error":
                self._log(str(refusal(message)))
            case kind if kind not in self._unknown and len(self._unknown) < _UNKNOWN_MAX:
                self._unknown.add(kind)
                self._log(f"unknown notice {kind} of a newer gateway: ignored")

    def _welcomed(self, message: Json) -> None:
        now = time.monotonic()
        user = message.get("user")
        known = self.hub.user
        self._session = message.get("session")
        self._tokens_refused = 0
        self._welcome = _Welcome(message, now)
        self._token.clock(message.get("server_time"), message.get("expires_at"), now)
        changed = known is not None and known[0] != user
        if changed:
            self._channels.forget()
        self.hub.is_user(user, changed)

    def _refused(self, name: str, message: Json) -> None:
        error = refusal(message, channel=name)
        retry = None if error.retry_after_ms is None else error.retry_after_ms / 1000
        if self._channels.refuse(name, retry, time.monotonic()):
            self.hub.refused(name, error)

    # What is due.

    def _post(self) -> None:
        """Looks for what is due, soon, on the loop."""
        if not self._posted and self._loop is not None and not self._loop.is_closed():
            self._posted = True
            self._loop.call_soon_threadsafe(self._act)

    def _act(self) -> None:
        """Does what is due, and sets the timer for what will be."""
        with self._lock:
            self._posted = False
            now = time.monotonic()
            self._pending.expire(now)
            if self._state == "closed":
                return
            due = self._pending.due(self._welcome is not None)
            if self._ended is not None and not self._ended.done():
                if self._welcome is not None:
                    due = self._talk(self._welcome, now)
                elif self._deadline <= now:
                    self._end(_Ending("no welcome in time"))
                else:
                    due = min(due, self._deadline)
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
            if isfinite(due) and self._loop is not None:
                self._timer = self._loop.call_later(max(due - now, 0.0), self._act)

    def _talk(self, welcome: _Welcome, now: float) -> float:
        """Sends what is due on a connection. Returns when more will be."""
        silent = now - self._heard
        unanswered = min((at for _, at, _ in self._open.values()), default=inf) + ANSWER_TIMEOUT
        if unanswered <= now:
            self._end(_Ending("a request was not answered"))
            return inf
        if silent >= welcome.interval * 2:
            self._end(_Ending("nothing was received"))
            return inf
        self._stale = silent >= welcome.interval
        if self._token.due() <= now:
            self._token.begin()
            self._spawn(self._renew())
        while names := min(welcome.pace.available(now), welcome.most):
            elements = self._channels.ask(now, self._number + 1, names, welcome.size)
            if not elements:
                break
            welcome.pace.take(len(elements))
            self._ask("subscribe", {"channels": elements})
        while (message := self._pending.next(now, self._number + 1)) is not None:
            self._number += 1
            self._send(message)
        state = "stale" if self._stale else "live" if self._channels.live() else "catching_up"
        self._show(Status(state))
        subscribes = max(self._channels.due(), welcome.pace.next(now))
        silence = self._heard + welcome.interval * (2 if self._stale else 1)
        unanswered = min((at for _, at, _ in self._open.values()), default=inf) + ANSWER_TIMEOUT
        return min(self._pending.due(True), subscribes, silence, unanswered, self._token.due())

    def _ask(self, type: str, fields: Json, secret: str = "") -> None:
        """Sends a request of the client's own."""
        self._number += 1
        self._open[self._number] = (type, time.monotonic(), secret)
        self._send({"type": type, "id": self._number, **fields})

    def _send(self, message: Json) -> None:
        self._outgoing.append(json.dumps(message, separators=(",", ":"), ensure_ascii=False))
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._writable.set)

    def _unsubscribe(self, name: str, told: bool) -> None:
        if told and self._welcome is not None:
            self._ask("unsubscribe", {"channels": [name]})
        self._post()

    # The end of a connection.

    def _end(self, ending: _Ending) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(ending)

    def _leave(self) -> ClientConnection | None:
        socket, self._socket = self._socket, None
        self._ended = self._welcome = None
        self._deadline = inf
        self._outgoing.clear()
        return socket

    def _after(self, ending: _Ending) -> float | None:
        """How long to wait for the next attempt; `None`: there is none."""
        now = time.monotonic()
        welcome = self._welcome
        self._leave()
        if self._state == "closed":
            return None
        self._channels.disconnected()
        self._pending.disconnected()
        self._token.lost()
        if welcome is not None and now - welcome.at >= HELD:
            self._failures = 0
        reconnect = ending.reconnect
        if reconnect not in ("yes", "no", "new_token"):
            reconnect = after_code(ending.code)
        if reconnect == "new_token":
            self._token.forget()
            if welcome is None:
                self._tokens_refused += 1
            if self._tokens_refused > 1 or self._fetch is None:
                reconnect = "no"
        if reconnect == "no" or ending.final:
            self._close(ending)
            return None
        wait = max(back_off(self._failures, random.random()), ending.after)
        self._failures += 1
        self._show(Status("waiting", ending.reason, ending.code, wait))
        return wait

    def _close(self, ending: _Ending) -> None:
        self._show(Status("closed", ending.reason, ending.code))
        self._pending.end()
        if self._timer is not None:
            self._timer.cancel()

    def _show(self, status: Status) -> None:
        if status.state == self._state and status.state != "waiting":
            return
        self._state = status.state
        self._show_status(status)

    def _abandon(self, socket: ClientConnection) -> None:
        self._spawn(_socket.leave(socket, 1000))

    def _spawn(self, work: Any) -> None:
        assert self._loop is not None
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
