"""Checks of the chart: lint, rendering, refusals, the meaning of what is rendered, schemas, derived files."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import typescript
from checks import ROOT, Failed, check, expect
from pods import containers, workloads
from rendering import CHART, NAMESPACE, TRIAL, objects, one, over, render, values_files, values_of
from tools import NPM, module, remembered, run

# Oldest that Chart.yaml allows, two in between, newest that the validator knows.
KUBERNETES = ["1.27", "1.30", "1.33", "1.37"]
# Values files that need more than the oldest Kubernetes, and from when on they are right.
NEEDS = {"traefik-values.yaml": "1.30", "gateway-api-values.yaml": "1.33"}


@check("helm lint, strict, every ci values file")
def lint() -> str:
    helm = module("helm_python")
    for path in values_files():
        report = helm.lint(str(CHART), values_of(path), strict=True, namespace=NAMESPACE)
        worse = [f"{m['path']}: {m['error']}" for m in report["messages"] if m["severity"] > 1] + report["errors"]
        if worse:
            raise Failed(f"{path.name}: {'; '.join(worse)}")
    return f"{len(values_files())} files, Helm {helm.helm_sdk_version()}"


@check("helm rendering, every ci values file")
def rendering() -> str:
    count = sum(len(objects(path)) for path in values_files())
    kinds = {entry["kind"] for path in values_files() for entry in objects(path)}
    wanted = {
        "ConfigMap", "Deployment", "HTTPRoute", "HorizontalPodAutoscaler", "Ingress", "NetworkPolicy", "Pod",
        "PodDisruptionBudget", "PodMonitor", "PrometheusRule", "ScaledObject", "Secret", "Service", "ServiceAccount",
        "ServiceMonitor", "StatefulSet",
    }  # fmt: skip
    if missing := wanted - kinds:
        raise Failed(f"no values file renders {', '.join(sorted(missing))}")
    return f"{count} objects of {len(kinds)} kinds"


def _labels_match(selector: dict, labels: dict) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


@check("helm objects fit each other")
def fit() -> None:
    for path in values_files():
        entries = objects(path)
        deployment = one(entries, "Deployment")
        template = deployment["spec"]["template"]
        labels = template["metadata"]["labels"]
        container = template["spec"]["containers"][0]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        services = {
            entry["metadata"]["name"]: entry for entry in entries
            if entry["kind"] == "Service" and _labels_match(entry["spec"]["selector"], labels)
        }  # fmt: skip
        expect(path, ports == {"client": 8000, "ops": 8001}, f"ports are {ports}")
        expect(path, {s["spec"]["ports"][0]["targetPort"] for s in services.values()} == {"client", "ops"}, "services")
        expect(path, all(len(s["spec"]["ports"]) == 1 for s in services.values()), "a Service mixes ports")
        for probe, endpoint in [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]:
            encrypted = {"scheme": "HTTPS"} if "tls" in tomllib.loads(gateway_toml(entries))["server"] else {}
            expect(path, container[probe]["httpGet"] == {"path": endpoint, "port": "client", **encrypted}, probe)
        expect(path, deployment["spec"]["selector"]["matchLabels"].items() <= labels.items(), "selector")
        _check_references(path, entries, labels, services)
        _check_pods(path, entries)


def _check_references(path: Path, entries: list[dict], labels: dict, services: dict[str, dict]) -> None:
    """What selects or names something else must hit it."""
    for entry in entries:
        spec = entry.get("spec", {})
        match entry["kind"]:
            case "PodDisruptionBudget" | "PodMonitor":
                expect(path, _labels_match(spec["selector"]["matchLabels"], labels), f"{entry['kind']} selects nothing")
            case "ServiceMonitor":
                hit = [s for s in services.values() if _labels_match(spec["selector"]["matchLabels"], s["metadata"]["labels"])]
                expect(path, [s["spec"]["ports"][0]["name"] for s in hit] == ["ops"], "ServiceMonitor selects another Service")
            case "HorizontalPodAutoscaler" | "ScaledObject":
                expect(path, spec["scaleTargetRef"]["name"] == one(entries, "Deployment")["metadata"]["name"], entry["kind"])
            case "HTTPRoute":
                for rule in spec["rules"]:
                    for backend in rule["backendRefs"]:
                        port = services[backend["name"]]["spec"]["ports"][0]
                        expect(path, (port["name"], port["port"]) == ("client", backend["port"]), "HTTPRoute's backend")
            case "Ingress":
                for rule in spec["rules"]:
                    for entry_path in rule["http"]["paths"]:
                        service = entry_path["backend"]["service"]
                        expect(path, services[service["name"]]["spec"]["ports"][0]["name"] == "client", "Ingress's backend")


def _check_pods(path: Path, entries: list[dict]) -> None:
    """What every pod must be, whatever a policy checker looks at."""
    security = values_of(path).get("podSecurityContext", {})
    user = security.get("runAsUser", 65532)
    for name, pod in workloads(entries):
        expect(path, pod["automountServiceAccountToken"] is False, f"{name} mounts a token")
        expect(path, pod["securityContext"]["runAsNonRoot"] is True, f"{name} may run as root")
        expect(path, pod["securityContext"].get("runAsUser") == user, f"{name} runs as {pod['securityContext']}, not {user}")
        expect(path, pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", f"{name} has no seccomp profile")
        for container in containers(pod):
            context = container["securityContext"]
            expect(path, context["readOnlyRootFilesystem"] is True, f"{name} may write its root")
            expect(path, context["allowPrivilegeEscalation"] is False, f"{name} may gain privileges")
            expect(path, context["capabilities"] == {"drop": ["ALL"]}, f"{name} has capabilities")
            # The name comes from the pod itself, and the last is a file's path; everything else must have been given by the values.
            given = {entry["name"] for entry in values_of(path).get("extraEnv", [])} | {"TICKGATE__SERVER__NAME", "SSL_CERT_FILE"}
            expect(path, {entry["name"] for entry in container.get("env", [])} <= given, f"{name} has variables that may hold secrets")


@check("helm configuration is known to the gateway")
def configuration() -> str:
    """Every key the chart writes is one of config/default.toml (the gateway refuses others at start)."""
    defaults = tomllib.loads((ROOT / "config/default.toml").read_text())

    def unknown(written: dict, known: dict, at: str = "") -> list[str]:
        found = []
        for key, value in written.items():
            if key not in known:
                found.append(at + key)
            elif isinstance(value, dict):
                found += unknown(value, known[key], f"{at}{key}.")
        return found

    for path in values_files():
        written = tomllib.loads(gateway_toml(objects(path)))
        if keys := unknown(written, defaults):
            raise Failed(f"{path.name}: the gateway does not know {', '.join(keys)}")
    return f"{len(values_files())} files"


def gateway_toml(entries: list[dict]) -> str:
    """The configuration file of the gateway among the objects."""
    return next(entry["data"]["tickgate.toml"] for entry in entries if entry["kind"] == "ConfigMap" and "tickgate.toml" in entry["data"])


@check("helm changes of configuration roll the pods")
def checksum() -> None:
    def annotation(values: dict) -> str:
        text = render(over(TRIAL, values))["tickgate/templates/deployment.yaml"]
        return module("yaml").safe_load(text)["spec"]["template"]["metadata"]["annotations"]["checksum/config"]

    if annotation({}) != annotation({}):
        raise Failed("the checksum changes by itself")
    if annotation({}) == annotation({"config": {"log": {"filter": "debug"}}}):
        raise Failed("the checksum does not change with the configuration")


@check("helm notes warn of what works by halves")
def notes() -> None:
    open_to_all = {"enabled": True, "hosts": [{"host": "ws.example.com"}]}
    whole = {"server": {"allowed_origins": ["https://a.example"], "trusted_proxies": ["10.0.8.0/24"]}}
    for values, warnings in [({}, 1), ({"ingress": open_to_all}, 2), ({"ingress": open_to_all, "config": whole}, 0)]:
        text = render(over(TRIAL, values))["tickgate/templates/NOTES.txt"]
        if text.count("WARNING") != warnings:
            raise Failed(f"{json.dumps(values)}: {text.count('WARNING')} warnings, not {warnings}")
        if "helm -n tickgate test tickgate" not in text or "%!" in text:
            raise Failed(f"no smoke command in the notes: {text}")


@check("helm Secrets are made only without existing ones")
def secrets() -> None:
    for path in values_files():
        values = values_of(path)
        made = {entry["metadata"]["name"] for entry in objects(path) if entry["kind"] == "Secret"}
        expected = set() if values.get("auth", {}).get("existingSecret") else {"tickgate-auth"}
        if values.get("redis", {}).get("embedded", {}).get("enabled"):
            expected.add("tickgate-redis")
        expect(path, made == expected, f"renders the Secrets {made}, not {expected}")


def _validate(name: str, entry: dict, versions: list[str]) -> None:
    validator = module("kubernetes_validate")
    for version in versions:
        try:
            validator.validate(entry, version, strict=True)
        except validator.ValidationError as error:
            at = ".".join(map(str, error.path))
            raise Failed(f"{name}: {entry['kind']} on Kubernetes {version}: {at}: {error.message}") from None


def _is_builtin(api_version: str) -> bool:
    group = api_version.rpartition("/")[0]
    return "." not in group or (group.endswith(".k8s.io") and not group.startswith(("gateway.", "kustomize.")))


@check("kubernetes schemas, strict, chart and plain manifests")
def schemas() -> str:
    yaml = module("yaml")
    cases = [
        (path.name, entry, [version for version in KUBERNETES if version >= NEEDS.get(path.name, KUBERNETES[0])])
        for path in values_files()
        for entry in objects(path)
    ]
    cases += [
        (path.name, entry, KUBERNETES)
        for path in sorted((ROOT / "deploy/k8s").glob("*.yaml"))
        for entry in yaml.safe_load_all(path.read_text())
    ]
    # Custom resources and kustomizations have no schema here; the check of custom resources takes them.
    cases = [case for case in cases if _is_builtin(case[1]["apiVersion"])]

    def judge() -> str:
        for case in cases:
            _validate(*case)
        return f"{len(cases)} objects, Kubernetes {', '.join(KUBERNETES)}"

    return remembered("schemas", _without_generated(cases), judge)


def _without_generated(cases: list) -> list:
    """Generated Secrets differ each time; their form does not."""
    return [case if case[1]["kind"] != "Secret" else (case[0], sorted(case[1]), case[2]) for case in cases]


@check("kubernetes custom resources, types and schemas")
def custom_resources() -> str:
    entries = [entry for path in values_files() for entry in objects(path) if entry["apiVersion"] in typescript.PACKAGES]
    return remembered("custom-resources", [NPM, entries], lambda: typescript.custom_resources(entries))


@check("helm derived files are up to date")
def derived() -> None:
    module("helm_python")
    found = run(sys.executable, ROOT / "deploy/render.py", "--check")
    if found.returncode:
        raise Failed(f"run deploy/render.py: {found.stdout.strip()}")


@check("helm package holds what the chart needs")
def package() -> str:
    import tempfile

    helm = module("helm_python")
    with tempfile.TemporaryDirectory() as folder:
        archive = helm.package(str(CHART), destination=folder)
        with helm.Chart.load(archive) as packed:
            names = {file["name"] for file in packed.files}
            if missing := {"files/rules.yaml", "files/dashboard.json", "files/redis.conf", "README.md"} - names:
                raise Failed(f"the package lacks {', '.join(sorted(missing))}")
            if packed.schema is None:
                raise Failed("the package lacks values.schema.json")
            return f"{packed.name} {packed.version}, {Path(archive).stat().st_size // 1024} KiB"
