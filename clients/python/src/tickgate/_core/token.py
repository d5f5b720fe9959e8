"""The token in use, and when to renew it. Never shows a token. Pure: the time and chance are arguments."""

from __future__ import annotations

import re
from datetime import datetime
from math import inf

from .backoff import back_off

# A token is renewed this long before it expires, or when half of its time has passed; seconds.
RENEW_BEFORE = 60.0
# Minimum time between two `auth` commands, even if the source returns the same token again.
RENEW_INTERVAL = 1.0
# The characters that a sub-protocol can contain; every JWT matches.
_TOKEN = re.compile(r"[\w.-]+", re.ASCII)


def is_token(value: object) -> bool:
    """Whether this can be a token: the HTML page of a failed login, for example, is not one."""
    return isinstance(value, str) and _TOKEN.fullmatch(value) is not None


def _seconds(time: object) -> float | None:
    if not isinstance(time, str):
        return None
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return None


class Token:
    """The token of a connection; `renewable` if a function can return another."""

    def __init__(self, renewable: bool) -> None:
        self._renewable = renewable
        self._text: str | None = None
        self._ends = inf
        self._renew_at = inf
        self._renewing = False
        # When `auth` may be sent again.
        self._not_before = -inf
        self._failures = 0
        # The gateway's clock minus the local one.
        self._ahead = 0.0

    def current(self, now: float) -> str | None:
        """The token for the next connection; `None` if one must be fetched."""
        return self._text if self._text and self._ends > now else None

    def fetched(self, text: str) -> None:
        self._text, self._ends = text, inf

    def begin(self) -> None:
        """A new token is being fetched, to be sent on the connection."""
        self._renewing, self._renew_at = True, inf

    def failed(self, now: float, chance: float) -> None:
        self._renewing = False
        self._renew_at = now + back_off(self._failures, chance)
        self._failures += 1

    def clock(self, server_time: object, expires_at: object, now: float) -> None:
        """Applies the gateway's time and the token's expiry, both from the welcome."""
        server = _seconds(server_time)
        self._ahead = 0.0 if server is None else server - now
        self._plan(expires_at if server is not None else None, now)

    def expiring(self, now: float) -> None:
        """The gateway reported that the token expires soon."""
        if self._renewable and not self._renewing:
            self._renew_at = max(now, self._not_before)

    def accepted(self, text: str, expires_at: object, now: float) -> None:
        self._text, self._failures, self._not_before = text, 0, now + RENEW_INTERVAL
        self._plan(expires_at, now)

    def refused(self, text: str, retry: float | None, now: float) -> bool:
        """Returns whether a new connection is needed."""
        self._renewing = False
        if retry is not None:
            self._renew_at = self._not_before = now + max(retry, RENEW_INTERVAL)
            return False
        self._text, self._ends = text, inf
        return True

    def forget(self) -> None:
        self._text = None

    def lost(self) -> None:
        """The connection ended; a renewal in progress belonged to it."""
        self._renewing, self._renew_at = False, inf

    def due(self) -> float:
        """When to renew the token."""
        return self._renew_at

    def _plan(self, expires_at: object, now: float) -> None:
        ends = _seconds(expires_at)
        left = inf if ends is None else max(ends - self._ahead - now, 0.0)
        self._ends = now + left
        self._renewing = False
        self._renew_at = inf
        if self._renewable and left < inf:
            self._renew_at = now + max(left - min(RENEW_BEFORE, left / 2), RENEW_INTERVAL)
