"""What an application sees of a connection, over a real gateway."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
import time
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import SOON, eventually

import tickgate
from tickgate import Gateway, _engine
from tickgate.testing import GatewayProcess


def trading(gateway: GatewayProcess, user: str, **options: Any) -> tickgate.connect:
    return tickgate.connect(f"{gateway.url}/ws/trading", token=gateway.token(user, publish=["*"]), **options)


def live(connection: Any) -> None:
    eventually("the connection is live", lambda: connection.status.state == "live")


def newest(connection: Any, channel: str, number: int) -> None:
    """Waits until a message has arrived, whatever became of it."""

    def came() -> bool:
        push = connection._engine.hub.channels[channel].newest
        return push is not None and push.data["n"] == number

    eventually("the last message has come", came)


def no_gap(gap: tickgate.Gap) -> None:
    raise AssertionError(gap)


def order(number: int) -> dict[str, Any]:
    return {"type": "order_update", "order_id": str(number), "price": "50000.00"}


async def test_messages_values_and_batches_for_asyncio(gateway: GatewayProcess, user: str) -> None:
    async with trading(gateway, user) as tg, gateway.async_gateway() as api:
        orders = tg.messages("orders", on_gap=no_gap)
        price = tg.value("ticker:ASYNC", max_rate=50)
        await asyncio.to_thread(live, tg)
        published = await tg.publish("orders", order(1), user=user, msg_id="fill-1")
        again = await tg.publish("orders", order(1), user=user, msg_id="fill-1")
        assert (again.id, again.duplicate, published.duplicate) == (published.id, True, False)
        async for message in orders:
            assert (message.channel, message.id, message.data) == ("orders", published.id, order(1))
            break
        assert price.get() is None
        assert price.age == float("inf")
        await api.publish("ticker:ASYNC", {"price": "1.50"})
        async for ticker in price:
            assert ticker == {"price": "1.50"}
            assert not price.stale
            assert price.age < SOON
            break
        batches = tg.batches("portfolio", on_gap=no_gap)
        await asyncio.to_thread(live, tg)
        for number in range(5):
            await api.publish("orders", order(number), user=user)
        seen = [message.data["order_id"] async for message in tickgate_take(orders, 5)]
        assert seen == ["0", "1", "2", "3", "4"]
        await api.publish("portfolio", {"value": "1"}, user=user)
        async for batch in batches:
            assert batch.data == [{"value": "1"}]
            batch.done()
            break
        orders.close()
        assert [message async for message in orders] == []
        page = await tg.history("orders", last=2)
        assert [message.data["order_id"] for message in page.messages] == ["3", "4"]
        presence = await tg.presence("ticker:ASYNC")
        assert (presence.connections, presence.more) == (1, False)


async def tickgate_take(messages: Any, count: int) -> Any:
    async for message in messages:
        yield message
        count -= 1
        if not count:
            return


def test_the_same_without_asyncio(gateway: GatewayProcess, api: Gateway, user: str) -> None:
    with trading(gateway, user) as tg:
        orders = tg.messages("orders", on_gap=no_gap)
        live(tg)
        assert tg.user == user
        for number in range(3):
            tg.publish("orders", order(number), user=user)
        assert [orders.next(SOON).data["order_id"] for _ in range(3)] == ["0", "1", "2"]
        with pytest.raises(TimeoutError):
            orders.next(0.05)
        with tg.value("ticker:SYNC") as price:
            live(tg)
            api.publish("ticker:SYNC", {"price": "2"})
            assert price.next(SOON) == {"price": "2"}
        with tg.batches("risk_alerts", on_gap=no_gap) as alerts:
            live(tg)
            api.publish("risk_alerts", {"n": 1}, user=user)
            assert alerts.next(SOON).data == [{"n": 1}]
        assert len(tg.history("orders").messages) == 3
        assert tg.presence("orders").users == 1
        orders.close()
        price.close()
        assert list(orders) == list(price) == []
        for closed in (orders, price):
            with pytest.raises(tickgate.Closed, match="by the application"):
                closed.next(SOON)


def test_a_crash_repeats_what_was_not_done_and_nothing_else(
    gateway: GatewayProcess, api: Gateway, user: str, tmp_path: Path
) -> None:
    file = tmp_path / "orders.cursors"
    with trading(gateway, user, cursors=file) as tg:
        orders = tg.messages("orders", on_gap=no_gap, manual=True)
        live(tg)
        for number in range(5):
            api.publish("orders", order(number), user=user)
        taken = [orders.next(SOON) for _ in range(5)]
        # The second is not handled: neither are those behind it, however often the third is.
        for message in (taken[0], taken[2], taken[2]):
            message.done()
        assert tg.cursors() == {"orders": taken[0].id}
    saved = json.loads(file.read_text())
    assert saved == {"user": user, "cursors": {"orders": taken[0].id}}
    with trading(gateway, user, cursors=file) as tg:
        # The stored cursor counts for more than where a first start would begin.
        orders = tg.messages("orders", since="earliest", on_gap=no_gap)
        again = [orders.next(SOON) for _ in range(4)]
        assert [message.data["order_id"] for message in again] == ["1", "2", "3", "4"]
        assert all(message.replayed for message in again)
    # The last one was handed over, and the loop never asked for another.
    assert json.loads(file.read_text())["cursors"] == {"orders": again[2].id}


def test_a_file_of_cursors_that_cannot_be_read_or_is_another_users(
    gateway: GatewayProcess, api: Gateway, user: str, tmp_path: Path
) -> None:
    file = tmp_path / "cursors"
    for text in ("{", "[]", '{"user": 1, "cursors": {}}', '{"user": null, "cursors": {"a": 1}}'):
        file.write_text(text)
        with pytest.raises(tickgate.Invalid, match="cursors"):
            trading(gateway, user, cursors=file).__enter__()
    old = api.publish("orders", order(1), user=user).id
    file.write_text(json.dumps({"user": "somebody else", "cursors": {"orders": "1-0"}}))
    with trading(gateway, user, cursors=file) as tg:
        orders = tg.messages("orders", on_gap=no_gap)
        live(tg)
        new = api.publish("orders", order(2), user=user).id
        assert orders.next(SOON).id == new != old


def test_a_reliable_channel_requires_on_gap(gateway: GatewayProcess, user: str) -> None:
    with trading(gateway, user) as tg, pytest.raises(tickgate.GapHandlerMissing):
        tg.messages("orders").next(SOON)


def test_what_happens_is_typed(gateway: GatewayProcess, user: str) -> None:
    with trading(gateway, user) as tg:
        with pytest.raises(tickgate.Unauthorized) as refused:
            tg.messages("payroll", on_gap=no_gap).next(SOON)
        assert (refused.value.channel, refused.value.code, refused.value.error) == ("payroll", 4502, "forbidden")
        with pytest.raises(tickgate.Invalid):
            tg.publish("orders", {"_meta": 1}, user=user)
        with pytest.raises(tickgate.Refused):
            tg.command("pause")
        with pytest.raises(tickgate.Invalid, match="exclude"):
            tg.messages("orders", since="earliest", last=1)
        tg.messages("orders", on_gap=no_gap)
        with pytest.raises(tickgate.Invalid, match="read already"):
            tg.messages("orders", since="earliest", on_gap=no_gap)
        with pytest.raises(TypeError):
            tg.messages("orders", sinc="earliest")  # type: ignore[call-overload]
    reader = gateway.token(user)
    with tickgate.connect(f"{gateway.url}/ws/trading", token=reader) as tg, pytest.raises(tickgate.Unauthorized):
        tg.publish("orders", order(1), user=user)
    for wrong in ({"url": "http://x"}, {"url": "ws://x", "token": "a b"}):
        with pytest.raises(tickgate.Invalid):
            tickgate.connect(**wrong).__enter__()
    with pytest.raises(tickgate.Invalid):
        tickgate.connect("ws://x", auth="cookie")


def test_the_end_for_good_comes_out_of_loops(gateway: GatewayProcess, api: Gateway, user: str) -> None:
    states: list[tickgate.Status] = []
    with trading(gateway, user, on_state=states.append) as tg:
        orders = tg.messages("orders", on_gap=no_gap)
        price = tg.value("ticker:END")
        live(tg)
        api.disconnect(user=user, reason="logged out")
        with pytest.raises(tickgate.Closed) as closed:
            orders.next(SOON)
        assert closed.value.code == 4500
        assert "logged out" in closed.value.reason
        with pytest.raises(tickgate.Closed):
            price.next(SOON)
        with pytest.raises(tickgate.Refused):
            tg.publish("orders", order(1), user=user)
    eventually("closed was told", lambda: [state.state for state in states][-1:] == ["closed"])
    assert states[0].state == "connecting"
    assert "live" in [state.state for state in states]


def test_types_and_decimals(gateway: GatewayProcess, api: Gateway, user: str) -> None:
    @dataclasses.dataclass
    class Update:
        order_id: str
        price: Decimal

    loads = partial(json.loads, parse_float=Decimal)
    with trading(gateway, user, loads=loads) as tg:
        orders = tg.messages("orders", type=Update, on_gap=no_gap)
        live(tg)
        content = b'{"channel":"orders","user":"%s","data":{"order_id":"1","price":1.10,"more":2}}' % user.encode()
        headers = {"Content-Type": "application/json", **api.headers}
        assert api._client.post(api.urls[0] + "/api/v1/publish", content=content, headers=headers).status_code == 200
        assert orders.next(SOON).data == Update("1", Decimal("1.10"))
        api.publish("orders", {"price": 1}, user=user)
        api.publish("orders", {"order_id": "3", "price": 1}, user=user)
        with pytest.raises(tickgate.Invalid, match="Update"):
            orders.next(SOON)
        assert orders.next(SOON).data.order_id == "3"


def test_a_slow_application_loses_no_order_and_is_told_of_lost_trades(gateway: GatewayProcess, api: Gateway, user: str) -> None:
    gaps: list[tickgate.Gap] = []
    with trading(gateway, user) as tg, tickgate.connect(f"{gateway.url}/ws/market") as market:
        orders = tg.messages("orders", on_gap=no_gap, buffer=10)
        trades = market.messages("trades:SLOW", on_gap=gaps.append, buffer=10)
        live(tg)
        live(market)
        api.publish_many(tickgate.Publication("orders", order(number), user) for number in range(200))
        api.publish_many(tickgate.Publication("trades:SLOW", {"n": number}) for number in range(50))
        newest(market, "trades:SLOW", 49)
        assert [orders.next(SOON).data["order_id"] for _ in range(200)] == [str(number) for number in range(200)]
        seen: list[int] = []
        while not seen or seen[-1] != 49:
            seen.append(trades.next(SOON).data["n"])
        lost = sum(gap.count or 0 for gap in gaps if gap.reason == "slow_application")
        assert lost + len(seen) == 50
        assert gaps
        assert gaps[0].before is not None
        assert seen == sorted(seen)


def test_on_gap_that_raises_is_called_again(gateway: GatewayProcess, api: Gateway) -> None:
    calls: list[tickgate.Gap] = []

    def on_gap(gap: tickgate.Gap) -> None:
        calls.append(gap)
        if len(calls) == 1:
            raise RuntimeError("no snapshot")

    with tickgate.connect(f"{gateway.url}/ws/market") as market:
        trades = market.messages("trades:AGAIN", on_gap=on_gap, buffer=2)
        live(market)
        for number in range(5):
            api.publish("trades:AGAIN", {"n": number})
        newest(market, "trades:AGAIN", 4)
        with pytest.raises(RuntimeError, match="no snapshot"):
            trades.next(SOON)
        assert trades.next(SOON).data["n"] == 3
        assert calls[0] == calls[1]
        assert (calls[0].count, calls[0].reason) == (3, "slow_application")


def test_an_event_loop_that_is_busy_loses_nothing(user: str) -> None:
    settings = {"TICKGATE__SESSION__HEARTBEAT_INTERVAL": "3s", "TICKGATE__SESSION__HEARTBEAT_TIMEOUT": "1s"}

    states: list[str] = []

    async def strategy(gateway: GatewayProcess) -> None:
        async with trading(gateway, user, on_state=lambda status: states.append(status.state)) as tg:
            orders = tg.messages("orders", on_gap=no_gap)
            await asyncio.to_thread(live, tg)
            with gateway.gateway() as api:
                api.publish("orders", order(1), user=user)
                until = time.monotonic() + 6
                while time.monotonic() < until:
                    sum(range(1000))
                assert len(api.connections(user=user)) == 1
            assert (await anext(orders)).data["order_id"] == "1"

    with GatewayProcess(settings=settings) as gateway:
        asyncio.run(strategy(gateway))
    assert "waiting" not in states


def test_a_token_function_that_raises_or_hangs(gateway: GatewayProcess, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_engine, "TOKEN_TIMEOUT", 0.2)
    reasons: list[str | None] = []
    release = threading.Event()
    calls = 0

    def token() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("the login is away")
        if calls == 2:
            release.wait(SOON)
        return gateway.token(user)

    with tickgate.connect(
        f"{gateway.url}/ws/trading", token=token, on_state=lambda status: reasons.append(status.reason)
    ) as tg:
        eventually("both failures were told", lambda: any("did not return" in (reason or "") for reason in reasons))
        assert any("the login is away" in (reason or "") for reason in reasons)
        # The call that hangs is not made a second time.
        assert calls == 2
        release.set()
        live(tg)
        assert calls == 2


async def test_a_loop_over_nothing_ends_with_the_connection(gateway: GatewayProcess, user: str) -> None:
    async with trading(gateway, user) as tg:
        refused = tg.messages("payroll", on_gap=no_gap)
        with pytest.raises(tickgate.Unauthorized):
            await asyncio.wait_for(anext(refused), SOON)

        async def rest() -> list[Any]:
            return [message async for message in refused]

        waiting = [asyncio.create_task(rest())]
        value = tg.value("ticker:NOTHING")
        waiting.append(asyncio.create_task(anext(value, None)))  # type: ignore[arg-type]
        # Both wait by the time that these are done.
        await asyncio.sleep(0)
        await tg.close()
        assert await asyncio.wait_for(asyncio.gather(*waiting), SOON) == [[], None]


async def test_a_token_function_of_asyncio_runs_on_the_loop_of_the_application(gateway: GatewayProcess, user: str) -> None:
    loops = []

    async def token() -> str:
        loops.append(asyncio.get_running_loop())
        return gateway.token(user)

    async with tickgate.connect(f"{gateway.url}/ws/trading", token=token, auth="message") as tg:
        await asyncio.to_thread(live, tg)
        assert tg.user == user
    assert loops == [asyncio.get_running_loop()]


def test_what_is_sent_to_this_connection_alone(gateway: GatewayProcess, api: Gateway, user: str) -> None:
    heard: list[dict[str, Any]] = []
    with trading(gateway, user, on_direct=heard.append) as tg, trading(gateway, user) as other:
        live(tg)
        live(other)
        assert tg.connection_id
        assert api.send(tg.connection_id, {"type": "notice", "n": 1})
        assert other.connection_id
        assert api.send(other.connection_id, {"type": "notice", "n": 2}), "nobody listens, and nothing breaks"
        eventually("the notice", lambda: heard)
        other.publish("orders", order(1), user=user)
    assert heard == [{"type": "notice", "n": 1}]
    assert tg.connection_id is None


async def test_what_is_sent_to_one_connection_of_asyncio(gateway: GatewayProcess, user: str) -> None:
    heard: list[tuple[dict[str, Any], str]] = []

    def direct(data: dict[str, Any]) -> None:
        heard.append((data, threading.current_thread().name))
        raise RuntimeError("is logged, and ends nothing")

    async with trading(gateway, user, on_direct=direct) as tg, gateway.async_gateway() as api:
        await asyncio.to_thread(live, tg)
        for number in range(3):
            assert await api.send(tg.connection_id or "", {"n": number})
        await asyncio.to_thread(eventually, "all of them", lambda: len(heard) == 3)
    assert heard == [({"n": number}, "MainThread") for number in range(3)], "in order, on the application's loop"


def test_a_callback_that_is_too_slow_is_told_in_the_log(
    gateway: GatewayProcess, api: Gateway, user: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tickgate.connection.DIRECT_MAX", 2)
    heard, go_on = [], threading.Event()

    def slow(data: dict[str, Any]) -> None:
        heard.append(data["n"])
        go_on.wait(SOON)

    with trading(gateway, user, on_direct=slow) as tg:
        live(tg)
        for number in range(4):
            api.send(tg.connection_id or "", {"n": number})
            if number == 0:
                eventually("it is being handled", lambda: heard)
        eventually("the warning", lambda: "on_direct is too slow" in caplog.text)
        go_on.set()
        eventually("those that had room", lambda: heard == [0, 1, 2])


def test_a_user_whom_the_platform_reports_as_inactive(gateway: GatewayProcess, api: Gateway, user: str) -> None:
    with trading(gateway, user) as tg:
        live(tg)
        api.set_active(user, False)
        eventually("the end", lambda: tg.status.state == "closed")
        assert tg.status.code == 4002
    assert not api.is_active(user)
    with pytest.raises(tickgate.Unauthorized) as refused:
        api.ticket(gateway.token(user))
    assert (refused.value.status, refused.value.code, refused.value.error) == (403, 4002, "user_inactive")
    api.set_active(user, True)
    assert api.is_active(user)
    with trading(gateway, user) as tg:
        live(tg)
    for seconds in (0, 31_536_001):
        with pytest.raises(tickgate.Invalid, match="`seconds` must be from 1 to 31536000"):
            api.set_active(user, False, seconds=seconds)
    with pytest.raises(tickgate.Invalid, match="`seconds` requires"):
        api.set_active(user, True, seconds=60)


def test_a_refused_token_ends_with_its_code(gateway: GatewayProcess, user: str) -> None:
    bad = gateway.token(user, claims={"exp": 1})
    with tickgate.connect(f"{gateway.url}/ws/trading", token=bad) as tg:
        with pytest.raises(tickgate.Closed) as closed:
            tg.messages("orders", on_gap=no_gap).next(SOON)
        assert closed.value.code == 4001


def test_a_gateway_that_is_away_and_comes_back(user: str) -> None:
    with GatewayProcess() as gateway, trading(gateway, user) as tg:
        orders = tg.messages("orders", on_gap=lambda gap: None)
        live(tg)
        gateway.kill()
        eventually("it waits", lambda: tg.status.state == "waiting")
        with pytest.raises(tickgate.Refused, match="not sent"):
            tg.publish("orders", order(1), user=user, within=0.2)
        with pytest.raises(tickgate.Refused, match="not connected"):
            tg.command("stop")
        gateway.start()
        live(tg)
        # What was given up is not sent late.
        tg.publish("orders", order(2), user=user)
        assert orders.next(SOON).data["order_id"] == "2"


def test_threads_share_a_connection(gateway: GatewayProcess, user: str) -> None:
    with trading(gateway, user) as tg:
        seen: dict[str, list[str]] = {"orders": [], "risk_alerts": []}

        def read(channel: str) -> None:
            for message in tg.messages(channel, on_gap=no_gap):
                seen[channel].append(message.data["order_id"])

        threads = [threading.Thread(target=read, args=[channel]) for channel in seen]
        for thread in threads:
            thread.start()
        eventually("both are subscribed", lambda: len(tg._engine.hub.channels) == 2)
        live(tg)
        for number in range(20):
            tg.publish("orders" if number % 2 else "risk_alerts", order(number), user=user)
        eventually("all have come", lambda: sum(map(len, seen.values())) == 20)
    for thread in threads:
        thread.join(SOON)
        assert not thread.is_alive()
    assert seen["orders"] == [str(number) for number in range(1, 20, 2)]


def test_unknown_parameters_of_the_url_are_logged(gateway: GatewayProcess, caplog: pytest.LogCaptureFixture) -> None:
    with tickgate.connect(f"{gateway.url}/ws/market?chanels=ticker:BTCUSDT") as tg:
        live(tg)
        eventually("the warning", lambda: "parameters that the gateway does not know: ['chanels']" in caplog.text)
