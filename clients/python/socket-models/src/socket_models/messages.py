"""The envelope, what its payloads are, and the factories that make one."""

from __future__ import annotations

import uuid
from enum import StrEnum
from typing import Any

from pydantic import Field

from ._base import Model, now, plain

__all__ = [
    "IngestEvent",
    "IngestEventType",
    "LogLevel",
    "LogRecord",
    "SocketMessage",
    "SocketMessageType",
    "create_ack_message",
    "create_error_message",
    "create_heartbeat",
    "create_heartbeat_message",
    "create_ingest_message",
    "create_log_message",
    "create_subscribe_message",
]


class SocketMessageType(StrEnum):
    """What a message is."""

    INGEST_EVENT = "ingest_event"
    LOG_RECORD = "log_record"
    HEARTBEAT = "heartbeat"
    ERROR = "error"
    ACK = "ack"
    SUBSCRIBE = "subscribe"
    UNSUBSCRIBE = "unsubscribe"
    GAP = "gap"
    CAUGHT_UP = "caught_up"


class IngestEventType(StrEnum):
    """What an event is about; in any case, as the gateway takes it."""

    ORDER = "order"
    EXECUTION = "execution"
    MARKET_DATA = "market_data"
    STRATEGY = "strategy"

    @classmethod
    def _missing_(cls, value: object) -> IngestEventType | None:
        return next((one for one in cls if isinstance(value, str) and one.value == value.lower()), None)


class LogLevel(StrEnum):
    """The levels of `logging`, in any case."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"

    @classmethod
    def _missing_(cls, value: object) -> LogLevel | None:
        return next((one for one in cls if isinstance(value, str) and one.value == value.upper()), None)


def _msg_id() -> str:
    return str(uuid.uuid4())


class SocketMessage(Model):
    """The envelope. `msg_type` is text if it is none of `SocketMessageType`, as a newer gateway may send it."""

    msg_id: str = Field(default_factory=_msg_id)
    msg_type: SocketMessageType | str
    source: str
    timestamp: str = Field(default_factory=now)
    payload: dict[str, Any] = Field(default_factory=dict)


class IngestEvent(Model):
    """The payload of an `ingest_event`."""

    run_id: str
    event_type: IngestEventType
    event_utc: str = Field(default_factory=now)
    payload_json: dict[str, Any]


class LogRecord(Model):
    """The payload of a `log_record`."""

    level: LogLevel
    logger_name: str | None = None
    message: str
    meta: dict[str, Any] | None = None


def create_ingest_message(
    source: str,
    run_id: str,
    event_type: IngestEventType | str,
    payload: dict[str, Any],
    *,
    event_utc: str | None = None,
) -> SocketMessage:
    """An event of a run. `payload` becomes the field `payload_json`; `event_utc` is now unless it is given."""
    event = {
        "run_id": run_id,
        "event_type": IngestEventType(event_type).value,
        "event_utc": event_utc or now(),
        "payload_json": plain(payload),
    }
    return SocketMessage(msg_type=SocketMessageType.INGEST_EVENT, source=source, payload=event)


def create_log_message(
    source: str, level: LogLevel | str, logger_name: str, message: str, meta: dict[str, Any] | None = None
) -> SocketMessage:
    """A structured log record."""
    record: dict[str, Any] = {"level": LogLevel(level).value, "logger_name": logger_name, "message": message}
    if meta is not None:
        record["meta"] = plain(meta)
    return SocketMessage(msg_type=SocketMessageType.LOG_RECORD, source=source, payload=record)


def create_heartbeat_message(source: str) -> SocketMessage:
    """A sign of life."""
    return SocketMessage(msg_type=SocketMessageType.HEARTBEAT, source=source)


create_heartbeat = create_heartbeat_message


def create_ack_message(source: str, original_msg_id: str) -> SocketMessage:
    """The acknowledgement of a message."""
    payload = {"acknowledged_msg_id": original_msg_id}
    return SocketMessage(msg_type=SocketMessageType.ACK, source=source, payload=payload)


def create_error_message(
    source: str, error_code: str, error_message: str, details: dict[str, Any] | None = None
) -> SocketMessage:
    """A failure."""
    payload: dict[str, Any] = {"code": error_code, "message": error_message}
    if details is not None:
        payload["details"] = plain(details)
    return SocketMessage(msg_type=SocketMessageType.ERROR, source=source, payload=payload)


def create_subscribe_message(source: str, channels: list[str | dict[str, Any]]) -> SocketMessage:
    """A subscription to channels of an envelope endpoint; an element may be a `dict` with `channel` and `since`."""
    return SocketMessage(msg_type=SocketMessageType.SUBSCRIBE, source=source, payload={"channels": channels})
