"""The names, arguments and attributes that the documents of existing services use, each in a program of our own over a real
gateway. `docs/migration.md` says which document and section each test is about."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
import websockets
from conftest import SOON, eventually
from websockets.asyncio.client import ClientConnection

import tickgate
from tickgate import Gateway, Outbox, example, shared, test_client
from tickgate.broadcast import ConnectionManager, LogHandler
from tickgate.connector import Connector, QuantowerConnector, SocketHandler
from tickgate.platform import Platform
from tickgate.sessions import events, handlers
from tickgate.sessions.manager import WebSocketManager, websocket_manager
from tickgate.testing import GatewayProcess

from socket_models import (  # isort: skip
    IngestEventType,
    LogLevel,
    SocketMessage,
    SocketMessageType,
    create_ingest_message,
    create_log_message,
)


@pytest.fixture
def environment(gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the platform sets once for all its services."""
    monkeypatch.setenv("TICKGATE_API", gateway.api)
    monkeypatch.setenv("TICKGATE_API_KEY", gateway.key)
    monkeypatch.setattr(shared, "_outbox", None)


def past(api: Gateway, topic: str, count: int, user: str | None = None) -> list[dict[str, Any]]:
    """The newest publications, once there are so many."""

    def there() -> list[dict[str, Any]] | None:
        messages = [message.data or {} for message in api.history(topic, user=user, last=100).messages]
        return messages[-count:] if len(messages) >= count else None

    found: list[dict[str, Any]] = eventually(f"{count} messages of {topic}", there)
    return found


# Socket implementation guide.


async def test_a_connector_sends_orders_executions_and_logs(gateway: GatewayProcess, api: Gateway) -> None:
    acknowledged: list[str] = []

    class MyConnector(QuantowerConnector):
        async def handle_server_message(self, message: SocketMessage) -> None:
            await super().handle_server_message(message)
            if message.msg_type == SocketMessageType.ACK:
                acknowledged.append(message.payload["acknowledged_msg_id"])
            elif message.msg_type == SocketMessageType.ERROR:
                acknowledged.append(f"{message.payload['code']} {message.payload['message']}")

    connector = MyConnector(gateway.url, "connector-9", token=gateway.key, heartbeat_interval=0.05)
    await connector.connect()
    assert connector.running
    assert connector.websocket is not None
    assert connector.server_url == f"{gateway.url}/ws/ingest"
    await connector.send_order_event("run-doc-1", {"order_id": "o-1", "quantity": 0.1, "price": Decimal("45000.50")})
    await connector.send_execution_event("run-doc-1", {"execution_id": "e-1", "quantity": 1.0})
    await connector.send_log(LogLevel.WARNING, "something", meta={"n": 1})
    await asyncio.to_thread(eventually, "a heartbeat was acknowledged", lambda: len(acknowledged) >= 4)
    await connector.disconnect()
    assert not connector.running
    stored = past(api, "run:run-doc-1", 2)
    assert [one["payload"]["event_type"] for one in stored] == ["order", "execution"]
    assert stored[0]["payload"]["payload_json"] == {"order_id": "o-1", "quantity": 0.1, "price": "45000.50"}
    assert stored[0]["source"] == "connector-9"
    assert stored[0]["payload"]["event_utc"]
    assert any(one["payload"].get("logger_name") == "quantower_connector" for one in past(api, "logs", 1))


async def test_a_connector_sends_again_what_was_not_acknowledged() -> None:
    with GatewayProcess() as gateway:
        connector = Connector(gateway.url, token=lambda: gateway.key)
        await connector.connect()
        await connector.send_log("INFO", "before")
        gateway.kill()
        waiting = asyncio.create_task(connector.send_order_event("run-doc-2", {"n": 1}))
        await asyncio.sleep(0)
        gateway.start()
        await asyncio.wait_for(waiting, SOON)
        with gateway.gateway() as api:
            assert len(past(api, "run:run-doc-2", 1)) == 1
        await connector.disconnect()


