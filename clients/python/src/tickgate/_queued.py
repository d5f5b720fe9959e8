"""What an outbox holds and counts."""

from __future__ import annotations

import concurrent.futures
import json
import time
from dataclasses import dataclass
from typing import Any, TypedDict

from .errors import GatewayError
from .results import Published


@dataclass(slots=True)
class Stats:
    """The number of publications by outcome.

    Attributes:
        queued: waiting or being sent.
        sent: stored.
        failed: not stored, or possibly stored; `failures` and `on_error` give the reason.
        rejected: not queued, because the outbox was full and `when_full` is `raise`.
        blocked: had to wait for room.
        retried: sent more than once.
        reordered: temporarily refused while later ones of the same request were stored.
    """

    queued: int = 0
    sent: int = 0
    failed: int = 0
    rejected: int = 0
    blocked: int = 0
    retried: int = 0
    reordered: int = 0


@dataclass(frozen=True, slots=True)
class FailedPublication:
    """A publication that was given up."""

    channel: str
    user: str | None
    msg_id: str
    error: GatewayError


class PutOptions(TypedDict, total=False):
    """Options of `Outbox.put`, which explains them."""

    user: str | None
    msg_id: str | None
    max_age: float | None


def answers(lines: list[str]) -> list[dict[str, Any]]:
    """The objects in the lines of a response, up to the first line that is not one."""
    try:
        whole = json.loads(f"[{','.join(lines)}]")
    except ValueError:
        whole = []
    if len(whole) == len(lines) and all(type(answer) is dict for answer in whole):
        return list(whole)
    found: list[dict[str, Any]] = []
    for line in lines:
        try:
            answer = json.loads(line)
        except ValueError:
            break
        if not isinstance(answer, dict):
            break
        found.append(answer)
    return found


class Entry:
    __slots__ = ("attempts", "channel", "error", "expires", "line", "maybe_done", "msg_id", "result", "user")

    def __init__(self, channel: str, user: str | None, msg_id: str, line: bytes, max_age: float) -> None:
        # Of those whose caller waits.
        self.result: concurrent.futures.Future[Published] | None = None
        self.channel = channel
        self.user = user
        self.msg_id = msg_id
        self.line = line
        self.expires = time.monotonic() + max_age
        self.attempts = 0
        self.maybe_done = False
        self.error: GatewayError | None = None
