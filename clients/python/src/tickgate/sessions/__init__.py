"""Runs of a trading engine, such as backtests and forward tests, shown live in as many tabs as there are."""

from .events import (
    create_ai_decision_event,
    create_ai_thinking_event,
    create_candle_event,
    create_countdown_update_event,
    create_error_event,
    create_heartbeat_event,
    create_position_closed_event,
    create_position_opened_event,
    create_position_updated_event,
    create_session_completed_event,
    create_session_initialized_event,
    create_stats_update_event,
)
from .handlers import url_for
from .manager import WebSocketManager, websocket_manager

__all__ = [
    "WebSocketManager",
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
    "url_for",
    "websocket_manager",
]
