"""One release, with clients that are connected from the first stage to the last.

Upgrade, rollback, a faulty upgrade, scaling, a node drained, an autoscaler turned on and off, secrets rotated: after each
of them the clients must have everything that was published.
"""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from datetime import datetime

from api import Watch
from checks import CHART, LOGS, Failed, step, wait_until
from control_plane import ControlPlane, tail
from crowd import Crowd, Login
from documents import blocks, type_in
from release import Release
from surroundings import make_namespace, secret
from verdict import describe, histogram, judge_absences, judge_messages

NAMESPACE = "journey"
# The most common set-up: three replicas, Redis elsewhere, Secrets made by hand.
VALUES = CHART / "ci/plain-values.yaml"
CLIENTS = 200
# They join when there are more replicas, so that these have somebody to lose.
CLIENTS_LATER = 100
SETTLE_SECONDS_MAX = 60
DRAIN_SECONDS_MAX = 300
# A kubelet refreshes mounted Secrets once a minute.
RELOAD_SECONDS_MAX = 150
START_REFUSED_SECONDS_MAX = 5


def run(control_plane: ControlPlane) -> str:
    made = make_namespace(control_plane, NAMESPACE, VALUES.read_text())
    release = Release(control_plane, NAMESPACE, VALUES)
    with step("installed"):
        release.install()
        release.complete_rollout()
    return asyncio.run(Journey(control_plane, release, made.token, made.api_key).run())


