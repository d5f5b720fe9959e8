"""What is said on a connection: what arrives, and what is due to be sent. All of it is done under the connection's lock, on the
event loop of the link or, where the application asks for something, on its thread."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from math import inf, isfinite
from threading import RLock
from typing import Any

from websockets.asyncio.client import ClientConnection

from ._core.channels import Channels, Options
from ._core.hub import Gap, Hub
from ._core.pace import Pace
from ._core.pending import Pending, Request, text_of
from ._core.read import DIRECT, Json, Loads, Unreadable, check, messages_of, object_of, push_of
from ._core.status import Status
from ._core.token import Token
from .errors import GatewayError, Refused, refusal

# For the reply to a request of the client's own, in seconds.
ANSWER_TIMEOUT = 12.0
# A delay that is believed, in seconds.
DELAY_MAX = 86_400.0
# Bytes of a `subscribe` in addition to its elements.
_ENVELOPE = 64
# How many unknown types are reported.
_UNKNOWN_MAX = 64


class Ending:
    """Why a connection, or the attempt to open one, has ended."""

    def __init__(
        self, reason: str, code: int | None = None, reconnect: object = None, after: float = 0.0, final: bool = False
    ) -> None:
        self.reason = reason
        self.code = code
        self.reconnect = reconnect
        self.after = after
        self.final = final


class Welcome:
    """What the welcome said."""

    def __init__(self, message: Json, now: float) -> None:
        limits = message["limits"]
        self.at = now
        self.interval = min(max(float(message["heartbeat_interval"]), 1.0), 3600.0)
        self.size = int(limits.get("message_bytes") or 65_536) - _ENVELOPE
        self.most = int(limits.get("subscriptions") or 200)
        self.pace = Pace(limits["names_per_second"], limits.get("names_burst") or 1, now)


class Conversation:
    """`show`, `log` and `direct` are called under the lock, and only take note."""

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
        direct: Callable[[Json], None],
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
        self._direct = direct
        self._options = options
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channels = Channels(lambda name, cursor: self.hub.moved(name, cursor))
        self._pending = Pending()
        self._token = Token(fetch is not None)
        self._unknown: set[str] = set()
        self._open: dict[int, tuple[str, float, str]] = {}
        self._socket: ClientConnection | None = None
        self._ended: asyncio.Future[Ending] | None = None
        self._outgoing: deque[str] = deque()
        self._writable = asyncio.Event()
        self._welcome: Welcome | None = None
        self._session: str | None = None
        self.connection_id: str | None = None
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

    # What arrives.

    def _hear(self) -> None:
        """Bytes have come, of whatever kind."""
        self._heard = time.monotonic()

    def _receive(self, ended: asyncio.Future[Ending], data: str | bytes) -> None:
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
                        if push.channel == DIRECT:
                            self._direct(push.data)
                        elif self._channels.push(push):
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
                self._not_admitted(error)
            elif self._token.refused(secret, retry, now):
                self._end(Ending(error.message, error.code, "yes"))
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
                self._end(Ending(reason, message["code"], message["reconnect"], after))
            case "error" if self._welcome is None:
                self._not_admitted(refusal(message))
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
        self.connection_id = message.get("connection_id")
        if ignored := message.get("ignored"):
            self._log(f"the URL has parameters that the gateway does not know: {ignored}")
        self._tokens_refused = 0
        self._welcome = Welcome(message, now)
        self._token.clock(message.get("server_time"), message.get("expires_at"), now)
        changed = known is not None and known[0] != user
        if changed:
            self._channels.forget()
            self._pending.end("another user is logged in")
        self.hub.is_user(user, changed)

    def _not_admitted(self, error: GatewayError) -> None:
        """An error before the welcome: it can only be about the token."""
        after = None if error.retry_after_ms is None else min(error.retry_after_ms / 1000, DELAY_MAX)
        self._end(Ending(error.message, error.code, "new_token" if after is None else "yes", after or 0.0))

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
                    self._end(Ending("no welcome in time"))
                else:
                    due = min(due, self._deadline)
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
            if isfinite(due) and self._loop is not None:
                self._timer = self._loop.call_later(max(due - now, 0.0), self._act)

    def _talk(self, welcome: Welcome, now: float) -> float:
        """Sends what is due on a connection. Returns when more will be."""
        silent = now - self._heard
        unanswered = min((at for _, at, _ in self._open.values()), default=inf) + ANSWER_TIMEOUT
        if unanswered <= now:
            self._end(Ending("a request was not answered"))
            return inf
        if silent >= welcome.interval * 2:
            self._end(Ending("nothing was received"))
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
        while (text := self._pending.next(now, self._number + 1, welcome.size)) is not None:
            self._number += 1
            self._send(text)
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
        self._send(text_of({"type": type, "id": self._number, **fields}))

    def _send(self, text: str) -> None:
        self._outgoing.append(text)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._writable.set)

    def _unsubscribe(self, name: str, told: bool) -> None:
        if told and self._welcome is not None:
            self._ask("unsubscribe", {"channels": [name]})
        self._post()

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

    # The end of a connection.

    def _end(self, ending: Ending) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(ending)

    def _show(self, status: Status) -> None:
        if status.state == self._state and status.state != "waiting":
            return
        self._state = status.state
        self._show_status(status)

    def _spawn(self, work: Any) -> None:
        assert self._loop is not None
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
