"""What a cluster has before somebody installs the chart in it: custom resources, volumes, a Redis, Secrets made by hand.

Redis runs in the cluster with the shipped configuration; once as `redis.data.svc`, for values that name it, and once
with the shipped ACL, for values that take an address from a Secret; that one also speaks TLS.
"""

from __future__ import annotations

import secrets
import subprocess
import threading

from api import Api
from checks import PROGRAMS, ROOT, STATE, step
from control_plane import NODES, ControlPlane

REDIS_HOST = "redis-acl.data.svc"
REDIS_URL = f"redis://tickgate:change-me@{REDIS_HOST}:6379/0"
REDIS_TLS_URL = f"rediss://tickgate:change-me@{REDIS_HOST}:6380/0"
CERTIFICATES = STATE / "redis-certificates"
VOLUMES = 4
# The namespace in which users and groups are assigned as OpenShift does, and what is assigned.
OPENSHIFT_NAMESPACE = "ci-openshift"
OPENSHIFT_USER = 1000680000


def prepare(control_plane: ControlPlane) -> None:
    """Everything that is not in a namespace of a release."""
    with step("custom resources, storage, Redis"):
        # Large definitions do not fit into the annotation of a client-side apply.
        control_plane.run("kubectl", "apply", "--server-side", "-f", PROGRAMS / "definitions")
        control_plane.apply(*_storage(), _priority_class(), *_openshift_admission())
        _make_certificates()
        control_plane.apply(_namespace("data"), *_redis("redis", acl=False), *_redis("redis-acl", acl=True))
        control_plane.run("kubectl", "-n", "data", "rollout", "status", "deployment/redis", "--timeout=60s")
        control_plane.run("kubectl", "-n", "data", "rollout", "status", "deployment/redis-acl", "--timeout=60s")


class Secrets:
    """The token secret and the API key of a namespace, as the platform's own services know them."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(24)
        self.api_key = secrets.token_hex(24)


def make_namespace(control_plane: ControlPlane, name: str, values: str) -> Secrets:
    """A namespace that admits only restricted pods, with those objects that the text of a values file names: the chart
    makes the others, and takes over none that is there already."""
    made = Secrets()
    authority = "tickgate-redis-ca"
    url = REDIS_TLS_URL if _names(values, authority) else REDIS_URL
    prepared = [
        secret(name, "tickgate-auth", {"token-secrets": made.token, "api-keys": made.api_key}),
        secret(name, "tickgate-redis", {"redis-url": url}),
        secret(name, authority, {"ca.crt": (CERTIFICATES / "ca.crt").read_text()}),
        _object("v1", "ConfigMap", name, "tickgate-public-keys", data={"current.pem": public_key()}),
    ]
    control_plane.apply(_namespace(name), *(each for each in prepared if _names(values, each["metadata"]["name"])))
    return made


def _names(values: str, name: str) -> bool:
    return f": {name}\n" in values


def secret(namespace: str, name: str, values: dict[str, str]) -> dict:
    return _object("v1", "Secret", namespace, name, stringData=values)


class LoadBalancers:
    """What a cloud does for Services of type LoadBalancer: gives each an address. Traffic is kube-proxy's business."""

    def __init__(self, api: Api) -> None:
        self.api, self.stopping, self.given = api, threading.Event(), 0
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> LoadBalancers:
        self.thread.start()
        return self

    def __exit__(self, kind, value, trace) -> None:
        self.stopping.set()
        self.thread.join()

    def _run(self) -> None:
        while not self.stopping.wait(1):
            for service in self.api.items("/api/v1/services"):
                if service["spec"]["type"] == "LoadBalancer" and not service["status"]["loadBalancer"].get("ingress"):
                    self.given += 1
                    path = f"/api/v1/namespaces/{service['metadata']['namespace']}/services/{service['metadata']['name']}/status"
                    self.api.patch(path, {"status": {"loadBalancer": {"ingress": [{"ip": f"192.0.2.{self.given}"}]}}})


def _object(version: str, kind: str, namespace: str | None, name: str, **fields: object) -> dict:
    metadata = {"name": name} if namespace is None else {"name": name, "namespace": namespace}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}


def _namespace(name: str) -> dict:
    made = _object("v1", "Namespace", None, name)
    made["metadata"]["labels"] = {"pod-security.kubernetes.io/enforce": "restricted"}
    return made


def _priority_class() -> dict:
    return _object("scheduling.k8s.io/v1", "PriorityClass", None, "trading-critical", value=1000000)


