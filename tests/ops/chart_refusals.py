"""Checks of values that the chart refuses: by its schema, or because they contradict each other."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator

from checks import ROOT, Failed, check
from rendering import CHART, NAMESPACE, TRIAL, over, refusal, render_alone
from tools import module

sys.path.insert(0, str(ROOT / "deploy"))
from render import needed_values, value_rows  # noqa: E402  the folder is found first

EXTERNAL = {"redis": {"existingSecret": "r"}, "auth": {"existingSecret": "a"}}


def nested(path: str, value: object) -> dict:
    """`a.b` and a value as {"a": {"b": value}}."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


# Values over those of the trial that the schema must refuse, and what the refusal must name.
WRONG = [
    ({"replicas": 3}, ["replicas"]),
    ({"replicaCount": "two"}, ["/replicaCount", "integer"]),
    (nested("config.limits.connection_max", 3), ["/config/limits", "connection_max"]),
    (nested("config.limits.connections_max", "many"), ["/config/limits/connections_max"]),
    (nested("config.session.resume_ttl", "1 minute"), ["/config/session/resume_ttl"]),
    (nested("config.auth.hs256_secrets", ["x"]), ["/config/auth", "hs256_secrets"]),
    (nested("config.drain.spread", "90s"), ["/config", "drain"]),
    (nested("image.digest", "latest"), ["/image/digest"]),
    (nested("ingress.controller", "apache"), ["/ingress/controller"]),
    (nested("ingress.pathType", "Regex"), ["/ingress/pathType"]),
    (nested("service.port", 0), ["/service/port"]),
    (nested("service.trafficDistribution", "Near"), ["/service/trafficDistribution"]),
    (nested("redis.url", "redis://user:password@host:6379"), ["/redis/url"]),
    (nested("global.imageRegistry", "https://registry.example.com"), ["/global/imageRegistry"]),
    (nested("commonLabels", {"app.kubernetes.io/name": "x"}), ["/commonLabels"]),
    (nested("podLabels", {"app.kubernetes.io/instance": "x"}), ["/podLabels"]),
    (nested("strategy.type", "Blue"), ["/strategy/type"]),
    (nested("strategy.rollingUpdate.maxSurge", -1), ["/strategy/rollingUpdate/maxSurge"]),
    (nested("podDisruptionBudget.maxUnavailable", "0%"), ["/podDisruptionBudget/maxUnavailable"]),
    (nested("podSecurityContext.runAsUser", 0), ["/podSecurityContext/runAsUser"]),
    (nested("podSecurityContext.runAsUsr", 1), ["/podSecurityContext", "runAsUsr"]),
    (nested("securityContext.readOnlyRootFilesystem", "yes"), ["/securityContext/readOnlyRootFilesystem"]),
    (nested("probes.readiness.path", "/health"), ["/probes/readiness", "path"]),
    (nested("probes.liveness.periodSeconds", 0), ["/probes/liveness/periodSeconds"]),
    (nested("ipFamilies", ["IPv5"]), ["/ipFamilies"]),
    (nested("listenAddress", "all"), ["/listenAddress"]),
    (nested("extraContainers", [{"image": "x"}]), ["/extraContainers", "name"]),
    (nested("topologySpreadConstraints", [{"topologyKey": "x"}]), ["/topologySpreadConstraints", "whenUnsatisfiable"]),
    (nested("metrics.monitor.kind", "Probe"), ["/metrics/monitor/kind"]),
    (nested("metrics.prometheusRule.runbookUrl", "docs/operations.md"), ["/metrics/prometheusRule/runbookUrl"]),
    (nested("metrics.prometheusRule.alerts", {"TickgateMemroy": {"enabled": False}}), ["/metrics/prometheusRule/alerts", "TickgateMemroy"]),
    (nested("metrics.prometheusRule.thresholds", {"TickgateDown": 1}), ["/metrics/prometheusRule/thresholds", "TickgateDown"]),
    (nested("metrics.prometheusRule.thresholds", {"TickgateMemory": 90}), ["/metrics/prometheusRule/thresholds/TickgateMemory", "1"]),
    (nested("listenAddress", "127.0.0.1"), ["/listenAddress"]),
    (nested("config.server.tls", {"cert_file": "/a", "key_file": "/b"}), ["/config/server", "tls"]),
    (nested("config.redis.client_cert_file", "/a"), ["/config/redis", "client_cert_file"]),
    (nested("metrics.podMonitor.enabled", True), ["/metrics", "podMonitor"]),
    (nested("scalingBehavior.scaleDown.policies", [{"type": "Pods", "value": 1}]), ["/scalingBehavior/scaleDown/policies", "periodSeconds"]),
    (nested("keda.authenticationRef", {"secret": "x"}), ["/keda/authenticationRef", "secret"]),
]

