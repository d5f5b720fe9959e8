"""The chart's form of deploy/prometheus/rules.yaml: the same rules, with placeholders for settings of a release.

Every selector has a matcher with `${namespace}`; `${<alert>}` replaces a threshold that values.yaml sets for that alert.
Used by deploy/render.py; that nothing else differs is checked by tests/ops.
"""

from __future__ import annotations

import re

import yaml

HEAD = "# Generated from deploy/prometheus/rules.yaml by deploy/render.py. Edit that file, not this one.\n"
# Series names: those of the gateway, of Prometheus and kube-state-metrics, and recorded ones.
METRIC = re.compile(r'(?<![\w:"])((?:tickgate|process|kube)_\w+|(?:job|instance):[\w:]+|up)(?![\w:(])(\{)?')


def chart_rules(source: str, thresholds: dict[str, float]) -> str:
    """The rules in the form that the chart's template reads."""
    content = yaml.safe_load(source)
    open_thresholds = dict(thresholds)
    for group in content["groups"]:
        for rule in group["rules"]:
            rule["expr"] = scoped(rule["expr"])
            if (threshold := open_thresholds.pop(rule.get("alert"), None)) is not None:
                rule["expr"] = with_open_threshold(rule["alert"], rule["expr"], threshold)
    if open_thresholds:
        raise SystemExit(f"values.yaml: thresholds of alerts that do not exist: {', '.join(open_thresholds)}")
    return HEAD + yaml.dump(content, Dumper=Blocks, sort_keys=False, width=10_000, allow_unicode=True)


def scoped(expression: str) -> str:
    """The expression with a matcher of the release's namespace in every selector."""

    def add(match: re.Match) -> str:
        return f'{match[1]}{{namespace="${{namespace}}"' + (", " if match[2] else "}")

    return METRIC.sub(add, expression)


def with_open_threshold(alert: str, expression: str, threshold: float) -> str:
    """The expression with a placeholder for its comparisons with this number."""
    pattern = re.compile(rf"([<>]=?\s*){re.escape(str(threshold))}(?![\d.])")
    if not pattern.search(expression):
        raise SystemExit(f"values.yaml: the threshold of {alert} is {threshold}, but rules.yaml does not compare with that number")
    return pattern.sub(rf"\1${{{alert}}}", expression)


def alert_names(source: str) -> list[str]:
    return [rule["alert"] for group in yaml.safe_load(source)["groups"] for rule in group["rules"] if "alert" in rule]


class Blocks(yaml.SafeDumper):
    """Writes multi-line texts as blocks."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Blocks.add_representer(str, _text)
