"""Checks of alerts, rules and the dashboard: by promtool, by Grafana's types, and against the metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import typescript
from checks import ROOT, Failed, check
from isolated import isolated, provide
from tools import NPM, debian, module, remembered, run

PROMETHEUS = ROOT / "deploy/prometheus"
TESTS = sorted(PROMETHEUS.glob("rules*_test.yaml"))
DASHBOARD = ROOT / "deploy/grafana/tickgate.json"
# The page that `runbook_url` leads to; the section is the alert's name.
RUNBOOK = "https://github.com/tickgate/tickgate/blob/main/docs/operations.md"
# Series that Prometheus itself or kube-state-metrics makes.
FOREIGN = {"up", "kube_pod_container_resource_limits"}
# Labels that scraping adds, beside those of the metric.
SCRAPED = {"job", "instance", "namespace", "pod", "container"}


def rules() -> list[dict]:
    groups = module("yaml").safe_load((PROMETHEUS / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[str]:
    return [rule["alert"] for rule in rules() if "alert" in rule]


def dashboard_queries() -> list[tuple[str, str]]:
    """Every query of the dashboard, with its panel's title and the variables filled in."""
    content = json.loads(DASHBOARD.read_text())
    found = [(panel["title"], target["expr"]) for panel in content["panels"] for target in panel.get("targets", [])]
    found += [(note["name"], note["expr"]) for note in content["annotations"]["list"]]
    return [(title, fill(query)) for title, query in found]


def fill(query: str) -> str:
    for variable, value in {"$namespace": ".*", "$instance": ".*", "$__rate_interval": "1m", "$__range": "1h"}.items():
        query = query.replace(variable, value)
    return query


@check("prometheus rules (promtool check, unit tests)")
def promtool() -> str:
    program = debian("promtool")

    def judge() -> str:
        for command in [["check", "rules", PROMETHEUS / "rules.yaml"], ["test", "rules", *TESTS]]:
            found = run(program, *command)
            if found.returncode:
                raise Failed(found.stdout.strip())
        return f"{len(alerts())} alerts, {len(rules()) - len(alerts())} recording rules"

    inputs = [path.read_text() for path in [PROMETHEUS / "rules.yaml", *TESTS]]
    return remembered("rules", inputs, judge)


@check("prometheus configuration (promtool check config)")
@isolated
def promtool_configuration() -> None:
    for name in ("prometheus.yml", "rules.yaml"):
        provide(PROMETHEUS / name, f"/etc/prometheus/{name}")
    found = run(debian("promtool"), "check", "config", "/etc/prometheus/prometheus.yml")
    if found.returncode:
        raise Failed(found.stdout.strip())


@check("prometheus alerts have tests that fire them, and runbooks")
def alerts_are_complete() -> None:
    yaml = module("yaml")
    fired = {
        case["alertname"]
        for path in TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
        if case["exp_alerts"]
    }
    if untested := set(alerts()) - fired:
        raise Failed(f"no unit test fires {', '.join(sorted(untested))}")
    headings = re.findall(r"^#+ (\w+)$", (ROOT / "docs/operations.md").read_text(), flags=re.MULTILINE)
    if missing := set(alerts()) - set(headings):
        raise Failed(f"docs/operations.md has no section for {', '.join(sorted(missing))}")
    if stale := {name for name in headings if name.startswith("Tickgate")} - set(alerts()) - {"Tickgate"}:
        raise Failed(f"docs/operations.md has sections for alerts that do not exist: {', '.join(sorted(stale))}")
    for rule in rules():
        if "alert" in rule:
            wanted = f"{RUNBOOK}#{rule['alert'].lower()}"
            if rule["annotations"].get("runbook_url") != wanted or rule["labels"].get("severity") not in ("warning", "critical"):
                raise Failed(f"{rule['alert']} needs runbook_url {wanted} and a severity")


