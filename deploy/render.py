#!/usr/bin/env python3
"""Writes all derived files: the chart's rules, dashboard, Redis configuration and README, the schema of its `config` and
alerts, and the plain manifests.

    deploy/render.py           writes
    deploy/render.py --check   changes nothing; lists files that differ, and fails if there are any

Requires PyYAML and helm-python-sdk (`tests/ops/run.sh` installs both and runs the check). The sources are values.yaml, the
templates, config/default.toml, deploy/prometheus, deploy/grafana/dashboard.py and deploy/redis; do not edit derived files.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "deploy/grafana"))
import dashboard  # noqa: E402  the folder is found first
from chart_rules import alert_names, chart_rules  # noqa: E402

CHART = ROOT / "helm" / "tickgate"
PLAIN = ROOT / "deploy" / "k8s"
RULES = ROOT / "deploy/prometheus/rules.yaml"
COPIES = {ROOT / "deploy/redis/redis.conf": CHART / "files/redis.conf"}
HEAD = "# Rendered from helm/tickgate by deploy/render.py. Edit the chart, not this file.\n"
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


# Keys that the chart sets itself, or for which it has separate values: addresses, secrets, the drain.
SET_ELSEWHERE = {
    "server": {"mode", "name", "listen", "ops_listen", "tls", "ops_tls"},
    "redis": {
        *("url", "url_file", "client_cert_file", "client_key_file"),
        # The chart leads to one address; with sentinels, use a configuration of your own.
        *("mode", "addresses", "user", "password_file", "address_map", "sentinel"),
    },
    "auth": {"hs256_secrets", "hs256_secrets_file", "api_keys", "api_keys_file"},
    "drain": {"delay", "spread"},
}
DURATION = r"^[0-9]+(ms|s|m|h|d)$"


def config_schema() -> dict:
    """The schema of `config`: the sections and keys of config/default.toml, typed by their defaults."""
    defaults = tomllib.loads((ROOT / "config/default.toml").read_text())
    sections = {}
    for section, body in defaults.items():
        if isinstance(body, dict):
            kept = {key: value for key, value in body.items() if key not in SET_ELSEWHERE.get(section, ())}
            if kept:
                sections[section] = type_of(kept)
    sections["auth"]["properties"]["public_keys"]["items"] = {"type": "object"}
    return {"description": "Keys of config/default.toml. Written by deploy/render.py.", **type_of({}), "properties": sections}


def type_of(default: object) -> dict:
    """The JSON schema of a key with this default."""
    match default:
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer", "minimum": 0}
        case dict():
            properties = {key: type_of(value) for key, value in default.items()}
            return {"type": "object", "additionalProperties": False, "properties": properties}
        case list():
            return {"type": "array", "items": {"type": "string"}}
        case str() if re.match(DURATION, default):
            return {"type": "string", "pattern": DURATION}
        case _:
            return {"type": "string"}


def alerts_schema(alerts: list[str]) -> dict:
    """The settings of each alert, by its name."""
    texts = {"type": "object", "additionalProperties": {"type": "string"}}
    alert = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "enabled": {"type": "boolean"},
            "severity": {"type": "string", "minLength": 1},
            "for": {"type": "string", "pattern": DURATION},
            "labels": texts,
            "annotations": texts,
        },
    }
    return {"description": "Written by deploy/render.py.", **type_of({}), "properties": dict.fromkeys(alerts, alert)}


def thresholds_schema() -> dict:
    """The thresholds in values.yaml. A share above 1, such as a percentage, would never be reached."""
    described = {path.rpartition(".")[2]: words for path, _, words in value_rows((CHART / "values.yaml").read_text())}

    def number(alert: str) -> dict:
        return {"type": "number", "minimum": 0, **({"maximum": 1} if described[alert].startswith("Share ") else {})}

    return {"description": "Written by deploy/render.py.", **type_of({}), "properties": {alert: number(alert) for alert in thresholds()}}


def thresholds() -> dict[str, float]:
    """The thresholds in values.yaml, by alert."""
    return yaml.safe_load((CHART / "values.yaml").read_text())["metrics"]["prometheusRule"]["thresholds"]


def values_schema() -> str:
    """values.schema.json with its derived parts updated."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    schema["properties"]["config"] = config_schema()
    rules = schema["properties"]["metrics"]["properties"]["prometheusRule"]["properties"]
    rules["alerts"] = alerts_schema(alert_names(RULES.read_text()))
    rules["thresholds"] = thresholds_schema()
    require_values(schema)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


# Kubernetes maps in which null omits a key.
CONTEXTS = ("podSecurityContext", "securityContext")


def needed_values(text: str) -> list[str]:
    """The values that must not be null: those with a default, unless the description explains null."""
    return [
        path
        for path, default, words in value_rows(text)
        if default != "null" and "null" not in words and path.partition(".")[0] not in CONTEXTS
    ]


def require_values(schema: dict) -> None:
    """Makes these values required in the schema. Helm drops a null value, with its default, before it validates."""
    needed: dict[str, list[str]] = {}
    for path in needed_values((CHART / "values.yaml").read_text()):
        keys = path.split(".")
        for depth, key in enumerate(keys):
            required = needed.setdefault(".".join(keys[:depth]), [])
            required += [key] if key not in required else []
    for path, required in needed.items():
        node = schema
        for key in path.split(".") if path else []:
            node = node["properties"][key]
        node["required"] = required


def inline(value: object) -> str:
    """A default on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
    return text.removesuffix("...").strip()


def undescribed(text: str) -> list[str]:
    """Values without a description: leaves that are not below a described value."""
    described = {path for path, _, _ in value_rows(text)}

    def leaves(node: object, path: str) -> list[str]:
        if path in described:
            return []
        if isinstance(node, dict) and node:
            return [leaf for key, child in node.items() for leaf in leaves(child, f"{path}.{key}" if path else key)]
        return [path]

    return leaves(yaml.safe_load(text), "")


def readme() -> str:
    """The chart's README: the hand-written head of the current file, then the table of values."""
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
    """One file per kind, from ci/plain-values.yaml, with a kustomization that lists them."""
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
    # Without it, nothing is written.
    import helm_python  # noqa: F401

    wanted = {target: source.read_text() for source, target in COPIES.items()}
    wanted[CHART / "files/rules.yaml"] = chart_rules(RULES.read_text(), thresholds())
    wanted[ROOT / "deploy/grafana/tickgate.json"] = wanted[CHART / "files/dashboard.json"] = dashboard.text()
    wanted[CHART / "README.md"] = readme()
    wanted[CHART / "values.schema.json"] = values_schema()
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
