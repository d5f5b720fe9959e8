"""The newest value of a channel, and whether it may be out of date."""

from __future__ import annotations

import time
from typing import Any, Generic, Self, TypeVar

from ._convert import converter
from ._core.channels import Options
from ._core.hub import Channel, Delivery, Gap
from ._core.read import Push
from ._engine import Engine, Sleeper
from .errors import Closed, GatewayError

__all__ = ["AsyncValue", "Value"]

T = TypeVar("T")


class _Newest(Generic[T]):
    """What both share: a reader that keeps one message."""

    def __init__(self, engine: Engine, channel: str, *, max_rate: int | None, snapshot: bool | None, type: Any) -> None:
        self.channel = channel
        self._engine = engine
        self._convert = converter(type)
        self._push: Push | None = None
        self._at = 0.0
        self._number = 0
        self._seen = 0
        self._refused: GatewayError | None = None
        self._ended = False
        self._of: Channel | None = None
        with engine.lock:
            self._of = engine.hub.read(channel, Options(None, max_rate, snapshot), None, self)

    def get(self) -> T | None:
        """The newest value; `None` before the first."""
        with self._engine.lock:
            push = self._push
        return None if push is None else self._value(push)

    @property
    def id(self) -> str | None:
        """The id of the newest value."""
        push = self._push
        return push.id if push is not None else None

    @property
    def age(self) -> float:
        """Seconds since the newest value arrived; infinite before the first."""
        return time.monotonic() - self._at if self._push is not None else float("inf")

    @property
    def stale(self) -> bool:
        """It may be out of date: there is no connection, it is silent, or the present value is still coming."""
        with self._engine.lock:
            return self._of is None or not self._of.live or self._engine.status.state == "stale"

    def close(self) -> None:
        """Leaves the channel. Iterations end."""
        with self._engine.lock:
            self._ended = True
            if self._of is not None:
                self._engine.hub.leave(self._of, self)
            self._wake()

    def _value(self, push: Push) -> T:
        data: Any = push.data
        return data if self._convert is None else self._convert(data)  # type: ignore[no-any-return]

    def _take(self) -> Push | None:
        """The newest, if the application has not had it. Under the lock."""
        if self._number != self._seen and self._push is not None:
            self._seen = self._number
            return self._push
        if self._refused is not None:
            refused, self._refused = self._refused, None
            raise refused
        if (closed := self._engine.closed) is not None:
            raise closed
        return None

    @property
    def _over(self) -> bool:
        return self._ended or self._engine.ended

    def _wake(self) -> None:
        raise NotImplementedError

    # For the hub.

    def push(self, channel: Channel, push: Push, delivery: Delivery) -> None:
        self._push = push
        self._at = time.monotonic()
        self._number += 1
        self._engine.hub.settle(channel, delivery)
        self._wake()

    def gap(self, channel: Channel, gap: Gap, delivery: Delivery) -> None:
        self._engine.hub.settle(channel, delivery)

    def refused(self, channel: Channel, error: GatewayError) -> None:
        self._refused = error
        self._wake()

    def reset(self, channel: Channel) -> None:
        self._push = None

    def changed(self) -> None:
        self._wake()

    def roomy(self, channel: Channel) -> bool:
        return True


class Value(_Newest[T]):
    """The newest value of a channel. A loop over it gets the newest each time, and may miss others."""

    def _wake(self) -> None:
        self._engine.changed.notify_all()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        try:
            return self.next()
        except Closed:
            if self._over:
                raise StopIteration from None
            raise

    def next(self, timeout: float | None = None) -> T:
        """The newest value once it is another than the last one; `TimeoutError` if none has come within `timeout` seconds."""
        push: Push | None = None

        def there() -> bool:
            nonlocal push
            push = self._take() if not self._over else None
            return push is not None or self._over

        with self._engine.lock:
            if not self._engine.changed.wait_for(there, timeout):
                raise TimeoutError("no value within the time")
        if push is None:
            raise Closed(None, "closed by the application")
        return self._value(push)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncValue(_Newest[T]):
    """As `Value`, for `async for`."""

    def __init__(self, engine: Engine, channel: str, **options: Any) -> None:
        self._sleeper = Sleeper(engine)
        super().__init__(engine, channel, **options)

    def _wake(self) -> None:
        self._sleeper.wake()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while True:
            with self._engine.lock:
                if self._over:
                    raise StopAsyncIteration
                push = self._take()
                if push is None:
                    self._sleeper.prepare()
            if push is not None:
                return self._value(push)
            await self._sleeper.sleep()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
