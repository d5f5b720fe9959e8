"""The outbox that helpers share if none is passed to them. The environment names its gateway."""

from __future__ import annotations

import threading
import weakref

from .gateway import Gateway
from .outbox import Outbox

__all__ = ["default_outbox", "gateway_of"]

_lock = threading.Lock()
_outbox: Outbox | None = None
_gateways: weakref.WeakKeyDictionary[Outbox, Gateway] = weakref.WeakKeyDictionary()


def default_outbox() -> Outbox:
    """The program's shared outbox, to `TICKGATE_API` with `TICKGATE_API_KEY`; created on first use."""
    global _outbox
    with _lock:
        if _outbox is None:
            _outbox = Outbox()
        return _outbox


def gateway_of(outbox: Outbox) -> Gateway:
    """The gateway to which an outbox publishes, for calls that need a response; created on first use."""
    with _lock:
        if outbox not in _gateways:
            gateway = _gateways[outbox] = Gateway(outbox.urls, "")
            gateway.headers = outbox.authorization
            weakref.finalize(outbox, gateway.close)
        return _gateways[outbox]
