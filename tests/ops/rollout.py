"""Clients on a cluster while something is done to it, and the judgement: nobody misses anything, or is away for long."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from checks import Failed
from cluster import Cluster, Replica, get, token
from crowd import Publisher, Report, Trader

PUBLIC_SECONDS = 0.25
PRIVATE_SECONDS = 0.005
# Bounds of the distribution that is printed, in seconds.
BUCKETS = [0.25, 0.5, 1.0, 1.5, 2.0, 5.0, 10.0, 60.0]


class Rollout:
    """A crowd on a cluster behind a proxy, and what is done to the cluster meanwhile. Half of the clients are private."""

    def __init__(self, cluster: Cluster, proxy: str, clients: int) -> None:
        self.cluster = cluster
        self.report = Report()
        self.notes: list[str] = []
        half = clients // 2

        def trader(name: str, number: int, path: str, channel: str) -> Trader:
            # Each from an address of its own, as on a real network: limits by address stay as they are configured.
            return Trader(name, proxy, path, channel, self.report, f"127.1.{number // 250}.{number % 250 + 1}")

        def path(user: str) -> str:
            return f"/ws/trading?token={token(user, secret=cluster.token_secret)}"

        self.public = [trader(f"public-{n}", n, "/ws/market", "trades:BTCUSDT") for n in range(clients - half)]
        self.private = [trader(f"user-{n}", clients + n, path(f"user-{n}"), "orders") for n in range(half)]
        addresses = [replica.operations for replica in cluster.replicas]
        self.publisher = Publisher(addresses, cluster.api_key)
        self.other = Publisher(addresses[::-1], cluster.api_key)

    @property
    def traders(self) -> list[Trader]:
        return self.public + self.private

    async def run(self, disturb: Callable[[Rollout], Awaitable[None]]) -> None:
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

    async def _within(self, seconds: float, what: str, holds: Callable[[], bool], fails: bool = True) -> None:
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

    def judge(self, allowed: set[int], away_p99_max: float | None = None) -> str:
        """Nothing missing, repeated or out of order; no gap, no error, no close that is not explained.

        With `away_p99_max`, in seconds, no client was refused once either, and 99 of 100 absences were no longer.
        """
        if missing := self.missing():
            lost = sum(self.expected(trader) - len(set(trader.numbers)) for trader in missing)
            one = missing[0]
            holes = sorted(set(range(1, self.expected(one) + 1)) - set(one.numbers))[:10]
            raise Failed(f"{lost} messages are missing at {len(missing)} clients; {one.name} lacks {holes}; {self.absences()}")
        if wrong := [trader for trader in self.traders if trader.numbers != sorted(set(trader.numbers))]:
            raise Failed(f"{len(wrong)} clients got repeats or another order: {wrong[0].name} {wrong[0].numbers[:50]}")
        if self.report.gaps or self.report.errors:
            raise Failed(f"told of {(self.report.gaps + self.report.errors)[:3]}")
        codes = Counter(code for _, code in self.report.closes)
        if unexplained := set(codes) - allowed:
            raise Failed(f"closes that nothing explains: {({code: codes[code] for code in unexplained})}")
        refused = dict(self.report.refused)
        if away_p99_max is not None and (refused or self._away(0.99) > away_p99_max):
            raise Failed(f"refused {refused}; {self.absences()}")
        received = sum(len(trader.numbers) for trader in self.traders)
        published = sum(self.publisher.counts.values()) + sum(self.other.counts.values())
        return "; ".join(
            [
                f"{len(self.traders)} clients, {published} published, {received} received, 0 lost, 0 repeated",
                f"closes {dict(codes)}; {self.absences()}",
                f"publisher repeated {self.publisher.repeated + self.other.repeated}; refused {refused}",
                *self.notes,
            ]
        )

    def _away(self, quantile: float) -> float:
        times = sorted(self.report.away) or [0.0]
        return times[min(len(times) - 1, int(quantile * len(times)))]

    def absences(self) -> str:
        """How long clients were away, from a close to the next reply to `subscribe`."""
        quantiles = ", ".join(f"{name} {self._away(at):.2f} s" for name, at in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)])
        bounds = Counter(next((bound for bound in BUCKETS if time <= bound), float("inf")) for time in self.report.away)
        return f"{len(self.report.away)} absences, {quantiles} ({', '.join(f'≤ {bound:g} s: {bounds[bound]}' for bound in sorted(bounds))})"


async def stop_and_start(rollout: Rollout, replica: Replica, seconds: float) -> tuple[float, list[float], int]:
    """Ends a replica by SIGTERM and starts it again when it has ended, as `docker compose restart` does.

    Answers with how long it took to end, when clients were closed after the signal, and how many it had held.
    """
    held = replica.connections()
    began, seen = time.monotonic(), len(rollout.report.closes)
    replica.send(signal.SIGTERM)
    await asyncio.sleep(1)
    if (status := (await asyncio.to_thread(get, f"http://{replica.public}/readyz"))[0]) != 503:
        raise Failed(f"{replica.name} answers /readyz with {status} in its drain, not 503")
    code = await until_exit(replica, seconds)
    took = time.monotonic() - began
    if code != 0:
        raise Failed(f"{replica.name} ended with {code}: {replica.tail()}")
    await asyncio.to_thread(replica.start)
    return took, sorted(at - began for at, _ in rollout.report.closes[seen:]), held


async def until_exit(replica: Replica, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while replica.running.poll() is None:
        if time.monotonic() > deadline:
            raise Failed(f"{replica.name} has not ended {seconds:g} s after SIGTERM: {replica.tail()}")
        await asyncio.sleep(0.02)
    return replica.running.returncode


def no_trouble_in_logs(cluster: Cluster) -> None:
    """No replica logged an error or a panic."""
    for replica in cluster.replicas:
        for line in replica.log.read_text(errors="replace").splitlines():
            if '"level":"ERROR"' in line or " ERROR " in line or "panicked" in line:
                raise Failed(f"{replica.name} logs {line[:300]}")
