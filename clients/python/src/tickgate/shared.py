"""The outbox that helpers share when they are given none: of the gateway that the environment names."""

from __future__ import annotations

import threading

from .outbox import Outbox

__all__ = ["default_outbox"]

_lock = threading.Lock()
_outbox: Outbox | None = None


def default_outbox() -> Outbox:
    """One outbox for the program, to `TICKGATE_API` with `TICKGATE_API_KEY`; made when it is first needed."""
    global _outbox
    with _lock:
        if _outbox is None:
            _outbox = Outbox()
        return _outbox
