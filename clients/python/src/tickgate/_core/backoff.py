"""Whether to connect again, and how long to wait first. Pure: chance is an argument."""

from __future__ import annotations

from typing import Literal

FIRST = 0.5
LONGEST = 30.0
_FINAL = frozenset({1000, 1002, 1003, 1007, 1008, 1009, 4002, 4004})

Reconnect = Literal["yes", "no", "new_token"]


def back_off(failures: int, chance: float) -> float:
    """A random time in seconds between a tenth of a bound and the bound; the bound doubles with each failure."""
    bound = min(FIRST * 2.0 ** min(failures, 10), LONGEST)
    return bound / 10 + chance * bound * 0.9


def after_code(code: int | None) -> Reconnect:
    """What a close code means if no `closing` notice preceded it."""
    if code == 4001:
        return "new_token"
    if code is None:
        return "yes"
    return "no" if code >= 4500 or code in _FINAL else "yes"
