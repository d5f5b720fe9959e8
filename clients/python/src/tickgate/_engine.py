"""The thread of a connection: its event loop, the link on it, the token function, and the store of cursors. An application
that computes for a minute does not stop it from reading."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

from ._core.channels import Options
from ._core.hub import Hub, Reader
from ._core.pending import Request
from ._core.read import Json, Loads
from ._core.status import Status
from ._core.token import is_token
from ._link import Link
from ._store import CursorStore, load
from .errors import Closed, GatewayError, Invalid

log = logging.getLogger("tickgate")

# For getting a token, in seconds.
TOKEN_TIMEOUT = 30.0
# How long a moved cursor may wait to be saved, in seconds.
SAVE_DELAY = 0.05
# For the closing handshake when an application stops, in seconds.
_STOP_TIMEOUT = 5.0

TokenSource = Callable[[], str | Awaitable[str]]


class Sleeper:
    """Waits on the event loop of the application for something that happens on another thread."""

    def __init__(self, engine: Engine) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._asleep = False
        with engine.lock:
            engine.sleepers.add(self)

    def prepare(self) -> None:
        """What happens from now on ends the next `sleep`. Under the lock."""
        self._event.clear()
        self._asleep = True

    async def sleep(self) -> None:
        """Waits until something has happened since `prepare`."""
        await self._event.wait()

    def wake(self) -> None:
        """Something has happened. Under the lock, on any thread."""
        if self._asleep:
            self._asleep = False
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._event.set)


class Engine:
    """One connection. `resolve` runs what a token function returned if it has to be awaited."""

    def __init__(
        self,
        url: str,
        *,
        token: str | TokenSource | None,
        resolve: Callable[[Awaitable[str]], str],
        late: bool,
        loads: Loads,
        store: CursorStore | None,
        changed: Callable[[Status], None],
        direct: Callable[[Json], None],
        options: dict[str, Any],
    ) -> None:
        if isinstance(token, str) and not is_token(token):
            raise Invalid("this is not a token: letters, digits, `-`, `_` and `.` only")
        if not url.startswith(("ws://", "wss://")):
            raise Invalid("the URL of a connection must begin with ws:// or wss://")
        self.lock = threading.RLock()
        self.status = Status("connecting")
        self.changed = threading.Condition(self.lock)
        # Those that are awaited, also where they read no channel.
        self.sleepers: weakref.WeakSet[Sleeper] = weakref.WeakSet()
        self._told = changed
        self._source = _Source(token, resolve) if callable(token) else None
        self._store = store
        self._dirty = False
        self._saving = threading.Lock()
        self._loop: asyncio.AbstractEventLoop
        self._end = asyncio.Event()
        self._stopped = False
        self.link = Link(
            url,
            lock=self.lock,
            token=token if isinstance(token, str) else None,
            fetch=self._source.fetch if self._source else None,
            late=late,
            loads=loads,
            show=self._show,
            log=log.warning,
            direct=direct,
            options=options,
        )
        self.hub = Hub(self.link, self._moved, load(store))
        self.link.hub = self.hub
        self._thread = threading.Thread(target=self._run, name="tickgate", daemon=True)

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread.start()

    def stop(self) -> None:
        """Stops permanently, and saves the cursors. Takes at most a second if the gateway does not respond."""
        with self.lock:
            if self._stopped:
                return
            self._stopped = True
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(_STOP_TIMEOUT)
        self.save()

    @property
    def closed(self) -> Closed | None:
        """Why the connection has closed permanently; `None` while it has not, or if the application ended it."""
        status = self.status
        if status.state != "closed" or self._stopped:
            return None
        return Closed(status.code, status.reason or "closed")

    @property
    def ended(self) -> bool:
        return self._stopped

    def read(self, name: str, options: Options, since: str | None, reader: Reader) -> None:
        with self.lock:
            self.hub.read(name, options, since, reader)

    def request(
        self, type: str, fields: Json, within: float, msg_id: str | None = None, at_once: bool = False
    ) -> concurrent.futures.Future[Json]:
        """A request of the application, whose result is the reply."""
        result: concurrent.futures.Future[Json] = concurrent.futures.Future()

        def done(reply: Json | None, error: GatewayError | None) -> None:
            if not result.done():
                if error is not None:
                    result.set_exception(error)
                else:
                    result.set_result(reply or {})

        with self.lock:
            fields = {name: value for name, value in fields.items() if value is not None}
            self.link.request(Request(type, fields, msg_id, time.monotonic() + within, done), at_once)
        return result

    def save(self) -> None:
        """Saves the cursors now, if they have moved."""
        if self._store is None:
            return
        with self._saving:
            with self.lock:
                saved = self.hub.saved() if self._dirty else None
                self._dirty = False
            if saved is None:
                return
            try:
                self._store.save(saved.user, saved.cursors)
            except Exception:
                self._dirty = True
                log.exception("the cursors could not be saved")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._live())
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _live(self) -> None:
        run = asyncio.create_task(self.link.run())
        saver = asyncio.create_task(self._save_often())
        await self._end.wait()
        saver.cancel()
        await asyncio.gather(saver, return_exceptions=True)
        await self.link.stop(run)

    async def _save_often(self) -> None:
        while self._store is not None:
            await asyncio.sleep(SAVE_DELAY)
            if self._dirty:
                await asyncio.to_thread(self.save)

    def _moved(self) -> None:
        self._dirty = True

    def _show(self, status: Status) -> None:
        self.status = status
        self.hub.connected(status.state in ("live", "catching_up", "stale"))
        self.changed.notify_all()
        for sleeper in list(self.sleepers):
            sleeper.wake()
        self._told(status)


class _Source:
    """A token function, called on a separate thread. One that hangs blocks nothing else, and is not called a second time."""

    def __init__(self, function: TokenSource, resolve: Callable[[Awaitable[str]], str]) -> None:
        self._function = function
        self._resolve = resolve
        self._call: concurrent.futures.Future[str] | None = None

    async def fetch(self) -> str:
        if self._call is None:
            self._call = concurrent.futures.Future()
            threading.Thread(target=self._run, args=[self._call], name="tickgate-token", daemon=True).start()
        call = self._call
        try:
            async with asyncio.timeout(TOKEN_TIMEOUT):
                token = await asyncio.shield(asyncio.wrap_future(call))
        except TimeoutError:
            raise TimeoutError("the token function did not return within 30 s") from None
        finally:
            if call.done():
                self._call = None
        if not is_token(token):
            raise TypeError("the token function did not return a token")
        return token

    def _run(self, call: concurrent.futures.Future[str]) -> None:
        try:
            token = self._function()
            call.set_result(token if isinstance(token, str) else self._resolve(token))
        except BaseException as error:
            call.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))


def new_msg_id() -> str:
    """128 random bits."""
    return os.urandom(16).hex()
