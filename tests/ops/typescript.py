"""Structures checked against other people's types: the operator's, KEDA's, the Gateway API's and Grafana's.

Their npm packages carry TypeScript types, which also know which fields do not exist, and JSON schemas for the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from checks import Failed, Missing
from tools import node_modules, run

PACKAGES = {
    "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator",
    "keda.sh/v1alpha1": "@kubernetes-models/keda",
    "gateway.networking.k8s.io/v1": "@kubernetes-models/gateway-api",
}
# Grafana's types use enumerations, JSON has their values.
JSON_FORM = """
type Json<T> = unknown extends T ? T : T extends string ? `${T}` : T extends number ? (`${T}` extends `${infer N extends number}` ? N : T)
  : T extends (infer U)[] ? Json<U>[] : T extends object ? { [K in keyof T]: Json<T[K]> } : T;
"""


def compile_sources(sources: dict[str, str]) -> None:
    """Fails with the compiler's words if the sources do not type-check."""
    with _folder() as folder:
        for name, text in sources.items():
            (folder / name).write_text(text)
        options = {
            "compilerOptions": {
                "strict": True, "noEmit": True, "skipLibCheck": True, "module": "nodenext", "target": "es2022", "types": [],
            },
            "files": sorted(sources),
        }  # fmt: skip
        (folder / "tsconfig.json").write_text(json.dumps(options))
        found = run(folder / "node_modules/.bin/tsc", "--project", folder, "--pretty", "false")
        if found.returncode:
            raise Failed(found.stdout.strip()[:2000])


def custom_resources(resources: list[dict]) -> str:
    """Custom resources by type (unknown fields too) and by the operator's own schema."""
    lines, imports = [], set()
    for at, entry in enumerate(resources):
        package = PACKAGES[entry["apiVersion"]]
        kind = entry["kind"]
        imports.add(f'import {{ I{kind}, {kind} }} from "{package}/{entry["apiVersion"]}";')
        lines.append(f"const r{at}: I{kind} = {json.dumps(entry)};\nnew {kind}(r{at}).validate();")
    source = "\n".join([*sorted(imports), *lines])
    compile_sources({"resources.mts": source})
    _validate(resources)
    return f"{len(resources)} objects of {len(imports)} kinds"


def _validate(resources: list[dict]) -> None:
    """By the packages' JSON schemas: patterns and bounds, which types do not know."""
    if not shutil.which("node"):
        raise Missing("node is not installed")
    script = """
const [packages, resources] = JSON.parse(require("fs").readFileSync(0, "utf8"));
(async () => {
  for (const resource of resources) {
    const { [resource.kind]: Model } = await import(packages[resource.apiVersion] + "/" + resource.apiVersion);
    try { new Model(resource).validate(); } catch (error) {
      console.log(resource.kind + " " + resource.metadata.name + ": " + error.message); process.exitCode = 1;
    }
  }
})();
"""
    with _folder() as folder:
        (folder / "validate.cjs").write_text(script)
        found = run("node", folder / "validate.cjs", input=json.dumps([PACKAGES, resources]))
    if found.returncode:
        raise Failed(found.stdout.strip()[:2000])


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder in which the packages are found."""
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(node_modules(), Path(folder) / "node_modules")
        yield Path(folder)


def dashboard(content: dict) -> None:
    """A dashboard by Grafana's own types."""
    # What an annotation asks is the data source's own affair, which the general type does not know.
    form = """
type Query = Json<AnnotationQuery> & { expr: string; titleFormat: string };
type Form = Omit<Json<Dashboard>, "annotations"> & { annotations: { list: Query[] } };
"""
    head = 'import type { AnnotationQuery, Dashboard } from "@grafana/schema";'
    source = f"{head}\n{JSON_FORM}{form}export const d: Form = {json.dumps(content)};"
    compile_sources({"dashboard.mts": source})
