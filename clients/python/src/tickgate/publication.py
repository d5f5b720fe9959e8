"""Publications as text, checked before they are sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import Invalid

__all__ = ["Publication"]

# What a publication may have, in bytes.
DATA_MAX = 64 << 10
# Made once: `json.dumps` makes an encoder for each call that has options.
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class Publication:
    """What is to be published.

    Attributes:
        channel: a public topic, or with `user` one of the user's private channels.
        data: a JSON object without a top-level `_meta`, of at most 64 KiB.
        user: whose channel it is.
        msg_id: names it, so that it is published once however often it is sent; made up if it is `None`.
    """

    channel: str
    data: Mapping[str, Any]
    user: str | None = None
    msg_id: str | None = None


def encoded_data(data: Mapping[str, Any], msg_id: str | None) -> str:
    """The object as JSON. Raises `Invalid` for what the gateway would never take."""
    if not isinstance(data, Mapping):
        raise Invalid("`data` is an object", msg_id=msg_id)
    if "_meta" in data:
        raise Invalid("`_meta` is the gateway's: no publication may have it at its top", msg_id=msg_id)
    try:
        text = _encode(data if type(data) is dict else dict(data))
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"`data` is no JSON: {error}", msg_id=msg_id) from error
    if len(text) > DATA_MAX:
        raise Invalid(f"`data` has {len(text)} bytes; 65,536 are allowed", msg_id=msg_id)
    return text


def encoded(channel: str, data: Mapping[str, Any], user: str | None, msg_id: str, count: bool = False) -> bytes:
    """A publication as the HTTP API takes it, in one line."""
    text = encoded_data(data, msg_id)
    head = f'{{"channel":{_encode(channel)},"msg_id":{_encode(msg_id)},'
    if user is not None:
        head += f'"user":{_encode(user)},'
    if count:
        head += '"count":true,'
    return f'{head}"data":{text}}}'.encode()
