"""The examples of the READMEs, as they are but for addresses and what stands for the application."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import SOON, eventually

from tickgate import Gateway
from tickgate.testing import GatewayProcess

ROOT = Path(__file__).parents[1]


def examples(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.DOTALL | re.MULTILINE)


async def test_following_orders(
    gateway: GatewayProcess, api: Gateway, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = examples("README.md")[0].replace("wss://example.com", gateway.url)
    source = source.replace("asyncio.run(main())", "")
    applied: list[dict[str, Any]] = []

    async def apply(data: dict[str, Any]) -> None:
        applied.append(data)

    names: dict[str, Any] = {
        "get_token": lambda: gateway.token(user),
        "reload_orders": lambda gap: None,
        "book": SimpleNamespace(apply=apply),
    }
    exec(compile(source, "README.md", "exec"), names)
    running = asyncio.create_task(names["main"]())

    def received() -> bool:
        # One that came before the subscription is not pushed: another follows.
        api.publish("orders", {"n": 1}, user=user)
        return bool(applied)

    await asyncio.to_thread(eventually, "an order was applied", received)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait_for(running, SOON)
    assert (tmp_path / "orders.cursors").exists()


def test_the_projects_readme_comes_back_without_a_loss(
    gateway: GatewayProcess, api: Gateway, user: str, tmp_path: Path
) -> None:
    readme = (ROOT.parents[1] / "README.md").read_text()
    found = re.search(r"^```python orders\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    assert found
    environment = {**os.environ, "GATEWAY": f"{gateway.url}/ws/trading", "TOKEN": gateway.token(user)}

    def run() -> subprocess.Popen[str]:
        command = [sys.executable, "-u", "-c", found[1]]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)

    with run() as program:
        assert program.stdout

        def received() -> bool:
            # One that came before the subscription is not pushed: another follows.
            api.publish("orders", {"n": 1}, user=user)
            return bool(select.select([program.stdout], [], [], 0)[0])

        eventually("an order was printed", received)
        eventually("its cursor was stored", (tmp_path / "orders.cursors").exists)
        program.terminate()
    api.publish("orders", {"n": 2}, user=user)
    with run() as program:
        assert program.stdout
        threading.Timer(SOON, program.kill).start()
        printed = []
        for line in program.stdout:
            printed.append(line)
            if line == "{'n': 2}\n":
                program.terminate()
    assert "{'n': 2}\n" in printed
    assert not any("missing" in line for line in printed), printed


def test_publishing(gateway: GatewayProcess, api: Gateway) -> None:
    names: dict[str, Any] = {"key": gateway.key}
    exec(compile(examples("README.md")[1].replace("http://127.0.0.1:8001", gateway.api), "README.md", "exec"), names)
    assert names["outbox"].close()
    assert [message.data for message in api.history("ticker:BTCUSDT", last=1).messages] == [
        {"type": "ticker", "price": "50000.00"}
    ]
    assert api.history("orders", user="alice", last=1).messages[0].data == {"type": "order_update", "order_id": "7"}


def test_socket_models() -> None:
    for example in examples("socket-models/README.md"):
        exec(compile(example, "README.md", "exec"), {})


def test_the_migration_guide_names_tests_that_exist() -> None:
    guide = (ROOT.parents[1] / "docs/migration.md").read_text()
    named = re.findall(r"`((?:models/)?test_\w+\.py|…)(?:::(\w+))?`", guide)
    assert len(named) > 15
    file = ""
    for name, test in named:
        file = file if name == "…" else name
        source = (ROOT / "tests" / file).read_text()
        assert not test or f"def {test}(" in source, f"{file}::{test}"