AUTOSCALED = nested("autoscaling.enabled", True)
SCALED = nested("keda.enabled", True)
# Values over those of the trial that contradict each other, and what the refusal must name.
CONTRADICTIONS = [
    (nested("auth.generate", False), ["auth.existingSecret", "token-secrets", "api-keys"]),
    (nested("auth.keys.api", "token-secrets"), ["auth.keys.tokens and auth.keys.api", "token-secrets"]),
    (nested("redis.url", "redis://a:6379"), ["redis.url and redis.embedded.enabled"]),
    (nested("redis.tls.existingSecret", "ca"), ["redis.tls.existingSecret and redis.embedded.enabled"]),
    (nested("redis.tls.clientSecret", "own"), ["redis.tls.clientSecret and redis.embedded.enabled"]),
    (nested("tls.operations.clientCaSecret", "ca"), ["tls.operations.clientCaSecret without tls.operations.existingSecret"]),
    (nested("tls", {"operations": {"existingSecret": "t", "clientCaSecret": "ca"}, "keys": {"authority": ""}}), ["tls.keys.authority"]),
    (nested("tls.keys.privateKey", "tls.crt"), ["tls.keys.certificate and tls.keys.privateKey", "tls.crt"]),
    (over(nested("tls.operations.existingSecret", "t"), nested("metrics.monitor.enabled", True)), ["metrics.monitor.tlsConfig"]),
    (nested("redis.secretKey", "password"), ["redis.secretKey", "password"]),
    (over(AUTOSCALED, SCALED), ["autoscaling.enabled and keda.enabled"]),
    (over(AUTOSCALED, nested("autoscaling.minReplicas", 11)), ["autoscaling.minReplicas is 11", "autoscaling.maxReplicas 10"]),
    (over(AUTOSCALED, nested("autoscaling.targetCPUUtilizationPercentage", None)), ["autoscaling.targetConnections"]),
    (over(SCALED, nested("keda.minReplicas", 11)), ["keda.minReplicas is 11", "keda.maxReplicas 10"]),
    (over(SCALED, nested("keda.fallbackReplicas", 11)), ["keda.fallbackReplicas is 11", "keda.maxReplicas 10"]),
    (over(SCALED, nested("keda.fallbackReplicas", 1)), ["keda.fallbackReplicas is 1", "keda.minReplicas 2"]),
    (over(AUTOSCALED, {"resources": {"requests": None, "limits": None}}), ["percent of the requested cpu", "container tickgate"]),
    (over(SCALED, {"extraContainers": [{"name": "tunnel", "image": "x"}]}), ["percent of the requested cpu", "container tunnel"]),
    (
        over(AUTOSCALED, {"autoscaling": {"targetMemoryUtilizationPercentage": 80}, "resources": {"requests": {"memory": None}, "limits": {"memory": None}}}),
        ["percent of the requested memory", "container tickgate"],
    ),
    (nested("config.auth.jwks_url", "https://id.example.com/jwks.json"), ["config.auth.jwks_url", "networkPolicy.extraEgress"]),
    (nested("ingress.enabled", True), ["ingress.hosts"]),
    (nested("httpRoute.enabled", True), ["httpRoute.parentRefs"]),
    (nested("httpRoute", {"matches": [{}], "paths": ["/ws"]}), ["httpRoute.matches and httpRoute.paths"]),
    (nested("httpRoute.filters", [{"type": "RequestRedirect"}]), ["httpRoute.filters", "RequestRedirect"]),
    (nested("terminationGracePeriodSeconds", 49), ["49", "0 + ", "5 + ", "30 + ", "15 = 50", "1 s"]),
    (nested("strategy.rollingUpdate.maxSurge", 0), ["maxSurge and maxUnavailable are both 0"]),
    (nested("strategy.rollingUpdate.maxSurge", "0%"), ["maxSurge and maxUnavailable are both 0"]),
    ({"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}, "drain": {"preStopSeconds": 1}}, ["lifecycle.preStop and drain.preStopSeconds"]),
    (nested("lifecycle.preStop.exec", {"command": ["x"]}), ["lifecycle.preStop", "terminationGracePeriodSeconds", "50"]),
    (nested("service.loadBalancerClass", "x"), ["service.loadBalancerClass", "ClusterIP"]),
    (nested("service.loadBalancerIP", "203.0.113.1"), ["service.loadBalancerIP", "ClusterIP"]),
    (nested("service.loadBalancerSourceRanges", ["203.0.113.0/24"]), ["service.loadBalancerSourceRanges", "ClusterIP"]),
    (nested("service.nodePort", 30000), ["service.nodePort", "ClusterIP"]),
    ({"ipFamilies": ["IPv4", "IPv6"]}, ["ipFamilies", "ipFamilyPolicy"]),
    ({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "SingleStack"}, ["ipFamilies", "SingleStack"]),
    ({"ipFamilies": ["IPv6"], "listenAddress": "0.0.0.0"}, ["ipFamilies has IPv6", "listenAddress is 0.0.0.0"]),
    ({"ipFamilyPolicy": "PreferDualStack", "listenAddress": "0.0.0.0"}, ["ipFamilyPolicy is PreferDualStack", "listenAddress is 0.0.0.0"]),
    (nested("redis.embedded.maxmemory", "513mb"), ["redis.embedded.maxmemory is 513mb", "limits.memory 768Mi"]),
    (nested("redis.embedded", {"maxmemory": "1gb", "resources": {"limits": {"memory": "1.5G"}}}), ["maxmemory is 1gb", "limits.memory 1.5G"]),
    (over(AUTOSCALED, nested("autoscaling.targetConnections", 50_000)), ["autoscaling.targetConnections is 50000", "config.limits.connections_max"]),
    (over(SCALED, nested("config.limits.connections_max", 20_000)), ["keda.targetConnections is 20000", "no more than 20000"]),
    (nested("extraVolumeMounts", [{"name": "keys", "mountPath": "/keys"}]), ["extraVolumeMounts", "keys", "extraVolumes"]),
    (nested("config.auth.public_keys", [{"algorithm": "ES256", "path": "/keys/a.pem"}]), ["config.auth.public_keys[0].path is /keys/a.pem", "extraVolumeMounts"]),
    (nested("config.redis.ca_file", "/etc/redis/ca.crt"), ["config.redis.ca_file is /etc/redis/ca.crt", "extraVolumeMounts"]),
    (nested("extraEnv", [{"name": "TICKGATE__REDIS__URL_FILE", "value": "/vault/url"}]), ["extraEnv TICKGATE__REDIS__URL_FILE is /vault/url"]),
    (nested("extraToml", "[drain]\ndelay = '1s'\n"), ["extraToml", "[drain]", "config.drain"]),
    (nested("extraEnv", [{"name": "TICKGATE__SERVER__LISTEN", "value": "x"}]), ["extraEnv", "TICKGATE__SERVER__LISTEN", "listenAddress"]),
    (nested("extraEnv", [{"name": "TICKGATE__DRAIN__SPREAD", "value": "90s"}]), ["extraEnv", "TICKGATE__DRAIN__SPREAD", "drain."]),
    (nested("extraEnv", [{"name": "TICKGATE__SERVER__MODE", "value": "development"}]), ["extraEnv", "TICKGATE__SERVER__MODE"]),
    (nested("extraEnv", [{"name": "TICKGATE__AUTH__API_KEYS", "value": "x"}]), ["extraEnv", "TICKGATE__AUTH__API_KEYS", "auth.existingSecret"]),
    (nested("extraVolumes", [{"name": "redis"}]), ["extraVolumes", "redis"]),
    (nested("extraContainers", [{"name": "tickgate"}]), ["extraContainers", "tickgate"]),
    (
        nested("topologySpreadConstraints", [{"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 2}]),
        ["zone has minDomains", "DoNotSchedule"],
    ),
    (nested("metrics.monitor", {"interval": "5s", "scrapeTimeout": "5001ms"}), ["scrapeTimeout is 5001ms", "interval 5s"]),
]

# Whole sets of values.
ALONE = [
    ({}, ["no Redis", "redis.existingSecret", "redis-url", NAMESPACE]),
    (over(EXTERNAL, nested("redis.url", "redis://a:6379")), ["redis.url and redis.existingSecret"]),
    ({"replicaCount": 1, "redis": {"tls": {"existingSecret": "ca"}}}, ["redis.tls.existingSecret without a Redis"]),
    ({"redis": {"url": "redis://a:6379", "tls": {"existingSecret": "ca"}}}, ["redis.tls.existingSecret", "redis://a:6379", "rediss://"]),
    ({"redis": {"url": "rediss://a:6380/0"}}, ["redis.url has port 6380", "networkPolicy.redisPort is 6379"]),
    ({"redis": {"url": "redis://a"}, "networkPolicy": {"redisPort": 6380}}, ["redis.url has port 6379", "networkPolicy.redisPort is 6380"]),
    (over(EXTERNAL, {"redis": {"tls": {"existingSecret": "ca"}}, "config": {"redis": {"ca_file": "/x"}}}), ["config.redis.ca_file"]),
]


@check("helm refuses wrong and contradictory values, and names them")
def refusals() -> str:
    cases = [(over(TRIAL, values), names) for values, names in WRONG + CONTRADICTIONS] + ALONE
    for values, names in cases:
        said = refusal(values)
        if said is None:
            raise Failed(f"{json.dumps(values)} is accepted")
        if missing := [name for name in names if name not in said]:
            raise Failed(f"{json.dumps(values)} is refused without naming {missing}: {said}")
    return f"{len(cases)} sets of values"


# Values that look like those, and are right.
TAKEN = [
    nested("redis.embedded", {"maxmemory": "2gb", "resources": {"limits": {"memory": "3Gi"}}}),
    nested("redis.embedded", {"maxmemory": "2gb", "resources": {"limits": {"memory": None}}}),
    nested("redis.embedded", {"maxmemory": "64mb", "resources": {"limits": {"memory": 134_217_728}}}),
    over(AUTOSCALED, nested("autoscaling.targetConnections", 49_999)),
    {
        "config": {"redis": {"ca_file": "/etc/ssl/certs/ca-certificates.crt"}, "auth": {"public_keys": [{"algorithm": "ES256", "path": "/keys/a.pem"}]}},
        "extraVolumes": [{"name": "{{ .Release.Name }}-keys", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "{{ .Release.Name }}-keys", "mountPath": "/keys/"}],
        "extraEnv": [{"name": "TICKGATE__REDIS__URL_FILE", "value": "/keys/url"}],
    },
    {"extraVolumes": [{"name": "ca", "emptyDir": {}}], "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca.crt", "subPath": "ca.crt"}],
     "config": {"redis": {"ca_file": "/ca.crt"}}},
]  # fmt: skip


@check("helm takes values that only look contradictory")
def taken() -> str:
    for values in TAKEN:
        if (said := refusal(over(TRIAL, values))) is not None:
            raise Failed(f"{json.dumps(values)} is refused: {said}")
    limits = tomllib.loads((ROOT / "config/default.toml").read_text())["limits"]
    if limits["connections_max"] != 50_000:
        raise Failed(f"_checks.tpl takes connections_max for 50000, config/default.toml for {limits['connections_max']}")
    return f"{len(TAKEN)} sets of values"


@check("helm refuses null in the place of every value that is needed")
def nulls() -> str:
    """Helm takes null for "no value, not even the default": a drain of no seconds, a rule that compares with nothing."""
    text = (CHART / "values.yaml").read_text()
    needed = needed_values(text)
    for path, _, _ in value_rows(text):
        said = refusal(over(TRIAL, nested(path, None)))
        if path in needed and (said is None or f"'{path.rpartition('.')[2]}'" not in said):
            raise Failed(f"{path}: null is {'accepted' if said is None else f'refused by {said}'}")
        if path not in needed and said is not None:
            raise Failed(f"{path}: null is refused by {said}")
    return f"{len(needed)} values"


@check("helm refuses unknown keys on every level")
def unknown_keys() -> str:
    """Every map of values.yaml that has described values in it refuses a key that nobody knows."""
    values = module("yaml").safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())

    def maps(node: dict, shape: dict, path: list[str]) -> Iterator[list[str]]:
        """Maps with fixed keys; one whose keys are anybody's (labels, a context of Kubernetes) is for its own schema."""
        yield path
        for key, child in node.items():
            below = shape.get("properties", {}).get(key, {})
            if isinstance(child, dict) and "properties" in below:
                yield from maps(child, below, [*path, key])

    checked = 0
    for path in maps(values, schema, []):
        # A parent chart's values are in `global`.
        if path == ["global"]:
            continue
        said = refusal(over(TRIAL, nested(".".join([*path, "unknwn"]), 1)), render_alone)
        if said is None or "unknwn" not in said:
            raise Failed(f"{'.'.join(path) or 'the top'}: an unknown key is {'accepted' if said is None else f'refused by {said}'}")
        checked += 1
    return f"{checked} maps"
