"""Publishing over HTTP: what is certain, what is not, and that nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from conftest import SOON, eventually

import tickgate
from tickgate import Gateway, Outbox, Publication, Published
from tickgate._queued import answers
from tickgate.outbox import FailedPublication
from tickgate.testing import GatewayProcess


def numbers(api: Gateway, topic: str) -> list[int]:
    seen: list[int] = []
    since: str | None = "0-0"
    while True:
        page = api.history(topic, since=since)
        seen += [message.data["n"] for message in page.messages if message.data]
        if not page.more:
            return seen
        since = page.cursor


def test_publishing_one_and_many(api: Gateway, user: str) -> None:
    first = api.publish("orders", {"n": 1}, user=user, msg_id="one")
    assert api.publish("orders", {"n": 1}, user=user, msg_id="one") == Published(first.id, True)
    results = api.publish_many([Publication("orders", {"n": n}, user) for n in (2, 3)] + [Publication("no%channel", {"n": 4})])
    assert [type(result).__name__ for result in results] == ["Published", "Published", "Failed"]
    failed = results[2]
    assert isinstance(failed, tickgate.Failed)
    assert isinstance(failed.error, tickgate.Invalid)
    assert (failed.error.status, failed.error.error) == (400, "invalid_message")
    assert failed.error.msg_id
    page = api.history("orders", user=user, last=10)
    assert [message.data for message in page.messages] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert page.complete


async def test_the_same_for_asyncio(gateway: GatewayProcess, user: str) -> None:
    async with gateway.async_gateway() as api:
        published = await api.publish("orders", {"n": 1}, user=user)
        assert [one.id for one in (await api.history("orders", user=user)).messages] == [published.id]
        assert await api.publish_many([Publication("orders", {"n": 1}, user, "m")] * 2) != []
        assert await api.connections(user=user) == []
        await api.disconnect(user=user)
        ticket = await api.ticket(gateway.token(user))
        async with tickgate.connect(f"{gateway.url}/ws/trading?ticket={ticket}") as tg:
            connected = await asyncio.to_thread(eventually, "connected", lambda: tg.user)
            assert connected == user
            assert [one.endpoint for one in await api.connections(user=user)] == ["trading"]


@pytest.mark.parametrize(
    "wrong",
    [{"_meta": {}}, {"n": float("nan")}, {"n": object()}, [1], {"text": "x" * 70_000}],
    ids=["_meta", "nan", "object", "list", "large"],
)
def test_what_the_gateway_would_never_take_is_refused_at_once(api: Gateway, outbox: Outbox, wrong: Any) -> None:
    for publish in (api.publish, outbox.put):
        with pytest.raises(tickgate.Invalid):
            publish("logs", wrong)
    assert outbox.stats.queued == 0


def test_refusals_are_typed(gateway: GatewayProcess, api: Gateway) -> None:
    with Gateway(gateway.api, "another key that the gateway does not have") as stranger:
        with pytest.raises(tickgate.Unauthorized) as refused:
            stranger.publish("logs", {})
        assert refused.value.status == 401
    with pytest.raises(tickgate.Invalid):
        api.history("logs", since="nonsense")
    with pytest.raises(tickgate.Invalid):
        api.disconnect()
    with pytest.raises(tickgate.Invalid):
        Gateway("localhost:8001")
    with pytest.raises(tickgate.Unauthorized):
        api.ticket("no token")
    with Gateway("http://127.0.0.1:9", retries=1) as nobody, pytest.raises(tickgate.Refused, match="cannot be reached"):
        nobody.publish("logs", {})


def test_how_a_topic_is_kept(api: Gateway, user: str) -> None:
    rule = api.topic("orders", user=user)
    assert (rule.cls, rule.stored_as, rule.stored_channel) == ("reliable", f"@@{user}", "orders")
    assert api.topic("trades:X").cls == "event"
    assert api.topic("position_update").retain_max == 1000
    assert api.topic("position_update").dedupe_ttl == 300
    with pytest.raises(tickgate.Invalid):
        api.topic("no%channel")


def test_several_addresses_take_turns(gateway: GatewayProcess) -> None:
    with Gateway(["http://127.0.0.1:9", gateway.api], gateway.key) as api:
        assert api.publish("logs", {"n": 1}).id


def test_order_is_kept_and_each_comes_once_over_a_restart(user: str) -> None:
    """In memory, a restart loses what was stored: what the outbox has sent before and after is told apart by the epoch."""
    with GatewayProcess() as gateway, Outbox(gateway.api, gateway.key, size=100_000) as outbox:
        for n in range(500):
            outbox.put("trades:RESTART", {"n": n})
        eventually("some were sent", lambda: outbox.stats.sent >= 100)
        gateway.kill()
        before = outbox.stats.sent
        for n in range(500, 1000):
            outbox.put("trades:RESTART", {"n": n})
        gateway.start()
        assert outbox.flush(SOON)
        assert outbox.failures.maxlen == 100
        with gateway.gateway() as api:
            after = numbers(api, "trades:RESTART")
        assert outbox.stats.sent == 1000
        # Everything whose outcome was not known or that was never sent is there, once and in order.
        assert after == list(range(1000))[-len(after) :]
        assert len(after) >= 1000 - before - 0
        assert outbox.stats.failed == outbox.stats.reordered == 0


def test_a_gateway_that_stays_away(user: str) -> None:
    errors: list[FailedPublication] = []
    with Outbox("http://127.0.0.1:9", "key", max_age=1.0, on_error=errors.append) as outbox:
        msg_id = outbox.put("orders", {"n": 1}, user=user)
        assert not outbox.flush(0.1)
        eventually("it was given up", lambda: errors)
        assert outbox.flush()
        assert (errors[0].msg_id, errors[0].user, type(errors[0].error)) == (msg_id, user, tickgate.Refused)
        assert (outbox.stats.failed, outbox.stats.sent) == (1, 0)


def test_a_price_that_is_late_fails_and_an_order_waits() -> None:
    errors: list[FailedPublication] = []
    with Outbox("http://127.0.0.1:9", "key", on_error=errors.append) as outbox:
        outbox.put("orders", {"n": 1}, user="alice")
        late = outbox.put("ticker:LATE", {"price": "1"}, max_age=0.2)
        outbox.put("orders", {"n": 2}, user="alice")
        eventually("the price was given up", lambda: errors)
        assert [error.msg_id for error in errors] == [late]
        assert outbox.stats.queued == 2
        outbox.close(0)


def test_one_that_is_refused_for_good_does_not_stop_the_others(gateway: GatewayProcess, api: Gateway) -> None:
    errors: list[FailedPublication] = []
    with Outbox(gateway.api, gateway.key, on_error=errors.append) as outbox:
        outbox.put("trades:REFUSED", {"n": 1})
        outbox.put("no%channel", {"n": 2})
        outbox.put("trades:REFUSED", {"n": 3})
        assert outbox.flush(SOON)
        eventually("the failure was told", lambda: errors)
    assert numbers(api, "trades:REFUSED") == [1, 3]
    assert isinstance(errors[0].error, tickgate.Invalid)


async def test_a_full_outbox_raises_or_blocks_and_counts() -> None:
    with Outbox("http://127.0.0.1:9", "key", size=2, when_full="raise", max_age=5, on_error=lambda _: None) as raising:
        raising.put("logs", {})
        raising.put("logs", {})
        with pytest.raises(tickgate.OutboxFull):
            raising.put("logs", {})
        with pytest.raises(tickgate.OutboxFull):
            await raising.put_async("logs", {})
        assert raising.stats.rejected == 2
        raising.close(0)
        assert raising.stats.failed == 2
        with pytest.raises(tickgate.Refused):
            raising.put("logs", {})
    blocking = Outbox("http://127.0.0.1:9", "key", size=1, max_age=1.0, on_error=lambda _: None)
    blocking.put("logs", {})
    waiting = asyncio.create_task(blocking.put_async("logs", {}))
    thread = threading.Thread(target=blocking.put, args=["logs", {}])
    thread.start()
    await waiting
    await asyncio.to_thread(thread.join, SOON)
    assert blocking.stats.blocked == 2
    await asyncio.to_thread(blocking.close, 0)


@pytest.mark.parametrize("wrong", [{"size": 0}, {"when_full": "drop"}, {"max_age": 300}, {"max_age": 0}])
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(tickgate.Invalid):
        Outbox("http://127.0.0.1:9", "key", **wrong)


def test_a_process_that_is_killed_in_the_middle(gateway: GatewayProcess, api: Gateway) -> None:
    """What it had sent is there, in order and once, without a hole; what waited is lost with it."""
    program = (
        "import sys, tickgate\n"
        "box = tickgate.Outbox(sys.argv[1], sys.argv[2])\n"
        "n = 0\n"
        "while True:\n"
        "    box.put('trades:KILLED', {'n': n}); n += 1\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, gateway.api, gateway.key])
    eventually("it has published", lambda: api.history("trades:KILLED", last=1).messages)
    process.kill()
    process.wait()
    seen = numbers(api, "trades:KILLED")
    assert seen == list(range(seen[0], seen[0] + len(seen)))


def test_the_end_of_a_program_waits_for_what_is_queued(gateway: GatewayProcess, api: Gateway) -> None:
    program = "import sys, tickgate\ntickgate.Outbox(sys.argv[1], sys.argv[2]).put('trades:EXIT', {'n': 7})\n"
    subprocess.run([sys.executable, "-c", program, gateway.api, gateway.key], check=True, timeout=60)
    assert numbers(api, "trades:EXIT") == [7]


def test_twenty_thousand_a_second_from_one_core(gateway: GatewayProcess) -> None:
    """Counted in the CPU time of this process, whatever else the machine does."""
    data = {"type": "ticker", "symbol": "BTCUSDT", "price": "50000.00", "text": "x" * 130}
    count = 40_000
    with Outbox(gateway.api, gateway.key, size=count) as outbox:
        began, wall = time.process_time(), time.monotonic()
        for _ in range(count):
            outbox.put("ticker:RATE", data)
        assert outbox.flush(120)
        rate, wall = count / (time.process_time() - began), time.monotonic() - wall
        assert outbox.stats.sent == count
    print(f"{rate:.0f} publications a second of one core; {count / wall:.0f} a second by the clock")
    assert rate >= 20_000


@pytest.mark.parametrize("broken", ["", "5", "null", "[]", '{"id":', "{}],[{}", "{},{}"])
def test_answers_count_up_to_the_first_that_cannot_be_read(broken: str) -> None:
    good = ['{"id":"1-1"}', '{"status":400}']
    assert answers([*good, broken, *good]) == answers(good) == [{"id": "1-1"}, {"status": 400}]


async def test_subscribers_are_counted(gateway: GatewayProcess, api: Gateway, user: str) -> None:
    assert api.publish("orders", {"n": 1}, user=user).subscribers is None
    assert api.publish("orders", {"n": 2}, user=user, count=True).subscribers == 0
    async with tickgate.connect(f"{gateway.url}/ws/trading", token=gateway.token(user, publish=["orders"])) as tg:
        orders = tg.messages("orders", on_gap=lambda gap: None)
        await asyncio.to_thread(eventually, "live", lambda: tg.status.state == "live")
        assert orders.live
        counts = [(await tg.publish("orders", {"n": 3}, user=user, count=True)).subscribers]
        async with gateway.async_gateway() as other:
            counts.append((await other.publish("orders", {"n": 4}, user=user, count=True)).subscribers)
        async with gateway.async_gateway() as other:
            outbox = Outbox(other)
        with outbox:
            published = await outbox.publish("orders", {"n": 5}, user=user, count=True)
            assert published is not None
            counts.append(published.subscribers)
            with pytest.raises(tickgate.Invalid):
                await outbox.publish("no%channel", {})
            assert outbox.stats.failed == 1
        assert counts == [1, 1, 1]


def test_a_child_sends_its_own_and_its_parent_the_rest(gateway: GatewayProcess, api: Gateway) -> None:
    program = (
        "import os, sys, tickgate\n"
        "box = tickgate.Outbox(sys.argv[1], sys.argv[2])\n"
        "box.put('trades:FORK', {'n': 1})\n"
        "child = os.fork()\n"
        "box.put('trades:FORK', {'n': 3 if child else 2})\n"
        "if child: os.waitpid(child, 0)\n"
        "assert box.close(20) and box.stats.failed == 0\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, gateway.api, gateway.key], check=True, timeout=60)
    assert sorted(numbers(api, "trades:FORK")) == [1, 2, 3]
