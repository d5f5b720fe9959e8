"""The documents' own clients against one replica over memory, as `cargo run` gives it."""

from __future__ import annotations

import asyncio
import json

from checks import Group, equal
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from world import SOON, World, token

ORDER = {
    "type": "order_update",
    "order_id": "123456",
    "status": "filled",
    "filled_quantity": "0.5",
    "remaining_quantity": "0",
    "average_price": "50000.00",
    "timestamp": "2023-12-01T12:00:00Z",
}
RISK = {
    "type": "risk_alert",
    "alert_type": "position_limit_exceeded",
    "severity": "high",
    "message": "Position limit exceeded for BTCUSDT",
    "limit_value": "10000",
    "current_value": "12000",
    "timestamp": "2023-12-01T12:00:00Z",
}
BOT = {"type": "bot_status", "bot_id": "bot-123", "name": "DCA Bot", "status": "running", "performance": {"win_rate": "65.5"}}
FEED = {
    "position_update": {"position_id": "uuid-here", "symbol": "BTC/USDT", "status": "open", "unrealized_pnl": "50.25"},
    "equity_update": {"total_equity": "10000.00", "peak_equity": "10500.00", "current_equity": "10000.00"},
    "risk_status_update": {"status": "soft_pause", "drawdown_pct": "0.04", "daily_loss_pct": "0.03"},
    "system_log": {"level": "INFO", "module": "PositionService", "message": "Position opened successfully"},
}
RUN_EVENTS = [
    "session_initialized",
    "candle",
    "ai_thinking",
    "ai_decision",
    "position_opened",
    "position_updated",
    "position_closed",
    "stats_update",
    "countdown_update",
    "error",
    "session_completed",
]

GROUP = Group(
    "one replica",
    lambda: World(env={"WS_HEARTBEAT_INTERVAL": "1", "TICKGATE__SESSION__HEARTBEAT_TIMEOUT": "1s", "TICKGATE__DRAIN__SPREAD": "0s"}),
)
check = GROUP.check


def without_meta(text: str) -> dict:
    data = json.loads(text)
    data.pop("_meta")
    return data


@check
async def trading_client_in_python_hears_its_user_and_nobody_else(world: World) -> None:
    alice = await world.run("trading_client.py", token("alice"))
    bob = await world.run("trading_client.py", token("bob"))
    for program in (alice, bob):
        await program.line("'type': 'connection_established'")
        await program.line("'type': 'subscribed'")
    await world.gateway.publish("orders", ORDER, user="alice")
    await world.gateway.publish("risk_alerts", RISK, user="alice")
    await world.gateway.publish("orders", {**ORDER, "order_id": "of bob"}, user="bob")
    heard = await alice.line("'type': 'order_update'")
    assert all(f"'{key}': '{value}'" in heard for key, value in ORDER.items()), heard
    await alice.line("'severity': 'high'")
    await bob.line("of bob")
    assert not bob.has("123456") and not alice.has("of bob"), "a message reached another user"


@check
async def trading_client_in_javascript_hears_all_and_reconnects(world: World) -> None:
    page = await world.run("trading.js", token("carol"))
    await page.line("^Connected to trading")
    await page.line('^price .*"type":"ticker","symbol":"BTCUSDT"')
    await page.say("ping")
    await page.line("^Received pong")
    await world.gateway.publish("orders", ORDER, user="carol")
    await world.gateway.publish("risk_alerts", RISK, user="carol")
    equal(without_meta((await page.line("^order ")).removeprefix("order ")), ORDER)
    equal(without_meta((await page.line("^risk ")).removeprefix("risk ")), RISK)
    closed = await world.gateway.call("/api/v1/disconnect", {"user": "carol"})
    await page.line("^WebSocket connection closed")
    await page.line("^Connected to trading")
    await page.line("^price ")
    await world.gateway.publish("orders", {**ORDER, "order_id": "after"}, user="carol")
    assert "after" in await page.line("^order "), closed


@check
async def market_data_has_the_fields_of_its_document(world: World) -> None:
    page = await world.run("market.js")
    ticker = json.loads(await page.line('"type":"ticker","symbol":"ETHUSDT"'))
    fields = {"symbol", "price", "price_change", "price_change_percent", "high_price", "low_price", "volume", "timestamp"}
    assert fields <= ticker.keys() and isinstance(ticker["price"], str), ticker
    trade = json.loads(await page.line('"type":"trade"'))
    assert {"symbol", "price", "quantity", "side", "timestamp"} <= trade.keys() and trade["side"] in ("buy", "sell"), trade
    page.position = 0
    book = json.loads(await page.line('"type":"orderbook"'))
    assert book["bids"] and book["asks"], book
    assert all(isinstance(text, str) for level in book["bids"] + book["asks"] for text in level), book
    assert float(book["bids"][0][0]) < float(book["asks"][0][0]), "the book is crossed"
    page.position = 0
    answer = json.loads(await page.line('"type":"subscribed".*orderbook:BTCUSDT'))
    equal([entry["class"] for entry in answer["channels"]], ["state"])


@check
async def feed_clients_hear_the_four_updates_without_subscribing(world: World) -> None:
    login = token("42", claim="user_id")
    python, page = await world.run("feed_client.py", login), await world.run("feed.js", login)
    await python.line("^Received: connection_established")
    assert (await page.line("^Connection confirmed:")) != "Connection confirmed: undefined"
    await world.gateway.settled(active_connections=2, total_subscriptions=8)
    for kind, data in FEED.items():
        await world.gateway.publish(kind, {"type": kind, "timestamp": "2024-01-15T10:30:00.000Z", "data": data})
        await python.line(f"^Received: {kind}")
        told = kind.replace("_", " ").capitalize()
        told = "System log" if kind == "system_log" else told
        await page.line(f"^{told}: ")


