"""Socket models, with whichever version of Pydantic is installed. No other module of the tests is needed for it."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from types import SimpleNamespace
from uuid import UUID

import pytest
import socket_models
from socket_models import (
    Execution,
    IngestEvent,
    IngestEventType,
    LogLevel,
    LogRecord,
    Order,
    OrderOcoGroup,
    RunSeries,
    RunSeriesBar,
    SocketMessage,
    SocketMessageType,
    StrategyInstance,
    StrategyRun,
    Trade,
    create_ack_message,
    create_error_message,
    create_heartbeat,
    create_heartbeat_message,
    create_ingest_message,
    create_log_message,
    create_subscribe_message,
)


@pytest.fixture(autouse=True)
def _no_warnings() -> None:
    warnings.simplefilter("error")


def test_an_ingest_message_and_its_way_through_json() -> None:
    message = create_ingest_message(
        source="test-source",
        run_id="test-run-123",
        event_type=IngestEventType.ORDER,
        payload={"order_id": "test-order", "quantity": Decimal("0.10"), "at": datetime(2024, 1, 1)},
    )
    assert message.msg_type == "ingest_event"
    assert message.source == "test-source"
    assert message.payload["run_id"] == "test-run-123"
    assert message.payload["event_type"] == "order"
    assert message.payload["event_utc"]
    assert message.payload["payload_json"] == {"order_id": "test-order", "quantity": "0.10", "at": "2024-01-01T00:00:00"}
    parsed = SocketMessage.parse_raw(message.json())
    assert parsed == message
    assert SocketMessage(msg_type="ack", source="s").msg_type == SocketMessageType.ACK
    assert IngestEvent(**message.payload).event_type == IngestEventType.ORDER


def test_the_other_factories() -> None:
    log = create_log_message(
        source="api-gateway", level=LogLevel.INFO, logger_name="trade_service", message="m", meta={"trade_id": "t"}
    )
    assert log.payload == {"level": "INFO", "logger_name": "trade_service", "message": "m", "meta": {"trade_id": "t"}}
    assert LogRecord(**log.payload).level == LogLevel.INFO
    ack = create_ack_message(source="server", original_msg_id=log.msg_id)
    assert (ack.msg_type, ack.payload) == ("ack", {"acknowledged_msg_id": log.msg_id})
    error = create_error_message(source="server", error_code="INVALID_MESSAGE", error_message="why")
    assert error.payload == {"code": "INVALID_MESSAGE", "message": "why"}
    assert create_heartbeat is create_heartbeat_message
    assert create_heartbeat(source="s").msg_type == SocketMessageType.HEARTBEAT
    assert create_subscribe_message("s", ["logs"]).payload == {"channels": ["logs"]}
    assert create_log_message("s", "warning", "l", "m").payload["level"] == "WARNING"
    assert create_ingest_message("s", "r", "EXECUTION", {}).payload["event_type"] == "execution"
    for wrong in (lambda: create_log_message("s", "LOUD", "l", "m"), lambda: create_ingest_message("s", "r", "gossip", {})):
        with pytest.raises(ValueError, match="valid"):
            wrong()
    with pytest.raises(ValueError):  # noqa: PT011 (each version has its own words)
        SocketMessage(source="s")
    assert {member.name for member in IngestEventType} == {"ORDER", "EXECUTION", "MARKET_DATA", "STRATEGY"}
    assert f"{IngestEventType.MARKET_DATA}" == "market_data"


def test_a_message_of_a_newer_gateway_is_read() -> None:
    message = SocketMessage(msg_type="weather", source="server", more=1)
    assert message.msg_type == "weather"
    assert SocketMessage.parse_raw(message.json()) == message


def test_rows_of_a_database_become_models() -> None:
    class Side(Enum):
        BUY = "BUY"

    at = datetime(2024, 1, 15, 10, 30)
    row = SimpleNamespace(
        order_id=UUID(int=7),
        run_id=12,
        symbol="BTCUSDT",
        side=Side.BUY,
        order_type="LIMIT",
        quantity=Decimal("0.10"),
        price=None,
        status=None,
        created_utc=at,
    )
    for order in (Order.of(row), Order(**vars(row))):
        assert (order.order_id, order.run_id, order.side) == (str(UUID(int=7)), "12", "BUY")
        assert order.created_utc == "2024-01-15T10:30:00"
        assert Order.parse_raw(order.json()) == order
        assert '"0.10"' in order.json()
    bar = RunSeriesBar(bar_utc=at.replace(tzinfo=UTC), open=1, high=2, low=1, close=1)
    assert datetime.fromisoformat(bar.bar_utc) == at.replace(tzinfo=UTC)


def test_domain_models() -> None:
    order = Order(order_id="1", symbol="BTCUSDT", side="BUY", order_type="LIMIT", quantity=0.1, price="45000.50", mine=1)
    assert (order.quantity, order.price) == (Decimal("0.1"), Decimal("45000.50"))
    assert Order.parse_raw(order.json()) == order
    row = SimpleNamespace(execution_id="e", quantity=Decimal("1.0"), order_id=None)
    for name in ("run_id", "price", "executed_utc"):
        setattr(row, name, None)
    assert Execution.of(row).quantity == Decimal("1.0")
    assert StrategyInstance(symbols_json=["BTCUSDT"]).symbols_json == ["BTCUSDT"]
    assert OrderOcoGroup(order_ids=["1", "2"]).order_ids == ["1", "2"]
    assert StrategyRun(run_id="r").run_id == "r"
    assert Trade(trade_id="t").trade_id == "t"
    assert RunSeries(symbol="B").symbol == "B"
    assert RunSeriesBar(bar_utc="2024", open=1, high=2, low=1, close="1.5").close == Decimal("1.5")
    for name in socket_models.__all__:
        model = getattr(socket_models, name)
        if hasattr(model, "json_schema"):
            assert model.json_schema()["properties"]
