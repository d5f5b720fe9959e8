"""Redis with exactly the shipped settings and users, restarted and crashed: every acknowledged publication is still there."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path

from checks import Failed, check
from cluster import Cluster, token, wait_until
from live_proxies import SECONDS, Client
from redis_servers import all_servers, installed, version

PUBLICATIONS = 100


@check("redis with the shipped users keeps every stream over a restart and a crash")
def installed_redis() -> str:
    return _survives(installed())


@check("live: every Redis and Valkey that packages ship keeps every stream over a restart and a crash", live=True)
def every_redis() -> str:
    return ", ".join(_survives(server) for server in all_servers())


def _survives(server: list[str]) -> str:
    with Cluster(1, redis=server) as cluster:
        (replica,) = cluster.replicas
        cursor, expected = None, []
        for end in (signal.SIGTERM, signal.SIGKILL):
            for number in range(PUBLICATIONS):
                order = f"{end.name}-{number}"
                answer = cluster.publish("orders", {"type": "order_update", "order_id": order}, user="alice")
                if cursor is None:
                    cursor = answer["id"]
                else:
                    expected.append(order)
            wait_until(lambda: _written(cluster.redis_port), SECONDS, "everything is in the append-only file")
            cluster.redis.send(end)
            cluster.redis.ended(SECONDS)
            cluster.redis.start()
            cluster.wait_for_redis()
            wait_until(lambda: _links(replica.metrics()) == 2, SECONDS, "the replica finds Redis again")
            # Accepted only after the replica has reported what it acknowledged before. Killed earlier, it leaves a doubt.
            wait_until(lambda: _publishes(cluster, f"{end.name}-back"), SECONDS, "the replica publishes again")
            expected.append(f"{end.name}-back")
            # A process without memory of it: what it replays comes from Redis.
            replica.kill()
            replica.start()
            client = Client(f"ws://127.0.0.1:{replica.port}/ws/trading?token={token('alice')}")
            client.subscribe(since=cursor)
            if (got := [order["order_id"] for order in client.orders(len(expected))]) != expected:
                raise Failed(f"{version(server)} after {end.name}: {len(got)} publications, not the {len(expected)} that were acknowledged")
            (replay,) = client.reply("caught_up")["channels"]
            if not replay["complete"]:
                raise Failed(f"{version(server)} lost publications over {end.name}: {replay}; its log: {_refusals(cluster.redis.log)}")
            client.socket.close()
        return f"{version(server)}: {len(expected) + 1} of {len(expected) + 1} kept"


def _written(port: int) -> bool:
    """Whether nothing acknowledged waits in Redis's memory for the append-only file."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
        connection.sendall(b"AUTH tickgate change-me\r\nINFO persistence\r\n")
        text = b""
        while b"aof_buffer_length" not in text or not text.endswith(b"\r\n"):
            if not (read := connection.recv(65536)):
                raise Failed(f"Redis answers {text.decode(errors='replace')}")
            text += read
    return b"aof_buffer_length:0\r\n" in text


def _publishes(cluster: Cluster, order: str) -> bool:
    try:
        cluster.publish("orders", {"type": "order_update", "order_id": order}, user="alice", msg_id=order)
    except Failed:
        return False
    return True


def _links(metrics: str) -> int:
    return sum(int(value) for value in re.findall(r"^tickgate_redis_up\{.*\} (\d)", metrics, flags=re.MULTILINE))


def _refusals(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if "NOPERM" in line or "permission" in line]
    return lines[-1][:200] if lines else "nothing"
