"""Makes tokens for users: a JWT signed with HS256, by the standard library alone. For a platform's backend."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterable
from typing import Any

from .errors import Invalid

__all__ = ["mint"]


def mint(
    user: str,
    *,
    secret: str,
    ttl: float = 3600.0,
    channels: Iterable[str] | None = None,
    publish: Iterable[str] | None = None,
    commands: bool = False,
    runs: Iterable[str] | None = None,
    claims: dict[str, Any] | None = None,
) -> str:
    """A token for a user.

    Args:
        user: 1 to 128 bytes.
        secret: one of the gateway's `auth.hs256_secrets`.
        ttl: how long it is valid, in seconds.
        channels: patterns of the channels that it may subscribe to; if `None`, all that an endpoint offers.
        publish: patterns of the channels that it may publish to; if `None`, none.
        commands: whether it may send commands to runs.
        runs: patterns of the runs that it may watch and command; if `None`, none in production.
        claims: additional claims, such as `iss` and `aud`; they replace those above.
    """
    if not user or len(user.encode()) > 128:
        raise Invalid("a user must have 1 to 128 bytes")
    if not secret:
        raise Invalid("the secret is empty")
    now = int(time.time())
    payload: dict[str, Any] = {"sub": user, "iat": now, "exp": now + max(int(ttl), 1)}
    if channels is not None:
        payload["channels"] = list(channels)
    if publish is not None:
        payload["publish"] = list(publish)
    if commands:
        payload["commands"] = True
    if runs is not None:
        payload["runs"] = list(runs)
    payload.update(claims or {})
    signed = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_part(payload)}"
    signature = hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{_base64(signature)}"


def _part(value: dict[str, Any]) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