async def test_a_connector_raises_what_the_gateway_refuses(gateway: GatewayProcess) -> None:
    connector = Connector(gateway.url, token=gateway.token("producer", publish=["ingest_events", "run:*", "logs"]))
    await connector.connect()
    wrong = create_ingest_message("s", "no%run", IngestEventType.ORDER, {})
    with pytest.raises(tickgate.Invalid) as invalid:
        await connector.send_message(wrong)
    assert invalid.value.msg_id == wrong.msg_id
    await connector.disconnect()
    stranger = Connector(gateway.url, token=gateway.token("reader"))
    with pytest.raises(tickgate.Unauthorized):
        await stranger.connect()
    assert not stranger.running
    with pytest.raises(tickgate.Unauthorized):
        await stranger.send_message(create_log_message("s", "INFO", "l", "m"))
    with pytest.raises(tickgate.Invalid):
        Connector("http://localhost")


async def test_a_trade_service_broadcasts_to_subscribers(environment: None, api: Gateway) -> None:
    handler = SocketHandler()
    log = create_log_message(
        source="trade_service", level=LogLevel.INFO, logger_name="ingest_processor", message="done", meta={"run_id": "r"}
    )
    processed = SocketMessage(
        msg_type=SocketMessageType.INGEST_EVENT,
        source="trade_service",
        payload={"event": "order_processed", "order_id": "o-2", "run_id": "r", "status": "NEW"},
    )
    await handler.broadcast_to_subscribers("logs", log)
    await handler.broadcast_to_subscribers("orders", processed)
    await handler.broadcast_to_subscribers("trades", log)
    await handler.broadcast_to_subscribers("orders", processed)
    assert handler.outbox.flush(SOON)
    assert [one["payload"]["event"] for one in past(api, "order_events", 1)] == ["order_processed"]
    assert len(api.history("order_events", last=10).messages) == 1, "the same message is published once"
    assert past(api, "trade_events", 1)[0]["msg_id"] == log.msg_id
    assert SocketMessage(**past(api, "logs", 1)[0]).payload["message"] == "done"


async def test_a_handler_reaches_one_client(environment: None, gateway: GatewayProcess) -> None:
    handler = SocketHandler()
    message = create_log_message(source="server", level=LogLevel.INFO, logger_name="service", message="for you")
    async with page(f"{gateway.url}/ws") as (client_id, socket):
        assert await handler.send_to_client(client_id, message)
        async with asyncio.timeout(SOON):
            while (got := json.loads(await socket.recv())).get("msg_id") != message.msg_id:
                pass
        assert SocketMessage(**got).payload["message"] == "for you"
    assert not await handler.send_to_client("0" * 16, message)


async def test_a_client_receives_ingest_events_as_socket_messages(gateway: GatewayProcess) -> None:
    token = gateway.token("service", channels=["ingest_events", "logs"])
    async with tickgate.connect(f"{gateway.url}/ws", token=token) as tg:
        incoming = tg.messages("ingest_events", type=SocketMessage, on_gap=lambda gap: None)
        await asyncio.to_thread(eventually, "live", lambda: tg.status.state == "live")
        connector = Connector(gateway.url, token=gateway.key)
        await connector.connect()
        await connector.send_event("run-doc-3", IngestEventType.MARKET_DATA, {"symbol": "BTCUSDT"})
        message = await asyncio.wait_for(anext(incoming), SOON)
        assert message.data.msg_type == SocketMessageType.INGEST_EVENT
        assert message.data.payload["payload_json"] == {"symbol": "BTCUSDT"}
        message.done()
        await connector.disconnect()


# Trading platform WebSocket.


