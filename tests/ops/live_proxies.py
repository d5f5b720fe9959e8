"""The shipped nginx and HAProxy files, as they are, in front of the three replicas of docker-compose.yml.

A client survives the kill of its replica, a crowd survives a rolling restart without a refusal, and no log holds a token.
The client of the kill is the `websockets` library: somebody else's code.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
from collections.abc import Callable

from checks import Failed, check
from cluster import Process, get, token
from compose import PROXY, ComposeCluster
from isolated import isolated
from rollout import Rollout, no_trouble_in_logs, stop_and_start
from tools import module

SECONDS = 10
AWAY_P99_MAX = 2.0
CLIENTS = int(os.environ.get("TICKGATE_OPS_PROXY_CLIENTS", "500"))
SHORT_CLIENTS = 100
# The short form drains faster; all else is as shipped.
SHORT = {"TICKGATE__DRAIN__DELAY": "2s", "TICKGATE__DRAIN__SPREAD": "2s"}
# Of docker-compose.yml: how long a container may take to stop.
GRACE_SECONDS = 50


class Client:
    """One WebSocket client that keeps the pushes it gets."""

    def __init__(self, url: str) -> None:
        connect = module("websockets.sync.client").sync.client.connect
        # The gateway pings; a second heartbeat from this side would only log when its replica is killed.
        self.socket = connect(url, open_timeout=SECONDS, ping_interval=None)
        self.welcome = self.reply("connection_established")

    def reply(self, kind: str) -> dict:
        """The next message of a type; others before it are dropped."""
        while (message := json.loads(self.socket.recv(SECONDS)))["type"] != kind:
            if message["type"] == "error":
                raise Failed(f"the gateway answers {message}")
        return message

    def subscribe(self, since: str | None = None) -> dict:
        request = {"type": "subscribe", "channels": [{"channel": "orders", **({"since": since} if since else {})}]}
        self.socket.send(json.dumps(request))
        answer = self.reply("subscribed")
        if answer["errors"]:
            raise Failed(f"subscribing: {answer['errors']}")
        return answer

    def orders(self, count: int) -> list[dict]:
        return [self.reply("order_update") for _ in range(count)]


def _survives_a_kill(start: Callable[[ComposeCluster], Process]) -> str:
    """Connect, subscribe, receive; kill the replica; publish; resume through the proxy; all there, once, in order."""
    with ComposeCluster() as cluster:
        start(cluster)
        url = f"ws://{PROXY}/ws/trading?token={token('alice', secret=cluster.token_secret)}"
        client = Client(url)
        client.subscribe()
        cluster.publish("orders", {"type": "order_update", "order_id": "0"}, user="alice")
        (first,) = client.orders(1)
        cursor = first["_meta"]["id"]

        (holder,) = [replica for replica in cluster.replicas if replica.connections() == 1]
        holder.send(signal.SIGKILL)
        holder.ended(SECONDS)
        alive = next(at for at, replica in enumerate(cluster.replicas) if replica is not holder)
        for number in (1, 2, 3):
            cluster.publish("orders", {"type": "order_update", "order_id": str(number)}, user="alice", replica=alive)

        again = Client(url)
        again.subscribe(since=cursor)
        missed = [order["order_id"] for order in again.orders(3)]
        (end,) = again.reply("caught_up")["channels"]
        cluster.publish("orders", {"type": "order_update", "order_id": "4"}, user="alice", replica=alive)
        got = missed + [order["order_id"] for order in again.orders(1)]
        if got != ["1", "2", "3", "4"]:
            raise Failed(f"after the kill of {holder.name} the client got {got}, not 1 2 3 4")
        if not end["complete"]:
            raise Failed(f"the resume was not complete: {end}")
        status, text = get(f"http://{PROXY}/health")
        if status != 200:
            raise Failed(f"/health through the proxy: {status} {text}")
        again.socket.close()
        return f"{holder.name} killed, 3 missed orders replayed and 1 live, in order"


async def _restart_all(rollout: Rollout) -> None:
    """One replica after another; the next one when the one before is ready."""
    for replica in rollout.cluster.replicas:
        took, _, held = await stop_and_start(rollout, replica, GRACE_SECONDS)
        rollout.notes.append(f"{replica.name} with {held} clients ended after {took:.1f} s")


def _rolling_restart(start: Callable[[ComposeCluster], Process], clients: int, overrides: dict[str, str]) -> str:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with ComposeCluster(overrides) as cluster:
        start(cluster)
        rollout = Rollout(cluster, PROXY, clients)
        asyncio.run(rollout.run(_restart_all))
        note = rollout.judge({1012}, AWAY_P99_MAX)
        no_trouble_in_logs(cluster)
        return note


@check("nginx as shipped: a short rolling restart, nobody refused")
@isolated
def nginx_short() -> str:
    return _rolling_restart(ComposeCluster.start_nginx, SHORT_CLIENTS, SHORT)


@check("haproxy as shipped: a short rolling restart, nobody refused")
@isolated
def haproxy_short() -> str:
    return _rolling_restart(ComposeCluster.start_haproxy, SHORT_CLIENTS, SHORT)


@check("live: nginx as shipped: a rolling restart with 500 clients, nobody refused", live=True)
@isolated
def nginx_rolling() -> str:
    return _rolling_restart(ComposeCluster.start_nginx, CLIENTS, {})


@check("live: haproxy as shipped: a rolling restart with 500 clients, nobody refused", live=True)
@isolated
def haproxy_rolling() -> str:
    return _rolling_restart(ComposeCluster.start_haproxy, CLIENTS, {})


@check("live: nginx in front of three replicas, one killed", live=True)
@isolated
def nginx() -> str:
    return _survives_a_kill(ComposeCluster.start_nginx)


@check("live: haproxy in front of three replicas, one killed", live=True)
@isolated
def haproxy() -> str:
    return _survives_a_kill(ComposeCluster.start_haproxy)
