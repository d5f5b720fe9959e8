"""Messages in order, each once: what an application iterates over. `Messages` and `Batches` block, their `Async` namesakes are
awaited; nothing else differs."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Self, TypeVar

from ._convert import converter
from ._core.channels import Options
from ._core.hub import Gap
from ._core.queue import BUFFER, Entry, Queue
from ._engine import Engine, Sleeper, log
from .errors import Closed, Invalid

__all__ = ["AsyncBatches", "AsyncMessages", "Batch", "Batches", "Gap", "Message", "Messages", "OnGap"]

T = TypeVar("T")

OnGap = Callable[[Gap], Awaitable[None] | None]

# How many messages are taken from the queue at once.
_CHUNK = 256


class Message(Generic[T]):
    """A publication.

    Attributes:
        channel: its channel.
        id: `<epoch>-<seq>`; `None` where the gateway keeps nothing.
        data: what was published.
        replayed: it was published before the channel was subscribed to.
        snapshot: it is the value that was current then.
        conflated: how many older values were left out before this one.
    """

    __slots__ = ("_entry", "_reading", "channel", "conflated", "data", "id", "replayed", "snapshot")

    def __init__(self, reading: _Reading[T], entry: Entry, data: T) -> None:
        push = entry.push
        assert push is not None
        self._reading = reading
        self._entry = entry
        self.channel = push.channel
        self.id = push.id
        self.data = data
        self.replayed = push.replayed
        self.snapshot = push.snapshot
        self.conflated = push.conflated

    def done(self) -> None:
        """Marks the message as handled: the cursor moves. Further calls have no effect."""
        self._reading._done(self._entry)

    def __repr__(self) -> str:
        return f"Message({self.channel!r}, {self.id!r}, {self.data!r})"


class Batch(list[Message[T]]):
    """All messages that have arrived meanwhile."""

    @property
    def data(self) -> list[T]:
        """What was published, ready for a data frame."""
        return [message.data for message in self]

    def done(self) -> None:
        """Marks all of them as handled."""
        for message in self:
            message.done()


class _Reading(Generic[T]):
    """What all four share."""

    def __init__(
        self,
        engine: Engine,
        channels: tuple[str, ...],
        *,
        on_gap: OnGap | None,
        since: str | None = None,
        last: int | None = None,
        max_rate: int | None = None,
        snapshot: bool | None = None,
        type: Any = None,
        manual: bool = False,
        buffer: int = BUFFER,
    ) -> None:
        self._engine = engine
        self._on_gap = on_gap
        self._convert = converter(type)
        self._manual = manual
        self._taken: deque[Entry] = deque()
        self._current: list[Entry] = []
        self._chunk = min(_CHUNK, max(buffer // 2, 1))
        #: How many gaps there were.
        self.gaps = 0
        with engine.lock:
            self._queue = Queue(engine.hub, buffer, on_gap is not None, self._wake)
            for channel in channels:
                self.add(channel, since=since, last=last, max_rate=max_rate, snapshot=snapshot)

    @property
    def channels(self) -> list[str]:
        """The channels that are read."""
        with self._engine.lock:
            return self._queue.names

    @property
    def live(self) -> bool:
        """All that was published has arrived, and more arrives as it is published."""
        with self._engine.lock:
            return self._queue.live

    @property
    def waiting(self) -> int:
        """How many messages have arrived and were not taken yet."""
        with self._engine.lock:
            return self._queue.waiting + len(self._taken)

    def add(
        self,
        channel: str,
        *,
        since: str | None = None,
        last: int | None = None,
        max_rate: int | None = None,
        snapshot: bool | None = None,
    ) -> None:
        """Reads one more channel, in one order with the others; one that is read already begins again."""
        if since is not None and last is not None:
            raise Invalid("`since` and `last` exclude each other", channel=channel)
        with self._engine.lock:
            self._queue.add(channel, Options(last, max_rate, snapshot), since)

    def remove(self, channel: str) -> None:
        """Leaves a channel, and forgets its cursor. What waits of it is dropped."""
        with self._engine.lock:
            self._queue.remove(channel)

    def close(self) -> None:
        """Leaves the channels. Iterations end."""
        with self._engine.lock:
            self._queue.end()
            self._taken.clear()

    def _wake(self) -> None:
        raise NotImplementedError

    def _done(self, entry: Entry) -> None:
        with self._engine.lock:
            self._queue.done(entry)

    def _finish(self) -> None:
        """What was handed over last has been handled."""
        current, self._current = self._current, []
        if current and not self._manual:
            with self._engine.lock:
                for entry in current:
                    self._queue.done(entry)

    def _next(self) -> Entry | None:
        """The next message or gap. Under the lock."""
        while self._taken:
            entry = self._taken.popleft()
            if entry.feed.valid:
                return entry
        self._queue.closed = self._engine.closed
        self._taken.extend(self._queue.take(self._chunk))
        return self._taken.popleft() if self._taken else None

    @property
    def _over(self) -> bool:
        return self._queue.ended or self._engine.ended

    def _message(self, entry: Entry) -> Message[T]:
        push = entry.push
        assert push is not None
        self._current.append(entry)
        data: Any = push.data
        return Message(self, entry, data if self._convert is None else self._convert(data))

    def _more(self) -> Batch[T]:
        """All that is there, up to a gap."""
        batch: Batch[T] = Batch()
        with self._engine.lock:
            while self._taken and self._taken[0].push is not None:
                entry = self._taken.popleft()
                if entry.feed.valid:
                    batch.append(self._message(entry))
        return batch

    def _report(self, gap: Gap) -> Awaitable[None] | None:
        self.gaps += 1
        if self._on_gap is not None:
            return self._on_gap(gap)
        log.warning("messages of %s are missing (%s, %s)", ", ".join(gap.channels), gap.reason, gap.count)
        return None


class _Blocking(_Reading[T]):
    """`changed` wakes it."""

    def __init__(self, engine: Engine, *arguments: Any, **options: Any) -> None:
        self._changed = engine.changed
        super().__init__(engine, *arguments, **options)

    def _wake(self) -> None:
        self._changed.notify_all()

    def _wait(self, timeout: float | None) -> Entry | None:
        self._finish()
        while True:
            with self._engine.lock:
                entry: Entry | None = None

                def there() -> bool:
                    nonlocal entry
                    entry = self._next() if not self._over else None
                    return entry is not None or self._over

                if not self._changed.wait_for(there, timeout):
                    raise TimeoutError("no message within the time")
            if entry is None or entry.gap is None:
                return entry
            awaitable = self._report(entry.gap)
            if inspect.isawaitable(awaitable):
                if inspect.iscoroutine(awaitable):
                    awaitable.close()
                raise Invalid("`on_gap` of a blocking connection must not be a coroutine function")
            self._done(entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Messages(_Blocking[T]):
    """The messages of one or more channels, in the order of arrival.

    A message counts as handled when the loop asks for the next one, or at `done()`; with `manual`, at `done()` only. The
    cursor moves then, so that a crash repeats a message instead of losing it. Leaving the loop does not leave the channel;
    `close()` or a `with` statement does.
    """

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message[T]:
        try:
            return self.next()
        except Closed:
            if self._over:
                raise StopIteration from None
            raise

    def next(self, timeout: float | None = None) -> Message[T]:
        """The next message; `TimeoutError` if none has come within `timeout` seconds, `Closed` if there will be none."""
        entry = self._wait(timeout)
        if entry is None:
            raise Closed(None, "closed by the application")
        return self._message(entry)


class Batches(_Blocking[T]):
    """The same in lists of all that has arrived meanwhile. A list counts as handled when the loop asks for the next one."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch[T]:
        try:
            return self.next()
        except Closed:
            if self._over:
                raise StopIteration from None
            raise

    def next(self, timeout: float | None = None) -> Batch[T]:
        """The next list, never empty; otherwise as `Messages.next`."""
        entry = self._wait(timeout)
        if entry is None:
            raise Closed(None, "closed by the application")
        with self._engine.lock:
            self._taken.appendleft(entry)
        return self._more()


class _Awaited(_Reading[T]):
    """A future of the application's event loop wakes it."""

    def __init__(self, engine: Engine, *arguments: Any, **options: Any) -> None:
        self._sleeper = Sleeper(engine)
        super().__init__(engine, *arguments, **options)

    def _wake(self) -> None:
        self._sleeper.wake()

    async def _wait(self) -> Entry | None:
        self._finish()
        while True:
            with self._engine.lock:
                if self._over:
                    return None
                entry = self._next()
                if entry is None:
                    self._sleeper.prepare()
            if entry is None:
                await self._sleeper.sleep()
                continue
            if entry.gap is None:
                return entry
            awaitable = self._report(entry.gap)
            if awaitable is not None:
                await awaitable
            self._done(entry)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class AsyncMessages(_Awaited[T]):
    """As `Messages`, for `async for`."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message[T]:
        entry = await self._wait()
        if entry is None:
            raise StopAsyncIteration
        return self._message(entry)


class AsyncBatches(_Awaited[T]):
    """As `Batches`, for `async for`."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch[T]:
        entry = await self._wait()
        if entry is None:
            raise StopAsyncIteration
        with self._engine.lock:
            self._taken.appendleft(entry)
        return self._more()
