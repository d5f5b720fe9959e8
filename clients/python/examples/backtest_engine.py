"""A backtest engine that shows its runs: `uvicorn backtest_engine:app`."""

import asyncio
from typing import Any

from fastapi import FastAPI

from tickgate.sessions import (
    WebSocketManager,
    create_candle_event,
    create_session_completed_event,
    create_session_initialized_event,
)

app, manager = FastAPI(), WebSocketManager()
runs: set[asyncio.Task[None]] = set()


@app.post("/runs/{run_id}", status_code=202)
async def start(run_id: str, candles: list[dict[str, Any]]) -> dict[str, str]:
    """Begins a run; whoever opens `/ws/backtest/{run_id}` sees it."""
    run = asyncio.create_task(replay(run_id, candles))
    runs.add(run)
    run.add_done_callback(runs.discard)
    return {"started": run_id}


async def replay(run_id: str, candles: list[dict[str, Any]]) -> None:
    """Sends every step of a run, in order."""
    await manager.broadcast_to_session(run_id, create_session_initialized_event(run_id, {"candles": len(candles)}))
    for candle in candles:
        await manager.broadcast_to_session(run_id, create_candle_event(candle))
    await manager.broadcast_to_session(run_id, create_session_completed_event(f"result of {run_id}"))
