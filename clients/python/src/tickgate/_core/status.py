"""The state of a connection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a connection.

    Attributes:
        state: `connecting`, `catching_up`, `live`, `stale` (nothing was received for longer than a heartbeat interval),
            `waiting` (for the next attempt) or `closed` (permanently).
        reason: why it is `waiting` or `closed`.
        code: the code of `closing` or of the Close frame, if there was one.
        retry_in: seconds until the next attempt.
    """

    state: str
    reason: str | None = None
    code: int | None = None
    retry_in: float | None = None
