"""Checks of the values themselves: each is set by a values file, each changes what is rendered, and changes the right thing."""

from __future__ import annotations

import copy
import re
import sys
import tomllib

from apiserver import apiserver, namespace
from chart import gateway_toml
from checks import ROOT, Failed, check, expect
from pods import containers, workloads
from rendering import CHART, NAMESPACE, TRIAL, objects, one, over, parsed, render, render_with, trial, values_files, values_of
from tools import module

sys.path.insert(0, str(ROOT / "deploy"))
from render import value_rows  # noqa: E402  the folder is found first

# Values that no values file sets, since policy, another namespace or the cluster's storage would not take it: one to try.
UNSET = {
    "namespaceOverride": "elsewhere",
    "image.repository": "registry.example.com/gateway",
    "redis.secretKey": "address",
    "redis.tls.caKey": "root.pem",
    "tls.keys.certificate": "cert.pem",
    "tls.keys.privateKey": "key.pem",
    "tls.keys.authority": "root.pem",
    "redis.embedded.image": "docker.io/library/redis:7.4-alpine",
    "redis.embedded.storageClassName": "fast",
    "auth.keys.tokens": "jwt",
    "auth.keys.api": "keys",
    "strategy.rollingUpdate.maxUnavailable": 1,
    "ipFamilies": ["IPv6"],
    "podSecurityContext.runAsNonRoot": None,
    "podSecurityContext.seccompProfile": {"type": "Localhost", "localhostProfile": "p.json"},
    "securityContext.allowPrivilegeEscalation": True,
    "securityContext.readOnlyRootFilesystem": False,
    "securityContext.privileged": None,
    "securityContext.capabilities": {"drop": ["NET_RAW"]},
    "httpRoute.paths": ["/ws"],
    "metrics.prometheusRule.thresholds.TickgateConnectionSkew": 2,
    "serviceAccount.name": "mine",
    "serviceAccount.annotations": {"a": "b"},
}
# What the rendering of such a value needs beside it.
ENCRYPTED = {"tls": {"clients": {"existingSecret": "t"}, "operations": {"existingSecret": "t", "clientCaSecret": "p"}}}
BESIDE = {
    "tls.keys.certificate": ENCRYPTED,
    "tls.keys.privateKey": ENCRYPTED,
    "tls.keys.authority": ENCRYPTED,
    "redis.tls.caKey": {"redis": {"embedded": {"enabled": False}, "existingSecret": "r", "tls": {"existingSecret": "ca"}}},
    "httpRoute.paths": {"httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}]}},
    "metrics.prometheusRule.thresholds.TickgateConnectionSkew": {"metrics": {"prometheusRule": {"enabled": True}}},
}
# Reasons for a value that changes nothing by itself.
WITHOUT_EFFECT = {"auth.generate": "decides between rendering and a refusal; chart_refusals has both"}
MISSING = object()


def at(values: dict, path: list[str]) -> object:
    for key in path:
        if not isinstance(values, dict) or key not in values:
            return MISSING
        values = values[key]
    return values


def without(values: dict, path: list[str]) -> dict:
    """The values without one of them."""
    changed = copy.deepcopy(values)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    return changed


def stable(texts: dict[str, str]) -> dict[str, str]:
    """A rendering without what is made anew each time."""
    return {name: re.sub(r"[A-Za-z0-9+/=]{32,}", "", text) if name.endswith("/secret.yaml") else text for name, text in texts.items()}


@check("helm every value is set by a values file and changes what is rendered")
def every_value() -> str:
    text = (CHART / "values.yaml").read_text()
    defaults = module("yaml").safe_load(text)
    files = {path.name: values_of(path) for path in values_files()}
    idle, unset = [], []
    with apiserver([namespace(NAMESPACE)]) as kubeconfig:
        whole = {name: stable(render_with(kubeconfig, values)) for name, values in files.items()}

        def has_effect(name: str, path: list[str]) -> bool:
            try:
                return stable(render_with(kubeconfig, without(files[name], path))) != whole[name]
            except module("helm_python").HelmError:
                return True  # what is left contradicts itself without the value

        rows = value_rows(text)
        for dotted, _, _ in rows:
            path = dotted.split(".")
            if dotted in UNSET:
                base = over(TRIAL, BESIDE.get(dotted, {}))
                if stable(render_with(kubeconfig, over(base, _nest(path, UNSET[dotted])))) == stable(render_with(kubeconfig, base)):
                    idle.append(dotted)
                continue
            setters = [name for name, values in files.items() if at(values, path) not in (MISSING, at(defaults, path))]
            if not setters:
                unset.append(dotted)
            elif dotted not in WITHOUT_EFFECT and not any(has_effect(name, path) for name in setters):
                idle.append(dotted)
    if unset:
        raise Failed(f"no ci values file sets {', '.join(unset)}")
    if idle:
        raise Failed(f"nothing changes with {', '.join(idle)}")
    return f"{len(rows)} values, {len(UNSET)} of them set here and not by a file"


def _nest(path: list[str], value: object) -> dict:
    for key in reversed(path):
        value = {key: value}
    return value


@check("helm every object carries the common labels, annotations and namespace")
def metadata() -> str:
    common = {"commonLabels": {"team": "t", "app.kubernetes.io/version": "mine"}, "commonAnnotations": {"a": "b"}, "namespaceOverride": "elsewhere"}
    everything = {
        "ingress": {"enabled": True, "hosts": [{"host": "h"}]}, "httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}]},
        "autoscaling": {"enabled": True},
        "metrics": {"monitor": {"enabled": True}, "prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}},
    }  # fmt: skip
    checked = 0
    for values in (over(everything, common), over(common, {"keda": {"enabled": True}, "metrics": {"monitor": {"enabled": True, "kind": "ServiceMonitor"}}})):
        for entry in trial(values):
            found, name = entry["metadata"], f"{entry['kind']} {entry['metadata']['name']}"
            expect(name, found["labels"].get("team") == "t", f"labels are {found['labels']}")
            expect(name, found["labels"]["app.kubernetes.io/version"] != "mine", "a common label replaces one of the chart's")
            expect(name, found.get("annotations", {}).get("a") == "b", f"annotations are {found.get('annotations')}")
            expect(name, found["namespace"] == "elsewhere", f"is in {found['namespace']}")
            template = entry["spec"].get("template") if entry["kind"] in ("Deployment", "StatefulSet") else None
            expect(name, template is None or template["metadata"]["labels"].get("team") == "t", "its pods lack the common label")
            expect(name, "team" not in str(entry["spec"].get("selector")) if template else True, "selects by a common label")
            checked += 1
    return f"{checked} objects"


@check("helm images come from the registry that the values name")
def registry() -> None:
    found = {
        container["image"]
        for _, pod in workloads(trial({"global": {"imageRegistry": "mirror.example.com:5000/hub"}}))
        for container in containers(pod)
    }
    wanted = {"mirror.example.com:5000/hub/tickgate/tickgate:0.1.0", "mirror.example.com:5000/hub/library/redis:7.2-alpine"}
    expect("global.imageRegistry", found == wanted, f"images are {sorted(found)}")
    short = {"global": {"imageRegistry": "mirror.example.com"}, "image": {"repository": "tickgate", "tag": "1"}}
    image = _gateway(trial(short))["image"]
    expect("global.imageRegistry", image == "mirror.example.com/tickgate:1", f"image is {image}")
    for name, pod in workloads(trial({"global": {"imagePullSecrets": [{"name": "a"}]}, "imagePullSecrets": [{"name": "b"}, {"name": "a"}]})):
        expect(name, pod["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}], f"pull secrets are {pod.get('imagePullSecrets')}")


def _gateway(entries: list[dict]) -> dict:
    return next(each for each in one(entries, "Deployment")["spec"]["template"]["spec"]["containers"] if each["name"] == "tickgate")


@check("helm no pod names a user or a group where the values name none")
def openshift() -> str:
    nulled = dict.fromkeys(["runAsUser", "runAsGroup", "fsGroup", "fsGroupChangePolicy"])
    checked = 0
    for entries in (trial({"podSecurityContext": nulled}), objects(CHART / "ci/openshift-values.yaml")):
        for name, pod in workloads(entries):
            expect(name, pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}, f"{pod['securityContext']}")
            modes = {volume["secret"]["defaultMode"] for volume in pod["volumes"] if "secret" in volume}
            expect(name, modes == {0o444}, f"a user without a group can't read its Secrets: {modes}")
            checked += 1
    for values in ({"podSecurityContext": None}, {"podSecurityContext": None, "securityContext": None}):
        for name, pod in workloads(trial(values)):
            expect(name, "securityContext" not in pod, f"keeps {pod.get('securityContext')}")
            kept = [each for each in containers(pod) if ("securityContext" in each) != ("securityContext" not in values)]
            expect(name, not kept, f"{[each['name'] for each in kept]}")
            checked += 1
    for name, pod in workloads(trial({})):
        expect(name, {volume["secret"]["defaultMode"] for volume in pod["volumes"] if "secret" in volume} == {0o440}, "Secrets may be read by others")
    return f"{checked} pods"


@check("helm listeners and Services speak the families that the values name")
def families() -> None:
    both = {"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "RequireDualStack"}
    cases = [
        ({}, "0.0.0.0", None, None),
        ({"listenAddress": "::"}, "[::]", None, None),
        ({"ipFamilies": ["IPv6"]}, "[::]", ["IPv6"], None),
        ({"ipFamilies": ["IPv4"]}, "0.0.0.0", ["IPv4"], None),
        (both, "[::]", ["IPv6", "IPv4"], "RequireDualStack"),
        ({"ipFamilyPolicy": "PreferDualStack"}, "[::]", None, "PreferDualStack"),
        ({"ipFamilyPolicy": "SingleStack"}, "0.0.0.0", None, "SingleStack"),
    ]
    for values, host, families, policy in cases:
        entries = trial(values)
        server = tomllib.loads(gateway_toml(entries))["server"]
        expect(values, (server["listen"], server["ops_listen"]) == (f"{host}:8000", f"{host}:8001"), f"listens on {server}")
        services = [entry["spec"] for entry in entries if entry["kind"] == "Service"]
        expect(values, len(services) == 3 and all(spec.get("ipFamilies") == families for spec in services), "families")
        expect(values, all(spec.get("ipFamilyPolicy") == policy for spec in services), "policy")


@check("helm pods and their containers are as the values say")
def pods() -> None:
    path = CHART / "ci/sidecars-values.yaml"
    values, entries = values_of(path), objects(path)
    deployment = one(entries, "Deployment")
    pod, gateway = deployment["spec"]["template"]["spec"], _gateway(entries)
    for key in ("dnsPolicy", "dnsConfig", "hostAliases", "runtimeClassName", "schedulerName", "nodeSelector", "tolerations", "affinity", "initContainers"):
        expect(path, pod[key] == values[key], f"{key} is {pod.get(key)}")
    expect(path, [each["name"] for each in pod["containers"]] == ["tickgate", "companion"], "containers")
    expect(path, pod["containers"][1] == values["extraContainers"][0], f"the companion is {pod['containers'][1]}")
    expect(path, "topologySpreadConstraints" not in pod, "spreads without constraints")
    expect(path, pod["imagePullSecrets"] == [{"name": "company"}, {"name": "mirror"}], f"{pod['imagePullSecrets']}")
    expect(path, pod["serviceAccountName"] == "default", f"service account {pod['serviceAccountName']}, which nobody makes")
    expect(path, deployment["spec"]["revisionHistoryLimit"] == 2, "revisionHistoryLimit")
    name = {"name": "TICKGATE__SERVER__NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    expect(path, gateway["env"] == [name, *values["extraEnv"]], f"env {gateway['env']}")
    expect(path, gateway["envFrom"] == [{"configMapRef": {"name": "gateway-variables"}}], f"envFrom {gateway['envFrom']}")
    expect(path, gateway["lifecycle"] == values["lifecycle"], f"lifecycle {gateway['lifecycle']}")
    for name, endpoint in [("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/readyz")]:
        wanted = {"httpGet": {"path": endpoint, "port": "client"}, **values["probes"][name]}
        expect(path, gateway[f"{name}Probe"] == wanted, f"{name} {gateway[f'{name}Probe']}")
    sleep = _gateway(trial({"drain": {"preStopSeconds": 7}, "lifecycle": {"postStart": {"exec": {"command": ["x"]}}}}))["lifecycle"]
    expect("lifecycle", sleep == {"preStop": {"sleep": {"seconds": 7}}, "postStart": {"exec": {"command": ["x"]}}}, f"is {sleep}")


@check("helm spread constraints select the replicas of one rollout")
def spread() -> None:
    own = {"topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 2, "labelSelector": {"matchLabels": {"a": "b"}}}
    constraints = one(trial({"topologySpreadConstraints": [{"topologyKey": "node", "whenUnsatisfiable": "ScheduleAnyway"}, own]}), "Deployment")
    first, second = constraints["spec"]["template"]["spec"]["topologySpreadConstraints"]
    labels = constraints["spec"]["selector"]["matchLabels"]
    filled = {"topologyKey": "node", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 1, "labelSelector": {"matchLabels": labels},
              "matchLabelKeys": ["pod-template-hash"]}  # fmt: skip
    expect("topologySpreadConstraints", first == filled, f"{first}")
    expect("topologySpreadConstraints", second == own, f"{second}")


@check("helm routes, autoscalers and budgets are as the values say")
def objects_of_values() -> None:
    route = one(objects(CHART / "ci/gateway-api-values.yaml"), "HTTPRoute")["spec"]["rules"][0]
    values = values_of(CHART / "ci/gateway-api-values.yaml")
    expect("httpRoute", route["matches"] == values["httpRoute"]["matches"], f"matches {route['matches']}")
    expect("httpRoute", route["filters"] == values["httpRoute"]["filters"], f"filters {route.get('filters')}")
    expect("httpRoute", "timeouts" not in route, "time-outs are written")
    scaled = one(objects(CHART / "ci/gateway-api-values.yaml"), "ScaledObject")["spec"]
    expect("keda", scaled["triggers"][0]["authenticationRef"] == values["keda"]["authenticationRef"], f"{scaled['triggers']}")
    expect("keda", scaled["triggers"][-1] == values["keda"]["extraTriggers"][0], f"{scaled['triggers']}")
    expect("keda", scaled["pollingInterval"] == 30, f"{scaled}")
    production = values_of(CHART / "ci/production-values.yaml")
    scaler = one(objects(CHART / "ci/production-values.yaml"), "HorizontalPodAutoscaler")["spec"]
    expect("autoscaling", [metric["type"] for metric in scaler["metrics"]] == ["Resource", "Resource", "Pods", "External"], f"{scaler['metrics']}")
    expect("autoscaling", scaler["metrics"][1]["resource"]["target"]["averageUtilization"] == 80, f"{scaler['metrics'][1]}")
    up, down = scaler["behavior"]["scaleUp"], scaler["behavior"]["scaleDown"]
    expect("scalingBehavior", up["policies"] == production["scalingBehavior"]["scaleUp"]["policies"], f"{up}")
    expect("scalingBehavior", (up["selectPolicy"], down["stabilizationWindowSeconds"]) == ("Max", 3600), f"{scaler['behavior']}")
    hosts = one(objects(CHART / "ci/production-values.yaml"), "Ingress")
    expect("ingress", [entry["secretName"] for entry in hosts["spec"]["tls"]] == ["ws-example-com", "ws-example-net"], "TLS of two hosts")
    expect("ingress", hosts["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-connect-timeout"] == "5", "own annotations win")
    exact = one(objects(CHART / "ci/openshift-values.yaml"), "Ingress")["spec"]["rules"][0]["http"]["paths"][0]
    expect("ingress.pathType", exact["pathType"] == "ImplementationSpecific", f"{exact}")
    # While Redis is away no replica is ready, and all of them hold clients: a node drain must not take them all.
    budget = one(trial({}), "PodDisruptionBudget")["spec"]
    expect("podDisruptionBudget", budget["unhealthyPodEvictionPolicy"] == "IfHealthyBudget", f"{budget}")
    service = one(objects(CHART / "ci/load-balancer-values.yaml"), "Service", "tickgate")["spec"]
    expect("service", service["loadBalancerClass"] == "service.k8s.aws/nlb" and service["loadBalancerIP"] == "203.0.113.10", f"{service}")
    near = one(objects(CHART / "ci/gateway-api-values.yaml"), "Service", "tickgate")["spec"]
    expect("service", near["trafficDistribution"] == "PreferClose", f"{near}")


@check("helm smoke test is configured as the gateway is")
def smoke() -> None:
    """Its configuration is the gateway's, so it needs the same files and variables."""
    shared = {
        "extraEnv": [{"name": "A", "value": "b"}], "extraEnvFrom": [{"secretRef": {"name": "s"}}],
        "extraVolumes": [{"name": "v", "emptyDir": {}}], "extraVolumeMounts": [{"name": "v", "mountPath": "/v"}],
    }  # fmt: skip
    entries = trial(shared)
    gateway, pod = _gateway(entries), one(entries, "Pod")["spec"]
    for key in ("env", "envFrom", "volumeMounts", "image"):
        expect("smoke test", pod["containers"][0][key] == gateway[key], f"{key} is {pod['containers'][0].get(key)}")
    expect("smoke test", pod["volumes"] == one(entries, "Deployment")["spec"]["template"]["spec"]["volumes"], "volumes")


@check("helm Redis over TLS is trusted by the authority of a Secret")
def redis_tls() -> None:
    entries = objects(CHART / "ci/production-values.yaml")
    redis = tomllib.loads(gateway_toml(entries))["redis"]
    expect("redis.tls", redis["ca_file"] == "/run/secrets/tickgate/redis-ca/ca.crt", f"{redis}")
    by_url = {"redis": {"embedded": {"enabled": False}, "url": "rediss://r:6380", "tls": {"existingSecret": "ca", "caKey": "root.pem"}},
              "networkPolicy": {"redisPort": 6380}}  # fmt: skip
    redis = tomllib.loads(gateway_toml(parsed(render(over(TRIAL, by_url)))))["redis"]
    expect("redis.tls", redis == {"url": "rediss://r:6380", "ca_file": "/run/secrets/tickgate/redis-ca/root.pem"}, f"{redis}")


@check("helm TLS of the replicas reaches probes, monitor, Ingress, Services and the smoke test")
def replicas_tls() -> None:
    path = CHART / "ci/tls-values.yaml"
    entries = objects(path)
    server, redis = (tomllib.loads(gateway_toml(entries))[section] for section in ("server", "redis"))
    file = "/run/secrets/tickgate/{}".format
    expect(path, server["tls"] == {"cert_file": file("clients-tls/tls.crt"), "key_file": file("clients-tls/tls.key")}, f"{server}")
    operations = {"cert_file": file("operations-tls/tls.crt"), "key_file": file("operations-tls/tls.key"), "client_ca_file": file("publishers-ca/ca.crt")}
    expect(path, server["ops_tls"] == operations, f"{server}")
    expect(path, (redis["client_cert_file"], redis["client_key_file"]) == (file("redis-client/tls.crt"), file("redis-client/tls.key")), f"{redis}")
    gateway = _gateway(entries)
    schemes = {gateway[f"{name}Probe"]["httpGet"].get("scheme") for name in ("startup", "liveness", "readiness")}
    expect(path, schemes == {"HTTPS"}, f"probes ask by {schemes}")
    scrape = one(entries, "PodMonitor")["spec"]["podMetricsEndpoints"][0]
    expect(path, (scrape["scheme"], scrape["tlsConfig"]["serverName"]) == ("https", "tickgate-ops.tickgate.svc"), f"{scrape}")
    annotations = one(entries, "Ingress")["metadata"]["annotations"]
    expect(path, annotations["nginx.ingress.kubernetes.io/backend-protocol"] == "HTTPS", f"{annotations}")
    for name in ("tickgate", "tickgate-ops"):
        port = one(entries, "Service", name)["spec"]["ports"][0]
        expect(path, port["appProtocol"] == "https", f"{name} {port}")
    smoke = one(entries, "Pod")["spec"]["containers"][0]
    expect(path, smoke["args"][1].startswith("wss://") and smoke["args"][3].startswith("https://"), f"{smoke['args']}")
    expect(path, {"name": "SSL_CERT_FILE", "value": file("clients-tls/ca.crt")} in smoke["env"], f"{smoke['env']}")
    for controller, key, value in [
        ("nginx-inc", "nginx.org/ssl-services", "tickgate"),
        ("haproxy", "haproxy.org/server-ssl", "true"),
    ]:
        found = one(parsed(render(over(values_of(path), {"ingress": {"controller": controller}}))), "Ingress")["metadata"]["annotations"]
        expect(controller, found.get(key) == value, f"{found}")
    traefik = one(parsed(render(over(values_of(path), {"ingress": {"controller": "traefik"}}))), "Service", "tickgate")["metadata"]["annotations"]
    expect("traefik", traefik == {"traefik.ingress.kubernetes.io/service.serversscheme": "https"}, f"{traefik}")
    for values, plain in [({"tls": {"clients": {"existingSecret": ""}}}, "HTTPS"), ({"tls": {"operations": {"existingSecret": "", "clientCaSecret": ""}}}, None)]:
        gateway = _gateway(parsed(render(over(values_of(path), values))))
        scheme = gateway["readinessProbe"]["httpGet"].get("scheme")
        expect(values, (scheme == "HTTPS") == (plain is None), f"the probe asks by {scheme}")