def _storage() -> list[dict]:
    """A default class with a few volumes, which every node can reach."""
    storage_class = _object("storage.k8s.io/v1", "StorageClass", None, "local", provisioner="kubernetes.io/no-provisioner")
    storage_class["metadata"]["annotations"] = {"storageclass.kubernetes.io/is-default-class": "true"}
    names = [name for name, _, _ in NODES]
    anywhere = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": names}]}]}
    volumes = []
    for number in range(VOLUMES):
        folder = STATE / f"volumes/{number}"
        folder.mkdir(parents=True)
        spec = {"capacity": {"storage": "8Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
                "local": {"path": str(folder)}, "nodeAffinity": {"required": anywhere}}  # fmt: skip
        volumes.append(_object("v1", "PersistentVolume", None, f"local-{number}", spec=spec))
    return [storage_class, *volumes]


def _redis(name: str, *, acl: bool) -> list[dict]:
    """A Redis with the files of deploy/redis, unchanged, that other pods reach."""
    files = {"redis.conf": (ROOT / "deploy/redis/redis.conf").read_text(), "users.acl": (ROOT / "deploy/redis/users.acl").read_text()}
    labels = {"app": name}
    container = {
        "name": "redis",
        "image": "docker.io/library/redis:7",
        "command": ["redis-server", "/etc/redis/redis.conf"],
        "args": ["--dir", "/data", "--tls-port", "6380", "--tls-auth-clients", "no", "--tls-ca-cert-file", "/etc/redis-tls/ca.crt",
                 "--tls-cert-file", "/etc/redis-tls/redis.crt", "--tls-key-file", "/etc/redis-tls/redis.key",
                 "--bind", "*", "-::*", *(["--aclfile", "/etc/redis/users.acl"] if acl else ["--protected-mode", "no"])],
        "ports": [{"name": "redis", "containerPort": 6379}, {"name": "redis-tls", "containerPort": 6380}],
        "readinessProbe": {"tcpSocket": {"port": "redis"}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "config", "mountPath": "/etc/redis"},
                         {"name": "tls", "mountPath": "/etc/redis-tls"}],
    }  # fmt: skip
    pod = {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 999, "fsGroup": 999, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "data", "emptyDir": {}}, {"name": "config", "configMap": {"name": name}},
                    {"name": "tls", "secret": {"secretName": name, "defaultMode": 0o440}}],
    }  # fmt: skip
    ports = [{"name": port["name"], "port": port["containerPort"], "targetPort": port["name"]} for port in container["ports"]]
    certificates = {file: (CERTIFICATES / file).read_text() for file in ("ca.crt", "redis.crt", "redis.key")}
    template = {"metadata": {"labels": labels}, "spec": pod}
    return [
        _object("v1", "ConfigMap", "data", name, data=files),
        secret("data", name, certificates),
        _object("v1", "Service", "data", name, spec={"selector": labels, "ports": ports, "ipFamilyPolicy": "PreferDualStack"}),
        _object("apps/v1", "Deployment", "data", name, spec={"selector": {"matchLabels": labels}, "template": template}),
    ]


def _openshift_admission() -> list[dict]:
    """OpenShift's policy restricted-v2, as far as users go: each namespace has its own, and no pod may choose another."""
    policy = "openshift-users"
    pods = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]
    constraints = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": OPENSHIFT_NAMESPACE}}, "resourceRules": pods}
    assign = (f"Object{{spec: Object.spec{{securityContext: Object.spec.securityContext{{"
              f"runAsUser: object.spec.?securityContext.?runAsUser.orValue({OPENSHIFT_USER}), "
              f"fsGroup: object.spec.?securityContext.?fsGroup.orValue({OPENSHIFT_USER})}}}}}}")  # fmt: skip
    own = f"object.spec.securityContext.runAsUser == {OPENSHIFT_USER} && object.spec.securityContext.fsGroup == {OPENSHIFT_USER}"
    none = "object.spec.containers.all(each, !has(each.securityContext) || !has(each.securityContext.runAsUser))"
    version = "admissionregistration.k8s.io/v1"
    mutating = {"matchConstraints": constraints, "failurePolicy": "Fail", "reinvocationPolicy": "Never",
                "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": assign}}]}  # fmt: skip
    validating = {"matchConstraints": constraints, "failurePolicy": "Fail",
                  "validations": [{"expression": f"{own} && {none}", "message": "the namespace's own user and group, and no other"}]}  # fmt: skip
    return [
        _object(version, "MutatingAdmissionPolicy", None, policy, spec=mutating),
        _object(version, "MutatingAdmissionPolicyBinding", None, policy, spec={"policyName": policy}),
        _object(version, "ValidatingAdmissionPolicy", None, policy, spec=validating),
        _object(version, "ValidatingAdmissionPolicyBinding", None, policy, spec={"policyName": policy, "validationActions": ["Deny"]}),
    ]


def _make_certificates() -> None:
    """An authority, and a certificate of it for Redis."""
    CERTIFICATES.mkdir(parents=True)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    _openssl("req", "-x509", *key, "-subj", "/CN=authority of a company", "-keyout", "ca.key", "-out", "ca.crt")
    _openssl("req", "-x509", *key, "-subj", f"/CN={REDIS_HOST}", "-addext", f"subjectAltName=DNS:{REDIS_HOST}",
             "-addext", "basicConstraints=critical,CA:FALSE", "-CA", "ca.crt", "-CAkey", "ca.key",
             "-keyout", "redis.key", "-out", "redis.crt")  # fmt: skip


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], cwd=CERTIFICATES, check=True, capture_output=True)


def public_key() -> str:
    """A fresh public key of a login service, as PEM."""
    private = subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout"], check=True, capture_output=True)
    public = subprocess.run(["openssl", "ec", "-pubout"], check=True, capture_output=True, input=private.stdout)
    return public.stdout.decode()

