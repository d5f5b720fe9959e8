"""Calls of the HTTP API: which address, how often, and what the answer means. Knows httpx's answers and errors; what waits or
sends is the caller's."""

from __future__ import annotations

import os
import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from .errors import GatewayError, Invalid, Refused, Unknown, problem

# The waits between attempts, in seconds.
_FIRST_WAIT = 0.1
_LONGEST_WAIT = 5.0
# Not a byte of the request was sent.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


@dataclass(slots=True)
class Call:
    """A request. `once`: what it does must not be done twice, and nothing but a `msg_id` in it prevents that."""

    method: str
    path: str
    json: Any = None
    content: bytes | None = None
    params: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    msg_id: str | None = None
    once: bool = False


@dataclass(frozen=True, slots=True)
class Send:
    """Send it to this address."""

    url: str


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait this many seconds."""

    seconds: float


Steps = Generator[Send | Sleep, httpx.Response | httpx.HTTPError | None, Any]


def addresses(api: str | Sequence[str] | None) -> list[str]:
    """The addresses of operations listeners, by default those of `TICKGATE_API`."""
    given = api if api is not None else os.environ.get("TICKGATE_API", "http://127.0.0.1:8001")
    urls = given.split(",") if isinstance(given, str) else list(given)
    urls = [url.strip().rstrip("/") for url in urls if url.strip()]
    if not urls or not all(url.startswith(("http://", "https://")) for url in urls):
        raise Invalid("`api` must be an http:// or https:// address, or several")
    return urls


def authorization(key: str | None) -> dict[str, str]:
    """The header of an API key, by default `TICKGATE_API_KEY`."""
    key = key if key is not None else os.environ.get("TICKGATE_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def body_of(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def wait_before(attempt: int, error: GatewayError | None = None) -> float:
    """How long to wait before the next attempt; the first was number 0."""
    bound = min(_FIRST_WAIT * 2.0**attempt, _LONGEST_WAIT)
    told = (error.retry_after_ms or 0) / 1000 if error is not None else 0.0
    return max(told, bound / 2 + random.random() * bound / 2)


def failure(error: httpx.HTTPError, msg_id: str | None) -> GatewayError:
    """What an error of the connection means."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, _NOT_SENT):
        return Refused(f"the gateway cannot be reached: {text}", msg_id=msg_id, error="unreachable")
    return Unknown(f"no answer: {text}", msg_id=msg_id, error="outcome_unknown")


def steps(call: Call, urls: list[str], start: int, attempts: int) -> Steps:
    """Sends a call until its outcome is certain or there were enough attempts. Returns the body of the answer."""
    perhaps: GatewayError | None = None
    error: GatewayError | None = None
    for attempt in range(attempts):
        if attempt:
            yield Sleep(wait_before(attempt - 1, error))
        answer = yield Send(urls[(start + attempt) % len(urls)])
        if isinstance(answer, httpx.HTTPError):
            error = failure(answer, call.msg_id)
        else:
            assert isinstance(answer, httpx.Response)
            if answer.is_success:
                return body_of(answer)
            error = problem(answer.status_code, body_of(answer), msg_id=call.msg_id)
            if isinstance(error, Refused) and error.retry_after_ms is None and answer.status_code not in (502, 503):
                break
        if isinstance(error, Unknown):
            perhaps = error
            if call.once:
                break
    assert error is not None
    raise perhaps or error
