"""Publishing straight into Redis, by the gateway's own script: for engines that skip the HTTP hop. Everything about the format
in Redis is here. Requires the extra `redis`, and `redis.engines = true` on all replicas."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ._engine import new_msg_id
from .errors import GatewayError, Invalid, Refused, Unknown
from .publication import encoded_data
from .results import Published

__all__ = ["PREFIX", "RedisPublisher", "stream_key"]

# Of every name in Redis, with the version of the format.
PREFIX = "tg2:"
# How long the topic rules are taken for those that the gateways have, in seconds.
_RULES_AGE = 60.0
# For one call, in seconds.
_TIMEOUT = 1.0


def _user(user: str) -> str:
    return user.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")


def topic_of(channel: str, user: str | None, reliable: bool) -> tuple[str, str]:
    """The topic of a channel, and the channel's name within it."""
    if user is None:
        return channel, "-"
    return (f"@@{_user(user)}", channel) if reliable else (f"@{channel}@{_user(user)}", "-")


def stream_key(topic: str, prefix: str = PREFIX) -> str:
    """The name of a topic's stream."""
    return f"{prefix}{{t:{topic}}}:s"


def _word(channel: str) -> str:
    """A channel's name in the script's arguments, where `-` stands for none and a blank ends a word."""
    return "%2D" if channel == "-" else channel.replace(" ", "%20")


@dataclass(frozen=True, slots=True)
class _Rule:
    """How publications of a topic are kept."""

    pattern: re.Pattern[str]
    reliable: bool
    retain_max: int
    dedupe_ms: int

    @classmethod
    def of(cls, row: dict[str, Any]) -> Self:
        pattern = ".*".join(re.escape(part) for part in row.get("pattern", "*").split("*"))
        return cls(
            re.compile(pattern, re.DOTALL),
            row["class"] == "reliable",
            int(row["retain_max"]),
            int(row["dedupe_ttl"]) * 1000,
        )


class _Rules:
    """The gateways' topic rules, as they are in Redis."""

    def __init__(self, table: dict[str, Any]) -> None:
        self._topics = [_Rule.of(row) for row in table["topics"]]
        self._user_stream = _Rule.of(table["user_stream"])

    def place(self, channel: str, user: str | None) -> tuple[str, str, _Rule]:
        """The topic of a channel, the channel's name within it, and how it is kept."""
        rule = next(rule for rule in self._topics if rule.pattern.fullmatch(channel))
        topic, name = topic_of(channel, user, rule.reliable)
        if user is not None and rule.reliable:
            return topic, _word(name), self._user_stream
        return topic, "-", rule


