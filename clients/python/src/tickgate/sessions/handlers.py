"""The URL that a page connects to. The gateway holds the sockets; a FastAPI application holds none."""

from __future__ import annotations

import unicodedata
from urllib.parse import quote

from ..errors import Invalid

__all__ = ["ENDPOINTS", "check_session_id", "url_for"]

#: The gateway's endpoints of sessions.
ENDPOINTS = ("backtest", "forward")

# `run:` followed by the id must be a valid topic name.
_BYTES_MAX = 196
_EXCLUDED = frozenset('"%*,@\\{}/')


def check_session_id(session_id: str) -> str:
    """Raises `Invalid` for a session id that no page can connect with."""
    if not isinstance(session_id, str) or not 1 <= len(session_id.encode(errors="replace")) <= _BYTES_MAX:
        raise Invalid("a session id must have 1 to 196 bytes")
    if session_id in (".", "..") or session_id != session_id.strip(" "):
        raise Invalid(f"{session_id!r} is not a valid session id")
    for character in session_id:
        hidden = character != " " and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp")
        if hidden or character in _EXCLUDED:
            raise Invalid(f"{session_id!r} is not a valid session id: it contains {character!r}")
    return session_id


def url_for(session_id: str, kind: str = "backtest", *, base: str = "ws://localhost:8000", ticket: str | None = None) -> str:
    """The URL of a run's events; `kind` is `backtest` or `forward`. A page sends its token as a sub-protocol, or a `ticket`."""
    if kind not in ENDPOINTS:
        raise Invalid("`kind` must be `backtest` or `forward`")
    url = f"{base.rstrip('/')}/ws/{kind}/{quote(check_session_id(session_id), safe='')}"
    return url if ticket is None else f"{url}?ticket={quote(ticket, safe='')}"
