"""Broadcasts of a trading system's services to every frontend: positions, equity, risk and logs."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

from .errors import TickgateError
from .outbox import Outbox
from .plain import now, plain_object
from .shared import default_outbox, gateway_of

__all__ = ["ConnectionManager", "LogHandler"]

_LEVELS = {"TRACE": 5, "DEBUG": 10, "INFO": 20, "WARN": 30, "WARNING": 30, "ERROR": 40, "FATAL": 50, "CRITICAL": 50}


class ConnectionManager:
    """Broadcasts never wait for the network. A message is `{"type", "timestamp", "data"}`; `data` may be a `dict` or any
    object. Without an `outbox`, it uses the program's shared one."""

    def __init__(self, outbox: Outbox | None = None) -> None:
        self._outbox = outbox

    @property
    def outbox(self) -> Outbox:
        """The outbox that sends the messages."""
        if self._outbox is None:
            self._outbox = default_outbox()
        return self._outbox

    async def active_connections(self) -> int:
        """The number of connected frontends, over all replicas."""
        gateway = gateway_of(self.outbox)
        return len(await asyncio.to_thread(lambda: gateway.connections(endpoint="events")))

    async def broadcast_position_update(self, data: Any) -> str:
        """A position was opened, updated or closed. Returns the `msg_id`."""
        return await self.broadcast("position_update", data)

    async def broadcast_equity_update(self, data: Any) -> str:
        """Equity or peak equity has changed."""
        return await self.broadcast("equity_update", data)

    async def broadcast_risk_status_update(self, data: Any) -> str:
        """A soft pause, a hard stop, or their end."""
        return await self.broadcast("risk_status_update", data)

    async def broadcast_system_log(self, data: Any) -> str | None:
        """A log message, unless it is of level DEBUG or below."""
        record = plain_object(data)
        record.setdefault("timestamp", now())
        if _LEVELS.get(str(record.get("level", "INFO")).upper(), 20) < logging.INFO:
            return None
        return await self.broadcast("system_log", record)

    async def broadcast(self, type: str, data: Any) -> str:
        """Publishes a message of any type to the topic of the same name."""
        message = {"type": type, "timestamp": now(), "data": plain_object(data)}
        return await self.outbox.put_async(type, message)


class LogHandler(logging.Handler):
    """Sends log records of level INFO and above to the channel `system_log`, in the background.

    It never blocks and never raises: records that do not fit into its outbox are counted in `dropped`. Records of this package
    and of its HTTP client are not sent, because sending one would create another.

    Args:
        outbox: an `Outbox`, which should raise when it is full; by default a separate one to the gateway that the
            environment names.
        channel: the topic.
        level: the lowest level that is sent.
    """

    def __init__(self, outbox: Outbox | None = None, *, channel: str = "system_log", level: int = logging.INFO) -> None:
        super().__init__(max(level, logging.INFO))
        self._own = outbox is None
        self._outbox = outbox or Outbox(size=1000, when_full="raise")
        self._channel = channel
        self._inside = threading.local()
        #: The number of records that did not fit or could not be sent.
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.split(".", 1)[0] in ("tickgate", "httpx", "httpcore") or getattr(self._inside, "busy", False):
            return
        self._inside.busy = True
        try:
            data = {
                "level": record.levelname,
                "module": record.name,
                "message": self.format(record),
                "timestamp": now(),
            }
            self._outbox.put(self._channel, {"type": "system_log", "timestamp": data["timestamp"], "data": data})
        except TickgateError:
            self.dropped += 1
        except Exception:
            self.handleError(record)
        finally:
            self._inside.busy = False

    def flush(self) -> None:
        self._outbox.flush()

    def close(self) -> None:
        if self._own:
            self._outbox.close()
        super().close()
