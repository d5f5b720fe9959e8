"""Services and clients over several replicas and one Redis, of which one is killed: nothing is lost or out of order."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import SOON, RedisServer, eventually

import tickgate
from tickgate import shared
from tickgate.sessions import url_for
from tickgate.testing import GatewayProcess

EXAMPLES = Path(__file__).parent.parent / "examples"


def no_gap(gap: tickgate.Gap) -> None:
    raise AssertionError(gap)


def test_a_killed_replica_loses_nothing(redis_server: RedisServer, user: str) -> None:
    first = GatewayProcess(redis_url=redis_server.url)
    second = GatewayProcess(redis_url=redis_server.url, secret=first.secret, key=first.key)
    with (
        first,
        second,
        tickgate.Outbox([first.api, second.api], first.key) as outbox,
        tickgate.connect(f"{second.url}/ws/trading", token=second.token(user)) as tg,
    ):
        orders = tg.messages("orders", on_gap=no_gap)
        eventually("live", lambda: tg.status.state == "live")

        def publish() -> None:
            for n in range(900):
                outbox.put("orders", {"n": n}, user=user)
                if n == 300:
                    eventually("some were sent", lambda: outbox.stats.sent)
                    first.kill()

        # Fewer than the 1,000 that are kept: however slow the reader is, nothing may be missing.
        publishing = threading.Thread(target=publish)
        publishing.start()
        assert [orders.next(SOON).data["n"] for _ in range(900)] == list(range(900))
        publishing.join(SOON)
        assert outbox.flush(SOON)
        assert (outbox.stats.failed, outbox.stats.sent) == (0, 900)


async def test_an_order_service_and_an_engine_lose_nothing_when_a_replica_is_killed(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    first = GatewayProcess(redis_url=redis_server.url)
    others = [GatewayProcess(redis_url=redis_server.url, secret=first.secret, key=first.key) for _ in range(2)]
    replicas = [first, *others]
    count = 300
    session_id = f"run-of-{user}"
    async with contextlib.AsyncExitStack() as stack:
        for replica in replicas:
            stack.enter_context(replica)
        monkeypatch.setenv("TICKGATE_TOKEN_SECRET", first.secret)
        monkeypatch.setenv("TICKGATE_API", ",".join(replica.api for replica in replicas))
        monkeypatch.setenv("TICKGATE_API_KEY", first.key)
        monkeypatch.setattr(shared, "_outbox", None)
        monkeypatch.syspath_prepend(str(EXAMPLES))
        for name in ("fastapi_app", "backtest_engine"):
            sys.modules.pop(name, None)
        import backtest_engine
        import fastapi_app

        service, engine = [
            await stack.enter_async_context(httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://platform"))
            for app in (fastapi_app.app, backtest_engine.app)
        ]
        token = (await service.get("/token", headers={"X-User": user})).text
        readers = []
        for replica in replicas:
            page = await stack.enter_async_context(tickgate.connect(f"{replica.url}/ws/trading", token=token))
            tab = await stack.enter_async_context(tickgate.connect(url_for(session_id, base=replica.url)))
            readers.append(page.messages("orders", on_gap=no_gap))
            readers.append(tab.messages("events", on_gap=no_gap))
            for connection in (page, tab):
                await asyncio.to_thread(eventually, "live", lambda c=connection: c.status.state == "live")

        async def read(messages: tickgate.AsyncMessages[dict[str, Any]]) -> list[str]:
            seen = []
            async for message in messages:
                data = message.data
                seen.append(data["order_id"] if "order_id" in data else data["data"].get("candle", data).get("n", data["type"]))
                if seen[-1] in ("session_completed", str(count - 1)):
                    return seen
            raise AssertionError("the connection has ended")

        async def take_orders() -> None:
            for n in range(count):
                response = await service.post(f"/orders/{n}/fill", headers={"X-User": user})
                assert response.status_code == 200

        async def run_engine() -> None:
            response = await engine.post(f"/runs/{session_id}", json=[{"n": n} for n in range(count)])
            assert response.status_code == 202

        async def kill_a_replica() -> None:
            outbox = fastapi_app.platform.outbox
            await asyncio.to_thread(eventually, "a third is sent", lambda: outbox.stats.sent >= 2 * count // 3)
            await asyncio.to_thread(first.kill)
            await asyncio.to_thread(first.start)

        reading = asyncio.gather(*(read(messages) for messages in readers))
        await asyncio.gather(take_orders(), run_engine(), kill_a_replica())
        seen = await asyncio.wait_for(reading, 3 * SOON)
        assert seen[0::2] == [[str(n) for n in range(count)]] * 3
        assert seen[1::2] == [["session_initialized", *range(count), "session_completed"]] * 3
        stats = fastapi_app.platform.outbox.stats
        assert (stats.failed, stats.sent) == (0, 2 * count + 2)
        await asyncio.to_thread(fastapi_app.platform.outbox.close)
