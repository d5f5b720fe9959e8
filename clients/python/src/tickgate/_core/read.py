"""Decodes incoming messages: distinguishes pushes, replies and notices, and checks their required fields. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
Loads = Callable[[str], Any]


# Stands for a channel in messages that a backend sends to a single connection.
DIRECT = "@connection"


class Unreadable(ValueError):
    """The gateway sent something that cannot be decoded."""


class Push:
    """A publication as it arrived, without its `_meta`."""

    __slots__ = ("channel", "conflated", "data", "id", "replayed", "snapshot")

    def __init__(self, channel: str, id: str | None, data: Json, replayed: bool, snapshot: bool, conflated: int) -> None:
        self.channel = channel
        self.id = id
        self.data = data
        self.replayed = replayed
        self.snapshot = snapshot
        self.conflated = conflated


def _text(value: object) -> bool:
    return isinstance(value, str)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cursor(value: object) -> bool:
    return value is None or isinstance(value, str)


def _names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _cursors(value: object) -> bool:
    return value is None or (isinstance(value, dict) and all(_cursor(cursor) for cursor in value.values()))


def _elements(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(element, dict) and isinstance(element.get("channel"), str) and _cursor(element.get("cursor"))
        for element in value
    )


def _limits(value: object) -> bool:
    return isinstance(value, dict) and _number(value.get("names_per_second"))


_REQUIRED: dict[str, tuple[tuple[str, Callable[[object], bool]], ...]] = {
    "connection_established": (("heartbeat_interval", _number), ("limits", _limits)),
    "subscribed": (("channels", _elements), ("errors", _elements)),
    "caught_up": (("channels", _elements),),
    "gap": (("channels", _names), ("reason", _text), ("cursor", _cursor)),
    "heartbeat": (("cursors", _cursors),),
    "unsubscribed": (("channels", _names),),
    "closing": (("code", _number), ("reconnect", _text)),
    "error": (("code", _number),),
}


def check(message: Json) -> None:
    """Checks a reply or notice."""
    kind = message.get("type")
    for field, valid in _REQUIRED.get(kind, ()) if isinstance(kind, str) else ():
        if not valid(message.get(field)):
            raise Unreadable(f"{kind} without a valid {field}")


def messages_of(data: str | bytes, loads: Loads) -> list[Any]:
    """The messages of a frame, not yet checked."""
    if not isinstance(data, str):
        raise Unreadable("a binary frame")
    try:
        parsed = loads(data)
    except (ValueError, RecursionError) as error:
        raise Unreadable(str(error)) from error
    return parsed if isinstance(parsed, list) else [parsed]


def object_of(message: object) -> Json:
    """One message of a frame."""
    if not isinstance(message, dict):
        raise Unreadable("not an object")
    if message.get("_meta") is None and message.get("id") is None and not _text(message.get("type")):
        raise Unreadable("a message without a type")
    return message


def push_of(message: Json) -> Push:
    """A push; its `_meta` is removed from the message."""
    meta = message.pop("_meta")
    if not isinstance(meta, dict):
        raise Unreadable("a push without a channel")
    channel, id = meta.get("channel"), meta.get("id")
    if not isinstance(channel, str) or not (id is None or isinstance(id, str)):
        raise Unreadable("a push without a channel")
    return Push(channel, id, message, bool(meta.get("replayed")), bool(meta.get("snapshot")), int(meta.get("conflated") or 0))
