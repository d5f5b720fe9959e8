"""The shipped nginx and HAProxy configurations in front of three replicas: a client survives the kill of its replica.

The client is the `websockets` library: somebody else's code.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

from checks import Failed, check
from cluster import Cluster, Process, free_ports, get, token, wait_until
from proxies import haproxy_configuration, nginx_configuration
from tools import debian, library_path, module

SECONDS = 10


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
        request = {"type": "subscribe", "channels": ["orders"], **({"since": {"orders": since}} if since else {})}
        self.socket.send(json.dumps(request))
        answer = self.reply("subscribed")
        if answer["errors"]:
            raise Failed(f"subscribing: {answer['errors']}")
        return answer

    def orders(self, count: int) -> list[dict]:
        return [self.reply("order_update") for _ in range(count)]


def _survives_a_kill(cluster: Cluster, port: int, proxy: Process) -> str:
    """Connect, subscribe, receive; kill the replica; publish; resume through the proxy; all there, once, in order."""
    try:
        wait_until(lambda: get(f"http://127.0.0.1:{port}/health")[0] == 200, SECONDS, "the proxy answers")
    except Failed as late:
        raise Failed(f"{late}: {proxy.tail()}") from None
    url = f"ws://127.0.0.1:{port}/ws/trading?token={token('alice')}"
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
    answer = again.subscribe(since=cursor)
    cluster.publish("orders", {"type": "order_update", "order_id": "4"}, user="alice", replica=alive)
    got = [order["order_id"] for order in again.orders(4)]
    if got != ["1", "2", "3", "4"]:
        raise Failed(f"after the kill of {holder.name} the client got {got}, not 1 2 3 4")
    if not answer["channels"][0]["complete"]:
        raise Failed(f"the resume was not complete: {answer}")
    status, text = get(f"http://127.0.0.1:{port}/health")
    if status != 200:
        raise Failed(f"/health through the proxy: {status} {text}")
    again.socket.close()
    return f"{holder.name} killed, 3 missed orders replayed and 1 live, in order"


@check("live: nginx in front of three replicas, one killed", live=True)
def nginx() -> str:
    program = debian("nginx")
    with Cluster(3) as cluster:
        (port,) = free_ports(1)
        folder = Path(cluster.folder) / "nginx"
        folder.mkdir()
        path = nginx_configuration(folder, port, [replica.port for replica in cluster.replicas])
        command = [program, "-p", folder, "-e", folder / "error.log", "-c", path, "-g", "daemon off;"]
        note = _survives_a_kill(cluster, port, cluster.run("nginx", command, library_path()))
        if "token=" in (folder / "access.log").read_text():
            raise Failed("nginx's access log holds a token")
        return note


@check("live: haproxy in front of three replicas, one killed", live=True)
def haproxy() -> str:
    program = debian("haproxy")
    with Cluster(3) as cluster:
        (port,) = free_ports(1)
        path = haproxy_configuration(Path(cluster.folder), port, [replica.port for replica in cluster.replicas])
        proxy = cluster.run("haproxy", [program, "-db", "-f", path], library_path())
        return _survives_a_kill(cluster, port, proxy)
