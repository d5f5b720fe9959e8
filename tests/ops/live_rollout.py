"""The rolling restart: three replicas behind HAProxy, 3,000 clients, constant traffic; nobody misses anything.

Replicas are restarted one after another as Kubernetes would: SIGTERM, wait for the end, start, wait until ready. Once
more with a replica that ignores the signal and is killed when its grace is over.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import statistics
import time
from collections import Counter
from pathlib import Path

from checks import Failed, check
from cluster import API_KEY, Cluster, Replica, free_ports, get, token, wait_until
from crowd import Publisher, Report, Trader
from proxies import haproxy_configuration
from tools import debian, library_path

CLIENTS = int(os.environ.get("TICKGATE_OPS_CLIENTS", "3000"))
# A quarter of the shipped spread keeps the check bounded; the shape is the same.
DELAY, SPREAD, FLUSH = 3, 8, 15
PUBLIC_SECONDS = 0.25
PRIVATE_SECONDS = 0.005
SETTINGS = {"TICKGATE__DRAIN__DELAY": f"{DELAY}s", "TICKGATE__DRAIN__SPREAD": f"{SPREAD}s", "TICKGATE__LIMITS__HANDSHAKES_PER_ADDRESS__PER_SECOND": "0"}


class Rollout:
    """A crowd on a cluster, and what is done to the cluster meanwhile."""

    def __init__(self, cluster: Cluster, port: int) -> None:
        self.cluster, self.port = cluster, port
        self.report = Report()
        half = CLIENTS // 2
        self.public = [Trader(f"public-{n}", port, "/ws/market", "trades:BTCUSDT", self.report) for n in range(CLIENTS - half)]
        self.private = [Trader(f"user-{n}", port, f"/ws/trading?token={token(f'user-{n}')}", "orders", self.report) for n in range(half)]
        self.publisher = Publisher([replica.ops for replica in cluster.replicas], API_KEY)
        self.other = Publisher([replica.ops for replica in reversed(cluster.replicas)], API_KEY)
        self.began = time.monotonic()

    @property
    def traders(self) -> list[Trader]:
        return self.public + self.private

    async def run(self, disturb) -> None:
        """Connects everybody, publishes all the while, disturbs, lets everything arrive, and stops."""
        tasks = []
        for at, trader in enumerate(self.traders):
            tasks.append(asyncio.create_task(trader.run()))
            if at % 100 == 99:
                await asyncio.sleep(0.1)
        await self._within(60, "everybody is subscribed", lambda: all(trader.ready.is_set() for trader in self.traders))
        flows = [asyncio.create_task(self._publish_public()), asyncio.create_task(self._publish_private())]
        await asyncio.sleep(1)
        await disturb(self)
        await asyncio.sleep(1)
        for flow in flows:
            flow.cancel()
        await asyncio.gather(*flows, return_exceptions=True)
        await self._within(30, "everybody is back", lambda: all(trader.ready.is_set() for trader in self.traders))
        await self._within(30, "everything has arrived", lambda: not self.missing(), fails=False)
        for trader in self.traders:
            trader.stopping = True
        failures = [task.exception() for task in tasks if task.done() and task.exception()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if failures:
            raise Failed(str(failures[0]))

    async def _publish_public(self) -> None:
        while True:
            await asyncio.shield(self.publisher.publish("trades:BTCUSDT"))
            await asyncio.sleep(PUBLIC_SECONDS)

    async def _publish_private(self) -> None:
        at = 0
        while True:
            await asyncio.shield(self.other.publish("orders", f"user-{at % len(self.private)}"))
            at += 1
            await asyncio.sleep(PRIVATE_SECONDS)

    async def _within(self, seconds: float, what: str, holds, fails: bool = True) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                if fails:
                    away = sum(not trader.ready.is_set() for trader in self.traders)
                    raise Failed(f"{what}: not within {seconds:g} s ({away} clients away, refusals {dict(self.report.refused)})")
                return
            await asyncio.sleep(0.1)

    def expected(self, trader: Trader) -> int:
        """How many publications a client must have: all of its channel, since it subscribed before the first."""
        if trader.channel == "orders":
            return self.other.counts["orders", trader.name]
        return self.publisher.counts["trades:BTCUSDT", None]

    def missing(self) -> list[Trader]:
        return [trader for trader in self.traders if len(set(trader.numbers)) < self.expected(trader)]

    def judge(self, allowed: set[int]) -> str:
        """Nothing missing, repeated or out of order; no gap, no error, no close that is not explained."""
        if missing := self.missing():
            lost = sum(self.expected(trader) - len(set(trader.numbers)) for trader in missing)
            one = missing[0]
            holes = sorted(set(range(1, self.expected(one) + 1)) - set(one.numbers))[:10]
            raise Failed(f"{lost} messages are missing at {len(missing)} clients; {one.name} lacks {holes}")
        if wrong := [trader for trader in self.traders if trader.numbers != sorted(set(trader.numbers))]:
            raise Failed(f"{len(wrong)} clients got repeats or another order: {wrong[0].name} {wrong[0].numbers[:50]}")
        if self.report.gaps or self.report.errors:
            raise Failed(f"told of {(self.report.gaps + self.report.errors)[:3]}")
        codes = Counter(code for _, code in self.report.closes)
        if unexplained := set(codes) - allowed:
            raise Failed(f"closes that nothing explains: {({code: codes[code] for code in unexplained})}")
        received = sum(len(trader.numbers) for trader in self.traders)
        published = sum(self.publisher.counts.values()) + sum(self.other.counts.values())
        away = sorted(self.report.away)
        return (
            f"{len(self.traders)} clients, {published} published, {received} received, 0 lost, 0 repeated; closes {dict(codes)}; "
            f"away p50 {statistics.median(away):.2f} s, max {away[-1]:.2f} s; "
            f"publisher repeated {self.publisher.repeated + self.other.repeated}; refused {dict(self.report.refused)}"
        )


def _in_cluster(disturb, allowed: set[int]) -> str:
    program = debian("haproxy")
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with Cluster(3, SETTINGS) as cluster:
        (port,) = free_ports(1)
        path = haproxy_configuration(Path(cluster.folder), port, [replica.port for replica in cluster.replicas])
        cluster.run("haproxy", [program, "-db", "-f", path], library_path())
        wait_until(lambda: get(f"http://127.0.0.1:{port}/health")[0] == 200, 10, "HAProxy answers")
        rollout = Rollout(cluster, port)
        asyncio.run(rollout.run(disturb))
        note = rollout.judge(allowed)
        _no_trouble_in_logs(cluster)
        return f"{note}; {rollout.summary}" if hasattr(rollout, "summary") else note


def _no_trouble_in_logs(cluster: Cluster) -> None:
    for replica in cluster.replicas:
        for line in replica.log.read_text(errors="replace").splitlines():
            if '"level":"ERROR"' in line or "panicked" in line:
                raise Failed(f"{replica.name} logs {line[:300]}")


async def _until_exit(replica: Replica, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while replica.running.poll() is None:
        if time.monotonic() > deadline:
            raise Failed(f"{replica.name} has not ended {seconds:g} s after SIGTERM: {replica.tail()}")
        await asyncio.sleep(0.02)
    return replica.running.returncode


async def _start(replica: Replica) -> None:
    await asyncio.to_thread(replica.start)
    # The proxy's check finds it ready (rise 1, a second apart), as an endpoint controller would.
    await asyncio.sleep(1.5)


async def _restart_all(rollout: Rollout) -> None:
    notes = []
    for replica in rollout.cluster.replicas:
        held = replica.connections()
        began, seen = time.monotonic(), len(rollout.report.closes)
        replica.send(signal.SIGTERM)
        await asyncio.sleep(min(1.0, DELAY / 2))
        if (status := (await asyncio.to_thread(get, f"http://127.0.0.1:{replica.port}/readyz"))[0]) != 503:
            raise Failed(f"{replica.name} answers /readyz with {status} in its drain, not 503")
        code = await _until_exit(replica, DELAY + SPREAD + FLUSH)
        took = time.monotonic() - began
        if code != 0:
            raise Failed(f"{replica.name} ended with {code}: {replica.tail()}")
        times = sorted(at - began for at, _ in rollout.report.closes[seen:])
        notes.append(_judge_spread(replica.name, held, times, took))
        await _start(replica)
    rollout.summary = "; ".join(notes)


def _judge_spread(name: str, held: int, times: list[float], took: float) -> str:
    """Closes begin after the delay, fill the spread evenly, and none come later."""
    if len(times) < held * 0.98:
        raise Failed(f"{name} held {held} clients and closed {len(times)}")
    if times[0] < DELAY - 0.1:
        raise Failed(f"{name} closed a client {times[0]:.1f} s after SIGTERM, before its delay of {DELAY} s")
    busiest = max(Counter(int(at) for at in times).values())
    if held < 40 * SPREAD:
        return f"{name}: {held} clients, too few to judge the spread, ended after {took:.1f} s with 0"
    if busiest > 3 * held / SPREAD:
        raise Failed(f"{name} closed {busiest} of {held} clients within one second: a spike, not a spread over {SPREAD} s")
    if times[-1] - times[0] < SPREAD * 0.6:
        raise Failed(f"{name} closed everybody within {times[-1] - times[0]:.1f} s, not over {SPREAD} s")
    return f"{name}: {held} clients left from {times[0]:.1f} to {times[-1]:.1f} s (at most {busiest} a second), ended after {took:.1f} s with 0"


async def _kill_one(rollout: Rollout) -> None:
    replica = rollout.cluster.replicas[1]
    held = replica.connections()
    replica.send(signal.SIGSTOP)
    replica.send(signal.SIGTERM)
    await asyncio.sleep(DELAY + SPREAD)
    replica.send(signal.SIGKILL)
    replica.send(signal.SIGCONT)
    await _until_exit(replica, 5)
    await asyncio.sleep(1)
    await _start(replica)
    rollout.summary = f"{replica.name} with {held} clients ignored SIGTERM and was killed after {DELAY + SPREAD} s"


@check("live: rolling restart under load, nothing lost", live=True)
def rolling_restart() -> str:
    return _in_cluster(_restart_all, {1012})


@check("live: a replica that ignores SIGTERM is killed, nothing lost", live=True)
def killed() -> str:
    return _in_cluster(_kill_one, {1006, 1012})
