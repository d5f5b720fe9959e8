"""Consumer groups and publishing straight into Redis, over two replicas and a real Redis."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
import redis
from conftest import SOON, RedisServer, eventually

import tickgate
from tickgate.consumer import Command, Commands, Consumer
from tickgate.redis_publisher import RedisPublisher, stream_key
from tickgate.testing import GatewayProcess


def no_gap(gap: tickgate.Gap) -> None:
    raise AssertionError(gap)


def publish(replicas: list[GatewayProcess], topic: str, *numbers: int) -> list[str | None]:
    with replicas[0].gateway() as api:
        return [api.publish(topic, {"n": number}).id for number in numbers]


def test_each_event_goes_to_one_member_until_it_is_acknowledged(
    replicas: list[GatewayProcess], redis_server: RedisServer
) -> None:
    ids = publish(replicas, "consumer.one", 1, 2, 3)
    with Consumer(redis_server.url, "consumer.one", group="g", name="a", on_gap=no_gap, claim_after=None) as first:
        one, two = first.next(SOON), first.next(SOON)
        assert one is not None
        assert two is not None
        assert (one.id, one.data, one.topic, one.channel) == (ids[0], {"n": 1}, "consumer.one", None)
        assert one.accepted_at is not None
        one.ack()
    # The same member after a restart: what it had and did not acknowledge comes again, then what is new.
    with Consumer(redis_server.url, "consumer.one", group="g", name="a", on_gap=no_gap, claim_after=None) as first:
        again = [first.next(SOON) for _ in range(2)]
        assert [event.data["n"] for event in again if event] == [2, 3]
        # What a member that is gone has left is taken by another one.
        with Consumer(redis_server.url, "consumer.one", group="g", name="b", on_gap=no_gap, claim_after=0.01) as second:
            taken = [second.next(SOON) for _ in range(2)]
            assert [event.data["n"] for event in taken if event] == [2, 3]
            for event in taken:
                assert event is not None
                event.ack()
            publish(replicas, "consumer.one", 4)
            four = second.next(SOON)
            assert four is not None
            assert four.data == {"n": 4}
            four.ack()
            assert second.next(0.05) is None
    with Consumer(redis_server.url, "consumer.one", group="late", start="new", on_gap=no_gap) as late:
        assert late.next(0.05) is None
    with pytest.raises(tickgate.Invalid):
        Consumer(redis_server.url, "x", group="g", start="0", on_gap=no_gap)


async def test_commands_of_users(replicas: list[GatewayProcess], redis_server: RedisServer) -> None:
    token = replicas[1].token("alice", commands=True)
    async with tickgate.connect(f"{replicas[1].url}/ws/backtest/run-7", token=token) as tg:
        await asyncio.to_thread(eventually, "live", lambda: tg.status.state == "live")
        accepted = await tg.command("pause", {"after": "candle"}, msg_id="pause-1")
        assert (await tg.command("pause", {"after": "candle"}, msg_id="pause-1")).duplicate
    commands = Commands(redis_server.url, group="engine", on_gap=no_gap)
    async for command in commands:
        assert isinstance(command, Command)
        assert (command.run_id, command.command, command.args, command.user) == ("run-7", "pause", {"after": "candle"}, "alice")
        assert command.id == accepted.id
        command.ack()
        break
    commands.close()
    assert [one async for one in commands] == []


def test_a_gap_is_told_when_redis_has_trimmed_what_a_group_had_not_read(
    replicas: list[GatewayProcess], redis_server: RedisServer
) -> None:
    gaps: list[tickgate.Gap] = []
    ids = publish(replicas, "consumer.gap", 1)
    options: dict[str, Any] = {"group": "g", "name": "a", "on_gap": gaps.append}
    with Consumer(redis_server.url, "consumer.gap", **options) as consumer:
        event = consumer.next(SOON)
        assert event is not None
        event.ack()
    ids += publish(replicas, "consumer.gap", 2, 3, 4)
    with redis.Redis.from_url(redis_server.url) as client:
        client.xtrim(stream_key("consumer.gap"), maxlen=1, approximate=False)
    with Consumer(redis_server.url, "consumer.gap", **options) as consumer:
        event = consumer.next(SOON)
        assert event is not None
        assert event.data == {"n": 4}
    assert [(gap.after, gap.before, gap.count, gap.reason) for gap in gaps] == [(ids[0], ids[3], 2, "retention")]


def test_a_consumer_that_waits_outlives_a_restart_of_redis() -> None:
    server = RedisServer()
    server.start()
    with GatewayProcess(redis_url=server.url) as gateway, gateway.gateway(retries=20) as api:
        seen: list[int] = []
        consumer: Consumer[dict[str, Any]] = Consumer(server.url, "consumer.restart", group="g", on_gap=no_gap)

        def read() -> None:
            for event in consumer:
                seen.append(event.data["n"])
                event.ack()

        thread = threading.Thread(target=read)
        thread.start()
        api.publish("consumer.restart", {"n": 1})
        eventually("the first has come", lambda: seen == [1])
        server.stop()
        server.start()
        api.publish("consumer.restart", {"n": 2})
        eventually("the second has come", lambda: seen == [1, 2])
        consumer.close()
        thread.join(SOON)
        assert not thread.is_alive()
    server.close()


def test_publishing_straight_into_redis(replicas: list[GatewayProcess], redis_server: RedisServer, user: str) -> None:
    with (
        replicas[0].gateway() as api,
        RedisPublisher(redis_server.url) as publisher,
        tickgate.connect(f"{replicas[1].url}/ws/trading", token=replicas[1].token(user)) as tg,
    ):
        orders = tg.messages("orders", on_gap=no_gap)
        price = tg.value("ticker:DIRECT")
        eventually("live", lambda: tg.status.state == "live")
        first = eventually("a generation is named", lambda: try_to(publisher, "orders", {"n": 1}, user=user, msg_id="m"))
        assert not first.duplicate
        assert publisher.publish("orders", {"n": 1}, user=user, msg_id="m").duplicate
        with pytest.raises(tickgate.Invalid) as reused:
            publisher.publish("orders", {"n": 2}, user=user, msg_id="m")
        assert (reused.value.error, reused.value.code) == ("msg_id_reused", 4505)
        publisher.publish("orders", {"n": 2}, user=user)
        publisher.publish("ticker:DIRECT", {"price": "1"}, once=False)
        message = orders.next(SOON)
        assert (message.id, message.data) == (first.id, {"n": 1})
        assert orders.next(SOON).data == {"n": 2}
        assert price.next(SOON) == {"price": "1"}
        # Where and how each is kept, the rules in Redis say.
        publisher.publish("portfolio", {"n": 3}, user=user)
        assert [message.data for message in api.history("portfolio", user=user).messages] == [{"n": 3}]
        publisher.publish("no rule but the last", {"n": 5}, msg_id="five")
        life = redis.Redis.from_url(redis_server.url).pttl("tg2:{t:no rule but the last}:i:-:five")
        assert 200_000 < int(life) <= 300_000
        with pytest.raises(tickgate.Invalid):
            publisher.publish("orders", {"_meta": {}})


def try_to(publisher: RedisPublisher, *arguments: Any, **options: Any) -> tickgate.Published | None:
    try:
        return publisher.publish(*arguments, **options)
    except tickgate.Refused:
        return None


def test_a_publisher_follows_another_generation_and_says_what_is_certain(user: str) -> None:
    server = RedisServer()
    server.start()
    settings = {"TICKGATE__REDIS__ENGINES": "true"}
    with GatewayProcess(redis_url=server.url, settings=settings), RedisPublisher(server.url, attempts=1) as publisher:
        eventually("a generation is named", lambda: try_to(publisher, "trades:GEN", {"n": 1}))
        server.stop()
        with pytest.raises(tickgate.Unknown) as lost:
            publisher.publish("trades:GEN", {"n": 2}, msg_id="two")
        assert lost.value.msg_id == "two"
        server.start()
        # Nothing is stored in a generation that is over.
        eventually("it goes on", lambda: try_to_again(publisher, "trades:GEN", {"n": 2}, msg_id="two"))
    server.close()


def try_to_again(publisher: RedisPublisher, *arguments: Any, **options: Any) -> tickgate.Published | None:
    try:
        return publisher.publish(*arguments, **options)
    except (tickgate.Refused, tickgate.Unknown):
        return None


def test_a_killed_consumer_loses_nothing(replicas: list[GatewayProcess], redis_server: RedisServer) -> None:
    program = (
        "import os, sys, signal\n"
        "from tickgate.consumer import Consumer\n"
        "for event in Consumer(sys.argv[1], 'consumer.killed', group='g', name='a', on_gap=print):\n"
        "    if event.data['n'] == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    event.ack()\n"
    )
    publish(replicas, "consumer.killed", *range(6))
    ended = subprocess.run([sys.executable, "-c", program, redis_server.url], env=os.environ, timeout=SOON)
    assert ended.returncode == -signal.SIGKILL
    with Consumer(redis_server.url, "consumer.killed", group="g", name="a", on_gap=no_gap) as consumer:
        events = [consumer.next(SOON) for _ in range(3)]
        assert [event.data["n"] for event in events if event] == [3, 4, 5]
