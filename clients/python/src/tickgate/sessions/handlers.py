"""Where a page connects: the gateway holds the sockets, and a FastAPI application none."""

from __future__ import annotations

import re
from urllib.parse import quote

from ..errors import Invalid

__all__ = ["check_session_id", "url_for"]

# `run:` and the id are a name of the gateway.
_SESSION_ID = re.compile(r"[A-Za-z0-9_.:-]{1,196}", re.ASCII)


def check_session_id(session_id: str) -> str:
    """Raises `Invalid` for a session id that no page can connect with."""
    if not isinstance(session_id, str) or _SESSION_ID.fullmatch(session_id) is None:
        raise Invalid(f"{session_id!r} is no session id: 1 to 196 characters of A-Z a-z 0-9 _ . : -")
    return session_id


def url_for(session_id: str, kind: str = "backtest", *, base: str = "ws://localhost:8000", ticket: str | None = None) -> str:
    """The URL of a run's events; `kind` is `backtest` or `forward`. A page gives its token as a sub-protocol, or a `ticket`."""
    if kind not in ("backtest", "forward"):
        raise Invalid("`kind` is `backtest` or `forward`")
    url = f"{base.rstrip('/')}/ws/{kind}/{check_session_id(session_id)}"
    return url if ticket is None else f"{url}?ticket={quote(ticket, safe='')}"
