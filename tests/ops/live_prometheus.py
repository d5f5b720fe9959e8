"""A real Prometheus scrapes three real replicas, evaluates the rules, and answers every query of the dashboard."""

from __future__ import annotations

import json
import re
import urllib.parse

from checks import Failed, check
from cluster import Cluster, get, token, wait_until
from compose import ComposeCluster
from isolated import isolated
from live_proxies import Client
from monitoring import dashboard_queries, documented, rules
from tools import debian, library_path, run


@check("live: every metric of three replicas passes promtool, and the list is complete", live=True)
def metrics() -> str:
    program = debian("promtool")
    with Cluster(3) as cluster:
        _traffic(cluster)
        for replica in cluster.replicas:
            found = run(program, "check", "metrics", input=replica.metrics())
            if found.returncode:
                raise Failed(f"promtool check metrics: {found.stdout.strip()}")
        exported = set(re.findall(r"^# TYPE (\w+) ", cluster.replicas[0].metrics(), flags=re.MULTILINE))
        known = set(documented())
        if exported != known:
            raise Failed(f"docs/metrics.md: not exported {sorted(known - exported)}, not listed {sorted(exported - known)}")
        return f"{len(exported)} metrics"


@check("live: Prometheus scrapes three replicas and answers dashboard and rules", live=True)
@isolated
def prometheus() -> str:
    program = debian("prometheus")
    with ComposeCluster() as cluster:
        # As the image starts it, with the shipped files where it looks for them.
        data = cluster.mount("prometheus")["/prometheus"]
        command = [program, "--config.file=/etc/prometheus/prometheus.yml", f"--storage.tsdb.path={data}", "--log.level=warn"]
        cluster.run("prometheus", command, library_path())
        base = "http://127.0.0.1:9090/api/v1"
        wait_until(lambda: _ask(base, "count(up == 1)") == [3.0], 30, "Prometheus reaches three replicas", 0.5)
        client = _traffic(cluster)
        # Rates need two scrapes after the traffic.
        wait_until(lambda: (_ask(base, "min(count_over_time(up[1m]))") or [0])[0] >= 8, 60, "eight scrapes", 0.5)
        queries = dashboard_queries()
        empty = [title for title, query in queries if not _ask(base, query.replace("[1m]", "[30s]"))]
        if empty := [title for title in empty if title not in QUIET_PANELS]:
            raise Failed(f"no data for {', '.join(sorted(set(empty)))}")
        if (connections := _ask(base, "sum(tickgate_connections)")) != [2.0]:
            raise Failed(f"two clients are connected, but Prometheus reports {connections}")
        # The replicas connect as the user `tickgate` of deploy/redis/users.acl: a missing permission is counted here.
        if (errors := _ask(base, "sum by (kind) (tickgate_redis_errors_total) > 0")) != []:
            raise Failed(f"Redis refused commands: {errors} errors, see tickgate_redis_errors_total")
        firing = _check_rules(base)
        for each in client:
            each.socket.close()
        return f"{len(queries)} dashboard queries answered, {len(rules())} rules evaluated, {firing} alerts firing"


# Panels without data in a short, healthy run: quotients whose denominator is zero, and values that only faults cause.
QUIET_PANELS = {"Drains", "Frames per write"}


def _traffic(cluster: Cluster) -> list[Client]:
    """Generates every kind of traffic: two clients, private and public messages, a resume."""
    replica, jwt = cluster.replicas[0], token("alice", secret=cluster.token_secret)
    trader = Client(f"ws://{replica.public}/ws/trading?token={jwt}")
    trader.subscribe()
    watcher = Client(f"ws://{cluster.replicas[1].public}/ws/market")
    watcher.socket.send(json.dumps({"type": "subscribe", "channels": ["trades:BTCUSDT"]}))
    watcher.reply("subscribed")
    for number in range(200):
        at = number % len(cluster.replicas)
        cluster.publish("orders", {"type": "order_update", "order_id": str(number)}, user="alice", replica=at)
        cluster.publish("trades:BTCUSDT", {"type": "trade", "price": "1.0"}, replica=at)
    first = trader.orders(200)[0]
    # Read all messages: a client that leaves messages unread does not respond to heartbeats.
    for _ in range(200):
        watcher.reply("trade")
    again = Client(f"ws://{cluster.replicas[2].public}/ws/trading?token={jwt}")
    again.subscribe(since=first["_meta"]["id"])
    again.orders(199)
    trader.socket.close()
    return [watcher, again]


def _ask(base: str, query: str) -> list[float] | None:
    """The values of an instant query; None while Prometheus does not answer."""
    status, text = get(f"{base}/query?query={urllib.parse.quote(query)}")
    if status == 0:
        return None
    answer = json.loads(text)
    if answer["status"] != "success":
        raise Failed(f"Prometheus refuses {query}: {answer.get('error')}")
    return [float(sample["value"][1]) for sample in answer["data"]["result"]]


def _check_rules(base: str) -> int:
    """Checks that every rule was evaluated without an error and that recording rules have values. Returns the number of
    firing alerts."""
    groups = json.loads(get(f"{base}/rules")[1])["data"]["groups"]
    loaded = [rule for group in groups for rule in group["rules"]]
    if len(loaded) != len(rules()):
        raise Failed(f"Prometheus loaded {len(loaded)} rules of {len(rules())}")
    if bad := [f"{rule['name']}: {rule.get('lastError')}" for rule in loaded if rule["health"] != "ok"]:
        raise Failed("; ".join(bad))
    firing = [rule["name"] for rule in loaded if rule["type"] == "alerting" and rule["state"] == "firing"]
    if firing:
        raise Failed(f"alerts fire on a healthy cluster: {', '.join(firing)}")
    return len(firing)
