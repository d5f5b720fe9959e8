"""Publications as text, checked before they are sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import Invalid

__all__ = ["Publication"]

# Maximum size of a publication.
DATA_MAX = 64 << 10
# Made once: `json.dumps` makes an encoder for each call that has options.
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class Publication:
    """A message to publish.

    Attributes:
        channel: a public topic or, with `user`, one of the user's private channels.
        data: a JSON object without a top-level `_meta`, of at most 64 KiB.
        user: the owner of a private channel.
        msg_id: identifies the publication, so that it is published once even if it is sent again; generated if `None`.
    """

    channel: str
    data: Mapping[str, Any]
    user: str | None = None
    msg_id: str | None = None


def encoded_data(data: Mapping[str, Any], msg_id: str | None) -> str:
    """The object as JSON. Raises `Invalid` if the gateway would never accept it."""
    if not isinstance(data, Mapping):
        raise Invalid("`data` must be an object", msg_id=msg_id)
    if "_meta" in data:
        raise Invalid("`_meta` is reserved for the gateway: `data` must not contain it at the top level", msg_id=msg_id)
    try:
        text = _encode(data if type(data) is dict else dict(data))
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"`data` cannot be encoded as JSON: {error}", msg_id=msg_id) from error
    if len(text) > DATA_MAX:
        raise Invalid(f"`data` has {len(text)} bytes; 65,536 are allowed", msg_id=msg_id)
    return text


def encoded(channel: str, data: Mapping[str, Any], user: str | None, msg_id: str, count: bool = False) -> bytes:
    """A publication in the form of the HTTP API, on one line."""
    text = encoded_data(data, msg_id)
    head = f'{{"channel":{_encode(channel)},"msg_id":{_encode(msg_id)},'
    if user is not None:
        head += f'"user":{_encode(user)},'
    if count:
        head += '"count":true,'
    return f'{head}"data":{text}}}'.encode()