def test_a_platform_updates_orders_alerts_bots_portfolios_and_prices(environment: None, api: Gateway, user: str) -> None:
    platform = Platform()
    platform.order_update(
        user,
        order_id="123456",
        status="filled",
        filled_quantity=Decimal("0.50"),
        remaining_quantity=0,
        average_price="50000.00",
        msg_id="fill-9",
    )
    platform.risk_alert(
        user,
        alert_type="position_limit_exceeded",
        severity="high",
        message="too much",
        limit_value=10000,
        current_value=12000.5,
    )
    platform.bot_status(
        user, bot_id="b", name="DCA Bot", status="running", performance={"total_pnl": Decimal("250.50"), "trades_today": 15}
    )
    platform.portfolio(user, holdings=[{"asset": "BTC", "quantity": Decimal("1.0")}])
    platform.ticker("DOCS", price=Decimal("50000.00"), price_change_percent="2.56", timestamp="2023-12-01T12:00:00Z")
    platform.trade("DOCS", price=1e-8, quantity="0.1", side="buy")
    platform.orderbook("DOCS", bids=[("49950.00", Decimal("1.5"))], asks=[(50050, 1.2)])
    assert platform.outbox.flush(SOON)
    orders, alerts, bots = (past(api, channel, 1, user)[0] for channel in ("orders", "risk_alerts", "bot_status"))
    assert [one["type"] for one in (orders, alerts, bots)] == ["order_update", "risk_alert", "bot_status"]
    assert {**orders, "timestamp": ""} == {
        "type": "order_update",
        "order_id": "123456",
        "status": "filled",
        "filled_quantity": "0.50",
        "remaining_quantity": "0",
        "average_price": "50000.00",
        "timestamp": "",
    }
    assert (alerts["limit_value"], alerts["current_value"]) == ("10000", "12000.5")
    assert bots["performance"] == {"total_pnl": "250.50", "trades_today": 15}
    assert past(api, "portfolio", 1, user)[0]["holdings"] == [{"asset": "BTC", "quantity": "1.0"}]
    ticker = past(api, "ticker:DOCS", 1)[0]
    assert (ticker["price"], ticker["timestamp"]) == ("50000.00", "2023-12-01T12:00:00Z")
    assert past(api, "trades:DOCS", 1)[0]["price"] == "0.00000001"
    book = past(api, "orderbook:DOCS", 1)[0]
    assert (book["bids"], book["asks"]) == ([["49950.00", "1.5"]], [["50050", "1.2"]])
    with pytest.raises(tickgate.Invalid):
        platform.trade("DOCS", price=1, quantity=1, side="hold")
    with pytest.raises(tickgate.Invalid):
        platform.ticker("DOCS", price=float("inf"))


