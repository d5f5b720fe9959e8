"""What a pod's containers find in their file system: its volumes and mounts, worked out as the kubelet would.

Never judges, except that a volume which the kubelet would refuse is a failure.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from checks import ROOT, Failed

# Documents that tell operators which objects to create before an installation.
DOCUMENTS = ["helm/tickgate/README.md", "deploy/README.md", "docs/operations.md"]


@dataclass
class World:
    """The ConfigMaps and Secrets of a namespace: (kind, name) → key → content."""

    objects: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)

    def add(self, entries: list[dict]) -> World:
        """The same with the rendered objects in it."""
        found = dict(self.objects)
        for entry in entries:
            if entry["kind"] in ("ConfigMap", "Secret"):
                data = {key: base64.b64decode(value).decode() for key, value in entry.get("data", {}).items()} if entry["kind"] == "Secret" \
                    else dict(entry.get("data", {}))  # fmt: skip
                found[entry["kind"], entry["metadata"]["name"]] = data | entry.get("stringData", {})
        return World(found)

    def data(self, kind: str, name: str) -> dict[str, str] | None:
        return self.objects.get((kind, name))


def documented() -> World:
    """What the documents tell operators to create, with the command's own text as content."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for document in DOCUMENTS:
        text = (ROOT / document).read_text().replace("\\\n", " ")
        for line in text.splitlines():
            if not (match := re.search(r"\bcreate (secret generic|configmap) (.+)", line)):
                continue
            kind = "Secret" if match[1] == "secret generic" else "ConfigMap"
            name, *options = shlex.split(match[2])
            data = found.setdefault((kind, name), {})
            for option in options:
                if given := re.fullmatch(r"--from-(literal|file)=(.+)", option, flags=re.DOTALL):
                    key, separator, value = given[2].partition("=")
                    data[key if separator else Path(key).name] = value
    return World(found)


def workloads(entries: list[dict]) -> Iterator[tuple[str, dict]]:
    """The pods that a set of objects makes, each with a name for messages."""
    for entry in entries:
        if entry["kind"] in ("Deployment", "StatefulSet", "Job", "DaemonSet"):
            pod = dict(entry["spec"]["template"]["spec"])
            claims = entry["spec"].get("volumeClaimTemplates", [])
            pod["volumes"] = pod.get("volumes", []) + [{"name": claim["metadata"]["name"], "emptyDir": {}} for claim in claims]
            yield f"{entry['kind']} {entry['metadata']['name']}", pod
        elif entry["kind"] == "Pod":
            yield f"Pod {entry['metadata']['name']}", entry["spec"]


def containers(pod: dict) -> list[dict]:
    return pod.get("initContainers", []) + pod["containers"]


@dataclass
class Files:
    """What a container sees besides its image: mount points, and files with their contents."""

    mounts: list[str]
    files: dict[str, str]

    def has(self, path: str) -> bool:
        return path in self.files or path.rstrip("/") in self.mounts


def container_files(pod: dict, container: dict, world: World) -> Files:
    """The files below every mount of a container; a longer mount path hides what a shorter one has there."""
    volumes = {volume["name"]: _volume(volume, world) for volume in pod.get("volumes", [])}
    mounts, files = [], {}
    for mount in sorted(container.get("volumeMounts", []), key=lambda mount: mount["mountPath"].count("/")):
        at, name = mount["mountPath"].rstrip("/"), mount["name"]
        if name not in volumes:
            raise Failed(f"container {container['name']} mounts {name}, which the pod does not have")
        files = {path: text for path, text in files.items() if path != at and not path.startswith(f"{at}/")}
        mounts.append(at)
        if sub := mount.get("subPath"):
            if sub not in volumes[name]:
                raise Failed(f"container {container['name']} mounts {sub} of {name}, which holds {sorted(volumes[name])}")
            files[at] = volumes[name][sub]
        else:
            files |= {f"{at}/{path}": text for path, text in volumes[name].items()}
    return Files(mounts, files)


def _volume(volume: dict, world: World) -> dict[str, str]:
    """Path → content of a volume."""
    name = volume["name"]
    if "configMap" in volume:
        return _source(name, "ConfigMap", volume["configMap"]["name"], volume["configMap"], world)
    if "secret" in volume:
        return _source(name, "Secret", volume["secret"]["secretName"], volume["secret"], world)
    if "projected" in volume:
        found: dict[str, str] = {}
        for source in volume["projected"]["sources"]:
            for kind, key in (("ConfigMap", "configMap"), ("Secret", "secret")):
                if key in source:
                    found |= _source(name, kind, source[key]["name"], source[key], world)
        return found
    return {}


def _source(volume: str, kind: str, name: str, source: dict, world: World) -> dict[str, str]:
    data, optional = world.data(kind, name), source.get("optional", False)
    if data is None:
        if optional:
            return {}
        raise Failed(f"volume {volume}: no {kind} {name}: the chart does not render it, and no document tells to create it")
    if "items" not in source:
        return dict(data)
    found = {}
    for item in source["items"]:
        if item["key"] in data:
            found[item["path"]] = data[item["key"]]
        elif not optional:
            raise Failed(f"volume {volume}: {kind} {name} has no key {item['key']}, only {sorted(data)}")
    return found
