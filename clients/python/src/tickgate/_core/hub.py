"""The channels of a connection: the readers of each channel, what they have handled, and the resulting cursors. Never
touches a socket. Callers hold the connection's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import GatewayError, Invalid
from .channels import Options
from .read import Push

# Deliveries are compacted once there are this many.
COMPACT = 4096


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages after `after` and before `before` are missing, both excluded; no others are.

    Load a snapshot from the platform, for example of the open orders, and then continue.

    Attributes:
        channels: the affected channels.
        after: the id before the first missing message, if known.
        before: the id after the last missing message, if known.
        count: the number of missing messages, if known; it includes messages of other channels of the stream.
        reason: one of the gateway's, or `slow_application`: the application did not keep up with an `event` channel.
    """

    channels: tuple[str, ...]
    after: str | None
    before: str | None
    count: int | None
    reason: str


@dataclass(slots=True, eq=False)
class Delivery:
    """A message or gap that readers must handle before the cursor moves; `left` readers have not handled it yet."""

    cursor: str | None
    left: int


class Reader(Protocol):
    """A reader of channels."""

    def push(self, channel: Channel, push: Push, delivery: Delivery) -> None: ...
    def gap(self, channel: Channel, gap: Gap, delivery: Delivery) -> None: ...
    def refused(self, channel: Channel, error: GatewayError) -> None: ...
    def reset(self, channel: Channel) -> None:
        """Discards everything: the user has changed."""

    def changed(self) -> None:
        """The class became known, or the state of the connection or the channel has changed."""

    def roomy(self, channel: Channel) -> bool:
        """Whether the reader has room for the channel to continue."""


@dataclass(slots=True, eq=False)
class Channel:
    """A channel that is read."""

    name: str
    options: Options
    # The cursors of what was received, and of what was handled.
    received: str | None
    handled: str | None
    cls: str | None = None
    live: bool = False
    suspended: bool = False
    deliveries: deque[Delivery] = field(default_factory=deque)
    compact_at: int = COMPACT
    readers: list[Reader] = field(default_factory=list)
    newest: Push | None = None


class Wishes(Protocol):
    """The requests of the hub to the link."""

    def want(self, name: str, options: Options, cursor: str | None) -> None: ...
    def drop(self, name: str) -> None: ...
    def suspend(self, name: str) -> None: ...


@dataclass(slots=True)
class Saved:
    """Cursors that survive a restart, and their user."""

    user: str | None
    cursors: dict[str, str]


