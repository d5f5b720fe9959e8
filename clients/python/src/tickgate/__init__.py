"""The client of Tickgate, a real-time gateway for trading platforms."""

from ._core.hub import Gap
from ._core.status import Status
from ._store import CursorFile, CursorStore
from .connection import AsyncConnection, Connection, connect
from .errors import (
    Closed,
    GapHandlerMissing,
    GatewayError,
    Invalid,
    OutboxFull,
    Refused,
    TickgateError,
    Unauthorized,
    Unknown,
)
from .gateway import AsyncGateway, Gateway
from .messages import AsyncBatches, AsyncMessages, Batch, Batches, Message, Messages
from .outbox import FailedPublication, Outbox, Stats
from .publication import Publication
from .results import (
    Connections,
    Failed,
    History,
    HistoryPage,
    OpenConnection,
    PastMessage,
    PastPublication,
    Presence,
    Published,
    TopicRule,
)
from .value import AsyncValue, Value

__all__ = [
    "AsyncBatches",
    "AsyncConnection",
    "AsyncGateway",
    "AsyncMessages",
    "AsyncValue",
    "Batch",
    "Batches",
    "Closed",
    "Connection",
    "Connections",
    "CursorFile",
    "CursorStore",
    "Failed",
    "FailedPublication",
    "Gap",
    "GapHandlerMissing",
    "Gateway",
    "GatewayError",
    "History",
    "HistoryPage",
    "Invalid",
    "Message",
    "Messages",
    "OpenConnection",
    "Outbox",
    "OutboxFull",
    "PastMessage",
    "PastPublication",
    "Presence",
    "Publication",
    "Published",
    "Refused",
    "Stats",
    "Status",
    "TickgateError",
    "TopicRule",
    "Unauthorized",
    "Unknown",
    "Value",
    "connect",
]
