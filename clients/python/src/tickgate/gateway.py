"""The HTTP API of a gateway. `Gateway` is blocking, `AsyncGateway` is for `asyncio`; they are otherwise the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, Unpack

import httpx

from . import _http
from ._calls import Calls, ConnectionFilter, Disconnect, chunks
from .errors import GatewayError, Invalid
from .publication import Publication
from .results import (
    Connections,
    Failed,
    History,
    Presence,
    Published,
    TopicRule,
    connections_of,
    history_of,
    presence_of,
    rule_of,
    stored_of,
)

__all__ = ["AsyncGateway", "Gateway"]


class Gateway(Calls):
    """The HTTP API of a gateway, blocking. Threads can share one object.

    Args:
        api: the address of an operations listener, such as `http://127.0.0.1:8001`, or several, which take turns when one
            does not answer; `TICKGATE_API` by default.
        key: an API key; `TICKGATE_API_KEY` by default.
        timeout: for one attempt, in seconds.
        retries: how often a call is repeated if its outcome is unknown or it may succeed later. A publication is repeated
            with the same `msg_id`, so that it is published once.
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
            Unknown: it may be stored: publish it again with the same `msg_id`.
        """
        body = self._call(self._publish(channel, data, user, msg_id, count))
        return stored_of(body)

    def publish_many(self, publications: Iterable[Publication]) -> list[Published | Failed]:
        """Publishes several in order; one that fails does not stop the others. Raises only if the first request fails."""
        results: list[Published | Failed] = []
        for chunk in chunks(publications):
            call, msg_ids = self._batch(chunk)
            try:
                results += self._results(self._call(call), msg_ids)
            except GatewayError as error:
                if not results:
                    raise
                results += [Failed(error)] * len(msg_ids)
        return results

    def history(self, channel: str, *, user: str | None = None, since: str | None = None, last: int | None = None) -> History:
        """A page of the retained publications of a topic or, with `user`, of a private channel."""
        return history_of(self._call(self._history(channel, user, since, last)))

    def topic(self, channel: str, *, user: str | None = None) -> TopicRule:
        """How publications of a topic or, with `user`, of a private channel are retained."""
        return rule_of(self._call(self._topic(channel, user)))

    def connections(self, **which: Unpack[ConnectionFilter]) -> Connections:
        """The connections of all replicas. `ConnectionFilter` describes the arguments."""
        found: list[dict[str, Any]] = []
        cursor, complete = None, True
        while True:
            page = self._call(self._connections(cursor, **which))
            found += page["connections"]
            cursor, complete = page["cursor"], complete and page["complete"]
            if cursor is None:
                return connections_of(found, complete)

    def presence(self, channel: str, *, user: str | None = None) -> Presence:
        """The number of clients that follow a topic or, with `user`, a private channel, over all replicas; at most a second
        old."""
        return presence_of(self._call(self._presence(channel, user)))

    def send(self, connection_id: str, data: Mapping[str, Any]) -> bool:
        """Sends an object to one connection, on any replica. It is not stored. Returns false if no connection has this id.

        Raises:
            Invalid, Unauthorized, Refused: it was certainly not sent, because of the data, the key, or because too much is
                already queued for the connection.
            Unknown: it may have been sent.
        """
        try:
            self._call(self._send(connection_id, data))
        except Invalid as error:
            if error.status == 404:
                return False
            raise
        return True

    def disconnect(self, **whom: Unpack[Disconnect]) -> int | None:
        """Closes connections, which `Disconnect` selects. Returns their number for `connection_id` and `idle_seconds`."""
        closed: int | None = (self._call(self._disconnect(**whom))).get("connections")
        return closed

    def set_active(self, user: str, active: bool, *, seconds: int | None = None) -> None:
        """Reports a user as active or inactive. While a user is inactive, every replica refuses all of the user's tokens,
        whenever they were issued, and closes the user's connections with 4002. This ends when the user is reported as active,
        or after `seconds`, by default a year.

        Raises:
            Invalid, Unauthorized: nothing was done.
            Refused: not all replicas could be reached, or Redis does not accept it now; the gateway retries automatically.
        """
        self._call(self._report(user, active, seconds))

    def is_active(self, user: str) -> bool:
        """Whether the user is active, which is true unless reported otherwise."""
        return bool(self._call(self._user(user))["active"])

    def ticket(self, token: str) -> str:
        """A ticket for a token: it can be used once within 30 seconds, in the URL of a connection."""
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


class AsyncGateway(Calls):
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
        for chunk in chunks(publications):
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

    async def connections(self, **which: Unpack[ConnectionFilter]) -> Connections:
        """As `Gateway.connections`."""
        found: list[dict[str, Any]] = []
        cursor, complete = None, True
        while True:
            page = await self._call(self._connections(cursor, **which))
            found += page["connections"]
            cursor, complete = page["cursor"], complete and page["complete"]
            if cursor is None:
                return connections_of(found, complete)

    async def presence(self, channel: str, *, user: str | None = None) -> Presence:
        """As `Gateway.presence`."""
        return presence_of(await self._call(self._presence(channel, user)))

    async def send(self, connection_id: str, data: Mapping[str, Any]) -> bool:
        """As `Gateway.send`."""
        try:
            await self._call(self._send(connection_id, data))
        except Invalid as error:
            if error.status == 404:
                return False
            raise
        return True

    async def disconnect(self, **whom: Unpack[Disconnect]) -> int | None:
        """As `Gateway.disconnect`."""
        closed: int | None = (await self._call(self._disconnect(**whom))).get("connections")
        return closed

    async def set_active(self, user: str, active: bool, *, seconds: int | None = None) -> None:
        """As `Gateway.set_active`."""
        await self._call(self._report(user, active, seconds))

    async def is_active(self, user: str) -> bool:
        """As `Gateway.is_active`."""
        return bool((await self._call(self._user(user)))["active"])

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
