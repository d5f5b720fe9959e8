"""Checks that the gateway itself starts from what is rendered: its arguments, its configuration, its files.

The files of every container are written below a temporary root, as the kubelet would mount them; the binary gets the
rendered arguments with that root before each mounted path, and a real Redis answers under the rendered addresses.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from checks import ROOT, Failed, Missing, check
from chart_files import configuration_of, sources
from cluster import API_KEY, TOKEN_SECRET, Process, free_ports, gateway_binary, get, wait_until
from pods import Files, World, container_files, documented, workloads
from tools import run

# How long a gateway with a wrong secret may take until it has ended.
REFUSAL_SECONDS = 5
CLIENT_PORT, OPERATIONS_PORT, REDIS_PORT = 8000, 8001, 6379


@dataclass
class Inside:
    """A container's file system below a temporary root, and the addresses that its names stand for."""

    root: Path
    seen: Files
    hosts: dict[str, str]

    def text(self, text: str) -> str:
        """A text with mounted paths and host names replaced."""
        for mount in sorted(self.seen.mounts, key=len, reverse=True):
            text = re.sub(rf"(?<![\w./-]){re.escape(mount)}(?=[/\"\s']|$)", f"{self.root}{mount}", text)
        for name, address in self.hosts.items():
            text = text.replace(name, address)
        return text

    def write(self) -> None:
        for mount in self.seen.mounts:
            if mount not in self.seen.files:
                Path(f"{self.root}{mount}").mkdir(parents=True, exist_ok=True)
        for path, content in self.seen.files.items():
            target = Path(f"{self.root}{path}")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(self.text(content))

    def command(self, container: dict, program: Path | None = None) -> list[object]:
        words = [self.text(word) for word in container.get("command", []) + container.get("args", [])]
        return [program, *words] if program else words


class Namespace:
    """The Redis and the files of one set of rendered objects, as real processes and files."""

    def __init__(self, folder: Path, entries: list[dict]) -> None:
        self.folder, self.entries = folder, entries
        self.processes: list[Process] = []
        self.hosts: dict[str, str] = {}
        self.world = given(folder, entries).add(entries)
        self.pods = list(workloads(entries))

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.kill()

    def pod(self, kind: str, container: str) -> tuple[dict, dict] | None:
        for name, pod in self.pods:
            for each in pod["containers"]:
                if name.startswith(kind) and each["name"] == container:
                    return pod, each
        return None

    def environment(self, container: dict) -> dict[str, str]:
        """The variables of a container."""
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            for kind, key in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
                if key in source:
                    found |= self.world.data(kind, source[key]["name"]) or {}
        return found | {entry["name"]: entry["value"] for entry in container.get("env", []) if "value" in entry}

    def inside(self, name: str, pod: dict, container: dict) -> Inside:
        inside = Inside(self.folder / name, container_files(pod, container, self.world), dict(self.hosts))
        inside.write()
        return inside

    def start(self, name: str, command: list[object], environment: dict[str, str] | None = None) -> Process:
        process = Process(self.folder, name, command, environment)
        process.start()
        self.processes.append(process)
        return process

    def start_redis(self) -> None:
        """The rendered Redis, or one that stands for the operator's: with and without users, and with TLS."""
        plain, users, encrypted = free_ports(3)
        if found := self.pod("StatefulSet", "redis"):
            service = next(entry for entry in self.entries if entry["kind"] == "Service" and entry["metadata"]["name"].endswith("-redis"))
            name = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc:{service['spec']['ports'][0]['port']}"
            self.hosts[name] = f"127.0.0.1:{plain}"
            self._redis("redis", self.inside("redis-pod", *found).command(found[1]), plain)
            return
        server = ["redis-server", ROOT / "deploy/redis/redis.conf"]
        authority = self.folder / "given"
        self.hosts |= {"redis.data.svc:6379": f"127.0.0.1:{plain}", "redis.example.com:6379": f"127.0.0.1:{users}",
                       "redis.example.com:6380": f"localhost:{encrypted}"}  # fmt: skip
        self._redis("redis", [*server, "--save", ""], plain)
        tls = ["--tls-port", encrypted, "--tls-cert-file", authority / "redis.crt", "--tls-key-file", authority / "redis.key",
               "--tls-ca-cert-file", authority / "ca.crt", "--tls-auth-clients", "optional"]  # fmt: skip
        self._redis("redis-users", [*server, "--aclfile", ROOT / "deploy/redis/users.acl", *tls], users)

    def _redis(self, name: str, command: list[object], port: int) -> None:
        program = shutil.which(str(command[0])) or shutil.which("valkey-server")
        if not program:
            raise Missing(f"{command[0]} is not installed")
        data = self.folder / f"{name}-data"
        data.mkdir()
        redis = self.start(name, [program, *command[1:], "--port", port, "--bind", "127.0.0.1", "--dir", data])

        def ready() -> bool:
            if redis.running.poll() is not None:
                raise Failed(f"{name} ended with {redis.running.returncode}: {redis.tail()}")
            return "eady to accept connections" in redis.log.read_text()

        wait_until(ready, 10, f"{name} is ready")


