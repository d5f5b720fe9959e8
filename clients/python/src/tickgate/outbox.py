"""Publishing in the background, in order, once: what services call that must not wait."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self, Unpack

import httpx

from . import _http
from ._engine import new_msg_id
from ._queued import Entry, FailedPublication, PutOptions, Stats, answers
from .errors import GatewayError, Invalid, OutboxFull, Refused, Unknown, problem
from .gateway import AsyncGateway, Gateway
from .publication import encoded
from .results import Published, refusal_of, stored_of

__all__ = ["FailedPublication", "Outbox", "Stats"]

log = logging.getLogger("tickgate.outbox")

# What one request carries. Its answers must fit into the buffers of a socket while it is still being sent.
_LINES = 1024
_BYTES = 1 << 20
# How many failures are remembered.
_FAILURES = 100
# For how long the gateway knows a `msg_id`, in seconds, less a margin.
_AGE_MAX = 270.0
# How long the end of the program waits for what is queued, in seconds.
_EXIT_TIMEOUT = 5.0


class Outbox:
    """A bounded queue of publications, sent in order by a separate thread, as lines of one request after another.

    `put` takes microseconds, and may be called from any thread. A publication keeps its `msg_id` over all attempts, so that
    it is published once. While the gateway refuses for a moment or is away, everything waits; what could not be sent within
    `max_age` fails instead of being sent late. What the gateway permanently refuses fails at once, and the others continue.

    Args:
        gateway: a `Gateway` or an `AsyncGateway`, or the address of one; `TICKGATE_API` and `TICKGATE_API_KEY` by default.
        key: an API key, if `gateway` is an address.
        size: how many publications may be queued.
        when_full: `block` until there is room, or `raise` `OutboxFull`.
        max_age: seconds, at most 270, since a gateway knows a `msg_id` for five minutes.
        on_error: called with each publication that has failed, on the thread of the outbox.
    """

    def __init__(
        self,
        gateway: Gateway | AsyncGateway | str | Sequence[str] | None = None,
        key: str | None = None,
        *,
        size: int = 10_000,
        when_full: Literal["block", "raise"] = "block",
        max_age: float = 240.0,
        on_error: Callable[[FailedPublication], object] | None = None,
    ) -> None:
        if size < 1:
            raise Invalid("`size` is at least 1")
        if when_full not in ("block", "raise"):
            raise Invalid("`when_full` is `block` or `raise`")
        if not 0 < max_age <= _AGE_MAX:
            raise Invalid(f"`max_age` is more than 0 and at most {_AGE_MAX:.0f} seconds")
        if isinstance(gateway, Gateway | AsyncGateway):
            self.urls, self.authorization, self._timeout = gateway.urls, gateway.headers, gateway.timeout
        else:
            self.urls, self.authorization, self._timeout = _http.addresses(gateway), _http.authorization(key), 5.0
        self._headers = {**self.authorization, "Content-Type": "application/x-ndjson", "Accept": "application/x-ndjson"}
        self._size = size
        self._raises = when_full == "raise"
        self._max_age = max_age
        self._on_error = on_error
        self._begin()
        _outboxes.add(self)

    def _begin(self) -> None:
        self._client = httpx.Client(timeout=self._timeout, headers=self._headers)
        self._entries: deque[Entry] = deque()
        self._condition = threading.Condition()
        self._stats = Stats()
        self._closing = False
        self._url = 0
        # The last request has failed for now.
        self._failing = False
        self._unlogged = 0
        self._logged_at = float("-inf")
        self._unreported: deque[FailedPublication] = deque()
        #: The last publications that have failed.
        self.failures: deque[FailedPublication] = deque(maxlen=_FAILURES)
        self._thread = threading.Thread(target=self._run, name="tickgate-outbox", daemon=True)
        self._thread.start()

    def put(self, channel: str, data: Mapping[str, Any], **options: Unpack[PutOptions]) -> str:
        """Takes a publication, and returns its `msg_id`. What `data` is now is published, whatever becomes of it later.

        Args:
            channel: a public topic, or with `user` one of the user's private channels.
            data: a JSON object.
            options: `user`; `msg_id`, made up by default; `max_age` in seconds, for what is of no use later.

        Raises:
            Invalid: the gateway would never take it.
            OutboxFull: there is no room, and `when_full` is `raise`.
        """
        entry = self._entry(channel, data, **options)
        with self._condition:
            if len(self._entries) >= self._size:
                self._full()
                self._condition.wait_for(lambda: len(self._entries) < self._size or self._closing)
            self._add(entry)
        return entry.msg_id

    async def put_async(self, channel: str, data: Mapping[str, Any], **options: Unpack[PutOptions]) -> str:
        """The same for `asyncio`: waits for room without blocking the event loop."""
        entry = self._entry(channel, data, **options)
        await self._put_async(entry)
        return entry.msg_id

    async def _put_async(self, entry: Entry) -> None:
        waited = False
        while True:
            with self._condition:
                if len(self._entries) < self._size or self._closing:
                    self._add(entry)
                    return
                if not waited:
                    self._full()
                    waited = True
            await asyncio.sleep(0.005)

    async def publish(
        self,
        channel: str,
        data: Mapping[str, Any],
        *,
        user: str | None = None,
        msg_id: str | None = None,
        count: bool = False,
        timeout: float = 1.0,
    ) -> Published | None:
        """As `put_async`, and then waits for the result, behind all that was put before. `None` if it is still queued after
        `timeout` seconds, and at once while the gateway does not answer: it is sent when that is possible.

        Raises:
            Invalid, Unauthorized, Refused, Unknown: it has failed; `on_error` is called too.
        """
        entry = self._entry(channel, data, user, msg_id, count=count)
        entry.result = concurrent.futures.Future()
        await self._put_async(entry)
        if self._failing:
            return None
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(asyncio.wrap_future(entry.result))
        except TimeoutError:
            return None

    @property
    def stats(self) -> Stats:
        """What has become of publications until now."""
        with self._condition:
            stats = self._stats
            return Stats(
                len(self._entries),
                stats.sent,
                stats.failed,
                stats.rejected,
                stats.blocked,
                stats.retried,
                stats.reordered,
            )

    def flush(self, timeout: float | None = 5.0) -> bool:
        """Waits until nothing is queued. True if so within `timeout` seconds; `failures` has what has failed."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._entries, timeout)

    def close(self, timeout: float | None = 5.0) -> bool:
        """Waits as `flush`, and stops. What is queued then fails: True if nothing was."""
        empty = self.flush(timeout)
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        # A request that is under way ends by its own time-out.
        self._thread.join(self._client.timeout.read or 5.0)
        with self._condition:
            for entry in self._entries:
                self._fail(entry, entry.error or Refused("the outbox was closed", msg_id=entry.msg_id))
            self._entries.clear()
        self._report()
        self._client.close()
        return empty

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _entry(
        self,
        channel: str,
        data: Mapping[str, Any],
        user: str | None = None,
        msg_id: str | None = None,
        max_age: float | None = None,
        count: bool = False,
    ) -> Entry:
        msg_id = msg_id or new_msg_id()
        max_age = self._max_age if max_age is None else min(max_age, self._max_age)
        return Entry(channel, user, msg_id, encoded(channel, data, user, msg_id, count), max_age)

    def _full(self) -> None:
        if self._raises:
            self._stats.rejected += 1
            raise OutboxFull(f"{self._size} publications are queued")
        self._stats.blocked += 1

    def _add(self, entry: Entry) -> None:
        if self._closing:
            raise Refused("the outbox is closed", msg_id=entry.msg_id)
        self._entries.append(entry)
        if len(self._entries) == 1:
            self._condition.notify_all()

    # The thread.

    def _run(self) -> None:
        most, failures = _LINES, 0
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._entries or self._closing)
                if self._closing:
                    return
                entries = self._next(most)
            try:
                error = self._send(entries) if entries else None
            except Exception:
                log.exception("the outbox failed to send; it tries again")
                error = Refused("the outbox failed")
            self._failing = error is not None
            self._report()
            if error is None:
                # After a refusal, little is at stake at first: what comes behind a refused one would pass it.
                most, failures = min(most * 2, _LINES), 0
                continue
            most = 1
            with self._condition:
                self._condition.wait_for(lambda: self._closing, _http.wait_before(failures, error))
            failures += 1

    def _next(self, most: int) -> list[Entry]:
        """What is to be sent next; gives up what is too old."""
        now = time.monotonic()
        entries: list[Entry] = []
        size = 0
        # While nothing moves, what waits behind the first expires as well.
        while self._entries and (self._failing or len(entries) < most):
            entry = self._entries.popleft()
            size += len(entry.line) + 1
            if entry.expires <= now:
                self._expire(entry)
            elif size > _BYTES and entries and not self._failing:
                self._entries.appendleft(entry)
                break
            else:
                entries.append(entry)
        self._entries.extendleft(reversed(entries))
        self._condition.notify_all()
        return entries[:most]

    def _expire(self, entry: Entry) -> None:
        if entry.maybe_done:
            self._fail(entry, Unknown("no response in time", msg_id=entry.msg_id, error="outcome_unknown"))
        else:
            self._fail(entry, entry.error or Refused("not sent in time", msg_id=entry.msg_id))

    def _send(self, entries: list[Entry]) -> GatewayError | None:
        """Sends the first entries of the queue. Returns why some of them are to be sent again."""
        for entry in entries:
            entry.attempts += 1
        body = b"\n".join([entry.line for entry in entries])
        url = self.urls[self._url % len(self.urls)]
        lines: list[str] = []
        broken: GatewayError | None = None
        try:
            with self._client.stream("POST", url + "/api/v1/publish", content=body) as response:
                if response.status_code != 200:
                    response.read()
                    return self._refused(entries, problem(response.status_code, _http.body_of(response)))
                for line in filter(None, response.iter_lines()):
                    lines.append(line)  # noqa: PERF402 (what came before the connection was lost counts)
        except httpx.HTTPError as error:
            self._url += 1
            broken = _http.failure(error, None)
        results = answers(lines)
        if len(results) < len(lines):
            broken = Unknown("an answer that cannot be read", error="outcome_unknown")
        if broken is None and len(results) < len(entries):
            broken = Refused("the gateway has ended the request", error="restarting")
        return self._settle(entries, results, broken)

    def _refused(self, entries: list[Entry], error: GatewayError) -> GatewayError | None:
        """The whole request was refused."""
        if isinstance(error, Invalid) or (error.retry_after_ms is None and error.status in (401, 403)):
            with self._condition:
                for entry in entries:
                    self._entries.popleft()
                    self._fail(entry, error)
                self._condition.notify_all()
            return None
        return self._settle(entries, [], error)

    def _settle(self, entries: list[Entry], results: list[dict[str, Any]], broken: GatewayError | None) -> GatewayError | None:
        """Takes what has its result out of the queue. Without a result, `broken` is why."""
        again: list[Entry] = []
        why: GatewayError | None = broken
        with self._condition:
            for number, entry in enumerate(entries):
                self._entries.popleft()
                if number >= len(results):
                    entry.error = broken
                    entry.maybe_done = entry.maybe_done or isinstance(broken, Unknown)
                    again.append(entry)
                    continue
                result = results[number]
                if "status" not in result:
                    self._stats.sent += 1
                    self._stats.retried += entry.attempts > 1
                    self._stats.reordered += bool(again) and not result.get("duplicate")
                    if entry.result is not None:
                        entry.result.set_result(stored_of(result))
                    continue
                error = refusal_of(result, entry.msg_id)
                if isinstance(error, Unknown) or error.retry_after_ms is not None:
                    entry.error = why = error
                    entry.maybe_done = entry.maybe_done or isinstance(error, Unknown)
                    again.append(entry)
                else:
                    self._fail(entry, error)
            self._entries.extendleft(reversed(again))
            self._condition.notify_all()
        return why if again else None

    def _fail(self, entry: Entry, error: GatewayError) -> None:
        self._stats.failed += 1
        if entry.result is not None:
            entry.result.set_exception(error)
        failed = FailedPublication(entry.channel, entry.user, entry.msg_id, error)
        self.failures.append(failed)
        # One line a second, whatever happens.
        self._unlogged += 1
        now = time.monotonic()
        if now - self._logged_at >= 1.0:
            log.error("%d publications were given up, the last one to %s: %s", self._unlogged, entry.channel, error)
            self._unlogged, self._logged_at = 0, now
        if self._on_error is not None:
            self._unreported.append(failed)

    def _report(self) -> None:
        """Calls `on_error`, without the lock."""
        while self._on_error is not None and self._unreported:
            try:
                self._on_error(self._unreported.popleft())
            except Exception:
                log.exception("on_error failed")


_outboxes: weakref.WeakSet[Outbox] = weakref.WeakSet()


def _after_fork() -> None:
    """A child begins with nothing queued: what was is its parent's to send."""
    for outbox in list(_outboxes):
        outbox._begin()


os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _flush_all() -> None:
    """The end of the program waits a little for what is queued."""
    for outbox in list(_outboxes):
        if not outbox._closing and not outbox.close(_EXIT_TIMEOUT):
            log.error("the program has ended with publications that were not sent")
