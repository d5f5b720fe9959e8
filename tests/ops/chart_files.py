"""Checks statically, for every rendered container of the chart and the plain manifests, that each file it refers to is
mounted."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from checks import ROOT, Failed, check
from pods import World, container_files, containers, documented, workloads
from rendering import objects, values_files
from tools import module

# Programs of the images.
IMAGE = {"/usr/bin/tickgate"}
# An absolute path in a command or a variable: not a part of a longer word or of an address.
ABSOLUTE = re.compile(r"(?<![\w.:/\-])/(?:[\w.\-]+/)*[\w.\-]+")


def sources() -> dict[str, list[dict]]:
    """Every set of objects that is applied to a cluster, by its source file."""
    yaml = module("yaml")
    plain = [entry for path in sorted((ROOT / "deploy/k8s").glob("*.yaml")) for entry in yaml.safe_load_all(path.read_text()) if entry]
    return {path.name: objects(path) for path in values_files()} | {"deploy/k8s": plain}


def configured_paths(text: str) -> Iterator[tuple[str, str]]:
    """Every file that a gateway configuration refers to, with its key. A profile's `path` is an address, not a file."""

    def walk(value: object, key: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict):
            for name, child in value.items():
                yield from walk(child, f"{key}.{name}" if key else name)
        elif isinstance(value, list):
            for child in value:
                yield from walk(child, f"{key}[]")
        elif isinstance(value, str) and value and key != "profiles[].path":
            if value.startswith("/") or key.endswith("_file") or key == "auth.public_keys[].path":
                yield key, value

    return walk(tomllib.loads(text), "")


def command_paths(container: dict) -> Iterator[tuple[str, str]]:
    """Every absolute path in a container's command, arguments, probes, hooks and variables."""
    commands = {"command": container.get("command", []), "args": container.get("args", [])}
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        commands[name] = container.get(name, {}).get("exec", {}).get("command", [])
    for name, hook in container.get("lifecycle", {}).items():
        commands[name] = hook.get("exec", {}).get("command", [])
    for variable in container.get("env", []):
        commands[f"env {variable['name']}"] = [variable.get("value", "")]
    for where, words in commands.items():
        for word in words:
            for path in ABSOLUTE.findall(word):
                yield where, path


def configuration_of(container: dict) -> str | None:
    """The configuration file in the arguments."""
    arguments = container.get("args", [])
    return arguments[arguments.index("--config") + 1] if "--config" in arguments else None


def unmounted(name: str, pod: dict, world: World) -> Iterator[str]:
    """The files that the containers of a pod refer to but that are not mounted, one sentence each."""
    for container in containers(pod):
        seen = container_files(pod, container, world)
        for where, path in command_paths(container):
            if path not in IMAGE and not seen.has(path):
                yield f"{name}: {container['name']}: {where} refers to {path}, but only {sorted(seen.files)} are mounted"
        configuration = configuration_of(container)
        if configuration and configuration in seen.files:
            for key, path in configured_paths(seen.files[configuration]):
                if path not in seen.files:
                    yield f"{name}: {container['name']}: {key} refers to {path}, but only {sorted(seen.files)} are mounted"


@check("helm every file that a container refers to is mounted, for every ci values file and deploy/k8s")
def mounted() -> str:
    checked = 0
    for source, entries in sources().items():
        world = documented().add(entries)
        for name, pod in workloads(entries):
            if problems := list(unmounted(f"{source}: {name}", pod, world)):
                raise Failed("; ".join(problems))
            checked += len(containers(pod))
    if checked < 2 * len(values_files()):
        raise Failed(f"the check found only {checked} containers")
    return f"{checked} containers"


@check("helm the check of mounts finds files that are not mounted")
def mounts_are_seen() -> str:
    """Introduces, one at a time, each way in which a path and its mount can differ."""
    world = World({("Secret", "s"): {"a": "x"}, ("ConfigMap", "c"): {"t.toml": '[auth]\napi_keys_file = "/run/s/a"\n'}})
    container = {"name": "g", "args": ["serve", "--config", "/etc/t/t.toml"],
                 "volumeMounts": [{"name": "c", "mountPath": "/etc/t"}, {"name": "s", "mountPath": "/run/s"}]}  # fmt: skip
    pod = {"containers": [container], "volumes": [{"name": "c", "configMap": {"name": "c"}}, {"name": "s", "secret": {"secretName": "s"}}]}

    def problems(change) -> int:
        import copy

        changed = copy.deepcopy(pod)
        change(changed, changed["containers"][0])
        try:
            return len(list(unmounted("pod", changed, world)))
        except Failed:
            return 1

    ways = {
        "another folder": lambda pod, c: c["volumeMounts"][1].update(mountPath="/run/t"),
        "another name": lambda pod, c: pod["volumes"][1]["secret"].update(items=[{"key": "a", "path": "b"}]),
        "a missing key": lambda pod, c: pod["volumes"][1]["secret"].update(items=[{"key": "b", "path": "a"}]),
        "a missing Secret": lambda pod, c: pod["volumes"][1]["secret"].update(secretName="t"),
        "no mount": lambda pod, c: c["volumeMounts"].pop(),
        "no volume": lambda pod, c: pod["volumes"].pop(),
        "another part": lambda pod, c: c["volumeMounts"][1].update(subPath="b"),
        "hidden by another mount": lambda pod, c: c["volumeMounts"].append({"name": "c", "mountPath": "/run/s/a"}),
        "another configuration": lambda pod, c: c.update(args=["serve", "--config", "/etc/t/u.toml"]),
        "a variable": lambda pod, c: c.update(env=[{"name": "TICKGATE__REDIS__CA_FILE", "value": "/run/s/ca"}]),
        "a probe": lambda pod, c: c.update(livenessProbe={"exec": {"command": ["sh", "-c", "cat /run/s/b"]}}),
    }  # fmt: skip
    if problems(lambda pod, c: None):
        raise Failed("a valid pod is refused")
    if unseen := [way for way, change in ways.items() if not problems(change)]:
        raise Failed(f"the check does not find: {', '.join(unseen)}")
    return f"{len(ways)} ways"


@check("helm documents name the Secrets that the chart reads, and every values file")
def documented_secrets() -> None:
    listed = re.findall(r"^\| `([\w-]+)` \| [^|]+ \|$", (ROOT / "helm/tickgate/README.md").read_text(), flags=re.MULTILINE)
    there = [path.name.removesuffix("-values.yaml") for path in values_files()]
    if sorted(listed) != there:
        raise Failed(f"helm/tickgate/README.md lists the values files {sorted(listed)}, there are {there}")
    values = module("yaml").safe_load((ROOT / "helm/tickgate/values.yaml").read_text())
    keys = {"token secrets": values["auth"]["keys"]["tokens"], "API keys": values["auth"]["keys"]["api"],
            "Redis URL": values["redis"]["secretKey"]}  # fmt: skip
    rows = re.findall(r"^\| (.+?) \| `([\w.-]+)` \| `[\w.]+` \|$", (ROOT / "docs/operations.md").read_text(), flags=re.MULTILINE)
    told = {what: key for what, key in rows}
    for what, key in keys.items():
        if not any(name.startswith(what) and told_key == key for name, told_key in told.items()):
            raise Failed(f"docs/operations.md: the table of secrets has no row for {what} with the key {key}: {told}")
    for document in ("helm/tickgate/README.md", "deploy/README.md"):
        text = (ROOT / document).read_text()
        if missing := [key for key in keys.values() if f"--from-literal={key}=" not in text]:
            raise Failed(f"{document}: no command creates {', '.join(missing)}")
