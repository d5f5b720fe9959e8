"""What waits for an application that reads messages: bounded by channel, in the order of arrival. Callers hold the
connection's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from ..errors import Closed, GapHandlerMissing, GatewayError
from .channels import Options
from .hub import Channel, Delivery, Gap, Hub
from .read import Push

# How many messages of a channel may wait, by default.
BUFFER = 1000
# From how many entries on that count no more the queue is compacted.
_COMPACT = 1024


class Entry:
    """A message, a gap or a refusal that waits or is being handled."""

    __slots__ = ("dropped", "feed", "gap", "holds", "push", "refusal")

    def __init__(self, feed: Feed, push: Push | None, gap: Gap | None, delivery: Delivery) -> None:
        self.feed = feed
        self.push = push
        self.gap = gap
        # What is settled once this is handled.
        self.holds: list[tuple[Channel, Delivery]] = [(feed.channel, delivery)]
        # How many messages this gap of our own stands for, with the ids on both sides.
        self.dropped: list[Any] | None = None
        self.refusal: GatewayError | None = None

    @property
    def dead(self) -> bool:
        """It has given way to a gap, or its channel was left."""
        return self.push is None and self.gap is None and self.dropped is None and self.refusal is None


class Feed:
    """A channel within a queue."""

    __slots__ = ("channel", "held", "last_id", "lost", "valid", "waiting")

    def __init__(self) -> None:
        self.channel: Channel
        self.waiting: deque[Entry] = deque()
        # What was taken of it may still be shown to the application.
        self.valid = True
        # Taken, and not handled yet.
        self.held = 0
        # The gap of our own that still waits, and grows.
        self.lost: Entry | None = None
        # The id of the last message that was taken.
        self.last_id: str | None = None


class Queue:
    """A reader of one or more channels. `wake` is called when there may be something to do."""

    def __init__(self, hub: Hub, buffer: int, has_gap_handler: bool, wake: Callable[[], None]) -> None:
        self._hub = hub
        self._buffer = max(buffer, 1)
        self._has_gap_handler = has_gap_handler
        self._wake = wake
        self._entries: deque[Entry] = deque()
        self._dead = 0
        self._feeds: dict[str, Feed] = {}
        self.closed: Closed | None = None
        self.ended = False

    # For the application.

    def add(self, name: str, options: Options, since: str | None) -> None:
        feed = Feed()
        if name in self._feeds:
            self.remove(name)
        self._feeds[name] = feed
        try:
            feed.channel = self._hub.read(name, options, since, self)
        except BaseException:
            del self._feeds[name]
            raise

    def remove(self, name: str) -> None:
        """Leaves a channel. What waits of it is dropped."""
        feed = self._feeds.pop(name, None)
        if feed is None:
            return
        feed.valid = False
        for entry in self._entries:
            self._forget(entry, feed)
        self._hub.leave(feed.channel, self)

    @property
    def names(self) -> list[str]:
        return list(self._feeds)

    @property
    def live(self) -> bool:
        return all(feed.channel.live for feed in self._feeds.values())

    @property
    def waiting(self) -> int:
        return len(self._entries) - self._dead

    def take(self, most: int) -> list[Entry]:
        """Messages up to the next gap, or a gap; nothing if nothing is there. Raises what the application must know."""
        self._check_classes()
        taken: list[Entry] = []
        entries = self._entries
        while entries and len(taken) < most:
            entry = entries[0]
            if entry.dead:
                entries.popleft()
                self._dead -= 1
                continue
            if entry.push is None and taken:
                break
            if entry.refusal is not None:
                entries.popleft()
                raise entry.refusal
            if entry.push is None:
                taken.append(self._take_gap(entry))
                break
            entries.popleft()
            feed = entry.feed
            feed.waiting.popleft()
            feed.held += 1
            feed.last_id = entry.push.id or feed.last_id
            taken.append(entry)
        if not taken and self.closed and not self.ended:
            raise self.closed
        return taken

    def done(self, entry: Entry) -> None:
        """Marks an entry as handled. Further calls have no effect."""
        holds, entry.holds = entry.holds, []
        if not holds:
            return
        feed = entry.feed
        if entry.push is not None:
            feed.held -= 1
        elif self._entries and self._entries[0] is entry:
            self._entries.popleft()
        for channel, delivery in holds:
            self._hub.settle(channel, delivery)
        for channel, _ in holds:
            self._hub.resume(channel)

    def end(self) -> None:
        """Leaves all channels."""
        self.ended = True
        for name in list(self._feeds):
            self.remove(name)
        self._entries.clear()
        self._wake()

    # For the hub.

    def push(self, channel: Channel, push: Push, delivery: Delivery) -> None:
        feed = self._feeds[channel.name]
        entry = Entry(feed, push, None, delivery)
        self._entries.append(entry)
        feed.waiting.append(entry)
        if len(feed.waiting) + feed.held > self._buffer:
            if channel.cls == "reliable":
                self._hub.suspend(channel)
            elif len(feed.waiting) > self._buffer:
                self._drop_oldest(feed)
        self._wake()

    def gap(self, channel: Channel, gap: Gap, delivery: Delivery) -> None:
        feed = self._feeds[channel.name]
        feed.lost = None
        last = self._entries[-1] if self._entries else None
        if last is not None and last.gap is gap:
            last.holds.append((channel, delivery))
        else:
            self._entries.append(Entry(feed, None, gap, delivery))
        self._wake()

    def refused(self, channel: Channel, error: GatewayError) -> None:
        entry = Entry(self._feeds.pop(channel.name), None, None, Delivery(None, 0))
        entry.refusal = error
        entry.holds = []
        self._entries.append(entry)
        self._wake()

    def reset(self, channel: Channel) -> None:
        old = self._feeds[channel.name]
        for entry in self._entries:
            if entry.feed is old and entry.refusal is None:
                self._kill(entry)
        # What is being handled counts in the old one.
        old.valid = False
        self._feeds[channel.name] = feed = Feed()
        feed.channel = channel

    def changed(self) -> None:
        self._wake()

    def roomy(self, channel: Channel) -> bool:
        feed = self._feeds[channel.name]
        return len(feed.waiting) <= self._buffer // 2 and feed.held < self._buffer

    def _check_classes(self) -> None:
        if self._has_gap_handler:
            return
        for name, feed in self._feeds.items():
            if feed.channel.cls == "reliable":
                raise GapHandlerMissing(f"{name} is of class reliable: reading it requires `on_gap`")

    def _take_gap(self, entry: Entry) -> Entry:
        # It stays in its place until it was handled: an `on_gap` that raises is called again.
        if entry.dropped is not None:
            after, before, count = entry.dropped
            entry.gap = Gap((entry.feed.channel.name,), after, before, count, "slow_application")
            entry.dropped = None
            entry.feed.lost = None
        return entry

    def _drop_oldest(self, feed: Feed) -> None:
        oldest = feed.waiting.popleft()
        following = feed.waiting[0].push if feed.waiting else None
        before = following.id if following else None
        if feed.lost is None or feed.lost.dropped is None:
            feed.lost = oldest
            oldest.dropped = [feed.last_id, before, 1]
            oldest.push = None
            return
        dropped = feed.lost.dropped
        dropped[1] = before
        dropped[2] += 1
        self._bury(oldest)
        if self._dead > _COMPACT and self._dead * 2 > len(self._entries):
            self._entries = deque(entry for entry in self._entries if not entry.dead)
            self._dead = 0

    def _bury(self, entry: Entry) -> None:
        holds = entry.holds
        self._kill(entry)
        for channel, delivery in holds:
            self._hub.settle(channel, delivery)

    def _forget(self, entry: Entry, feed: Feed) -> None:
        """A channel is left: a gap of several stays one of the others."""
        others = [(channel, delivery) for channel, delivery in entry.holds if channel is not feed.channel]
        if entry.gap is not None and others:
            for channel, delivery in entry.holds:
                if channel is feed.channel:
                    self._hub.settle(channel, delivery)
            entry.holds = others
            entry.feed = next((f for f in self._feeds.values() if f.channel is others[0][0]), entry.feed)
        elif entry.feed is feed and not entry.dead:
            self._bury(entry)

    def _kill(self, entry: Entry) -> None:
        if not entry.dead:
            self._dead += 1
        entry.push = entry.gap = entry.dropped = entry.refusal = None
        entry.holds = []
