"""Checks of what the chart asks the cluster for, and of how it changes one: present replicas, Secrets, rollouts."""

from __future__ import annotations

import base64

from checks import Failed, check, expect
from rendering import NAMESPACE, TRIAL, one, over, parsed, refusal, render, render_alone, render_with, trial, values_files, values_of
from apiserver import apiserver, namespace
from tools import module

EXTERNAL = {"redis": {"existingSecret": "r"}, "auth": {"existingSecret": "a"}}
AUTOSCALERS = ["autoscaling", "keda"]


def deployment(replicas: int, name: str = "tickgate") -> dict:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"replicas": replicas}}


def rendered_replicas(values: dict, cluster: list[dict] | None = None) -> int | None:
    return one(trial(values, cluster), "Deployment")["spec"].get("replicas")


@check("helm keeps the present replicas when an autoscaler is on")
def present_replicas() -> str:
    cases = 0
    for scaler in AUTOSCALERS:
        values = {scaler: {"enabled": True, "minReplicas": 3, "maxReplicas": 12, "fallbackReplicas": 4}}
        if scaler == "autoscaling":
            del values[scaler]["fallbackReplicas"]
        for cluster, expected in [
            ([deployment(7)], 7),
            # Turned on over a smaller Deployment: the autoscaler raises it, the chart does not touch it.
            ([deployment(2)], 2),
            ([deployment(0)], 0),
            ([deployment(9, "another")], 3),
            ([], 3),
        ]:
            found = rendered_replicas(values, cluster)
            expect(scaler, found == expected, f"with {[c['spec']['replicas'] for c in cluster]} there {found} replicas are rendered, not {expected}")
            cases += 1
        # Without a cluster a number would undo the autoscaler's at each rendering.
        alone = one(parsed(render_alone(over(EXTERNAL, values))), "Deployment")["spec"]
        expect(scaler, "replicas" not in alone, f"without a cluster {alone.get('replicas')} replicas are rendered")
    expect("replicaCount", rendered_replicas({"replicaCount": 4}, [deployment(7)]) == 4, "is not rendered as it is")
    return f"{cases} cases"


@check("helm rollout follows the drain")
def rollout() -> str:
    def spec(values: dict) -> dict:
        return one(trial(values), "Deployment")["spec"]

    cases = [
        ({}, 35, 50),
        ({"drain": {"delaySeconds": 10, "spreadSeconds": 120}}, 130, 145),
        ({"drain": {"preStopSeconds": 20}}, 55, 70),
        ({"minReadySeconds": 5}, 5, 50),
        ({"minReadySeconds": 0}, 0, 50),
        ({"terminationGracePeriodSeconds": 50}, 35, 50),
        ({"terminationGracePeriodSeconds": 300}, 35, 300),
    ]
    for values, ready, grace in cases:
        found = spec(values)
        expect(values, found["minReadySeconds"] == ready, f"minReadySeconds {found['minReadySeconds']}, not {ready}")
        seconds = found["template"]["spec"]["terminationGracePeriodSeconds"]
        expect(values, seconds == grace, f"grace period {seconds}, not {grace}")
        expect(values, found["progressDeadlineSeconds"] > ready + 300, "progressDeadlineSeconds leaves no time to start")
    one_more = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    expect("strategy", spec({})["strategy"] == one_more, f"is {spec({})['strategy']}")
    wide = spec({"strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}}})["strategy"]
    expect("strategy", wide["rollingUpdate"] == {"maxSurge": "25%", "maxUnavailable": 1}, f"is {wide}")
    expect("strategy", spec({"strategy": {"type": "Recreate"}})["strategy"] == {"type": "Recreate"}, "of Recreate has more")
    return f"{len(cases)} drains"


def existing_secret(name: str, data: dict[str, str]) -> dict:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "data": encoded}


@check("helm makes Secrets once, and never without a cluster")
def secrets() -> str:
    for values, named in [
        (TRIAL, ["auth.existingSecret", "redis.existingSecret", "--dry-run=server"]),
        ({"redis": {"url": "redis://r:6379"}}, ["auth.existingSecret", "token-secrets", "api-keys", NAMESPACE]),
        (over(TRIAL, {"auth": {"existingSecret": "a"}}), ["redis.existingSecret", "redis.embedded.enabled"]),
    ]:
        said = refusal(values, render_alone)
        if said is None or any(name not in said for name in named):
            raise Failed(f"{values} without a cluster: {said or 'accepted'}, which does not name {named}")
        if (said := refusal(values)) is not None:
            raise Failed(f"{values} with a cluster: {said}")
    _made_once()
    alone = [path for path in values_files() if refusal(values_of(path), render_alone) is None]
    for path in alone:
        expect(path, _without_lookups(render_alone(values_of(path))) == _without_lookups(render(values_of(path))), "renders otherwise without a cluster")
    return f"{len(alone)} of {len(values_files())} values files render without a cluster"


def _without_lookups(texts: dict[str, str]) -> list[dict]:
    """The objects, without the notes and without the one field that a cluster decides."""
    entries = parsed(texts)
    for entry in entries:
        if entry["kind"] == "Deployment":
            entry["spec"].pop("replicas", None)
    return entries


def _made_once() -> None:
    """What is there is kept, key by key; what is missing is made."""
    there = [existing_secret("tickgate-auth", {"token-secrets": "x" * 48}), existing_secret("tickgate-redis", {"password": "p" * 32})]
    made = {entry["metadata"]["name"]: entry for entry in trial({}, there) if entry["kind"] == "Secret"}
    auth, redis = made["tickgate-auth"]["data"], made["tickgate-redis"]["stringData"]
    expect("tickgate-auth", base64.b64decode(auth["token-secrets"]).decode() == "x" * 48, "the token secret changed")
    expect("tickgate-auth", len(base64.b64decode(auth["api-keys"])) >= 32, "no API key was made")
    expect("tickgate-redis", redis["password"] == "p" * 32 and "p" * 32 in redis["redis-url"], "the password changed")


@check("helm asks for the cluster in a way that an installer of one namespace may")
def least_rights() -> None:
    """The release's namespace is asked first: who may install there may see it, and perhaps nothing else."""
    with apiserver([namespace(NAMESPACE)]) as kubeconfig:
        render_with(kubeconfig, TRIAL)
    # A namespace that is made by the installation itself: kube-system tells that there is a cluster.
    with apiserver([namespace("kube-system")]) as kubeconfig:
        render_with(kubeconfig, TRIAL)
    with apiserver([]) as kubeconfig:
        try:
            render_with(kubeconfig, TRIAL)
        except module("helm_python").HelmError:
            return
    raise Failed("a cluster without namespaces is taken for one")