class Journey:
    """The stages, and the clients that go through all of them."""

    def __init__(self, control_plane: ControlPlane, release: Release, token_secret: str, api_key: str) -> None:
        self.control_plane, self.release = control_plane, release
        self.token_secret, self.api_key = token_secret, api_key
        self.crowd = Crowd(release.addresses()[0], release.addresses("-ops")[0], Login(token_secret), api_key)
        self.replicas = release.deployment()["spec"]["replicas"]
        # How the gateway ended in each pod, by the pod's name; after a restart, how it ended first.
        self.ends: dict[str, dict] = {}
        self.watch = Watch(release.api, f"/api/v1/namespaces/{NAMESPACE}/pods", self._note_ends)

    async def run(self) -> str:
        crowd = self.crowd
        await crowd.join(CLIENTS)
        crowd.start_publishing()
        # fmt: off
        await self._stage("upgrade to another configuration", self._upgrade)
        await self._stage("rollback", self._rollback)
        await self._stage("an upgrade that can't start, taken back", self._faulty_upgrade)
        await self._stage("scaled up by two", self._scale_up)
        await crowd.join(CLIENTS_LATER)
        await self._stage("a node drained", self._drain_node)
        await self._stage("autoscaler turned on", self._turn_autoscaler_on)
        await self._stage("autoscaler turned off, scaled down by two", self._scale_down)
        await self._stage("token secret and API key rotated: both accepted", self._rotate_first)
        await self._stage("token secret and API key rotated: the old ones removed", self._rotate_second)
        # fmt: on
        await crowd.stop_publishing()
        await self._settle()
        messages = judge_messages(crowd)
        await crowd.leave()
        absences = [absence for client in crowd.clients for absence in client.absences]
        print(histogram(absences), flush=True)
        return f"{messages}; {judge_absences(absences)}"

    async def _stage(self, name: str, action: Callable[[], None]) -> None:
        """Does it in a thread, while the clients go on, and judges what happened since the last stage."""
        before = {client.name: len(client.absences) for client in self.crowd.clients}
        began = time.monotonic()
        task = asyncio.create_task(asyncio.to_thread(action))
        while not task.done():
            self.crowd.check()
            await asyncio.wait([task], timeout=0.5)
        await task
        self.control_plane.check_alive()
        self._judge_ends()
        await self._settle()
        absences = [absence for client in self.crowd.clients for absence in client.absences[before.get(client.name, 0) :]]
        print(f"  {time.monotonic() - began:6.1f} s  {name}: {describe(absences)}", flush=True)
        judge_absences(absences)

    def _note_ends(self, pods: dict[str, dict]) -> None:
        for name, pod in pods.items():
            if ended := _ended(pod):
                self.ends.setdefault(name, ended)

    def _judge_ends(self) -> None:
        """Each replica has drained and ended by itself, within its grace period."""
        self.watch.check()
        if strange := {name: ended["exitCode"] for name, ended in self.ends.items() if ended["exitCode"] != 0}:
            raise Failed(f"replicas did not end with 0: {strange}; their output is in {LOGS / 'pods'}")

    async def _settle(self) -> None:
        """Everybody is connected and has what was published before."""
        targets = {client.name: self.crowd.published(client) for client in self.crowd.clients}

        def has_settled() -> bool:
            return all(client.subscribed.is_set() and (client.numbers[-1] if client.numbers else 0) >= targets[client.name] for client in self.crowd.clients)

        try:
            await self.crowd.wait_for("clients to have every message", has_settled, SETTLE_SECONDS_MAX)
        except Failed:
            judge_messages(self.crowd)
            raise

    def _upgrade(self) -> None:
        self.release.upgrade("config.limits.subscriptions_max=150")
        self.release.complete_rollout()

    def _rollback(self) -> None:
        self.release.rollback()
        self.release.complete_rollout()

    def _faulty_upgrade(self) -> None:
        """A Secret without the expected key: the first new pod does not start, so no old one is stopped."""
        self.control_plane.apply(secret(NAMESPACE, "faulty", {"another-key": "redis://redis.data.svc:6379"}))
        before, ended = {pod["metadata"]["name"] for pod in self.release.pods()}, set(self.ends)
        self.release.upgrade_without_waiting("redis.existingSecret=faulty")
        (name,) = wait_until(lambda: self.ends.keys() - ended, 60, "the pod with the faulty Secret to fail")
        self._judge_faulty(name, self.ends.pop(name))
        running = {pod["metadata"]["name"] for pod in self.release.pods() if _is_ready(pod)}
        if running != before:
            raise Failed(f"the ready replicas were {before} and are {running}")
        self.release.rollback()
        self.release.complete_rollout()
        # It was restarted meanwhile, and ended in the same way.
        self.ends.pop(name, None)
        if (after := {pod["metadata"]["name"] for pod in self.release.pods()}) != before:
            raise Failed(f"the replicas were {before} and are {after}")

    def _judge_faulty(self, name: str, ended: dict) -> None:
        """Within 5 s, with code 2, and with a message that names the file."""
        seconds = (_time(ended["finishedAt"]) - _time(ended["startedAt"])).total_seconds()
        said = tail(LOGS / "pods" / f"{NAMESPACE}_{name}/tickgate-0.log")
        if ended["exitCode"] != 2 or seconds > START_REFUSED_SECONDS_MAX or "/redis/redis-url" not in said:
            raise Failed(f"without the key redis-url the gateway ended with {ended['exitCode']} after {seconds:g} s: {said}")

    def _scale_up(self) -> None:
        self.release.upgrade(f"replicaCount={self.replicas + 2}")
        self.release.complete_rollout()

    def _drain_node(self) -> None:
        """The node with the most replicas. The budget lets one replica go at a time, the next when there is another."""
        nodes = Counter(pod["spec"]["nodeName"] for pod in self.release.pods())
        (node, count) = nodes.most_common(1)[0]
        if count < 2:
            raise Failed(f"no node has two replicas: {nodes}; the budget would have nothing to do")
        wanted = self.replicas + 2
        fewest = wanted

        def look(pods: dict[str, dict]) -> None:
            nonlocal fewest
            fewest = min(fewest, sum(_is_ready(pod) and "deletionTimestamp" not in pod["metadata"] for pod in pods.values()))

        watch = Watch(self.release.api, f"/api/v1/namespaces/{NAMESPACE}/pods", look)
        self.control_plane.run("kubectl", "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force",
                               f"--timeout={DRAIN_SECONDS_MAX}s", "--pod-selector", "app.kubernetes.io/name=tickgate",
                               seconds=DRAIN_SECONDS_MAX + 10)  # fmt: skip
        self.release.complete_rollout()
        watch.stop()
        self.control_plane.run("kubectl", "uncordon", node)
        if left := [pod["metadata"]["name"] for pod in self.release.pods() if pod["spec"]["nodeName"] == node]:
            raise Failed(f"{left} are still on {node}")
        if fewest < wanted - 1:
            raise Failed(f"only {fewest} of {wanted} replicas were ready at a time: the budget allows one to be away")

    def _turn_autoscaler_on(self) -> None:
        """The number of replicas stays what it is until the autoscaler decides, and it has no metrics to decide by."""
        before = {pod["metadata"]["name"] for pod in self.release.pods()}
        counts: set[int] = set()
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
        watch = Watch(self.release.api, path, lambda found: counts.update(each["spec"]["replicas"] for each in found.values()))
        self.release.upgrade("autoscaling.enabled=true", "autoscaling.minReplicas=2", f"autoscaling.maxReplicas={self.replicas + 4}")
        autoscaler = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers/{self.release.name}"
        wait_until(lambda: self.release.api.get(autoscaler)["status"].get("conditions"), 60, "the autoscaler to look at the Deployment")
        watch.stop()
        after = {pod["metadata"]["name"] for pod in self.release.pods()}
        if counts != {len(before)} or before != after:
            raise Failed(f"an autoscaler was turned on, and {len(before)} replicas became {counts}; pods {before} became {after}")

    def _scale_down(self) -> None:
        self.release.upgrade()
        self.release.complete_rollout()

    def _rotate_first(self) -> None:
        """docs/operations.md, "Secrets": the new values first, the old ones second; then the services change over."""
        self._rotate(0)
        self.token_secret, self.api_key = (self.release.secret("tickgate-auth", key) for key in ("token-secrets", "api-keys"))

    def _rotate_second(self) -> None:
        self.crowd.login.secret = self.token_secret
        self.crowd.set_key(self.api_key)
        self._rotate(1)

    def _rotate(self, step: int) -> None:
        """A documented step, for the API key and then for the token secret; the replicas take both over by themselves."""
        commands = [block for block in blocks("docs/operations.md") if "patch secret tickgate-auth" in block][step]
        for key in ("api-keys", "token-secrets"):
            before = self._reloads()
            type_in(self.control_plane, commands.replace("token-secrets", key), **{"-n tickgate": f"-n {NAMESPACE}"})
            wait_until(lambda: self._have_reloaded(before), RELOAD_SECONDS_MAX, f"every replica to read its {key} again")

    def _have_reloaded(self, before: dict[str, float]) -> bool:
        now = self._reloads()
        return now.keys() == before.keys() and all(now[pod] > count for pod, count in before.items())

    def _reloads(self) -> dict[str, float]:
        """How often each pod has taken over what it read, by the pod's address."""
        found = {}
        for address in (pod["status"]["podIP"] for pod in self.release.pods()):
            host = f"[{address}]" if ":" in address else address
            with urllib.request.urlopen(f"http://{host}:8001/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
            found[address] = sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith('tickgate_reloads_total{result="ok"}'))
        return found


def _is_ready(pod: dict) -> bool:
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in pod["status"].get("conditions", []))


def _ended(pod: dict) -> dict | None:
    """How the pod's only container ended, the last time that it did."""
    for status in pod["status"].get("containerStatuses", []):
        if ended := status["state"].get("terminated") or status.get("lastState", {}).get("terminated"):
            return ended
    return None


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
