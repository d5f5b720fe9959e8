"""The envelope and its factories, as their document describes them: Pydantic models, ISO timestamps, enums."""

from datetime import datetime
from enum import Enum
from typing import Any, Dict, Optional
from uuid import uuid4

from pydantic import BaseModel, Field


class SocketMessageType(str, Enum):
    INGEST_EVENT = "ingest_event"
    LOG_RECORD = "log_record"
    HEARTBEAT = "heartbeat"
    ERROR = "error"
    ACK = "ack"


class IngestEventType(str, Enum):
    ORDER = "order"
    EXECUTION = "execution"
    MARKET_DATA = "market_data"
    STRATEGY = "strategy"


class LogLevel(str, Enum):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


class SocketMessage(BaseModel):
    msg_id: str = Field(default_factory=lambda: str(uuid4()))
    msg_type: SocketMessageType
    source: str
    timestamp: datetime = Field(default_factory=datetime.utcnow)
    payload: Dict[str, Any] = Field(default_factory=dict)


def create_ingest_message(source: str, run_id: str, event_type: IngestEventType, payload: dict) -> SocketMessage:
    return SocketMessage(
        msg_type=SocketMessageType.INGEST_EVENT,
        source=source,
        payload={
            "run_id": run_id,
            "event_type": event_type.value,
            "event_utc": datetime.utcnow().isoformat(),
            "payload_json": payload,
        },
    )


def create_log_message(
    source: str, level: LogLevel, logger_name: str, message: str, meta: Optional[dict] = None
) -> SocketMessage:
    return SocketMessage(
        msg_type=SocketMessageType.LOG_RECORD,
        source=source,
        payload={"level": level.value, "logger_name": logger_name, "message": message, "meta": meta},
    )


def create_heartbeat(source: str) -> SocketMessage:
    return SocketMessage(msg_type=SocketMessageType.HEARTBEAT, source=source)