@check
async def tabs_of_one_run_hear_all_events_and_heartbeats(world: World) -> None:
    tabs = [await world.run("run_tab.js", "/ws/backtest/session-123") for _ in range(2)]
    other = await world.run("run_tab.js", "/ws/backtest/session-456")
    forward = await world.run("run_tab.js", "/ws/forward/session-123")
    for tab in [*tabs, other, forward]:
        await tab.line('"type":"subscribed"')
    for kind in RUN_EVENTS:
        await world.gateway.publish("run:session-123", {"type": kind, "data": {"of": "session-123"}})
    for tab in tabs:
        for kind in RUN_EVENTS:
            await tab.line(f'"type":"{kind}"')
        await tab.line('"type":"heartbeat"')
    await other.line('"type":"heartbeat"')
    assert not other.has("candle"), "an event reached another run"


@check
async def commands_of_a_run_are_accepted_and_stored(world: World) -> None:
    login = token("trader", commands=True)
    tab = await world.run("run_tab.js", f"/ws/backtest/session-7?token={login}")
    await tab.line('"type":"subscribed"')
    for command in ("pause", "resume", "stop"):
        await tab.say(command)
        await tab.line('"type":"command_accepted"')
    history = await world.gateway.call("/api/v1/topics/commands/history?last=3")
    stored = [(entry["data"]["run_id"], entry["data"]["command"], entry["data"]["user"]) for entry in history["messages"]]
    equal(stored, [("session-7", command, "trader") for command in ("pause", "resume", "stop")])


@check
async def connector_is_acknowledged_and_its_events_are_heard(world: World) -> None:
    login = token("desk", channels=["ingest_events", "logs"])
    desk = await world.client(f"/ws?token={login}")
    equal({error["code"] for error in (await desk.expect("subscribed"))["errors"]}, {4502}, "what the endpoint would begin with")
    await desk.subscribe("ingest_events", "logs")
    tab = await world.run("run_tab.js", "/ws/forward/run-123")
    await tab.line('"type":"subscribed"')

    connector = await world.run("quantower_connector.py")
    await connector.line("^Connected to ")
    for _ in range(3):
        await connector.line("^Received ACK for message: ")
    envelopes = [await desk.next(), await desk.next()]
    envelopes.sort(key=lambda envelope: envelope["msg_type"])
    equal(envelopes[0]["payload"]["payload_json"]["order_id"], "ord-test-1")
    equal(envelopes[0]["payload"]["payload_json"]["price"], 45000.0)
    equal(envelopes[1]["payload"]["message"], "Connector started successfully")
    await tab.line("ord-test-1")

    await connector.say("this is no envelope")
    await connector.line("^Server error: INVALID_MESSAGE - ")
    again = {"msg_id": "once", "msg_type": "log_record", "source": "check", "timestamp": "2024-01-15T10:30:00",
             "payload": {"level": "INFO", "message": "once"}}
    for _ in range(2):
        await connector.say(json.dumps(again))
        await connector.line("^Received ACK for message: once")
    equal((await desk.next())["msg_id"], "once")
    await desk.nothing_more()


@check
async def health_status_and_root_have_the_documents_shapes(world: World) -> None:
    browser = await world.client(f"/ws/trading?token={token('dora')}")
    status, health = await world.gateway.get("/health")
    assert status == 200 and health["status"] == "healthy", health
    assert isinstance(health["active_connections"], int) and health["timestamp"].endswith("Z"), health
    await browser.subscribe("orders", "portfolio")
    status, figures = await world.gateway.get("/ws/status")
    equal(figures["status"], "active")
    equal(figures["user_connections"]["dora"], 1)
    assert figures["active_connections"] >= 1 and figures["total_subscriptions"] >= 2, figures
    assert (await world.gateway.get("/"))[1]["service"] == "tickgate"


@check
async def a_message_that_is_not_understood_is_told_and_costs_nothing_else(world: World) -> None:
    client = await world.client("/ws/market")
    for text in ("no json", "42", '{"type":"dance"}', '{"type":"subscribe","channels":"orders"}', "[" * 10_000):
        await client.socket.send(text)
        error = await client.expect("error")
        equal((error["code"], error["error"]), (4004, "invalid_message"))
        assert error["message"] and error["timestamp"].endswith("Z"), error
    await client.nothing_more()
    await client.socket.send(b"\x00binary")
    try:
        while True:
            await client.next()
    except ConnectionClosed as closed:
        equal(closed.rcvd.code, 1003)


@check
async def trading_without_a_token_is_refused_as_a_browser_and_as_a_program_can_see(world: World) -> None:
    for path in ("/ws/trading", "/ws/trading?token=garbage", f"/ws/trading?token={token('eve', ttl=-60)}"):
        try:
            await connect(world.gateway.url + path)
        except InvalidStatus as refused:
            equal(refused.response.status_code, 401)
        else:
            raise AssertionError(f"{path} was let in")
        async with connect(world.gateway.url + path, origin="http://localhost:3000") as browser:
            try:
                await asyncio.wait_for(browser.recv(), SOON)
            except ConnectionClosed as closed:
                equal(closed.rcvd.code, 4001)
            else:
                raise AssertionError(f"{path} heard something")


@check
async def a_client_that_answers_pings_stays_and_a_silent_one_is_closed(world: World) -> None:
    lively = await world.client("/ws/market")
    reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
    writer.write(
        b"GET /ws/market HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    heard = await asyncio.wait_for(reader.read(-1), SOON)
    writer.close()
    close = heard[heard.rindex(b"\x88") :]
    equal(int.from_bytes(close[2:4], "big"), 4101)
    for _ in range(3):
        await lively.expect("heartbeat")
