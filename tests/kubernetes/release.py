"""The gateway in one namespace: what the cluster says about it, and what Helm is asked to do with it."""

from __future__ import annotations

import base64
import json
import subprocess
import tomllib
from pathlib import Path

from checks import CHART, GATEWAY, LOGS, Failed, wait_until
from control_plane import ControlPlane, tail

HELM_SECONDS_MAX = 300
ROLLOUT_SECONDS_MAX = 600
SELECTOR = "app.kubernetes.io/component=gateway"


class Deployment:
    """The gateway of one namespace, however it came there: what the cluster says about it."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self.control_plane, self.api, self.namespace = control_plane, control_plane.api, namespace

    @property
    def name(self) -> str:
        """The Deployment's, which values can change; its Services are called after it."""
        return self.deployment()["metadata"]["name"]

    def complete_rollout(self, seconds: float = ROLLOUT_SECONDS_MAX) -> None:
        """Waits until all replicas are of the newest template and available, and the old ones have ended."""
        self.control_plane.run("kubectl", "-n", self.namespace, "rollout", "status", f"deployment/{self.name}",
                               f"--timeout={seconds:g}s", seconds=seconds + 10)  # fmt: skip
        wanted = self.deployment()["spec"]["replicas"]
        wait_until(lambda: len(self.pods()) == wanted, seconds, f"old pods of {self.namespace} to end")

    def await_end(self) -> None:
        """Waits until the last pod has ended."""
        wait_until(lambda: not self.pods(), ROLLOUT_SECONDS_MAX, f"the pods of {self.namespace} to end")

    def deployment(self) -> dict:
        found = self.api.items(f"/apis/apps/v1/namespaces/{self.namespace}/deployments", SELECTOR)
        if len(found) != 1:
            raise Failed(f"{self.namespace} has {len(found)} Deployments of the gateway")
        return found[0]

    def pods(self) -> list[dict]:
        return self.api.items(f"/api/v1/namespaces/{self.namespace}/pods", SELECTOR)

    def addresses(self, service: str = "") -> list[str]:
        """Cluster addresses of a Service, with the port; one of each family that it has."""
        spec = self.api.get(f"/api/v1/namespaces/{self.namespace}/services/{self.name}{service}")["spec"]
        hosts = [f"[{host}]" if ":" in host else host for host in spec["clusterIPs"]]
        return [f"{host}:{spec['ports'][0]['port']}" for host in hosts]

    def check(self) -> int:
        """`tickgate check` as a client outside the pods, over every address. Returns how many there are."""
        names = self.secret_names()
        environment = {"TICKGATE__AUTH__HS256_SECRETS": self.secret(names["auth"], "token-secrets"),
                       "TICKGATE__AUTH__API_KEYS": self.secret(names["auth"], "api-keys"),
                       "TICKGATE__AUTH__ISSUER": self.configuration().get("auth", {}).get("issuer", "")}  # fmt: skip
        addresses = self.addresses()
        for address, operations in zip(addresses, self.addresses("-ops"), strict=True):
            command = [GATEWAY, "check", f"ws://{address}", "--ops", f"http://{operations}"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
            if done.returncode:
                raise Failed(f"tickgate check of {address} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return len(addresses)

    def configuration(self) -> dict:
        """The configuration file that the pods have."""
        found = self.api.get(f"/api/v1/namespaces/{self.namespace}/configmaps/{self.name}")
        return tomllib.loads(found["data"]["tickgate.toml"])

    def secret_names(self) -> dict[str, str]:
        """The Secrets that the pods mount, by the name of the volume."""
        volumes = self.deployment()["spec"]["template"]["spec"]["volumes"]
        return {volume["name"]: volume["secret"]["secretName"] for volume in volumes if "secret" in volume}

    def secret(self, name: str, key: str) -> str:
        """The first line of a key: the current value."""
        data = self.api.get(f"/api/v1/namespaces/{self.namespace}/secrets/{name}")["data"]
        return base64.b64decode(data[key]).decode().splitlines()[0]

    def explain(self) -> str:
        """What is known about pods that are not well: state, events, and the end of their output."""
        lines = []
        for pod in self.pods():
            states = [container["state"] for container in pod["status"].get("containerStatuses", [])]
            lines.append(f"{pod['metadata']['name']}: {pod['status']['phase']} {json.dumps(states)}")
            for log in sorted((LOGS / "pods" / f"{self.namespace}_{pod['metadata']['name']}").glob("*.log"))[-1:]:
                lines.append(tail(log, 5))
        for event in self.api.items(f"/api/v1/namespaces/{self.namespace}/events")[-20:]:
            if event["type"] != "Normal":
                lines.append(f"{event['involvedObject']['name']}: {event['reason']}: {event['message']}")
        return "\n".join(lines)


class Release(Deployment):
    """A release of the chart, named tickgate, in a namespace of its own."""

    release = "tickgate"

    def __init__(self, control_plane: ControlPlane, namespace: str, values: Path) -> None:
        super().__init__(control_plane, namespace)
        self.values = values

    def install(self) -> None:
        self._helm("install", self.release, CHART, "--values", self.values, *self._wait())

    def upgrade(self, *settings: str) -> None:
        """The same values and these settings; earlier ones are not kept."""
        self._helm("upgrade", self.release, CHART, "--values", self.values, *self._wait(), *self._set(settings))

    def upgrade_without_waiting(self, *settings: str) -> None:
        self._helm("upgrade", self.release, CHART, "--values", self.values, *self._set(settings))

    def rollback(self) -> None:
        self._helm("rollback", self.release, *self._wait())

    def test(self) -> None:
        """`helm test`: the smoke test, in the cluster."""
        self._helm("test", self.release, "--timeout", "120s")

    def uninstall(self) -> None:
        self._helm("uninstall", self.release)
        self.await_end()

    def has_smoke_test(self) -> bool:
        return "helm.sh/hook: test" in self._helm("get", "hooks", self.release)

    def _helm(self, verb: str, *words: object) -> str:
        try:
            return self.control_plane.run("helm", verb, *words, "--namespace", self.namespace, seconds=HELM_SECONDS_MAX + 30)
        except Failed as failure:
            raise Failed(f"{failure}\n{self.explain()}") from None

    def _wait(self) -> list[str]:
        return ["--wait", "--timeout", f"{HELM_SECONDS_MAX}s"]

    def _set(self, settings: tuple[str, ...]) -> list[str]:
        return [word for setting in settings for word in ("--set", setting)]
