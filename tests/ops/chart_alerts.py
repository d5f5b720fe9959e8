"""Checks of the chart's monitoring: it ships the tested rules, for its own namespace, with what the values change."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

from checks import Failed, check, expect
from monitoring import rules as tested_rules
from monitoring import selectors
from rendering import CHART, NAMESPACE, objects, one, trial, values_of
from tools import debian, module, run

RUNBOOKS = "https://github.com/tickgate/tickgate/blob/main/docs/operations.md"


# Alerts of a state, which holds or does not: they compare with no amount.
STATES = {
    "TickgateDown",
    "TickgateAllDown",
    "TickgateDrainStuck",
    "TickgateReplicasDisagree",
    "TickgateRedisLost",
    "TickgatePubSubSilent",
    "TickgateFeedNotLive",
    "TickgateReloadFailed",
}


def rendered_rules(values: dict) -> list[dict]:
    """The rules of the trial's PrometheusRule."""
    groups = one(trial({"metrics": {"prometheusRule": {"enabled": True, **values}}}), "PrometheusRule")["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _title(rule: dict) -> str:
    return rule.get("alert") or rule["record"]


def _plain(expression: str) -> str:
    """An expression without the matcher of the namespace, and without empty braces and line breaks."""
    bare = re.sub(rf'namespace="{NAMESPACE}"(, )?', "", expression).replace("{}", "")
    return re.sub(r"\s+", " ", bare)


@check("helm alerts are the tested ones, for the release's namespace")
def same_rules() -> str:
    shipped, tested = rendered_rules({}), tested_rules()
    expect("rules", [_title(rule) for rule in shipped] == [_title(rule) for rule in tested], "others than deploy/prometheus has")
    for ours, source in zip(shipped, tested, strict=True):
        title = _title(ours)
        expect(title, _plain(ours["expr"]) == _plain(source["expr"]), f"{ours['expr']} instead of {source['expr']}")
        expect(title, ours.get("for") == source.get("for"), f"waits {ours.get('for')}")
        for selector in selectors(module("promql_parser").parse(ours["expr"])):
            scope = [(matcher.name, matcher.value) for matcher in selector.matchers.matchers if matcher.name == "namespace"]
            expect(title, scope == [("namespace", NAMESPACE)], f"{selector.name} is of {scope or 'every namespace'}")
        if "alert" in ours:
            expect(title, ours["labels"] == {**source["labels"], "namespace": NAMESPACE}, f"labels {ours['labels']}")
            expect(title, ours["annotations"]["summary"] == source["annotations"]["summary"], "another summary")
            wanted = f"{RUNBOOKS}#{ours['alert'].lower()}"
            expect(title, ours["annotations"].get("runbook_url") == wanted, f"annotations {ours['annotations']}")
            expect(title, "runbook" not in ours["annotations"], "a runbook that can't be clicked")
    return f"{len(shipped)} rules"


@check("helm alerts follow the values: switches, thresholds, labels, runbooks")
def changed_rules() -> str:
    values = values_of(CHART / "ci/production-values.yaml")["metrics"]["prometheusRule"]
    groups = one(objects(CHART / "ci/production-values.yaml"), "PrometheusRule")["spec"]["groups"]
    changed = {_title(rule): rule for group in groups for rule in group["rules"]}
    tested = {_title(rule): rule for rule in tested_rules()}
    expect("alerts", set(tested) - set(changed) == {"TickgateConnectionSkew"}, f"missing are {set(tested) - set(changed)}")
    memory = changed["TickgateMemory"]
    labels = {"severity": "critical", "team": "trading", "page": "true", "namespace": NAMESPACE}
    expect("TickgateMemory", memory["labels"] == labels and memory["for"] == "2m", f"{memory}")
    expect("TickgateMemory", memory["annotations"]["hint"] == "The node has no swap.", f"{memory['annotations']}")
    for name, rule in changed.items():
        if "alert" in rule:
            expect(name, rule["labels"]["team"] == "trading", f"labels {rule['labels']}")
            expect(name, rule["annotations"]["dashboard"] == "https://grafana.example.com/d/tickgate", f"{rule['annotations']}")
            expect(name, rule["annotations"]["runbook_url"] == f"https://runbooks.example.com/tickgate#{name.lower()}", f"{rule['annotations']}")
    defaults = module("yaml").safe_load((CHART / "values.yaml").read_text())["metrics"]["prometheusRule"]["thresholds"]
    for name, threshold in values["thresholds"].items():
        wanted = re.sub(rf"([<>] ?){re.escape(str(defaults[name]))}(?![\d.])", rf"\g<1>{threshold}", _plain(tested[name]["expr"]))
        expect(name, _plain(changed[name]["expr"]) == wanted != _plain(tested[name]["expr"]), f"{changed[name]['expr']}")
    quiet = rendered_rules({"alerts": {rule["alert"]: {"enabled": False} for rule in tested_rules() if "alert" in rule}})
    expect("alerts", quiet and all("record" in rule for rule in quiet), "some can't be switched off")
    alerts = {name for name, rule in tested.items() if "alert" in rule}
    expect("thresholds", set(defaults) | STATES == alerts and not set(defaults) & STATES, f"{alerts ^ (set(defaults) | STATES)}")
    return f"{len(values['thresholds'])} thresholds"


# Two installations, one of them down: only its own rules say so, and each alert says whose it is.
TWO_INSTALLATIONS = {
    "evaluation_interval": "15s",
    "tests": [
        {
            "interval": "15s",
            "input_series": [
                {"series": f'up{{job="tickgate", namespace="{NAMESPACE}", instance="a:8001"}}', "values": "1x40"},
                {"series": 'up{job="tickgate", namespace="other", instance="b:8001"}', "values": "0x40"},
            ],
            "alert_rule_test": [
                {"eval_time": "5m", "alertname": "TickgateDown", "exp_alerts": []},
                {"eval_time": "5m", "alertname": "TickgateAllDown", "exp_alerts": []},
            ],
        },
        {
            "interval": "15s",
            "input_series": [
                {"series": f'up{{job="tickgate", namespace="{NAMESPACE}", instance="a:8001"}}', "values": "0x40"},
                {"series": 'up{job="tickgate", namespace="other", instance="b:8001"}', "values": "1x40"},
            ],
            "alert_rule_test": [
                {
                    "eval_time": "5m",
                    "alertname": "TickgateAllDown",
                    "exp_alerts": [
                        {
                            "exp_labels": {"severity": "critical", "namespace": NAMESPACE},
                            "exp_annotations": {
                                "summary": "No replica answers Prometheus.", "runbook_url": f"{RUNBOOKS}#tickgatealldown",
                            },
                        }
                    ],
                }
            ],
        },
    ],
}  # fmt: skip


@check("helm alerts of two installations are told apart (promtool)")
def two_installations() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in [
            ("rules.yaml", {"groups": one(trial({"metrics": {"prometheusRule": {"enabled": True}}}), "PrometheusRule")["spec"]["groups"]}),
            ("test.yaml", {"rule_files": ["rules.yaml"], **TWO_INSTALLATIONS}),
        ]:
            (Path(folder) / name).write_text(json.dumps(content))
        for command in (["check", "rules", f"{folder}/rules.yaml"], ["test", "rules", f"{folder}/test.yaml"]):
            found = run(debian("promtool"), *command)
            if found.returncode:
                raise Failed(found.stdout.strip())


@check("helm monitor is off, and a PodMonitor where it is turned on")
def monitor() -> None:
    kinds = ("PodMonitor", "ServiceMonitor")

    def monitors(values: dict) -> list[dict]:
        return [entry for entry in trial({"metrics": {"monitor": values}}) if entry["kind"] in kinds]

    expect("metrics.monitor", not monitors({}), "is on by default: without the operator's kinds no installation succeeds")
    # The operator finds Services by their Endpoints, which lose a replica as soon as it drains.
    found = monitors({"enabled": True})
    expect("metrics.monitor", [entry["kind"] for entry in found] == ["PodMonitor"], f"is {[entry['kind'] for entry in found]}")
    endpoints = {kind: monitors({"enabled": True, "kind": kind, "interval": "7s", "scrapeTimeout": "5s"})[0]["spec"] for kind in kinds}
    for kind, key in zip(kinds, ("podMetricsEndpoints", "endpoints"), strict=True):
        (endpoint,) = endpoints[kind][key]
        expect(kind, (endpoint["port"], endpoint["interval"], endpoint["scrapeTimeout"]) == ("ops", "7s", "5s"), f"{endpoint}")
        expect(kind, endpoint["relabelings"] == [{"action": "replace", "targetLabel": "job", "replacement": "tickgate"}], f"{endpoint}")
    own = one(objects(CHART / "ci/production-values.yaml"), "PodMonitor")
    (endpoint,) = own["spec"]["podMetricsEndpoints"]
    expect("relabelings", [rule["targetLabel"] for rule in endpoint["relabelings"]] == ["job", "node"], f"{endpoint['relabelings']}")
    expect("metadata", own["metadata"]["labels"]["release"] == "prometheus" and "example.com/owner" in own["metadata"]["annotations"], f"{own['metadata']}")
