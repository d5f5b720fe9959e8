"""The twelve events of a run. Arguments may be a `dict`, a dataclass, a model or any object; decimals and times become text.
An event is `{"type", "timestamp", "data"}`."""

from __future__ import annotations

from typing import Any

from ..plain import now, plain, plain_object

__all__ = [
    "Event",
    "create_ai_decision_event",
    "create_ai_thinking_event",
    "create_candle_event",
    "create_countdown_update_event",
    "create_error_event",
    "create_heartbeat_event",
    "create_position_closed_event",
    "create_position_opened_event",
    "create_position_updated_event",
    "create_session_completed_event",
    "create_session_initialized_event",
    "create_stats_update_event",
]

Event = dict[str, Any]


def _event(type: str, data: dict[str, Any]) -> Event:
    return {"type": type, "timestamp": now(), "data": data}


def create_session_initialized_event(session_id: str, config: Any) -> Event:
    """The test is ready."""
    return _event("session_initialized", {"session_id": session_id, "config": plain(config)})


def create_candle_event(candle: Any, indicators: Any = None) -> Event:
    """A candle was processed."""
    return _event("candle", {"candle": plain_object(candle), "indicators": plain(indicators)})


def create_ai_thinking_event(chunk: str) -> Event:
    """A piece of the reasoning."""
    return _event("ai_thinking", {"text": chunk})


def create_ai_decision_event(decision: Any) -> Event:
    """A decision was made."""
    return _event("ai_decision", plain_object(decision))


def create_position_opened_event(position: Any) -> Event:
    """A position was opened."""
    return _event("position_opened", plain_object(position))


def create_position_closed_event(position: Any) -> Event:
    """A position was closed."""
    return _event("position_closed", plain_object(position))


def create_position_updated_event(position: Any) -> Event:
    """The profit or loss of a position has changed."""
    return _event("position_updated", plain_object(position))


def create_stats_update_event(stats: Any) -> Event:
    """The figures of the run have changed."""
    return _event("stats_update", plain_object(stats))


def create_session_completed_event(result_id: Any, final_stats: Any = None) -> Event:
    """The test has ended."""
    return _event("session_completed", {"result_id": plain(result_id), "final_stats": plain(final_stats)})


def create_countdown_update_event(seconds_remaining: float, next_candle_time: Any) -> Event:
    """The time until the next candle."""
    data = {"seconds_remaining": seconds_remaining, "next_candle_time": plain(next_candle_time)}
    return _event("countdown_update", data)


def create_heartbeat_event() -> Event:
    """A heartbeat of the engine; the gateway also sends its own."""
    return _event("heartbeat", {})


def create_error_event(error_code: str, message: str, details: Any = None) -> Event:
    """An error occurred."""
    return _event("error", {"error_code": error_code, "message": message, "details": plain(details)})