class RedisPublisher:
    """Publishes to topics of the gateway. Not for several threads at once.

    What it publishes is stored, ordered and delivered like everything else, with one difference: after **each** change of
    Redis (a failover, a restart, an old backup) clients receive a `gap`: messages may be missing. Prefer the HTTP API
    for orders.

    Args:
        url: of Redis, or a client of the package `redis` without automatic retries.
        prefix: `redis.prefix` of the gateway.
        attempts: how often a publication with a `msg_id` is tried whose outcome is not known.
    """

    def __init__(self, url: str | redis.Redis, *, prefix: str = PREFIX, attempts: int = 3) -> None:
        if isinstance(url, str):
            url = redis.Redis.from_url(
                url,
                socket_timeout=_TIMEOUT,
                socket_connect_timeout=_TIMEOUT,
                decode_responses=True,
                retry=Retry(NoBackoff(), 0),
            )
        self._client: Any = url
        self._script = self._client.register_script(_script())
        self._rules: _Rules | None = None
        self._learned = 0.0
        self._prefix = prefix
        self._gen = f"{prefix}{{gen}}"
        self._attempts = max(attempts, 1)
        self._generation: str | None = None
        self._epochs: dict[str, str] = {}

    def publish(
        self,
        channel: str,
        data: Mapping[str, Any],
        *,
        user: str | None = None,
        msg_id: str | None = None,
        once: bool = True,
    ) -> Published:
        """Publishes an object, and returns once it is stored.

        Args:
            channel: a public topic, or with `user` one of the user's private channels.
            data: a JSON object.
            user: whose channel it is.
            msg_id: names the publication among those of engines on this channel; made up if it is `None` and `once` is set.
            once: a retry is never published twice. It costs Redis a key for as long as the topic's rule says (`dedupe_ttl`).

        Raises:
            Invalid, Refused: it is certainly not stored.
            Unknown: it may be: publish it again with the same `msg_id`.
        """
        msg_id = msg_id or (new_msg_id() if once else None)
        text = encoded_data(data, msg_id)
        perhaps: Unknown | None = None
        error: GatewayError | None = None
        for attempt in range(self._attempts):
            if attempt:
                time.sleep(0.05 * 2**attempt)
            try:
                return self._publish(channel, user, text, msg_id)
            except redis.ResponseError as refused:
                error = self._refused(str(refused), msg_id)
                if error.retry_after_ms is None:
                    break
            except (redis.ConnectionError, redis.TimeoutError) as lost:
                error = perhaps = Unknown(f"Redis did not answer: {lost}", msg_id=msg_id, error="outcome_unknown")
                if msg_id is None:
                    break
            except redis.RedisError as failed:
                error = Refused(f"Redis: {failed}", msg_id=msg_id)
                break
        assert error is not None
        raise perhaps or error

    def close(self) -> None:
        """Ends the connection to Redis."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _publish(self, channel: str, user: str | None, text: str, msg_id: str | None) -> Published:
        topic, name, rule = self._learn().place(channel, user)
        keys = [self._gen, stream_key(topic, self._prefix)]
        epoch = self._epochs.get(topic, 0)
        values: list[Any] = [self._generation, text, rule.retain_max, epoch, time.time_ns() // 1_000_000, name, 1]
        if msg_id is not None:
            keys.append(f"{self._prefix}{{t:{topic}}}:i:{name}:{msg_id}")
            values += [rule.dedupe_ms, hashlib.sha256(text.encode()).hexdigest()[:16]]
        answer: str = self._script(keys=keys, args=values)
        id, _, duplicate = answer.partition(" ")
        if id != "-" and not duplicate:
            self._epochs[topic] = id.split("-")[0]
        return Published(None if id == "-" else id, duplicate == "duplicate")

    def _learn(self) -> _Rules:
        """The topic rules. Asks for them and for the generation: what is published in another one Redis refuses."""
        if self._generation is not None and self._rules is not None and time.monotonic() < self._learned + _RULES_AGE:
            return self._rules
        generation, rules = self._client.hmget(self._gen, "open", "rules")
        if generation is None or rules is None:
            raise redis.ResponseError("STALE no gateway has named a generation for engines: is `redis.engines` set?")
        if generation != self._generation:
            self._epochs.clear()
        self._generation, self._rules, self._learned = generation, _Rules(json.loads(rules)), time.monotonic()
        return self._rules

    def _refused(self, text: str, msg_id: str | None) -> GatewayError:
        if text.startswith("STALE"):
            self._generation = None
            return Refused(text, msg_id=msg_id, error="stale", retry_after_ms=50)
        if text.startswith("REUSED"):
            return Invalid(text, msg_id=msg_id, code=4505, error="msg_id_reused")
        if text.startswith("FORMAT"):
            return Invalid(f"{text}: this package is of another version than the gateway", msg_id=msg_id, error="format")
        if text.startswith(("LOADING", "BUSY", "TRYAGAIN", "MASTERDOWN")):
            return Refused(text, msg_id=msg_id, retry_after_ms=100)
        return Refused(text, msg_id=msg_id)


def _script() -> str:
    return importlib.resources.files(__package__).joinpath("publish.lua").read_text("utf-8")
