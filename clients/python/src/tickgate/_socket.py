"""Opens and closes WebSockets with the package `websockets`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

PROTOCOL = "tickgate.v1"
# The gateway sends at most 1 MiB; the limit is a little higher, so that it never ends a connection.
_SIZE_MAX = 4 << 20
# How long to wait for the reply to a Close frame, in seconds.
_CLOSE_TIMEOUT = 1.0


async def connect(
    url: str, token: str | None, timeout: float, hear: Callable[[], None], options: dict[str, Any]
) -> ClientConnection:
    """Opens a WebSocket that offers the protocol and the token. `hear` is called whenever bytes arrive."""

    class Connection(ClientConnection):
        def data_received(self, data: bytes) -> None:
            hear()
            super().data_received(data)

    protocols = [PROTOCOL] + ([f"bearer.{token}"] if token else [])
    return await open_socket(
        url,
        create_connection=Connection,
        subprotocols=[Subprotocol(protocol) for protocol in protocols],
        compression=None,
        open_timeout=timeout,
        close_timeout=_CLOSE_TIMEOUT,
        ping_interval=None,
        max_size=_SIZE_MAX,
        max_queue=64,
        **options,
    )


async def leave(socket: ClientConnection, code: int) -> None:
    """Sends a Close frame, waits at most a second for the reply, and ends the TCP connection."""
    try:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await socket.close(code)
    finally:
        socket.transport.abort()


def ending(error: Exception) -> tuple[str, int | None]:
    """Why a connection ended, and the code of the received Close frame."""
    if isinstance(error, ConnectionClosed) and error.rcvd is not None:
        code = None if error.rcvd.code in (1005, 1006) else error.rcvd.code
        return error.rcvd.reason or (f"closed {code}" if code is not None else "closed without a code"), code
    if isinstance(error, ConnectionClosed) and error.sent is not None:
        return f"unreadable: {error.sent.reason or error.sent.code}", None
    return "the connection was lost", None


def failure(error: Exception) -> str:
    """Why a connection could not be opened."""
    if isinstance(error, InvalidStatus):
        return f"the server responded with HTTP {error.response.status_code}"
    return str(error) or type(error).__name__
