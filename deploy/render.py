#!/usr/bin/env python3
"""Writes what is derived: chart copies of rules, dashboard and Redis configuration, the chart's README, plain manifests.

    deploy/render.py           writes
    deploy/render.py --check   changes nothing; names what differs, and fails if anything does

Needs PyYAML and helm-python-sdk (`tests/ops/run.sh` installs both and runs the check). Never writes anything by hand
that stands elsewhere: sources are values.yaml, the templates, deploy/prometheus, deploy/grafana and deploy/redis.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm" / "tickgate"
PLAIN = ROOT / "deploy" / "k8s"
COPIES = {
    ROOT / "deploy/prometheus/rules.yaml": CHART / "files/rules.yaml",
    ROOT / "deploy/grafana/tickgate.json": CHART / "files/dashboard.json",
    ROOT / "deploy/redis/redis.conf": CHART / "files/redis.conf",
}
HEAD = "# Rendered from helm/tickgate by deploy/render.py. Change the chart, not this file.\n"
README_MARK = "<!-- values: written by deploy/render.py -->"


def value_rows(text: str) -> list[tuple[str, str, str]]:
    """The described values of values.yaml as (path, default, description), in the order of the file."""
    rows, path, described = [], [], None
    defaults = yaml.safe_load(text)
    for line in text.splitlines():
        if match := re.match(r"\s*# -- (.*)", line):
            described = match[1]
        elif match := re.match(r"( *)([A-Za-z0-9_]+):", line):
            path = path[: len(match[1]) // 2] + [match[2]]
            if described:
                value = defaults
                for key in path:
                    value = value[key]
                rows.append((".".join(path), inline(value), described))
                described = None
    return rows


def inline(value: object) -> str:
    """A default on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
    return text.removesuffix("...").strip()


def undescribed(text: str) -> list[str]:
    """Values that nobody described: leaves that are not below a described value."""
    described = {path for path, _, _ in value_rows(text)}

    def leaves(node: object, path: str) -> list[str]:
        if path in described:
            return []
        if isinstance(node, dict) and node:
            return [leaf for key, child in node.items() for leaf in leaves(child, f"{path}.{key}" if path else key)]
        return [path]

    return leaves(yaml.safe_load(text), "")


def readme() -> str:
    """The chart's README: the hand-written head of the present file, then the table of values."""
    head = (CHART / "README.md").read_text().split(README_MARK)[0]
    text = (CHART / "values.yaml").read_text()
    if missing := undescribed(text):
        raise SystemExit(f"values.yaml: no description (# -- …) for {', '.join(missing)}")
    rows = [
        f"| `{path}` | `{default.replace('|', chr(92) + '|')}` | {words.replace('|', chr(92) + '|')} |"
        for path, default, words in value_rows(text)
    ]
    return "\n".join([head + README_MARK, "", "| Value | Default | What it is |", "|---|---|---|", *rows]) + "\n"


def plain_manifests() -> dict[Path, str]:
    """One file a kind, from ci/plain-values.yaml, with a kustomization that lists them."""
    import helm_python

    values = yaml.safe_load((CHART / "ci/plain-values.yaml").read_text())
    rendered = helm_python.Chart.load(str(CHART)).render(values, name="tickgate", namespace="tickgate")
    files: dict[Path, str] = {}
    for name, text in sorted(rendered.items()):
        text = re.sub(r"^\s*helm\.sh/chart:.*\n", "", text, flags=re.MULTILINE)
        text = text.replace("app.kubernetes.io/managed-by: Helm", "app.kubernetes.io/managed-by: kubectl").strip()
        if name.endswith(".yaml") and text and any(yaml.safe_load_all(text)):
            files[PLAIN / Path(name).name] = HEAD + "---\n" + text.removeprefix("---").lstrip() + "\n"
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tickgate"}}
    files[PLAIN / "namespace.yaml"] = HEAD + "---\n" + yaml.safe_dump(namespace, sort_keys=False)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": sorted(path.name for path in files),
    }
    files[PLAIN / "kustomization.yaml"] = HEAD + "---\n" + yaml.safe_dump(kustomization, sort_keys=False)
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, fail if anything differs")
    check = parser.parse_args().check

    wanted = {target: source.read_text() for source, target in COPIES.items()}
    wanted[CHART / "README.md"] = readme()
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    if not check:
        write(wanted)
    manifests = plain_manifests()
    stale += [path for path, text in manifests.items() if not path.exists() or path.read_text() != text]
    stale += [path for path in PLAIN.glob("*.yaml") if path not in manifests]
    if check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what deploy/render.py would write")
        return 1 if stale else 0
    for path in PLAIN.glob("*.yaml"):
        if path not in manifests:
            path.unlink()
    write(manifests)
    for path in stale:
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


def write(files: dict[Path, str]) -> None:
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