@dataclass(slots=True, eq=False)
class Hub:
    """`store` is called when a cursor has moved."""

    link: Wishes
    store: Callable[[], None]
    stored: Saved | None = None
    # `None` before the first welcome.
    user: tuple[str | None] | None = None
    channels: dict[str, Channel] = field(default_factory=dict)

    # Calls of the application.

    def read(self, name: str, options: Options, since: str | None, reader: Reader) -> Channel:
        """Adds a reader to a channel, and subscribes to it if it is the first one."""
        channel = self.channels.get(name)
        if channel is None:
            if since in (None, "earliest") and self.stored is not None:
                since = self.stored.cursors.get(name, since)
            channel = Channel(name, options, since, since, readers=[reader])
            self.channels[name] = channel
            self._want(channel)
            return channel
        if reader in channel.readers:
            raise Invalid(f"{name} is already in this reader", channel=name)
        if since is not None or options.last is not None:
            raise Invalid(f"{name} is read already: only its first reader can set `since` and `last`", channel=name)
        channel.readers.append(reader)
        rate, wanted = channel.options.max_rate, options.max_rate
        if rate is not None and (wanted is None or wanted > rate):
            channel.options = Options(channel.options.last, wanted, channel.options.snapshot)
            self._want(channel)
        if channel.newest is not None and channel.cls == "state":
            reader.push(channel, channel.newest, Delivery(None, 1))
        reader.changed()
        return channel

    def leave(self, channel: Channel, reader: Reader) -> None:
        """Removes a reader that has handled all its messages; removes the channel with its last reader."""
        if reader not in channel.readers:
            return
        channel.readers.remove(reader)
        if self.channels.get(channel.name) is not channel:
            return
        if channel.readers:
            self.resume(channel)
        else:
            self.link.drop(channel.name)
            self._remove(channel)

    def suspend(self, channel: Channel) -> None:
        """A reader's buffer is full: suspends the channel, which later resumes from its cursor."""
        if not channel.suspended:
            channel.suspended, channel.live = True, False
            self.link.suspend(channel.name)
            self._changed(channel)

    def resume(self, channel: Channel) -> None:
        if self.channels.get(channel.name) is not channel or not channel.suspended:
            return
        if all(reader.roomy(channel) for reader in channel.readers):
            self._want(channel)

    def settle(self, channel: Channel, delivery: Delivery) -> None:
        """A reader has handled a delivery: moves the cursor up to the first unhandled one."""
        delivery.left -= 1
        self._settle(channel)

    def cursors(self) -> dict[str, str]:
        return {name: channel.handled for name, channel in self.channels.items() if channel.handled}

    def saved(self) -> Saved | None:
        """The cursors that survive a restart, once the user is known."""
        if self.user is None:
            return None
        kept = dict(self.stored.cursors) if self.stored else {}
        for name, channel in self.channels.items():
            # After a restart, a program needs the current value of a `state` channel, not the messages after the last one.
            if channel.handled and channel.cls != "state":
                kept[name] = channel.handled
        return Saved(self.user[0], kept)

    # Events of the link.

    def granted(self, name: str, cls: str, live: bool) -> None:
        if channel := self.channels.get(name):
            channel.cls, channel.live = cls, live
            self._changed(channel)

    def push(self, push: Push) -> None:
        channel = self.channels.get(push.channel)
        if channel is None or channel.suspended:
            return
        channel.newest = push
        delivery = self._delivery(channel, push.id)
        for reader in channel.readers:
            reader.push(channel, push, delivery)
        self._settle(channel)

    def gap(self, gap: Gap, cursor: str | None) -> None:
        for name in gap.channels:
            channel = self.channels.get(name)
            if channel is None or channel.suspended:
                continue
            delivery = self._delivery(channel, cursor)
            for reader in channel.readers:
                reader.gap(channel, gap, delivery)
            self._settle(channel)

    def caught_up(self, name: str) -> None:
        if channel := self.channels.get(name):
            channel.live = True
            self._changed(channel)

    def moved(self, name: str, cursor: str | None) -> None:
        """A cursor has moved without a message: it takes effect when everything received before it is handled."""
        channel = self.channels.get(name)
        if channel is None or channel.suspended:
            return
        channel.received = cursor
        if channel.deliveries:
            channel.deliveries[-1].cursor = cursor
        elif channel.handled != cursor:
            channel.handled = cursor
            self.store()

    def refused(self, name: str, error: GatewayError) -> None:
        if channel := self.channels.get(name):
            self._remove(channel)
            for reader in list(channel.readers):
                reader.refused(channel, error)

    def connected(self, connected: bool) -> None:
        for channel in self.channels.values():
            channel.live = channel.live and connected
            self._changed(channel)

    def is_user(self, user: str | None, changed: bool) -> None:
        """The welcome names a user."""
        if changed or (self.stored is not None and self.stored.user != user):
            self.stored = None
            for channel in list(self.channels.values()):
                # Deliveries being handled belong to the previous user.
                channel.deliveries = deque()
                channel.received = channel.handled = channel.newest = None
                for reader in channel.readers:
                    reader.reset(channel)
                self._want(channel)
        self.user = (user,)
        self.store()

    def _delivery(self, channel: Channel, cursor: str | None) -> Delivery:
        delivery = Delivery(cursor, len(channel.readers))
        if cursor:
            channel.received = cursor
        channel.deliveries.append(delivery)
        if len(channel.deliveries) > channel.compact_at:
            # Of consecutive handled deliveries behind an unhandled one, only the last is needed.
            old = list(channel.deliveries)
            kept = [d for d, after in zip(old, [*old[1:], None], strict=True) if d.left or after is None or after.left]
            channel.deliveries = deque(kept)
            channel.compact_at = max(COMPACT, len(kept) * 2)
        return delivery

    def _settle(self, channel: Channel) -> None:
        deliveries, moved = channel.deliveries, False
        while deliveries and deliveries[0].left <= 0:
            channel.handled = deliveries.popleft().cursor or channel.handled
            moved = True
        if moved:
            self.store()

    def _want(self, channel: Channel) -> None:
        channel.suspended = channel.live = False
        self.link.want(channel.name, channel.options, channel.received)

    def _remove(self, channel: Channel) -> None:
        del self.channels[channel.name]
        if self.stored:
            self.stored.cursors.pop(channel.name, None)
        self.store()

    def _changed(self, channel: Channel) -> None:
        for reader in channel.readers:
            reader.changed()
