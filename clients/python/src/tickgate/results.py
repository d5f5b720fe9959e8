"""What requests return, and the options of readers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict

from ._core.hub import Gap
from ._core.read import Json, push_of
from .errors import GatewayError, problem

__all__ = [
    "Connections",
    "Failed",
    "History",
    "HistoryPage",
    "OpenConnection",
    "PastMessage",
    "PastPublication",
    "Presence",
    "Published",
    "ReadOptions",
    "TopicRule",
]


@dataclass(frozen=True, slots=True)
class Published:
    """A publication or command that is stored.

    Attributes:
        id: `<epoch>-<seq>`; `None` if the gateway does not retain the topic.
        duplicate: the `msg_id` was published before; `id` is the one of that publication.
        subscribers: the number of connections that follow the channel, over all replicas; `None` unless requested, or if it
            cannot be counted now.
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
    """A page of past publications.

    Attributes:
        messages: oldest first.
        cursor: where the next page starts: `since` of the next call.
        more: there is a next page.
        gap: the missing messages before the first of these, if any.
    """

    messages: list[PastMessage]
    cursor: str | None
    more: bool
    gap: Gap | None


@dataclass(frozen=True, slots=True)
class Presence:
    """The number of clients that follow a channel, over all replicas.

    Attributes:
        connections: the number of connections.
        users: the number of users; exact up to 1,024.
        more: there are, or may be, more users than `users`.
    """

    connections: int
    users: int
    more: bool = False


class ReadOptions(TypedDict, total=False):
    """Options of `messages` and `batches`, explained there."""

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
    return Presence(int(reply["connections"]), int(reply["users"]), bool(reply.get("more")))


@dataclass(frozen=True, slots=True)
class Failed:
    """A failed publication of `publish_many`; `error` is returned instead of raised."""

    error: GatewayError


@dataclass(frozen=True, slots=True)
class PastPublication:
    """A retained publication. If `data` is `None`, publications between `after` and `before` were lost here."""

    id: str | None
    channel: str | None
    data: dict[str, Any] | None
    after: str | None = None
    before: str | None = None


@dataclass(frozen=True, slots=True)
class History:
    """A page of the retained publications of a topic.

    Attributes:
        messages: oldest first.
        cursor: where the next page starts: `since` of the next call.
        more: there is a next page.
        complete: no message between `since` and the last of these is missing.
    """

    messages: list[PastPublication]
    cursor: str | None
    more: bool
    complete: bool


@dataclass(frozen=True, slots=True)
class OpenConnection:
    """A connected client.

    Attributes:
        connection_id: the id in the client's welcome; an argument of `Gateway.send` and `disconnect`.
        session: identifies the session; it cannot be used to resume the session.
        endpoint: the name of the profile.
        param: the parameter of its path, such as a run.
        last_seen: when it last sent something, including a reply to a ping.
        channels: its subscriptions.
    """

    connection_id: str
    session: str
    replica: str
    user: str | None
    endpoint: str
    param: str | None
    connected_at: datetime
    last_seen: datetime
    channels: tuple[str, ...]


class Connections(list[OpenConnection]):
    """Connected clients. `complete`: all replicas have answered."""

    complete: bool = True


@dataclass(frozen=True, slots=True)
class TopicRule:
    """How publications of a topic are retained, for engines that write directly to Redis.

    Attributes:
        stored_as: the topic's name in Redis, which differs for a private channel.
        stored_channel: the channel's name in a stream that it shares with other channels of the user.
        cls: `state`, `event` or `reliable`.
        retain_max: the minimum number that is retained; 0: none are retained, and they have no ids.
        retain_ttl: how long they are retained after the last one, in seconds.
        dedupe_ttl: how long the result of a publication with a `msg_id` is remembered, in seconds.
    """

    stored_as: str
    stored_channel: str | None
    cls: str
    retain_max: int
    retain_ttl: int
    dedupe_ttl: int


def outcome_of(body: dict[str, Any], msg_id: str | None) -> Published | Failed:
    """The outcome of one publication of a batch."""
    return Failed(refusal_of(body, msg_id)) if "status" in body else stored_of(body)


def refusal_of(body: dict[str, Any], msg_id: str | None) -> GatewayError:
    """Why a publication was not stored, or may not have been."""
    return problem(int(body["status"]), body, msg_id=msg_id)


def stored_of(body: dict[str, Any]) -> Published:
    """The result of a stored publication."""
    return Published(body.get("id"), bool(body.get("duplicate")), body.get("subscribers"))


def history_of(body: dict[str, Any]) -> History:
    messages = []
    for one in body["messages"]:
        lost = one.get("lost") or {}
        messages.append(
            PastPublication(one.get("id"), one.get("channel"), one.get("data"), lost.get("after"), lost.get("before"))
        )
    return History(messages, body.get("cursor"), bool(body.get("more")), bool(body.get("complete")))


def connections_of(found: list[dict[str, Any]], complete: bool) -> Connections:
    """The connections of all pages."""
    connections = Connections(
        OpenConnection(
            one["connection_id"],
            one["session"],
            one["replica"],
            one["user"],
            one["endpoint"],
            one["param"],
            datetime.fromisoformat(one["connected_at"]),
            datetime.fromisoformat(one["last_seen"]),
            tuple(one["channels"]),
        )
        for one in found
    )
    connections.complete = complete
    return connections


def rule_of(body: Json) -> TopicRule:
    return TopicRule(
        body["stored_as"],
        body.get("stored_channel"),
        body["class"],
        int(body["retain_max"]),
        int(body["retain_ttl"]),
        int(body["dedupe_ttl"]),
    )
