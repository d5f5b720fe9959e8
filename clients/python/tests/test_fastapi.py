"""The dependency that makes tokens, in an application of ten lines."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import eventually

import tickgate
from tickgate import shared
from tickgate.testing import GatewayProcess

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def application(gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TICKGATE_TOKEN_SECRET", gateway.secret)
    monkeypatch.setenv("TICKGATE_API", gateway.api)
    monkeypatch.setenv("TICKGATE_API_KEY", gateway.key)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(shared, "_outbox", None)
    sys.modules.pop("fastapi_app", None)
    import fastapi_app

    return fastapi_app


async def test_the_example_application(application: Any, gateway: GatewayProcess) -> None:
    alice = {"X-User": "alice"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application.app), base_url="http://platform") as client:
        assert (await client.get("/token")).status_code == 401
        token = (await client.get("/token", headers=alice)).text
        async with tickgate.connect(f"{gateway.url}/ws/trading", token=token) as tg:
            orders = tg.messages("orders", on_gap=lambda gap: None)
            await asyncio.to_thread(eventually, "live", lambda: tg.status.state == "live")
            assert tg.user == "alice"
            assert (await client.post("/orders/7/fill", headers=alice)).status_code == 200
            message = await asyncio.wait_for(anext(orders), 20)
            assert message.data["order_id"] == "7"
    await asyncio.to_thread(application.platform.outbox.close)


def claims_of(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims


async def test_the_runs_of_each_user() -> None:
    from tickgate.fastapi import token_dependency

    each = token_dependency(lambda: "", secret="s" * 32, runs=lambda user: [f"bt-{user}-*"])
    assert claims_of(await each("alice"))["runs"] == ["bt-alice-*"]
    assert claims_of(await token_dependency(lambda: "", secret="s" * 32, runs=["x"])("bob"))["runs"] == ["x"]
    assert "runs" not in claims_of(await token_dependency(lambda: "", secret="s" * 32)("bob"))


def test_a_token_says_what_was_asked_for() -> None:
    from tickgate.fastapi import token_dependency

    with pytest.raises(tickgate.Invalid):
        token_dependency(lambda: "alice", secret="short")
    token = tickgate.Gateway.token(
        "alice", secret="s" * 32, ttl=60, channels=["orders"], commands=True, runs=["bt-*"], claims={"aud": "x"}
    )
    claims = claims_of(token)
    assert claims["exp"] - claims["iat"] == 60
    assert {name: claims[name] for name in ("sub", "channels", "commands", "runs", "aud")} == {
        "sub": "alice",
        "channels": ["orders"],
        "commands": True,
        "runs": ["bt-*"],
        "aud": "x",
    }
    for wrong in ({"user": ""}, {"user": "x" * 129}, {"secret": ""}):
        with pytest.raises(tickgate.Invalid):
            tickgate.Gateway.token(**{"user": "alice", "secret": "s", **wrong})
