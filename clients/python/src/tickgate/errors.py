"""The exceptions of the package. Each contains the gateway's error, and is raised only for the reason that it names."""

from __future__ import annotations

from typing import Any

__all__ = [
    "Closed",
    "GapHandlerMissing",
    "GatewayError",
    "Invalid",
    "OutboxFull",
    "Refused",
    "TickgateError",
    "Unauthorized",
    "Unknown",
]


class TickgateError(Exception):
    """The base class of all errors that this package raises."""


class GatewayError(TickgateError):
    """A request to the gateway failed; `Refused` and `Unknown` give its outcome.

    Attributes:
        code: the gateway's code (`docs/wire.md`, section 8), if it sent one.
        error: the gateway's name of the failure, such as `rate_limited`.
        status: the HTTP status; `None` over a WebSocket.
        retry_after_ms: the same request may succeed after this time; `None`: it will not.
        msg_id: the `msg_id` of the refused publication, if it had one.
        channel: the refused channel, if the error concerns one.
    """

    def __init__(
        self,
        message: str,
        *,
        code: int | None = None,
        error: str | None = None,
        status: int | None = None,
        retry_after_ms: int | None = None,
        msg_id: str | None = None,
        channel: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.error = error
        self.status = status
        self.retry_after_ms = retry_after_ms
        self.msg_id = msg_id
        self.channel = channel

    def __str__(self) -> str:
        told = [str(part) for part in (self.status, self.code, self.error) if part is not None]
        return f"{self.message} ({', '.join(told)})" if told else self.message


class Refused(GatewayError):
    """The request was certainly not performed: nothing was stored or sent."""


class Invalid(Refused, ValueError):
    """The request is invalid, according to this package or the gateway: the same request will never succeed."""


class Unauthorized(Refused):
    """The key, the token or its rights do not allow it."""


class Unknown(GatewayError):
    """It is unknown whether the request was performed: send it again with the same `msg_id`."""


class OutboxFull(TickgateError):
    """The outbox is full and was created with `when_full="raise"`. The publication was not queued."""


class Closed(TickgateError):
    """The connection has closed permanently; it will not reconnect.

    Attributes:
        code: the close code; `None` if there was none.
        reason: why, as text.
    """

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(f"{reason} ({code})" if code is not None else reason)
        self.code = code
        self.reason = reason


class GapHandlerMissing(TickgateError, TypeError):
    """A channel of class `reliable` is read without `on_gap`: a loss could be overlooked."""


_INVALID = {1003, 1009, 4004, 4503, 4504, 4505}
_UNAUTHORIZED = {1008, 4001, 4002, 4502}


def refusal(message: dict[str, Any], *, channel: str | None = None, msg_id: str | None = None) -> GatewayError:
    """The exception for an error object of the gateway."""
    details = message.get("details")
    details = details if isinstance(details, dict) else {}
    code = message.get("code")
    kind: type[GatewayError] = Refused
    if details.get("outcome") == "unknown":
        kind = Unknown
    elif code in _UNAUTHORIZED:
        kind = Unauthorized
    elif code in _INVALID:
        kind = Invalid
    return kind(
        str(message.get("message") or message.get("error") or "refused"),
        code=code if isinstance(code, int) else None,
        error=message.get("error"),
        retry_after_ms=milliseconds(details.get("retry_after_ms")),
        channel=channel,
        msg_id=msg_id,
    )


def problem(status: int, body: dict[str, Any], *, msg_id: str | None = None) -> GatewayError:
    """The exception for a problem document of the HTTP API, or for one element of a batch."""
    error = body.get("error")
    kind: type[GatewayError] = Refused
    if status == 504 or error == "outcome_unknown":
        kind = Unknown
    elif status in (401, 403):
        kind = Unauthorized
    elif status in (400, 404, 405, 409, 411, 413, 415, 422, 431):
        kind = Invalid
    code = body.get("code")
    return kind(
        str(body.get("detail") or body.get("title") or f"the gateway answered {status}"),
        code=code if isinstance(code, int) else None,
        error=error if isinstance(error, str) else None,
        status=status,
        retry_after_ms=milliseconds(body.get("retry_after_ms")),
        msg_id=body.get("msg_id") or msg_id,
    )


def milliseconds(value: object) -> int | None:
    """A time that the gateway sent, or `None`."""
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None
