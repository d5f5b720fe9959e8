"""Requests of the application: sent when there is a connection, repeated where that is safe, given up at their deadline.
Pure: the time is an argument."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any

from ..errors import GatewayError, Refused, Unknown, refusal
from .read import Json

# How many requests may be pending.
PENDING_MAX = 1024


def text_of(message: Json) -> str:
    """A message as it is sent."""
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False)


@dataclass(slots=True, eq=False)
class Request:
    """`msg_id`: it may be repeated. `done` is called once, with the reply or the error."""

    type: str
    fields: Json
    msg_id: str | None
    deadline: float
    done: Callable[[Json | None, GatewayError | None], None]
    # The number under which it was sent on this connection; 0 if it was not.
    sent: int = 0
    not_before: float = 0.0
    # The gateway may have acted on it.
    maybe_done: bool = False
    refused: GatewayError | None = None

    def unknown(self) -> Unknown:
        last = self.refused
        return Unknown(
            "not answered in time: it may have been accepted",
            code=last.code if last else None,
            error=last.error if last else "outcome_unknown",
            msg_id=self.msg_id,
        )


@dataclass(slots=True)
class Pending:
    """All requests that have no result yet."""

    _all: list[Request] = field(default_factory=list)

    def add(self, request: Request) -> None:
        if len(self._all) >= PENDING_MAX:
            request.done(None, Refused("too many requests are pending", msg_id=request.msg_id))
        else:
            self._all.append(request)

    def due(self, connected: bool) -> float:
        """When a deadline passes or, with a connection, a request is to be sent."""
        due = inf
        for one in self._all:
            due = min(due, one.deadline, one.not_before if connected and not one.sent else inf)
        return due

    def expire(self, now: float) -> None:
        """Gives up what is past its deadline."""
        for one in [one for one in self._all if one.deadline <= now]:
            late = one.refused or Refused("not sent before the deadline", msg_id=one.msg_id)
            self._finish(one, one.unknown() if one.maybe_done or one.sent else late)

    def next(self, now: float, number: int, size: int) -> str | None:
        """The next request to send under this number. One of more than `size` bytes has its result here: sent, it would
        end the connection permanently."""
        for one in list(self._all):
            if one.sent or one.not_before > now:
                continue
            message: Json = {"type": one.type, "id": number, **one.fields}
            if one.msg_id is not None:
                message["msg_id"] = one.msg_id
            text = text_of(message)
            if len(text.encode()) <= size:
                one.sent = number
                return text
            large = Refused("larger than the gateway takes", msg_id=one.msg_id)
            self._finish(one, one.unknown() if one.maybe_done else large)
        return None

    def reply(self, now: float, number: Any, message: Json) -> None:
        """Handles a reply, if it is one to a request of the application."""
        if isinstance(number, bool) or not isinstance(number, int):
            return
        one = next((one for one in self._all if one.sent == number), None)
        if one is None:
            return
        if message.get("type") != "error":
            self._finish(one, None, message)
            return
        error = refusal(message, msg_id=one.msg_id, channel=one.fields.get("channel"))
        one.sent = 0
        one.maybe_done = one.maybe_done or isinstance(error, Unknown)
        one.refused = error
        if one.msg_id is not None and error.retry_after_ms is not None:
            one.not_before = now + error.retry_after_ms / 1000
        else:
            self._finish(one, one.unknown() if one.maybe_done else error)

    def disconnected(self) -> None:
        for one in list(self._all):
            if one.sent:
                one.sent = 0
                one.maybe_done = True
                if one.msg_id is None:
                    self._finish(one, one.unknown())

    def end(self, why: str) -> None:
        """Nothing is sent any more, because of this."""
        for one in list(self._all):
            ended = Refused(why, msg_id=one.msg_id)
            self._finish(one, one.unknown() if one.maybe_done or one.sent else one.refused or ended)

    def _finish(self, one: Request, error: GatewayError | None, reply: Json | None = None) -> None:
        self._all.remove(one)
        one.done(reply, error)
