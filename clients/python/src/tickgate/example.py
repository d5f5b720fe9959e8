"""A backtest watched in two tabs: `python -m tickgate.example`. Starts a gateway, unless `TICKGATE_API` and
`TICKGATE_URL` name one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal

from .connection import AsyncConnection, connect
from .outbox import Outbox
from .sessions import (
    WebSocketManager,
    create_ai_decision_event,
    create_candle_event,
    create_position_closed_event,
    create_position_opened_event,
    create_session_completed_event,
    create_session_initialized_event,
    create_stats_update_event,
    url_for,
)
from .testing import GatewayProcess

SESSION = "example-1"
LAST = "session_completed"


@dataclass
class Candle:
    """A candle."""

    time: str
    open: Decimal
    close: Decimal


@dataclass
class Decision:
    """A decision of the engine."""

    action: str
    confidence: float


async def reasoning(candle: Candle) -> AsyncIterator[str]:
    """The output of a model, word by word."""
    for word in f"The close of {candle.close} is above the open of {candle.open}.".split():
        yield f"{word} "
        await asyncio.sleep(0.005)


async def run_backtest(manager: WebSocketManager, session_id: str) -> None:
    """The engine, which has no access to connections."""
    await manager.broadcast_to_session(session_id, create_session_initialized_event(session_id, {"symbol": "BTCUSDT"}))
    for number in range(3):
        candle = Candle(f"2024-03-15T10:{number:02}:00Z", Decimal(45_000 + number), Decimal("45_000.5") + number)
        await manager.broadcast_to_session(session_id, create_candle_event(candle, {"rsi": Decimal("61.2")}))
        await manager.stream_thinking(session_id, reasoning(candle))
        decision = Decision("LONG" if number == 0 else "HOLD", 0.8)
        await manager.broadcast_to_session(session_id, create_ai_decision_event(decision))
        if decision.action == "LONG":
            position = {"position_id": "p-1", "side": "LONG", "entry_price": candle.close}
            await manager.broadcast_to_session(session_id, create_position_opened_event(position))
        await manager.broadcast_to_session(session_id, create_stats_update_event({"candles": number + 1}))
    await manager.broadcast_to_session(session_id, create_position_closed_event({"position_id": "p-1", "pnl": "12.50"}))
    await manager.broadcast_to_session(session_id, create_session_completed_event("result-1", {"pnl": "12.50"}))


async def watch(tab: str, connection: AsyncConnection) -> list[str]:
    """A tab. It receives the whole run, including the events from before it was opened."""
    seen = []
    async for message in connection.messages("events", since="earliest", on_gap=lambda gap: print(f"{tab}: {gap}")):
        seen.append(message.data["type"])
        print(f"{tab}: {message.data['type']} {message.data['data']}")
        if message.data["type"] == LAST:
            break
    return seen


async def play(url: str, outbox: Outbox) -> None:
    """Two tabs and a run."""
    endpoint = url_for(SESSION, base=url)
    async with connect(endpoint) as first, connect(endpoint) as second:
        tabs = asyncio.gather(watch("tab 1", first), watch("tab 2", second))
        await run_backtest(WebSocketManager(outbox), SESSION)
        seen = await tabs
    if seen[0] != seen[1]:
        raise RuntimeError("the tabs saw different runs")
    print(f"both tabs saw the same {len(seen[0])} events in the same order; {outbox.stats}")


def main() -> None:
    """Runs the example."""
    if "TICKGATE_API" in os.environ and "TICKGATE_URL" in os.environ:
        with Outbox() as outbox:
            asyncio.run(play(os.environ["TICKGATE_URL"], outbox))
        return
    with GatewayProcess() as gateway, Outbox(gateway.api, gateway.key) as outbox:
        asyncio.run(play(gateway.url, outbox))


if __name__ == "__main__":
    main()
