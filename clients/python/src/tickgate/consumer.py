"""Reading topics with a consumer group of Redis: every publication to one of the services of a group, until it says that it is
done. Requires the extra `redis`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Generic, Self, TypedDict, TypeVar, Unpack, overload

import redis

from ._convert import converter
from ._core.backoff import back_off
from ._core.hub import Gap
from .errors import Invalid, TickgateError, Unknown
from .redis_publisher import PREFIX, stream_key, topic_of

__all__ = ["Command", "Commands", "Consumer", "Event"]

log = logging.getLogger("tickgate.consumer")

T = TypeVar("T")

# How long a read waits for something new, in seconds.
_BLOCK = 1.0
# At most, between two looks for what consumers that are gone have left, and for what Redis has trimmed, in seconds.
_LOOK_INTERVAL = 5.0


class Event(Generic[T]):
    """A publication that this consumer has to handle.

    Attributes:
        id: `<epoch>-<seq>`.
        topic: where it was published.
        channel: the private channel, in a user's stream.
        data: what was published.
        accepted_at: when Redis took it.
        deliveries: how often it was given to a consumer, this time included, where that is known.
    """

    def __init__(
        self,
        consumer: Consumer[T],
        id: str,
        channel: str | None,
        data: T,
        accepted_at: datetime | None,
        deliveries: int | None,
    ) -> None:
        self._consumer = consumer
        self.id = id
        self.topic = consumer.topic
        self.channel = channel
        self.data = data
        self.accepted_at = accepted_at
        self.deliveries = deliveries

    def ack(self) -> None:
        """It is handled: no consumer of the group gets it again. Raises `Unknown` if Redis does not answer: it may come again
        then, and can be acknowledged again."""
        self._consumer._ack(self.id)


class Command(Event[dict[str, Any]]):
    """A command to the engine of a run."""

    @property
    def run_id(self) -> str:
        """The run that is meant."""
        return str(self.data["run_id"])

    @property
    def command(self) -> str:
        """Such as `pause`, `resume` or `stop`."""
        return str(self.data["command"])

    @property
    def args(self) -> Any:
        """What came with it."""
        return self.data.get("args")

    @property
    def user(self) -> str | None:
        """Who has sent it."""
        return self.data.get("user")


class ConsumerOptions(TypedDict, total=False):
    """Options of `Consumer`, which explains them."""

    user: str | None
    name: str | None
    start: str
    count: int
    claim_after: float | None
    prefix: str


class Consumer(Generic[T]):
    """A member of a group: `for event in consumer: …; event.ack()`, or `async for`.

    Each event goes to one member, at least once: one that is not acknowledged comes again, to this one after a restart, to
    another one after `claim_after`.

    Args:
        url: of Redis, or a client of the package `redis` with `decode_responses`.
        topic: a public topic, or with `user` a private channel; reliable ones share one stream of the user.
        group: its name. It is created where it is missing.
        on_gap: called when Redis has trimmed what the group had not read. Messages that Redis lost are not told here: a group
            that must know follows the topic by `tickgate.connect`.
        name: of this member, the same after a restart; by default the machine's name and a random part.
        start: where a group that is created begins: `earliest`, or `new`.
        count: how many events are fetched at once.
        claim_after: after how many seconds what another member has not acknowledged is taken from it; `None`: never.
        type: what `data` is to be, as of `messages`.
        prefix: `redis.prefix` of the gateway.
    """

    _event: Callable[..., Event[T]] = Event

    @overload
    def __init__(
        self: Consumer[dict[str, Any]],
        url: str | redis.Redis,
        topic: str,
        *,
        group: str,
        on_gap: Callable[[Gap], object],
        **options: Unpack[ConsumerOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        url: str | redis.Redis,
        topic: str,
        *,
        group: str,
        on_gap: Callable[[Gap], object],
        type: type[T],
        **options: Unpack[ConsumerOptions],
    ) -> None: ...
    def __init__(
        self,
        url: str | redis.Redis,
        topic: str,
        *,
        group: str,
        on_gap: Callable[[Gap], object],
        user: str | None = None,
        name: str | None = None,
        start: str = "earliest",
        count: int = 100,
        claim_after: float | None = 60.0,
        type: Any = None,
        prefix: str = PREFIX,
    ) -> None:
        if start not in ("earliest", "new"):
            raise Invalid("`start` must be `earliest` or `new`")
        if isinstance(url, str):
            url = redis.Redis.from_url(url, decode_responses=True, socket_timeout=_BLOCK + 5.0)
        self._client: Any = url
        self.topic = topic
        self.group = group
        self.name = name or f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self._stream = stream_key(topic_of(topic, user, True)[0], prefix)
        self._start = "0" if start == "earliest" else "$"
        self._on_gap = on_gap
        self._count = count
        self._claim_after = claim_after
        self._convert = converter(type)
        self._ready: deque[Event[T]] = deque()
        # What this member had before a restart is read first, from here on.
        self._own: str | None = "0"
        self._joined = False
        self._looked_at = float("-inf")
        self._look_interval = min(_LOOK_INTERVAL, claim_after or _LOOK_INTERVAL)
        self._failures = 0
        self._closed = False
        # Number of running calls: the client must not be closed during one.
        self._users = 0
        self._unused = threading.Condition()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event[T]:
        event = self.next()
        if event is None:
            raise StopIteration
        return event

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event[T]:
        event = await asyncio.to_thread(self.next)
        if event is None:
            raise StopAsyncIteration
        return event

    def next(self, timeout: float | None = None) -> Event[T] | None:
        """The next event; `None` if it was closed, or if none has come within `timeout` seconds."""
        until = time.monotonic() + timeout if timeout is not None else None
        while not self._closed:
            if self._ready:
                return self._ready.popleft()
            left = _BLOCK if until is None else min(_BLOCK, until - time.monotonic())
            if left <= 0:
                return None
            try:
                with self._using():
                    self._fetch(left)
                self._failures = 0
            except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError) as error:
                if self._closed:
                    return None
                wait = back_off(self._failures, random.random())
                self._failures += 1
                log.warning("Redis does not answer (%s); the next attempt follows in %.1f s", error, wait)
                time.sleep(min(wait, left) if until is not None else wait)
        return None

    def close(self) -> None:
        """Ends iterations, those of other threads within a second."""
        with self._unused:
            self._closed = True
            self._unused.wait_for(lambda: not self._users, _BLOCK + 1.0)
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _using(self) -> Iterator[None]:
        with self._unused:
            self._users += 1
        try:
            yield
        finally:
            with self._unused:
                self._users -= 1
                self._unused.notify_all()
            if self._closed:
                # What is acknowledged late leaves no connection behind.
                self._client.close()

    def _fetch(self, seconds: float) -> None:
        try:
            if not self._joined:
                self._join()
            if time.monotonic() - self._looked_at >= self._look_interval:
                self._looked_at = time.monotonic()
                self._find_gap()
                self._claim()
                if self._ready:
                    return
            if self._own is not None:
                entries = self._read(self._own, None)
                self._own = entries[-1][0] if entries else None
            else:
                entries = self._read(">", max(int(seconds * 1000), 1))
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise TickgateError(f"Redis: {error}") from error
            # The stream has expired, and the group with it.
            self._joined = False
            return
        for id, fields in entries:
            self._take(id, fields, None)

    def _join(self) -> None:
        try:
            self._client.xgroup_create(self._stream, self.group, id=self._start, mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        # What comes after the group was made is read, also if it has to be made again.
        self._start = "0"
        self._joined = True

    def _read(self, after: str, block: int | None) -> list[tuple[str, dict[str, str] | None]]:
        answer = self._client.xreadgroup(self.group, self.name, {self._stream: after}, count=self._count, block=block)
        if isinstance(answer, dict):
            return [entry for batches in answer.values() for batch in batches for entry in batch]
        return [entry for _, entries in answer or [] for entry in entries]

    def _take(self, id: str, fields: dict[str, str] | None, deliveries: int | None) -> None:
        if not fields:
            # It was trimmed while a member had it.
            self._on_gap(Gap((self.topic,), None, None, 1, "retention"))
            self._ack(id)
            return
        try:
            data = json.loads(fields["d"])
            if not isinstance(data, dict):
                raise TypeError("no object")
            at = datetime.fromtimestamp(int(fields["t"]) / 1000, UTC) if "t" in fields else None
        except (KeyError, ValueError, TypeError) as error:
            log.error("%s of %s cannot be read: %s", id, self.topic, error)
            self._on_gap(Gap((self.topic,), None, None, 1, "invalid_payload"))
            self._ack(id)
            return
        value: Any = data if self._convert is None else self._convert(data)
        self._ready.append(self._event(self, id, fields.get("c"), value, at, deliveries))

    def _ack(self, id: str) -> None:
        try:
            with self._using():
                self._client.xack(self._stream, self.group, id)
        except redis.RedisError as error:
            raise Unknown(f"Redis: {error}", error="outcome_unknown") from error

    def _claim(self) -> None:
        """Takes what members that are gone have left."""
        if self._claim_after is None:
            return
        answer = self._client.xautoclaim(
            self._stream, self.group, self.name, int(self._claim_after * 1000), "0-0", count=self._count
        )
        for id, fields in answer[1]:
            self._take(id, fields, None)

    def _find_gap(self) -> None:
        """Whether Redis has trimmed what the group has not read."""
        info = self._client.xinfo_stream(self._stream)
        groups = self._client.xinfo_groups(self._stream)
        mine = next((group for group in groups if group["name"] == self.group), None)
        first = info.get("first-entry")
        if mine is None or not first:
            return
        read, oldest = _position(mine["last-delivered-id"]), _position(first[0])
        if read == (0, 0) or read >= oldest:
            return
        before = first[1].get("p")
        follows = (oldest[0] == read[0] and oldest[1] == read[1] + 1) or before == mine["last-delivered-id"]
        if not follows:
            count = oldest[1] - read[1] - 1 if oldest[0] == read[0] else None
            self._client.xgroup_setid(self._stream, self.group, _before(oldest))
            self._on_gap(Gap((self.topic,), mine["last-delivered-id"], first[0], count, "retention"))


class Commands(Consumer[dict[str, Any]]):
    """The commands that users have sent to runs: `for command in commands: …; command.ack()`."""

    _event = Command

    def __init__(
        self, url: str | redis.Redis, *, group: str, on_gap: Callable[[Gap], object], **options: Unpack[ConsumerOptions]
    ) -> None:
        super().__init__(url, "commands", group=group, on_gap=on_gap, **options)

    def __next__(self) -> Command:
        event = super().__next__()
        assert isinstance(event, Command)
        return event

    async def __anext__(self) -> Command:
        event = await super().__anext__()
        assert isinstance(event, Command)
        return event


def _position(id: str) -> tuple[int, int]:
    epoch, _, seq = id.partition("-")
    return int(epoch), int(seq or 0)


def _before(position: tuple[int, int]) -> str:
    epoch, seq = position
    return f"{epoch}-{seq - 1}" if seq > 0 else f"{epoch - 1}-{2**53 - 1}"
