"""What requests return, and the options of readers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from ._core.hub import Gap
from ._core.read import Json, push_of

__all__ = ["HistoryPage", "PastMessage", "Presence", "Published", "ReadOptions"]


@dataclass(frozen=True, slots=True)
class Published:
    """What was published or commanded is stored.

    Attributes:
        id: `<epoch>-<seq>`; `None` where the gateway keeps nothing.
        duplicate: the `msg_id` was published before; `id` is of that time.
        subscribers: how many connections follow the channel, over all replicas; `None` unless that was asked for, and
            where it cannot be counted now.
    """

    id: str | None
    duplicate: bool = False
    subscribers: int | None = None


@dataclass(frozen=True, slots=True)
class PastMessage:
    """A publication of a history."""

    channel: str
    id: str | None
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """A page of what was published before.

    Attributes:
        messages: oldest first.
        cursor: where the next page starts: `since` of the next call.
        more: there is a next page.
        gap: what is missing before the first of the messages.
    """

    messages: list[PastMessage]
    cursor: str | None
    more: bool
    gap: Gap | None


@dataclass(frozen=True, slots=True)
class Presence:
    """Who follows a channel, over all replicas.

    Attributes:
        connections: how many connections.
        users: how many users; exact up to 1,024.
    """

    connections: int
    users: int


class ReadOptions(TypedDict, total=False):
    """Options of `messages` and `batches`, which explain them."""

    since: str | None
    last: int | None
    max_rate: int | None
    snapshot: bool | None
    manual: bool
    buffer: int


def published_of(reply: Json) -> Published:
    return Published(reply.get("publication_id"), bool(reply.get("duplicate")), reply.get("subscribers"))


def page_of(reply: Json) -> HistoryPage:
    gap = reply.get("gap")
    messages = []
    for message in reply["messages"]:
        push = push_of(message)
        messages.append(PastMessage(push.channel, push.id, push.data))
    missing = gap and Gap(tuple(gap["channels"]), gap.get("after"), gap.get("before"), gap.get("count"), gap["reason"])
    return HistoryPage(messages, reply.get("cursor"), bool(reply.get("more")), missing or None)


def presence_of(reply: Json) -> Presence:
    return Presence(int(reply["connections"]), int(reply["users"]))