def given(folder: Path, entries: list[dict]) -> World:
    """What the documents tell operators to create, with contents that work here."""
    authority = folder / "given"
    authority.mkdir()
    _certificates(authority)
    password = re.search(r"^user tickgate .*?>(\S+)", (ROOT / "deploy/redis/users.acl").read_text(), flags=re.MULTILINE)[1]
    # TLS where the authority is mounted; the public ones know nothing of this Redis.
    encrypted = any(volume["name"] == "redis-ca" for _, pod in workloads(entries) for volume in pod["volumes"])
    address = "rediss://{}@redis.example.com:6380/0" if encrypted else "redis://{}@redis.example.com:6379/0"
    contents = {"token-secrets": TOKEN_SECRET, "api-keys": API_KEY, "redis-url": address.format(f"tickgate:{password}"),
                "current.pem": _public_key(), "ca.crt": (authority / "ca.crt").read_text(),
                "tls.crt": (authority / "redis.crt").read_text(), "tls.key": (authority / "redis.key").read_text()}  # fmt: skip
    world = documented()
    for kind, name in world.objects:
        for key in world.objects[kind, name]:
            if key not in contents:
                raise Failed(f"{kind} {name}: no content for its key {key} here")
            world.objects[kind, name][key] = contents[key] + "\n"
    return world


def _certificates(folder: Path) -> None:
    """An authority, and a certificate of it for localhost."""
    subject = ["-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2"]
    steps = [
        ["req", "-x509", *subject, "-subj", "/CN=ca", "-keyout", folder / "ca.key", "-out", folder / "ca.crt"],
        ["req", "-x509", *subject, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-addext", "basicConstraints=critical,CA:FALSE", "-CA", folder / "ca.crt", "-CAkey", folder / "ca.key",
         "-keyout", folder / "redis.key", "-out", folder / "redis.crt"],
    ]  # fmt: skip
    for step in steps:
        made = run("openssl", *step)
        if made.returncode:
            raise Failed(f"openssl {step[0]}: {made.stdout.strip()}")


def _public_key() -> str:
    private = run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    return run("openssl", "pkey", "-pubout", input=private.stdout).stdout.strip()


@contextlib.contextmanager
def namespace(entries: list[dict]) -> Iterator[Namespace]:
    folder = Path(tempfile.mkdtemp(prefix="tickgate-chart-"))
    made = None
    try:
        made = Namespace(folder, entries)
        yield made
    finally:
        if made:
            made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def listeners(rendered: str) -> tuple[dict[str, str], dict[int, int]]:
    """Variables that move the rendered listeners to free ports, and which port became which. IPv6 stays what it is."""
    client, operations = free_ports(2)
    host = "[::]" if 'listen = "[::]:' in rendered else "127.0.0.1"
    return (
        {"TICKGATE__SERVER__LISTEN": f"{host}:{client}", "TICKGATE__SERVER__OPS_LISTEN": f"{host}:{operations}"},
        {CLIENT_PORT: client, OPERATIONS_PORT: operations},
    )


def _start_gateway(space: Namespace) -> dict[int, int]:
    """The gateway of the Deployment, until its readiness probe passes."""
    pod, container = space.pod("Deployment", "tickgate")
    inside = space.inside("gateway-pod", pod, container)
    variables, ports = listeners(inside.seen.files[configuration_of(container)])
    gateway = space.start("gateway", inside.command(container, gateway_binary()), space.environment(container) | variables)

    def ready() -> bool:
        if gateway.running.poll() is not None:
            raise Failed(f"the gateway ended with {gateway.running.returncode}: {gateway.tail()}")
        probe = container["readinessProbe"]["httpGet"]
        named = {port["name"]: port["containerPort"] for port in container["ports"]}
        scheme = probe.get("scheme", "HTTP").lower()
        return get(f"{scheme}://127.0.0.1:{ports[named[probe['port']]]}{probe['path']}")[0] == 200

    try:
        wait_until(ready, 15, "the gateway is ready")
    except Failed as reason:
        raise Failed(str(reason) if gateway.running.poll() is not None else f"{reason}: {gateway.tail()}") from None
    return ports


