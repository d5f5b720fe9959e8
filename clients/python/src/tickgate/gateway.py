"""The HTTP API of a gateway: `Gateway` blocks, `AsyncGateway` is awaited; nothing else differs."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self
from urllib.parse import quote

import httpx

from . import _http
from ._engine import new_msg_id
from .errors import GatewayError, Invalid
from .publication import Publication, encoded
from .results import (
    Failed,
    History,
    OpenConnection,
    Published,
    TopicRule,
    connections_of,
    history_of,
    outcome_of,
    rule_of,
    stored_of,
)
from .token import mint

__all__ = ["AsyncGateway", "Gateway"]

# How many publications one request carries.
_BATCH = 1000


class _Calls:
    """What both share: the calls, and what their answers mean."""

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
        """The next call begins with another address."""
        self._preferred = (self.urls.index(url) + 1) % len(self.urls)

    @staticmethod
    def token(user: str, *, secret: str, ttl: float = 3600.0, **rights: Any) -> str:
        """A token for a user; `tickgate.token.mint` says what `rights` are."""
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
    def _connections(user: str | None) -> _http.Call:
        path = "/api/v1/connections" if user is None else f"/api/v1/users/{quote(user, safe='')}"
        return _http.Call("GET", path)

    @staticmethod
    def _disconnect(user: str | None, session: str | None, reason: str | None, revoke_seconds: int | None) -> _http.Call:
        if (user is None) == (session is None):
            raise Invalid("either `user` or `session` is required")
        body = {"user": user, "session": session, "reason": reason, "revoke_seconds": revoke_seconds}
        json = {name: value for name, value in body.items() if value is not None}
        return _http.Call("POST", "/api/v1/disconnect", json=json)

    @staticmethod
    def _ticket(token: str) -> _http.Call:
        return _http.Call("POST", "/api/v1/tickets", headers={"Authorization": f"Bearer {token}"})


def _chunks(publications: Iterable[Publication]) -> Iterator[list[Publication]]:
    iterator = iter(publications)
    while chunk := list(itertools.islice(iterator, _BATCH)):
        yield chunk


class Gateway(_Calls):
    """The HTTP API of a gateway, for threads. One object serves all of them.

    Args:
        api: the address of an operations listener, such as `http://127.0.0.1:8001`, or several, which take turns when one
            does not answer; `TICKGATE_API` by default.
        key: an API key; `TICKGATE_API_KEY` by default.
        timeout: for one attempt, in seconds.
        retries: how often a call is repeated whose outcome is not known, or which may succeed later. A publication is
            repeated with the same `msg_id`, so that it is published once.
    """

    def __init__(
        self,
        api: str | Sequence[str] | None = None,
        key: str | None = None,
        *,
        timeout: float = 5.0,
        retries: int = 5,
    ) -> None:
        super().__init__(api, key, timeout=timeout, retries=retries)
        self._client = httpx.Client(timeout=timeout)

    def publish(
        self, channel: str, data: Mapping[str, Any], *, user: str | None = None, msg_id: str | None = None, count: bool = False
    ) -> Published:
        """Publishes an object, and returns once it is stored. With `count`, the result says how many connections follow the
        channel.

        Raises:
            Invalid, Unauthorized, Refused: it is certainly not stored.
            Unknown: it may be: publish it again with the same `msg_id`.
        """
        body = self._call(self._publish(channel, data, user, msg_id, count))
        return stored_of(body)

    def publish_many(self, publications: Iterable[Publication]) -> list[Published | Failed]:
        """Publishes many, in their order; one that fails does not stop the others. Raises only if nothing was published."""
        results: list[Published | Failed] = []
        for chunk in _chunks(publications):
            call, msg_ids = self._batch(chunk)
            try:
                results += self._results(self._call(call), msg_ids)
            except GatewayError as error:
                if not results:
                    raise
                results += [Failed(error)] * len(msg_ids)
        return results

    def history(self, channel: str, *, user: str | None = None, since: str | None = None, last: int | None = None) -> History:
        """A page of what is kept of a topic, or with `user` of a private channel."""
        return history_of(self._call(self._history(channel, user, since, last)))

    def topic(self, channel: str, *, user: str | None = None) -> TopicRule:
        """How publications of a topic, or with `user` of a private channel, are kept."""
        return rule_of(self._call(self._topic(channel, user)))

    def connections(self, *, user: str | None = None) -> list[OpenConnection]:
        """Who is connected, over all replicas."""
        return connections_of(self._call(self._connections(user)))

    def disconnect(
        self,
        *,
        user: str | None = None,
        session: str | None = None,
        reason: str | None = None,
        revoke_seconds: int | None = None,
    ) -> None:
        """Closes the connections of a user, or one by its session. With `revoke_seconds` the tokens that the user has now
        are refused for that time."""
        self._call(self._disconnect(user, session, reason, revoke_seconds))

    def ticket(self, token: str) -> str:
        """A ticket for a token: good once, for 30 seconds, in the URL of a connection."""
        return str(self._call(self._ticket(token))["ticket"])

    def close(self) -> None:
        """Ends the connections to the gateway."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, call: _http.Call) -> dict[str, Any]:
        steps = self._steps(call)
        options = self._options(call)
        answer: httpx.Response | httpx.HTTPError | None = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                result: dict[str, Any] = end.value
                return result
            answer = None
            if isinstance(step, _http.Sleep):
                time.sleep(step.seconds)
                continue
            try:
                answer = self._client.request(call.method, step.url + call.path, **options)
            except httpx.HTTPError as error:
                self._failed(step.url)
                answer = error


