"""How many channels may be subscribed to now: models the gateway's token bucket. Pure: the time is an argument."""

from __future__ import annotations


class Pace:
    """A bucket of names."""

    def __init__(self, per_second: float, burst: float, now: float) -> None:
        self._rate = max(per_second, 1.0)
        self._most = max(burst, 1.0)
        self._left = self._most
        self._at = now

    def available(self, now: float) -> int:
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        return int(self._left)

    def take(self, count: int) -> None:
        self._left -= count

    def next(self, now: float) -> float:
        """When at least one is available, plus a millisecond, so that rounding never wakes a caller too early."""
        return now if self._left >= 1 else now + (1 - self._left) / self._rate + 0.001
