"""The rolling restart: three replicas behind HAProxy, 3,000 clients, constant traffic; nobody misses anything.

Replicas are restarted one after another: SIGTERM, wait for the end, start, wait until ready. Once more with a replica that
ignores the signal and is killed when its grace is over.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections import Counter

from checks import Failed, check
from compose import PROXY, ComposeCluster
from isolated import isolated
from rollout import Rollout, no_trouble_in_logs, stop_and_start, until_exit

CLIENTS = int(os.environ.get("TICKGATE_OPS_CLIENTS", "3000"))
# A quarter of the shipped spread keeps the check bounded; the shape is the same.
DELAY, SPREAD, FLUSH = 3, 8, 15
SETTINGS = {"TICKGATE__DRAIN__DELAY": f"{DELAY}s", "TICKGATE__DRAIN__SPREAD": f"{SPREAD}s"}


def _in_cluster(disturb, allowed: set[int]) -> str:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with ComposeCluster(SETTINGS) as cluster:
        cluster.start_haproxy()
        rollout = Rollout(cluster, PROXY, CLIENTS)
        asyncio.run(rollout.run(disturb))
        note = rollout.judge(allowed)
        no_trouble_in_logs(cluster)
        return note


async def _restart_all(rollout: Rollout) -> None:
    for replica in rollout.cluster.replicas:
        took, times, held = await stop_and_start(rollout, replica, DELAY + SPREAD + FLUSH)
        rollout.notes.append(_judge_spread(replica.name, held, times, took))
        # The proxy's check finds it ready (rise 1, a second apart), as an endpoint controller would.
        await asyncio.sleep(1.5)


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
    await until_exit(replica, 5)
    await asyncio.sleep(1)
    await asyncio.to_thread(replica.start)
    rollout.notes.append(f"{replica.name} with {held} clients ignored SIGTERM and was killed after {DELAY + SPREAD} s")


@check("live: rolling restart under load, nothing lost", live=True)
@isolated
def rolling_restart() -> str:
    return _in_cluster(_restart_all, {1012})


@check("live: a replica that ignores SIGTERM is killed, nothing lost", live=True)
@isolated
def killed() -> str:
    return _in_cluster(_kill_one, {1006, 1012})
