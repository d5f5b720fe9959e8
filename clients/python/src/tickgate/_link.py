"""Keeps a connection open: opens WebSockets one after another, and decides whether and when to connect again."""

from __future__ import annotations

import asyncio
import random
import time
from math import inf
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidURI, WebSocketException

from . import _socket
from ._conversation import Conversation, Ending
from ._core.backoff import after_code, back_off
from ._core.read import Unreadable
from ._core.status import Status

# Maximum time to open a connection, from having the token to the welcome, in seconds.
OPENING_TIMEOUT = 10.0
# A connection that lasted this long resets the backoff, in seconds.
HELD = 5.0


class Link(Conversation):
    """Connects until the gateway or the application ends it."""

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
        """Closes with 1000; nothing is sent or delivered afterwards."""
        with self._lock:
            socket = self._leave()
            if self._state != "closed":
                self._close(Ending("closed by the application"))
        if socket is not None:
            await _socket.leave(socket, 1000)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _attempt(self) -> Ending:
        try:
            token = await self._current_token()
        except Exception as error:
            return Ending(f"no token: {error}")
        deadline = time.monotonic() + OPENING_TIMEOUT
        url = self.url
        if self._session is not None:
            url += ("&" if "?" in url else "?") + "session=" + quote(self._session, safe="")
        try:
            socket = await _socket.connect(url, None if self._late else token, OPENING_TIMEOUT, self._hear, self._options)
        except InvalidURI as error:
            return Ending(str(error), final=True)
        except (OSError, WebSocketException, TimeoutError, EOFError) as error:
            return Ending(_socket.failure(error))
        if socket.subprotocol != _socket.PROTOCOL:
            self._abandon(socket)
            return Ending(f"the server did not select {_socket.PROTOCOL}")
        return await self._converse(socket, token, deadline)

    async def _converse(self, socket: ClientConnection, token: str | None, deadline: float) -> Ending:
        ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
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

    async def _read(self, socket: ClientConnection, ended: asyncio.Future[Ending]) -> None:
        ending = Ending("the connection was lost")
        try:
            while True:
                self._receive(ended, await socket.recv())
        except Unreadable as error:
            with self._lock:
                self._log(f"unreadable: {error}")
            ending = Ending(f"unreadable: {error}")
        except WebSocketException as error:
            ending = Ending(*_socket.ending(error))
        except Exception as error:
            with self._lock:
                self._log(f"failed: {error!r}")
            ending = Ending(f"failed: {error!r}")
        finally:
            if not ended.done():
                ended.set_result(ending)

    async def _write(self, socket: ClientConnection, ended: asyncio.Future[Ending]) -> None:
        try:
            while True:
                while self._outgoing:
                    await socket.send(self._outgoing.popleft())
                self._writable.clear()
                await self._writable.wait()
        except WebSocketException:
            # The reader reports the reason.
            pass

    async def _current_token(self) -> str | None:
        if self._fetch is None:
            return self._fixed
        token = self._token.current(time.monotonic())
        if token is None:
            token = await self._fetch()
            self._token.fetched(token)
        return token

    def _leave(self) -> ClientConnection | None:
        socket, self._socket = self._socket, None
        self._ended = self._welcome = self.connection_id = None
        self._deadline = inf
        self._outgoing.clear()
        return socket

    def _after(self, ending: Ending) -> float | None:
        """How long to wait before the next attempt; `None` if there is none."""
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

    def _close(self, ending: Ending) -> None:
        self._show(Status("closed", ending.reason, ending.code))
        self._pending.end("the connection is closed")
        if self._timer is not None:
            self._timer.cancel()

    def _abandon(self, socket: ClientConnection) -> None:
        self._spawn(_socket.leave(socket, 1000))
