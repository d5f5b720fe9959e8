"""For FastAPI: tokens for the pages of users who are logged in."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from fastapi import Depends, HTTPException

from .errors import Invalid
from .token import mint

__all__ = ["token_dependency"]


def token_dependency(
    current_user: Callable[..., Any],
    *,
    secret: str | None = None,
    ttl: float = 900.0,
    channels: Iterable[str] | None = None,
    publish: Iterable[str] | None = None,
    commands: bool = False,
    runs: Iterable[str] | Callable[[str], Iterable[str]] | None = None,
) -> Callable[..., Awaitable[str]]:
    """A dependency whose value is a token of the gateway for the user who makes the request.

    Args:
        current_user: the platform's own dependency. It returns the user's id, or an object with an attribute `id` or
            `username`; it raises, or returns `None`, if no user is logged in, which is answered with 401.
        secret: one of the gateway's `auth.hs256_secrets`; `TICKGATE_TOKEN_SECRET` by default.
        ttl: for how many seconds a token is valid; a client gets another one in time.
        channels: as of `tickgate.token.mint`.
        publish: as of `tickgate.token.mint`.
        commands: as of `tickgate.token.mint`.
        runs: as of `tickgate.token.mint`, or a function from the user's id to them.
    """
    key = secret or os.environ.get("TICKGATE_TOKEN_SECRET")
    if not key or len(key.encode()) < 32:
        raise Invalid("`secret`, or TICKGATE_TOKEN_SECRET, must have at least 32 bytes")
    may_read = list(channels) if channels is not None else None
    may_publish = list(publish) if publish is not None else None
    of_user = runs if callable(runs) else None
    of_all = None if runs is None or callable(runs) else list(runs)

    async def token(user: Any = Depends(current_user)) -> str:  # noqa: B008
        user = await user if inspect.isawaitable(user) else user
        name = user if isinstance(user, str | int) else getattr(user, "id", None) or getattr(user, "username", None)
        if name is None or isinstance(name, bool):
            raise HTTPException(401, "no user is logged in")
        may_reach = list(of_user(str(name))) if of_user else of_all
        return mint(str(name), secret=key, ttl=ttl, channels=may_read, publish=may_publish, commands=commands, runs=may_reach)

    return token
