"""Three replicas over one real Redis, as clients see them: it does not matter where one is."""

from __future__ import annotations

import asyncio
import json
import time

from checks import Group, equal
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from world import SOON, Client, Process, World, token

GROUP = Group(
    "three replicas",
    lambda: World(
        replicas=3,
        redis=True,
        env={"TICKGATE__SESSION__REPLICA_TTL": "3s", "TICKGATE__DRAIN__SPREAD": "0s", "TICKGATE__DRAIN__DELAY": "0s"},
    ),
)
check = GROUP.check


def numbers(messages: list[dict]) -> list[int]:
    return [message["n"] for message in messages]


async def take(client: Client, kind: str, count: int) -> list[dict]:
    return [await client.expect(kind) for _ in range(count)]


@check
async def what_is_published_on_any_arrives_on_all_in_one_order(world: World) -> None:
    clients = [await world.client("/ws/market", at=replica) for replica in world.replicas]
    for client in clients:
        await client.subscribe("trades:TESTUSDT")
    publishing = [
        replica.publish("trades:TESTUSDT", {"type": "trade", "n": 100 * at + n})
        for n in range(20)
        for at, replica in enumerate(world.replicas)
    ]
    await asyncio.gather(*publishing)
    heard = [await take(client, "trade", 60) for client in clients]
    equal(sorted(numbers(heard[0])), sorted(100 * at + n for at in range(3) for n in range(20)))
    for other in heard[1:]:
        equal(other, heard[0], "two replicas saw different orders")


@check
async def clients_on_different_replicas_hear_one_publication(world: World) -> None:
    login = token("alice")
    programs = [
        await world.run("trading_client.py", login, at=world.replicas[0]),
        await world.run("trading.js", login, at=world.replicas[1]),
    ]
    await programs[0].line("'type': 'subscribed'")
    await programs[1].line("^price ")
    await world.replicas[2].publish("orders", {"type": "order_update", "order_id": "from afar"}, user="alice")
    for program in programs:
        await program.line("from afar")


@check
async def a_client_that_reconnects_elsewhere_gets_exactly_what_it_missed(world: World) -> None:
    first, second, third = world.replicas
    path = f"/ws/trading?token={token('rita')}"
    before = await world.client(path, at=first)
    await before.subscribe("orders", "risk_alerts")
    await second.publish("orders", {"type": "order_update", "n": 0}, user="rita")
    cursor = (await before.expect("order_update"))["_meta"]["id"]
    await before.close()

    for n in range(1, 51):
        await world.replicas[n % 3].publish("orders", {"type": "order_update", "n": n}, user="rita")
    after = await world.client(path, at=third)
    answer = await after.subscribe("orders", "risk_alerts", since=cursor)
    assert all(entry["cursor"] == cursor for entry in answer["channels"]), answer
    equal([entry["live"] for entry in answer["channels"]], [False, True])
    missed = await take(after, "order_update", 50)
    equal(numbers(missed), list(range(1, 51)))
    assert all(message["_meta"]["replayed"] for message in missed), missed
    await first.publish("orders", {"type": "order_update", "n": 51}, user="rita")
    live = await after.expect("order_update")
    equal((live["n"], live["_meta"].get("replayed")), (51, None))
    await after.nothing_more()


@check
async def a_client_takes_over_its_session_on_another_replica(world: World) -> None:
    first, second, third = world.replicas
    path = f"/ws/trading?token={token('sara')}"
    before = await world.client(path, at=first)
    await before.subscribe("orders")
    await third.publish("orders", {"type": "order_update", "n": 0}, user="sara")
    cursor = (await before.expect("order_update"))["_meta"]["id"]
    session = before.welcome["session"]
    await before.close()
    for n in (1, 2, 3):
        await third.publish("orders", {"type": "order_update", "n": n}, user="sara")
    after = await world.client(f"{path}&session={session}", at=second)
    assert after.welcome["resumed"], after.welcome
    # Its place is its own again; its data comes by the cursor.
    await after.nothing_more()
    await after.subscribe("orders", since=cursor)
    equal(numbers(await take(after, "order_update", 3)), [1, 2, 3])
    await after.nothing_more()


@check
async def a_user_has_five_connections_over_all_replicas(world: World) -> None:
    path = f"/ws/trading?token={token('greedy')}"
    for at in range(5):
        await world.client(path, at=world.replicas[at % 3])
    for replica in world.replicas:
        async with connect(replica.url + path, origin="http://localhost:3000") as sixth:
            try:
                await asyncio.wait_for(sixth.recv(), SOON)
            except ConnectionClosed as closed:
                equal(closed.rcvd.code, 4003)
            else:
                raise AssertionError("a sixth connection was let in")
        try:
            await connect(replica.url + path)
        except InvalidStatus as refused:
            equal(refused.response.status_code, 429)
            assert int(refused.response.headers["Retry-After"]) > 0, refused.response.headers
        else:
            raise AssertionError("a sixth connection was let in")
    await world.clients.pop().close()
    await world.gateway.settled(active_connections=4)
    await world.client(path, at=world.replicas[2])


@check
async def commands_are_read_from_redis_by_a_consumer_group(world: World) -> None:
    redis = ["redis-cli", "-p", str(world.redis_port)]
    stream = "tg2:{t:commands}:s"
    await (await Process.start(*redis, "XGROUP", "CREATE", stream, "engine", "$", "MKSTREAM")).finished()
    tabs = [
        await world.run("run_tab.js", f"/ws/backtest/session-9?token={token('trader', commands=True)}", at=replica)
        for replica in world.replicas
    ]
    for tab, command in zip(tabs, ("pause", "resume", "stop"), strict=True):
        await tab.line('"type":"subscribed"')
        await tab.say(command)
        await tab.line('"type":"command_accepted"')
    read = ["XREADGROUP", "GROUP", "engine", "worker-1", "COUNT", "10", "STREAMS", stream, ">"]
    said = await (await Process.start(*redis, "--json", *read)).finished()
    entries = [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in json.loads(said)[stream]]
    stored = [json.loads(entry["d"]) for entry in entries]
    equal([(entry["run_id"], entry["command"]) for entry in stored], [("session-9", c) for c in ("pause", "resume", "stop")])


@check
async def a_killed_replica_costs_nothing_but_a_reconnect(world: World) -> None:
    """Last: it costs a replica."""
    path = f"/ws/trading?token={token('kim')}"
    doomed, other = world.replicas[0], world.replicas[1]
    before = await world.client(path, at=doomed)
    await before.subscribe("orders")
    await other.publish("orders", {"type": "order_update", "n": 0}, user="kim")
    cursor = (await before.expect("order_update"))["_meta"]["id"]
    for _ in range(4):
        await world.client(path, at=doomed)
    await doomed.stop(kill=True)
    world.replicas.remove(doomed)
    world.clients.clear()
    await other.publish("orders", {"type": "order_update", "n": 1}, user="kim")
    # The five of the dead replica stop counting when its lease has ended.
    deadline = time.monotonic() + 15
    while True:
        try:
            after = await world.client(path, at=other)
            break
        except InvalidStatus as refused:
            equal(refused.response.status_code, 429)
            assert time.monotonic() < deadline, "the connections of a killed replica still count"
            await asyncio.sleep(0.2)
    await after.subscribe("orders", since=cursor)
    equal((await after.expect("order_update"))["n"], 1)
    await after.nothing_more()
