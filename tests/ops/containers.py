"""Checks of the image, of docker-compose.yml and of the proxies' configuration, without starting the gateway."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path

from checks import ROOT, Failed, Missing, check
from tools import module, python_tool, run


@check("dockerfile (hadolint)")
def dockerfile() -> None:
    found = run(python_tool("hadolint"), "--no-color", ROOT / "deploy/Dockerfile")
    if found.returncode:
        raise Failed(found.stdout.strip())


@check("dockerfile keeps its promises")
def dockerfile_promises() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text()
    runtime = text[text.index("AS runtime") :]
    for line in ["USER 65532:65532", 'ENTRYPOINT ["/usr/bin/tickgate"]', 'CMD ["/usr/bin/tickgate", "healthcheck", "--live"]', "org.opencontainers.image."]:
        if line not in runtime:
            raise Failed(f"the runtime stage lacks {line}")
    if text.count("cargo build") != text.count("--profile dist --locked --bin"):
        raise Failed("a build that is not of the profile `dist` or without --locked")


@check("dockerfile gets all that the build reads")
def build_context() -> str:
    """What cargo needs, and every file that a source includes outside of tests, is let in by the ignore file."""
    lines = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
    kept = [ROOT / line[1:] for line in lines if line.startswith("!")]
    needed = [ROOT / name for name in ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "src", "deploy/image/rootfs.sh"]]
    needed += [ROOT / "build.rs"] if (ROOT / "build.rs").exists() else []
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    # Members and targets that the manifest names must be there, or cargo reads no further.
    needed += [ROOT / member.removesuffix("/*") for member in manifest["workspace"]["members"]]
    needed += [ROOT / "tests" for _ in manifest.get("test", [])[:1]]
    for source in (ROOT / "src").rglob("*.rs"):
        # Tests are not built into the image.
        if source.stem.endswith("tests") or "tests" in source.relative_to(ROOT).parts:
            continue
        for included in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', source.read_text()):
            needed.append((source.parent / included).resolve())
    for path in needed:
        if not any(path == root or root in path.parents for root in kept):
            raise Failed(f"deploy/Dockerfile.dockerignore keeps {path.relative_to(ROOT)} out")
    return f"{len(needed)} paths"


@check("compose file (compose-spec schema)")
def compose_schema() -> None:
    found = run(python_tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yml")
    if found.returncode:
        raise Failed(found.stdout.strip())


@check("compose file fits what it mounts and calls")
def compose_fits() -> str:
    yaml = module("yaml")
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    replicas = sorted(name for name in services if name.startswith("gateway-"))
    if len(replicas) != 3:
        raise Failed(f"the replicas are {replicas}")
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./") and not (ROOT / source).exists():
                raise Failed(f"{name} mounts {source}, which does not exist")
        for port in service.get("ports", []):
            if not port.startswith("127.0.0.1:"):
                raise Failed(f"{name} publishes {port} beyond this machine")
    for file in ["nginx/nginx.conf", "haproxy/haproxy.cfg", "prometheus/prometheus.yml"]:
        text = (ROOT / "deploy" / file).read_text()
        if missing := [replica for replica in replicas if f"{replica}:" not in text]:
            raise Failed(f"deploy/{file} does not know {', '.join(missing)}")
    keys = {variable for service in services.values() for variable in service.get("environment", {}) if variable.startswith("TICKGATE__")}
    unknown = keys - _known_variables()
    if unknown:
        raise Failed(f"the gateway does not know {', '.join(sorted(unknown))}")
    return f"{len(services)} services"


def _known_variables() -> set[str]:
    """The variable of every key of config/default.toml."""
    def walk(table: dict, at: str) -> set[str]:
        found = set()
        for key, value in table.items():
            found |= walk(value, f"{at}__{key.upper()}") if isinstance(value, dict) else {f"{at}__{key.upper()}"}
        return found

    return walk(tomllib.loads((ROOT / "config/default.toml").read_text()), "TICKGATE")


@check("redis configuration starts a Redis and is in force")
def redis() -> None:
    server = shutil.which("redis-server") or shutil.which("valkey-server")
    if not server:
        raise Missing("redis-server is not installed")
    expected = {
        "appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "stream-node-max-bytes": "1024",
        "maxmemory": str(64 << 20), "protected-mode": "yes",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        socket = f"{folder}/redis.sock"
        command = [server, ROOT / "deploy/redis/redis.conf", "--port", "0", "--unixsocket", socket, "--dir", folder, "--maxmemory", "64mb"]
        process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            for line in process.stdout:
                if "ready to accept connections" in line.lower():
                    break
            else:
                raise Failed("Redis does not start with deploy/redis/redis.conf")
            client = server.replace("-server", "-cli")
            for key, value in expected.items():
                found = run(client, "-s", socket, "config", "get", key).stdout.split()
                if found != [key, value]:
                    raise Failed(f"{key} is {found[1:]}, not {value}")
            limits = run(client, "-s", socket, "config", "get", "client-output-buffer-limit").stdout
            if f"pubsub {256 << 20} {64 << 20} 60" not in limits:
                raise Failed(f"output buffers: {limits}")
        finally:
            process.terminate()
            process.wait()


@check("yaml style (yamllint)")
def yaml_style() -> None:
    files = [ROOT / "docker-compose.yml", ROOT / "helm/tickgate/Chart.yaml", ROOT / "helm/tickgate/values.yaml"]
    for pattern in ["helm/tickgate/ci/*.yaml", "deploy/prometheus/*.y*ml", "deploy/k8s/*.yaml", "deploy/grafana/provisioning/*/*.yaml"]:
        files += sorted(ROOT.glob(pattern))
    found = run(python_tool("yamllint"), "--strict", "--config-file", ROOT / "tests/ops/yamllint.yaml", *files)
    if found.returncode:
        raise Failed(found.stdout.strip())


@check("shell and Python sources (shellcheck, compile)")
def scripts() -> None:
    folders = [ROOT / ".github", ROOT / "deploy", ROOT / "tests/ops", ROOT / "tests/kubernetes", ROOT / "tests/systemd"]
    for path in [path for folder in folders for path in folder.rglob("*.py")]:
        compile(path.read_text(), str(path), "exec")
    files = [path for folder in folders for path in folder.rglob("*.sh")]
    found = run(python_tool("shellcheck"), "--external-sources", "--source-path", ROOT, *files)
    if found.returncode:
        raise Failed(found.stdout.strip())
