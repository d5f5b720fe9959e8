"""The part of a Kubernetes API that Helm asks while it renders: discovery, and the objects that a check puts there.

Stands for the cluster of `helm install` and `helm upgrade`; a real control plane is behind `just kubernetes`.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Group and version → the kinds that charts look up: plural, and whether they are in a namespace.
KINDS = {
    "v1": {"Namespace": ("namespaces", False), "Secret": ("secrets", True)},
    "apps/v1": {"Deployment": ("deployments", True)},
}


def namespace(name: str) -> dict:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _path(entry: dict) -> str:
    """Where the API has an object."""
    version, metadata = entry["apiVersion"], entry["metadata"]
    plural, namespaced = KINDS[version][entry["kind"]]
    folder = f"/namespaces/{metadata['namespace']}" if namespaced else ""
    return f"{_root(version)}{folder}/{plural}/{metadata['name']}"


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _documents(entries: list[dict]) -> dict[str, dict]:
    """Path → what is answered there."""
    groups = [
        {"name": version.partition("/")[0], "versions": [chosen], "preferredVersion": chosen}
        for version in KINDS if "/" in version
        for chosen in [{"groupVersion": version, "version": version.partition("/")[2]}]
    ]  # fmt: skip
    documents = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
    }
    for version, kinds in KINDS.items():
        resources = [
            {"name": plural, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]}
            for kind, (plural, namespaced) in kinds.items()
        ]
        documents[_root(version)] = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}
    return documents | {_path(entry): entry for entry in entries}


@contextlib.contextmanager
def apiserver(entries: list[dict]) -> Iterator[str]:
    """A kubeconfig for an API that has these objects and no others."""
    documents = _documents(entries)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            found = documents.get(path)
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
                       "message": f"{path} not found"}  # fmt: skip
            body = json.dumps(found or missing).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield _kubeconfig(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _kubeconfig(address: str) -> str:
    return json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "check",
        "clusters": [{"name": "check", "cluster": {"server": address}}],
        "users": [{"name": "check", "user": {}}],
        "contexts": [{"name": "check", "context": {"cluster": "check", "user": "check"}}],
    })  # fmt: skip
