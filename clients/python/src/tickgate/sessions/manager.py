"""What an engine calls to show a run: events go to everybody who watches the session, on every replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NoReturn

from ..errors import Invalid
from ..outbox import Outbox
from ..plain import plain_object
from ..shared import default_outbox, gateway_of
from .events import create_ai_thinking_event
from .handlers import ENDPOINTS, check_session_id, url_for

__all__ = ["WebSocketManager", "websocket_manager"]

# For how long pieces of reasoning are joined, in seconds.
_JOIN = 0.05


class WebSocketManager:
    """Publishes the events of sessions, in their order. Without an `outbox`, it uses the program's shared one."""

    def __init__(self, outbox: Outbox | None = None) -> None:
        self._outbox = outbox

    @property
    def outbox(self) -> Outbox:
        """Where events wait to be sent."""
        if self._outbox is None:
            self._outbox = default_outbox()
        return self._outbox

    async def broadcast_to_session(self, session_id: str, event: Any, *, msg_id: str | None = None) -> int:
        """Sends an event to everybody who watches the session, now or later.

        Returns how many connections watch it, over all replicas; -1 where that is not known within a second, and at once
        while the gateway does not answer. The event is sent then as well, in its order.

        Raises:
            Invalid, Unauthorized, Refused: the gateway does not take the event.
        """
        topic = f"run:{check_session_id(session_id)}"
        published = await self.outbox.publish(topic, plain_object(event), msg_id=msg_id, count=True)
        return -1 if published is None or published.subscribers is None else published.subscribers

    async def send_to_connection(self, connection_id: str, event: Any) -> bool:
        """Sends an event to one connection, on whatever replica it is; the page reports its `connection_id`, or
        `connections_of` has it. False if it is not connected any more.

        Raises:
            Invalid, Unauthorized, Refused: it was not sent.
            Unknown: it may have been sent.
        """
        return await asyncio.to_thread(gateway_of(self.outbox).send, connection_id, plain_object(event))

    async def disconnect(self, connection_id: str) -> bool:
        """Closes one connection (4500). False if it was not connected any more."""
        gateway = gateway_of(self.outbox)
        return bool(await asyncio.to_thread(lambda: gateway.disconnect(connection_id=connection_id)))

    async def connections_of(self, session_id: str) -> list[str]:
        """The ids of the connections that watch the session, over all replicas."""
        param = check_session_id(session_id)
        gateway = gateway_of(self.outbox)
        found = await asyncio.to_thread(lambda: gateway.connections(param=param))
        return [one.connection_id for one in found if one.endpoint in ENDPOINTS]

    def get_connection_metadata(self, connection_id: str) -> dict[str, Any] | None:
        """`session_id`, `connected_at` and `last_heartbeat` of a connection; `None` if it is not connected. Asks the gateway,
        and blocks meanwhile."""
        for one in gateway_of(self.outbox).connections(connection_id=connection_id):
            return {"session_id": one.param, "connected_at": one.connected_at, "last_heartbeat": one.last_seen}
        return None

    async def cleanup_stale_connections(self, max_age_seconds: int = 300) -> int:
        """Closes the connections of sessions whose pages have been silent for so long, and returns how many. The gateway
        itself closes a connection that leaves its pings unanswered."""
        gateway = gateway_of(self.outbox)

        def close() -> int:
            return sum(gateway.disconnect(idle_seconds=max_age_seconds, endpoint=endpoint) or 0 for endpoint in ENDPOINTS)

        return await asyncio.to_thread(close)

    async def stream_thinking(self, session_id: str, chunks: AsyncIterator[str]) -> str:
        """Sends pieces of reasoning as they come, those of 50 ms joined in one event. Returns the whole text."""
        whole: list[str] = []
        waiting: list[str] = []
        sent_at = 0.0
        loop = asyncio.get_running_loop()
        try:
            async for chunk in chunks:
                whole.append(chunk)
                waiting.append(chunk)
                if loop.time() - sent_at >= _JOIN:
                    await self.broadcast_to_session(session_id, create_ai_thinking_event("".join(waiting)))
                    waiting.clear()
                    sent_at = loop.time()
        finally:
            if waiting:
                await self.broadcast_to_session(session_id, create_ai_thinking_event("".join(waiting)))
        return "".join(whole)

    async def connect(self, websocket: Any, session_id: str) -> NoReturn:
        """Raises: pages connect to the gateway themselves, and the message says where."""
        raise Invalid(f"the gateway holds the connections of a session: the page opens {url_for(session_id)}")


websocket_manager = WebSocketManager()
