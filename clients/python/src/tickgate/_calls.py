"""The calls of the HTTP API and the meaning of their responses, shared by `Gateway` and `AsyncGateway`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypedDict, Unpack
from urllib.parse import quote

from . import _http
from ._engine import new_msg_id
from .errors import Invalid
from .publication import Publication, encoded
from .results import Failed, Published, outcome_of
from .token import mint

# Maximum number of publications in a request.
_BATCH = 1000
# Number of connections on a page.
_PAGE = 1000


class ConnectionFilter(TypedDict, total=False):
    """Selects the connections that match all of the given values.

    Attributes:
        connection_id: the connection with this id.
        user: connections of this user.
        endpoint: connections at the profile with this name.
        param: connections whose path has this parameter, such as a run.
        topic: connections that follow this topic; with `user`, the user's private channel.
        idle_seconds: connections whose client has sent nothing for this long, not even a reply to a ping.
    """

    connection_id: str | None
    user: str | None
    endpoint: str | None
    param: str | None
    topic: str | None
    idle_seconds: int | None


class Disconnect(TypedDict, total=False):
    """The connections to close, and how.

    Attributes:
        user: all connections of this user.
        session: the connection of this session.
        connection_id: the connection with this id.
        idle_seconds: all connections whose client has sent nothing for this long.
        endpoint: with `idle_seconds`, only connections at the profile with this name.
        reason: the text of the Close frame.
        revoke_seconds: how long the user's current tokens are refused.
    """

    user: str | None
    session: str | None
    connection_id: str | None
    idle_seconds: int | None
    endpoint: str | None
    reason: str | None
    revoke_seconds: int | None


class Calls:
    """The base of `Gateway` and `AsyncGateway`: the calls, and the meaning of their responses."""

    def __init__(
        self,
        api: str | Sequence[str] | None = None,
        key: str | None = None,
        *,
        timeout: float = 5.0,
        retries: int = 5,
    ) -> None:
        self.urls = _http.addresses(api)
        self.headers = _http.authorization(key)
        self.timeout = timeout
        self._attempts = max(retries, 0) + 1
        self._preferred = 0

    def _steps(self, call: _http.Call) -> _http.Steps:
        return _http.steps(call, self.urls, self._preferred, self._attempts)

    def _options(self, call: _http.Call) -> dict[str, Any]:
        headers = {**self.headers, **call.headers}
        params = {name: value for name, value in call.params.items() if value is not None}
        return {"json": call.json, "content": call.content, "params": params, "headers": headers}

    def _failed(self, url: str) -> None:
        """Makes the next call start with another address."""
        self._preferred = (self.urls.index(url) + 1) % len(self.urls)

    @staticmethod
    def token(user: str, *, secret: str, ttl: float = 3600.0, **rights: Any) -> str:
        """A token for a user; `tickgate.token.mint` describes `rights`."""
        return mint(user, secret=secret, ttl=ttl, **rights)

    @staticmethod
    def _publish(channel: str, data: Mapping[str, Any], user: str | None, msg_id: str | None, count: bool) -> _http.Call:
        msg_id = msg_id or new_msg_id()
        content = encoded(channel, data, user, msg_id, count)
        headers = {"Content-Type": "application/json"}
        return _http.Call("POST", "/api/v1/publish", content=content, headers=headers, msg_id=msg_id)

    @staticmethod
    def _batch(publications: Iterable[Publication]) -> tuple[_http.Call, list[str]]:
        msg_ids, parts = [], []
        for one in publications:
            msg_id = one.msg_id or new_msg_id()
            msg_ids.append(msg_id)
            parts.append(encoded(one.channel, one.data, one.user, msg_id))
        content = b'{"publications":[' + b",".join(parts) + b"]}"
        headers = {"Content-Type": "application/json"}
        return _http.Call("POST", "/api/v1/publish/batch", content=content, headers=headers), msg_ids

    @staticmethod
    def _results(body: dict[str, Any], msg_ids: list[str]) -> list[Published | Failed]:
        return [outcome_of(one, msg_id) for one, msg_id in zip(body["results"], msg_ids, strict=True)]

    @staticmethod
    def _history(channel: str, user: str | None, since: str | None, last: int | None) -> _http.Call:
        params = {"user": user, "since": since, "last": last}
        return _http.Call("GET", f"/api/v1/topics/{quote(channel, safe='')}/history", params=params)

    @staticmethod
    def _topic(channel: str, user: str | None) -> _http.Call:
        return _http.Call("GET", f"/api/v1/topics/{quote(channel, safe='')}", params={"user": user})

    @staticmethod
    def _connections(cursor: str | None, **which: Unpack[ConnectionFilter]) -> _http.Call:
        params = {**which, "limit": _PAGE, "cursor": cursor}
        return _http.Call("GET", "/api/v1/connections", params=params)

    @staticmethod
    def _presence(channel: str, user: str | None) -> _http.Call:
        return _http.Call("GET", "/api/v1/presence", params={"topic": channel, "user": user})

    @staticmethod
    def _send(connection_id: str, data: Mapping[str, Any]) -> _http.Call:
        body = {"connection_id": connection_id, "data": dict(data)}
        return _http.Call("POST", "/api/v1/send", json=body, once=True)

    @staticmethod
    def _disconnect(**whom: Unpack[Disconnect]) -> _http.Call:
        json = {name: value for name, value in whom.items() if value is not None}
        if len(json.keys() & {"user", "session", "connection_id", "idle_seconds"}) != 1:
            raise Invalid("one of `user`, `session`, `connection_id` and `idle_seconds` is required")
        return _http.Call("POST", "/api/v1/disconnect", json=json)

    @staticmethod
    def _report(user: str, active: bool, seconds: int | None) -> _http.Call:
        json = {"active": active} if seconds is None else {"active": active, "seconds": seconds}
        return _http.Call("PUT", f"/api/v1/users/{quote(user, safe='')}", json=json)

    @staticmethod
    def _user(user: str) -> _http.Call:
        return _http.Call("GET", f"/api/v1/users/{quote(user, safe='')}", params={"limit": 1})

    @staticmethod
    def _ticket(token: str) -> _http.Call:
        return _http.Call("POST", "/api/v1/tickets", headers={"Authorization": f"Bearer {token}"})


def chunks(publications: Iterable[Publication]) -> Iterator[list[Publication]]:
    iterator = iter(publications)
    while chunk := list(itertools.islice(iterator, _BATCH)):
        yield chunk