def test_the_test_client(gateway: GatewayProcess, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--url", gateway.url, "--seconds", "0.2", "--symbols", "BTCUSDT"]
    assert test_client.main(["--test", "market", *common]) == 0
    assert test_client.main(["--test", "health", *common]) == 0
    assert test_client.main(["--test", "trading", "--token", gateway.token("tester"), *common]) == 0
    assert test_client.main(["--test", "all", "--token", gateway.token("tester"), *common]) == 0
    said = capsys.readouterr().out
    assert "-- trading: ok" in said
    assert test_client.main(["--test", "trading", *common]) == 1
    assert test_client.main(["--test", "trading", "--token", gateway.token("x", channels=["none"]), *common]) == 1
    said = capsys.readouterr().out
    assert "--token is required" in said
    assert "forbidden" in said


# Broadcast server.


async def test_services_broadcast_positions_equity_risk_and_logs(environment: None, gateway: GatewayProcess) -> None:
    @dataclasses.dataclass
    class Position:
        position_id: str
        spot_entry_price: Decimal
        opened: datetime

    manager = ConnectionManager()
    async with tickgate.connect(f"{gateway.url}/ws") as tg:
        names = ("position_update", "equity_update", "risk_status_update", "system_log")
        frontend = tg.messages(*names, on_gap=lambda gap: None)
        await asyncio.to_thread(eventually, "live", lambda: tg.status.state == "live")
        await manager.broadcast_position_update(Position("p", Decimal("45000.00"), datetime(2024, 1, 15, tzinfo=UTC)))
        await manager.broadcast_equity_update({"total_equity": "10000.00", "peak_equity": "10500.00"})
        await manager.broadcast_risk_status_update(SimpleNamespace(status="soft_pause", drawdown_pct=Decimal("0.04")))
        assert await manager.broadcast_system_log({"level": "DEBUG", "module": "m", "message": "kept out"}) is None
        await manager.broadcast_system_log({"level": "INFO", "module": "PositionService", "message": "opened"})
        seen = {}
        for _ in names:
            message = await asyncio.wait_for(anext(frontend), SOON)
            seen[message.data["type"]] = message.data
        assert set(seen) == set(names)
        assert all(one["timestamp"] for one in seen.values())
        assert seen["position_update"]["data"] == {
            "position_id": "p",
            "spot_entry_price": "45000.00",
            "opened": "2024-01-15T00:00:00+00:00",
        }
        assert seen["risk_status_update"]["data"] == {"status": "soft_pause", "drawdown_pct": "0.04"}
        assert seen["system_log"]["data"]["message"] == "opened"


def test_a_log_handler_sends_info_and_above(gateway: GatewayProcess, api: Gateway) -> None:
    handler = LogHandler(Outbox(gateway.api, gateway.key, when_full="raise"))
    logger = logging.getLogger("PositionService")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    for name in ("tickgate.x", "httpx"):
        logging.getLogger(name).addHandler(handler)
    try:
        before = len(api.history("system_log", last=100).messages)
        logger.debug("not sent")
        logger.info("position %s opened", "p-1")
        logger.critical("stop")
        logging.getLogger("tickgate.x").error("its own")
        handler.flush()
        sent = [(message.data or {})["data"] for message in api.history("system_log", last=100).messages][before:]
        assert [(one["level"], one["module"], one["message"]) for one in sent] == [
            ("INFO", "PositionService", "position p-1 opened"),
            ("CRITICAL", "PositionService", "stop"),
        ]
        full = LogHandler(Outbox("http://127.0.0.1:9", "k", size=1, when_full="raise", max_age=1, on_error=lambda _: None))
        for _ in range(3):
            full.emit(logging.LogRecord("a", logging.INFO, "", 0, "m", None, None))
        assert full.dropped == 2
        full._outbox.close(0)
    finally:
        logger.removeHandler(handler)
        for name in ("tickgate.x", "httpx"):
            logging.getLogger(name).removeHandler(handler)
        handler._outbox.close()


async def test_services_know_who_is_connected(environment: None, gateway: GatewayProcess, api: Gateway) -> None:
    manager = ConnectionManager()
    before = await manager.active_connections()
    async with page(f"{gateway.url}/ws"), page(f"{gateway.url}/ws") as (other, _):
        assert await manager.active_connections() == before + 2
        listed = {one.connection_id: one for one in api.connections(topic="equity_update")}
        assert "equity_update" in listed[other].channels
        assert listed[other].endpoint == "events"
        assert api.connections(param="session-of-nobody") == []
        assert api.connections().complete
        eventually("both follow", lambda: api.presence("equity_update").connections >= before + 2)
    with pytest.raises(tickgate.Invalid, match="endpoint"):
        api.connections(endpoint="nowhere")
    with pytest.raises(tickgate.Invalid):
        api.disconnect(user="alice", idle_seconds=5)


# WebSocket manager.


@dataclasses.dataclass
class Decision:
    action: str
    confidence: float


async def test_an_engine_shows_its_run_in_all_tabs(environment: None, gateway: GatewayProcess, api: Gateway) -> None:
    session_id = "session-doc-1"

    def count(session_id: str) -> int | None:
        # A publication of its own, so that the session has no other events than those below.
        return sum(one.endpoint in ("backtest", "forward") for one in api.connections())

    made = [
        events.create_session_initialized_event(session_id, {"symbol": "BTCUSDT"}),
        events.create_candle_event({"close": Decimal("1.10")}, {"rsi": 60.5}),
        events.create_ai_thinking_event("because"),
        events.create_ai_decision_event(Decision("LONG", 0.9)),
        events.create_position_opened_event(SimpleNamespace(position_id="p", entry_price=Decimal(1))),
        events.create_position_updated_event({"pnl": "1"}),
        events.create_position_closed_event({"pnl": "2"}),
        events.create_stats_update_event({"win_rate": 65.5}),
        events.create_countdown_update_event(30, datetime(2024, 3, 15, 10, 30, tzinfo=UTC)),
        events.create_heartbeat_event(),
        events.create_error_event(error_code="INVALID_SESSION", message="not found", details={"session_id": session_id}),
        events.create_session_completed_event("result-1", {"pnl": "2"}),
    ]
    assert len({event["type"] for event in made}) == 12
    first = tickgate.connect(handlers.url_for(session_id, base=gateway.url))
    second = tickgate.connect(handlers.url_for(session_id, "forward", base=gateway.url))
    async with first as one, second as other:
        tabs = [tab.messages("events", on_gap=lambda gap: None) for tab in (one, other)]
        for tab in (one, other):
            await asyncio.to_thread(eventually, "live", lambda tab=tab: tab.status.state == "live")
        await asyncio.to_thread(eventually, "both are counted", lambda: count(session_id) == 2)
        for event in made:
            assert await websocket_manager.broadcast_to_session(session_id, event) == 2

        async def chunks() -> AsyncIterator[str]:
            for word in ("a ", "b ", "c"):
                yield word

        assert await websocket_manager.stream_thinking(session_id, chunks()) == "a b c"
        for tab in tabs:
            seen = [(await asyncio.wait_for(anext(tab), SOON)).data for _ in range(12)]
            assert seen == made
            text = ""
            while text != "a b c":
                text += (await asyncio.wait_for(anext(tab), SOON)).data["data"]["text"]
    with pytest.raises(tickgate.Invalid, match="ws://localhost:8000/ws/backtest/s"):
        await WebSocketManager().connect(object(), "s")
    assert handlers.url_for("Läufer 1", ticket="a+b") == "ws://localhost:8000/ws/backtest/L%C3%A4ufer%201?ticket=a%2Bb"
    for wrong in ("", " a", "a/b", "a%b", "..", "a\n", "x" * 197):
        with pytest.raises(tickgate.Invalid):
            await websocket_manager.broadcast_to_session(wrong, made[0])


@contextlib.asynccontextmanager
async def page(url: str) -> AsyncIterator[tuple[str, ClientConnection]]:
    """A page as the documents have it: no client library. Yields the connection's id and the socket."""
    async with websockets.connect(url) as socket:
        welcome = json.loads(await socket.recv())
        yield welcome["connection_id"], socket


async def received(socket: ClientConnection, type: str) -> dict[str, Any]:
    async with asyncio.timeout(SOON):
        while True:
            message: dict[str, Any] = json.loads(await socket.recv())
            if message["type"] == type:
                return message


async def test_an_engine_reaches_single_tabs(environment: None, gateway: GatewayProcess, api: Gateway) -> None:
    session_id, manager = "session-doc-2", websocket_manager
    url = handlers.url_for(session_id, base=gateway.url)
    async with page(url) as (one, tab), page(url) as (other, other_tab), page(f"{gateway.url}/ws/market") as (market, _):
        assert sorted(await manager.connections_of(session_id)) == sorted([one, other])
        assert await manager.send_to_connection(one, events.create_heartbeat_event())
        pushed = await received(tab, "heartbeat")
        assert pushed["_meta"] == {"channel": "@connection"}
        metadata = manager.get_connection_metadata(one)
        assert metadata is not None
        assert metadata["session_id"] == session_id
        assert metadata["connected_at"] <= metadata["last_heartbeat"] <= datetime.now(UTC)
        assert await manager.cleanup_stale_connections(max_age_seconds=300) == 0
        assert await manager.disconnect(one)
        await asyncio.wait_for(tab.wait_closed(), SOON)
        assert tab.close_code == 4500
        await asyncio.to_thread(eventually, "it is gone", lambda: one not in {each.connection_id for each in api.connections()})
        assert manager.get_connection_metadata(one) is None
        assert not await manager.send_to_connection(one, {"type": "late"})
        assert not await manager.disconnect(one)
        assert await manager.connections_of(session_id) == [other]
        with pytest.raises(tickgate.Invalid):
            await manager.send_to_connection(other, {"_meta": {}})
        with pytest.raises(tickgate.Invalid):
            await manager.send_to_connection("no id", {"type": "x"})
        await asyncio.to_thread(eventually, "a second of silence", lambda: api.connections(param=session_id, idle_seconds=1))
        assert await manager.cleanup_stale_connections(max_age_seconds=1) == 1
        await asyncio.wait_for(other_tab.wait_closed(), SOON)
        assert manager.get_connection_metadata(market) is not None, "connections of no session are left alone"


async def test_an_engine_does_not_wait_for_a_gateway_that_is_away() -> None:
    with Outbox("http://127.0.0.1:9", "key", max_age=5, on_error=lambda _: None) as outbox:
        manager = WebSocketManager(outbox)
        assert await manager.broadcast_to_session("s", {"type": "x"}) == -1
        began = time.monotonic()
        for _ in range(20):
            assert await manager.broadcast_to_session("s", {"type": "x"}) == -1
        assert time.monotonic() - began < 1
        assert outbox.stats.queued == 21
        outbox.close(0)


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    example.main()
    assert "both tabs saw the same" in capsys.readouterr().out