def _smoke_test(space: Namespace, ports: dict[int, int]) -> None:
    """The pod of `helm test` against that gateway."""
    pod, container = space.pod("Pod", "smoke")
    for entry in space.entries:
        if entry["kind"] == "Service" and (port := entry["spec"]["ports"][0])["targetPort"] in ("client", "ops"):
            to = ports[CLIENT_PORT if port["targetPort"] == "client" else OPERATIONS_PORT]
            space.hosts[f"{entry['metadata']['name']}.{entry['metadata']['namespace']}.svc:{port['port']}"] = f"127.0.0.1:{to}"
    inside = space.inside("smoke-pod", pod, container)
    variables = {name: inside.text(value) for name, value in space.environment(container).items()}
    found = run(*inside.command(container, gateway_binary()), env={"PATH": os.environ["PATH"], **variables})
    if found.returncode:
        raise Failed(f"helm test ends with {found.returncode}: {found.stdout.strip()}")


@check("chart: the gateway becomes ready on what is rendered, and its smoke test passes")
def starts() -> str:
    smoke = 0
    for source, entries in sources().items():
        with namespace(entries) as space:
            try:
                space.start_redis()
                ports = _start_gateway(space)
                if space.pod("Pod", "smoke"):
                    _smoke_test(space, ports)
                    smoke += 1
            except Failed as reason:
                raise Failed(f"{source}: {reason}") from None
    return f"{len(sources())} sets of objects, {smoke} smoke tests"


# Key of a Secret → what the message must say that it should contain.
CONTENT = {
    "token-secrets": ["HS256 secrets", "32 bytes"],
    "api-keys": ["API keys", "32 bytes"],
    "redis-url": ["redis://user:password@host"],
    "current.pem": ["public key", "PEM"],
    "ca.crt": ["certificate authority", "PEM"],
    "tls.crt": ["certificate chain", "PEM"],
    "tls.key": ["private key", "PEM"],
}


def _break(path: Path, way: str) -> None:
    match way:
        case "without its key":
            path.unlink()
        case "empty":
            path.write_text("")
        case "blank":
            path.write_text(" \n\n")
        case "wrong":
            path.write_text("nonsense\n")
        case "binary":
            path.write_bytes(b"\xff\xfe\x00")
        case "unreadable":
            path.chmod(0)


WAYS = ["without its key", "empty", "blank", "wrong", "binary", "unreadable"]


@check("chart: a wrong Secret ends the gateway with 2 and names the file and what belongs there")
def refuses() -> str:
    cases, met = 0, set()
    binary = gateway_binary()
    for source, entries in sources().items():
        with namespace(entries) as space:
            pod, container = space.pod("Deployment", "tickgate")
            for path in sorted(container_files(pod, container, space.world).files):
                key = Path(path).name
                if path == configuration_of(container) or key not in CONTENT or key in met:
                    continue
                met.add(key)
                for way in WAYS:
                    _refuse(space, pod, container, path, way, binary)
                    cases += 1
    if missing := set(CONTENT) - met:
        raise Failed(f"nothing renders {', '.join(sorted(missing))}")
    return f"{cases} cases of {len(met)} files"


def _refuse(space: Namespace, pod: dict, container: dict, path: str, way: str, binary: Path) -> None:
    inside = space.inside(f"{Path(path).name}-{way}".replace(" ", "-"), pod, container)
    target = Path(f"{inside.root}{path}")
    _break(target, way)
    began = time.monotonic()
    # Root reads everything; without this capability it is held to a file's mode like everybody else.
    powerless = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"] if way == "unreadable" and os.geteuid() == 0 else []
    found = run("timeout", 2 * REFUSAL_SECONDS, *powerless, *inside.command(container, binary), env={"PATH": os.environ["PATH"], **listeners("")[0]})
    took = time.monotonic() - began
    what = f"{path} {way}"
    if found.returncode != 2 or took > REFUSAL_SECONDS:
        raise Failed(f"{what}: ended with {found.returncode} after {took:.1f} s: {found.stdout.strip()[-500:]}")
    line = next((line for line in found.stdout.splitlines() if str(target) in line), "")
    if missing := [word for word in CONTENT[Path(path).name] if word not in line]:
        raise Failed(f"{what}: no line names the file and {missing}: {found.stdout.strip()}")
    if TOKEN_SECRET in found.stdout or API_KEY in found.stdout or "nonsense" in found.stdout:
        raise Failed(f"{what}: the message shows the contents")
