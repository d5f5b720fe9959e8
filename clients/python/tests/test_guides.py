"""The examples of `docs/migration.md` that say `now`, over a real gateway; those that say `before` are Python at least."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from conftest import SOON, eventually
from fastapi import Header

import tickgate
from tickgate import Gateway, shared
from tickgate.testing import GatewayProcess

GUIDE = (Path(__file__).parents[3] / "docs/migration.md").read_text()


def blocks(info: str) -> list[str]:
    return re.findall(rf"^```python {info}\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)


def run(info: str, **names: Any) -> dict[str, Any]:
    """Runs an example, and returns its names."""
    [source] = blocks(info)
    exec(compile(source, info, "exec"), names)
    return names


@pytest.fixture(autouse=True)
def environment(gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKGATE_API", gateway.api)
    monkeypatch.setenv("TICKGATE_API_KEY", gateway.key)
    monkeypatch.setenv("TICKGATE_TOKEN_SECRET", gateway.secret)
    monkeypatch.setattr(shared, "_outbox", None)


def test_what_was_there_before_is_python() -> None:
    before = blocks("before")
    assert len(before) == 3
    for source in before:
        compile(source, "before", "exec")
    assert len(re.findall(r"^```python", GUIDE, re.MULTILINE)) == 7, "an example that nothing runs"


async def test_from_fastapi(gateway: GatewayProcess, user: str) -> None:
    def current_user(x_user: str = Header()) -> str:
        return x_user

    names = run("now fastapi", current_user=current_user)
    transport = httpx.ASGITransport(names["app"])
    headers = {"X-User": user}
    async with httpx.AsyncClient(transport=transport, base_url="http://platform", headers=headers) as client:
        token = (await client.get("/token")).text
        async with tickgate.connect(f"{gateway.url}/ws/trading", token=token) as tg:
            orders = tg.messages("orders", on_gap=lambda gap: None)
            await asyncio.to_thread(eventually, "live", lambda: tg.status.state == "live")
            assert (await client.post("/orders/7/fill")).status_code == 200
            order = await asyncio.wait_for(anext(orders), SOON)
            assert (order.data["type"], order.data["order_id"], order.data["status"]) == ("order_update", "7", "filled")
    await asyncio.to_thread(names["platform"].outbox.close)


async def test_from_socketio(gateway: GatewayProcess, api: Gateway, user: str) -> None:
    names = run("now socketio")
    handled: list[tuple[dict[str, Any], Any]] = []

    async def handle(order: dict[str, Any], price: Any) -> None:
        handled.append((order, price))

    client = run("now socketio client", tickgate=tickgate, handle=handle)
    follow = client["follow"](f"{gateway.url}/ws/trading", lambda: gateway.token(user), lambda gap: None)
    following = asyncio.create_task(follow)
    await asyncio.to_thread(eventually, "it follows", lambda: api.presence("orders", user=user).connections)
    names["on_price"]("BTCUSDT", {"price": "1.50"})
    names["on_fill"](user, {"order_id": "8"})

    def is_handled() -> bool:
        return bool(handled)

    await asyncio.to_thread(eventually, "the order is handled", is_handled)
    assert handled[0][0] == {"type": "order_update", "order_id": "8"}
    following.cancel()
    async with websockets.connect(f"{gateway.url}/ws/market") as socket:
        welcome = json.loads(await socket.recv())
        await asyncio.to_thread(names["on_notice"], welcome["connection_id"], {"text": "hello"})
        notice = json.loads(await asyncio.wait_for(socket.recv(), SOON))
        assert (notice["type"], notice["text"]) == ("notice", "hello")
    await asyncio.to_thread(names["outbox"].close)
    names["gateway"].close()


def test_from_centrifugo(gateway: GatewayProcess, api: Gateway) -> None:
    order = {"type": "order_update", "order_id": "9"}
    names = run("now centrifugo", order=order, halted={"type": "halted"})
    names["gateway"].close()
    assert names["followers"] == 0
    assert names["orders"][-1].data == order
    assert [message.data for message in api.history("ticker:ETHUSDT", last=1).messages] == [{"type": "halted"}]