def documented() -> dict[str, tuple[str, set[str], dict[str, set[str]]]]:
    """Metric → type, label names, and the values of labels that are closed sets, as docs/metrics.md lists them."""
    found = {}
    for line in (ROOT / "docs/metrics.md").read_text().splitlines():
        if match := re.match(r"\| `(\w+)` \| (\w+) \| ?(.*?) ?\| ", line):
            name, kind, labels = match.groups()
            names = set(re.findall(r"`(\w+)`", labels))
            values = {}
            for part in labels.split(";"):
                if pair := re.match(r"\s*`(\w+)`: (.+)", part):
                    values[pair[1]] = {value.strip() for value in pair[2].split(",")}
            found[name] = (kind, names, values)
    return found


def series_problems(query: str, known: dict, recorded: set[str]) -> list[str]:
    """What a query uses that nothing exports: names, labels, label values, histogram parts."""
    problems = []
    for selector in selectors(module("promql_parser").parse(query)):
        name = selector.name
        if name in FOREIGN or name in recorded:
            continue
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        exists = known.get(name) if name in known and known[name][0] != "histogram" else None
        if exists is None and base in known and known[base][0] == "histogram" and base != name:
            exists = known[base]
        if exists is None:
            problems.append(f"{name} is not exported")
            continue
        _, labels, values = exists
        for matcher in selector.matchers.matchers:
            label, wanted = matcher.name, matcher.value
            if label not in labels | SCRAPED | ({"le"} if name.endswith("_bucket") else set()):
                problems.append(f"{name} has no label {label}")
            elif label in values and label != "endpoint" and wanted != ".*":
                if unknown := [value for value in wanted.split("|") if value not in values[label]]:
                    problems.append(f"{name}: {label} is never {', '.join(unknown)}")
    return problems


def selectors(node) -> list:
    """Every vector selector below a node of a parsed query."""
    kind = type(node).__name__
    if kind == "VectorSelector":
        return [node]
    found = []
    for field in ("expr", "lhs", "rhs", "vector_selector", "vs", "param", "args"):
        child = getattr(node, field, None)
        for each in child if isinstance(child, (list, tuple)) else [child]:
            if each is not None and type(each).__module__.startswith("promql_parser"):
                found += selectors(each)
            elif each is not None and type(each).__module__ == "builtins" and type(each).__name__ not in ("str", "int", "float", "bool"):
                found += selectors(each)
    return found


@check("every metric of rules and dashboard exists, and every metric has a panel")
def names() -> str:
    known = documented()
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    queries = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()] + dashboard_queries()
    problems = [f"{title}: {problem}" for title, query in queries for problem in series_problems(query, known, recorded)]
    if problems:
        raise Failed("; ".join(problems))
    seen = {selector.name for _, query in queries for selector in selectors(module("promql_parser").parse(query))}
    shown = {selector.name for _, query in dashboard_queries() for selector in selectors(module("promql_parser").parse(query))}
    # Of a histogram any of its series will do.
    unshown = [name for name in known if name.startswith("tickgate_") and not any(part.startswith(name) for part in shown)]
    if unshown:
        raise Failed(f"no panel shows {', '.join(sorted(unshown))}")
    if len(seen) < 30:
        raise Failed(f"only {len(seen)} metrics were found in {len(queries)} queries: the check does not see them")
    return f"{len(queries)} queries, {len(seen)} metrics"


@check("dashboard (Grafana's types, layout)")
def dashboard() -> str:
    content = json.loads(DASHBOARD.read_text())
    panels = content["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        if place["x"] + place["w"] > 24 or cells & taken:
            raise Failed(f"{panel['title']} lies over another panel or the edge")
        taken |= cells
        if panel["type"] != "row" and not panel["description"]:
            raise Failed(f"{panel['title']} tells nothing")

    def judge() -> str:
        typescript.dashboard(content)
        return f"{len(panels)} panels"

    return remembered("dashboard", [NPM, content], judge)
