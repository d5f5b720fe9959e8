"""The wanted channels, their cursors on the wire, and which to subscribe to next. Pure: the time is an argument."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from math import inf

from .read import Json, Push

# When to ask again for a channel that a reply does not name, in seconds.
UNNAMED_RETRY = 5.0


@dataclass(frozen=True, slots=True)
class Options:
    """What a channel is subscribed with."""

    last: int | None = None
    max_rate: int | None = None
    snapshot: bool | None = None


class Phase(Enum):
    DUE = "to be requested"
    ASKED = "requested"
    PAST = "its past is coming"
    LIVE = "live"
    SUSPENDED = "left for a while, its place kept"


_TOLD = (Phase.ASKED, Phase.PAST, Phase.LIVE)
_RECEIVES = (Phase.PAST, Phase.LIVE)


@dataclass(slots=True)
class Wanted:
    options: Options
    cursor: str | None
    stream: str
    phase: Phase = Phase.DUE
    # DUE: not before this time.
    at: float = 0.0
    # ASKED: the number of the request.
    request: int = 0


@dataclass(slots=True)
class Channels:
    """Calls `moved` for each cursor that moves without a message."""

    moved: Callable[[str, str | None], None]
    _wanted: dict[str, Wanted] = field(default_factory=dict)

    def want(self, name: str, options: Options, cursor: str | None) -> None:
        """Adds a channel, or subscribes to it again."""
        self._wanted[name] = Wanted(options, cursor, name)

    def drop(self, name: str) -> bool:
        """Removes a channel. True if the gateway has to be told."""
        channel = self._wanted.pop(name, None)
        return channel is not None and channel.phase in _TOLD

    def suspend(self, name: str) -> bool:
        """Leaves a channel for a while. True if the gateway has to be told."""
        channel = self._wanted.get(name)
        if channel is None:
            return False
        told = channel.phase in _TOLD
        channel.phase = Phase.SUSPENDED
        return told

    def disconnected(self) -> None:
        for channel in self._wanted.values():
            if channel.phase is not Phase.SUSPENDED:
                channel.phase, channel.at = Phase.DUE, 0.0

    def forget(self) -> None:
        """Another user: no cursor counts any more."""
        for channel in self._wanted.values():
            channel.cursor = None

    def live(self) -> bool:
        return all(channel.phase in (Phase.LIVE, Phase.SUSPENDED) for channel in self._wanted.values())

    def due(self) -> float:
        """When the next channel is due; never, if none is."""
        return min((c.at for c in self._wanted.values() if c.phase is Phase.DUE), default=inf)

    def ask(self, now: float, request: int, most: int, size: int) -> list[Json]:
        """The elements of the next `subscribe`: at most `most`, and at most `size` bytes unless a single one is longer."""
        elements: list[Json] = []
        for name, channel in self._wanted.items():
            if channel.phase is not Phase.DUE or channel.at > now:
                continue
            element: Json = {"channel": name}
            options = channel.options
            if channel.cursor is not None:
                element["since"] = channel.cursor
            elif options.last is not None:
                element["last"] = options.last
            if options.max_rate is not None:
                element["max_rate"] = options.max_rate
            if options.snapshot is not None:
                element["snapshot"] = options.snapshot
            size -= len(json.dumps(element)) + 1
            if len(elements) >= most or (size < 0 and elements):
                break
            channel.phase, channel.request = Phase.ASKED, request
            elements.append(element)
        return elements

    def asked_by(self, request: int) -> list[str]:
        return [n for n, c in self._wanted.items() if c.phase is Phase.ASKED and c.request == request]

    def granted(self, grant: Json, request: int) -> bool:
        """A channel is granted. True if it is wanted."""
        name = grant["channel"]
        channel = self._wanted.get(name)
        if channel is None or channel.phase is not Phase.ASKED or channel.request != request:
            return False
        channel.phase = Phase.LIVE if grant.get("live") else Phase.PAST
        channel.stream = grant.get("stream") or name
        channel.cursor = grant.get("cursor")
        self.moved(name, channel.cursor)
        return True

    def refuse(self, name: str, retry: float | None, now: float) -> bool:
        """A channel is refused: asked for again after `retry` seconds, or given up. True if it was given up."""
        channel = self._wanted.get(name)
        if channel is None or channel.phase is Phase.SUSPENDED:
            return False
        if retry is None:
            del self._wanted[name]
            return True
        channel.phase, channel.at = Phase.DUE, now + retry
        return False

    def unnamed(self, request: int, now: float) -> None:
        """Channels that a reply did not name are asked for again."""
        for name in self.asked_by(request):
            self.refuse(name, UNNAMED_RETRY, now)

    def push(self, push: Push) -> bool:
        """False if the channel is not wanted. Other channels of its stream move."""
        channel = self._wanted.get(push.channel)
        if channel is None or channel.phase not in _RECEIVES:
            return False
        if push.id:
            channel.cursor = push.id
            if channel.phase is Phase.LIVE and channel.stream != push.channel:
                self._advance(push.channel, channel.stream, push.id)
        return True

    def gap(self, names: Iterable[str], cursor: str | None) -> list[str]:
        """The channels of a gap that are wanted; their cursors move."""
        ours = [name for name in names if (c := self._wanted.get(name)) is not None and c.phase in _RECEIVES]
        if cursor:
            for name in ours:
                self._wanted[name].cursor = cursor
        return ours

    def caught_up(self, name: str, cursor: str | None) -> bool:
        """A channel has caught up. True if it is wanted."""
        channel = self._wanted.get(name)
        if channel is None or channel.phase not in _RECEIVES:
            return False
        channel.phase = Phase.LIVE
        if cursor:
            channel.cursor = cursor
            self.moved(name, cursor)
        return True

    def heartbeat(self, cursors: Json) -> None:
        for stream, cursor in cursors.items():
            if cursor:
                self._advance("", stream, cursor)

    def _advance(self, origin: str, stream: str, cursor: str) -> None:
        for name, channel in self._wanted.items():
            if channel.stream == stream and channel.phase is Phase.LIVE and name != origin:
                channel.cursor = cursor
                self.moved(name, cursor)