class AsyncGateway(_Calls):
    """The same for `asyncio`."""

    def __init__(
        self,
        api: str | Sequence[str] | None = None,
        key: str | None = None,
        *,
        timeout: float = 5.0,
        retries: int = 5,
    ) -> None:
        super().__init__(api, key, timeout=timeout, retries=retries)
        self._client = httpx.AsyncClient(timeout=timeout)

    async def publish(
        self, channel: str, data: Mapping[str, Any], *, user: str | None = None, msg_id: str | None = None, count: bool = False
    ) -> Published:
        """As `Gateway.publish`."""
        body = await self._call(self._publish(channel, data, user, msg_id, count))
        return stored_of(body)

    async def publish_many(self, publications: Iterable[Publication]) -> list[Published | Failed]:
        """As `Gateway.publish_many`."""
        results: list[Published | Failed] = []
        for chunk in _chunks(publications):
            call, msg_ids = self._batch(chunk)
            try:
                results += self._results(await self._call(call), msg_ids)
            except GatewayError as error:
                if not results:
                    raise
                results += [Failed(error)] * len(msg_ids)
        return results

    async def history(
        self, channel: str, *, user: str | None = None, since: str | None = None, last: int | None = None
    ) -> History:
        """As `Gateway.history`."""
        return history_of(await self._call(self._history(channel, user, since, last)))

    async def topic(self, channel: str, *, user: str | None = None) -> TopicRule:
        """As `Gateway.topic`."""
        return rule_of(await self._call(self._topic(channel, user)))

    async def connections(self, *, user: str | None = None) -> list[OpenConnection]:
        """As `Gateway.connections`."""
        return connections_of(await self._call(self._connections(user)))

    async def disconnect(
        self,
        *,
        user: str | None = None,
        session: str | None = None,
        reason: str | None = None,
        revoke_seconds: int | None = None,
    ) -> None:
        """As `Gateway.disconnect`."""
        await self._call(self._disconnect(user, session, reason, revoke_seconds))

    async def ticket(self, token: str) -> str:
        """As `Gateway.ticket`."""
        return str((await self._call(self._ticket(token)))["ticket"])

    async def close(self) -> None:
        """Ends the connections to the gateway."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(self, call: _http.Call) -> dict[str, Any]:
        steps = self._steps(call)
        options = self._options(call)
        answer: httpx.Response | httpx.HTTPError | None = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                result: dict[str, Any] = end.value
                return result
            answer = None
            if isinstance(step, _http.Sleep):
                await asyncio.sleep(step.seconds)
                continue
            try:
                answer = await self._client.request(call.method, step.url + call.path, **options)
            except httpx.HTTPError as error:
                self._failed(step.url)
                answer = error
