"""The chart, rendered: shared by the checks of chart, policy and monitoring. Never judges."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from apiserver import apiserver, namespace
from checks import ROOT, Failed
from tools import module

CHART = ROOT / "helm/tickgate"
NAMESPACE = "tickgate"
# A set of values that renders, for checks of single values.
TRIAL = {"redis": {"embedded": {"enabled": True}}}


def values_files() -> list[Path]:
    return sorted((CHART / "ci").glob("*-values.yaml"))


def values_of(path: Path) -> dict:
    return module("yaml").safe_load(path.read_text()) or {}


@functools.cache
def loaded():
    return module("helm_python").Chart.load(str(CHART))


def render(values: dict, cluster: list[dict] | None = None, release: str = "tickgate", upgrade: bool = False) -> dict[str, str]:
    """Template → text, as `helm install tickgate` would: with a cluster that has the release's namespace and `cluster`."""
    with apiserver([namespace(NAMESPACE), *(cluster or [])]) as kubeconfig:
        return render_with(kubeconfig, values, release, upgrade)


def render_with(kubeconfig: str, values: dict, release: str = "tickgate", upgrade: bool = False) -> dict[str, str]:
    with module("helm_python").Config(kubeconfig_content=kubeconfig, namespace=NAMESPACE) as config:
        return config.render(loaded(), values, name=release, namespace=NAMESPACE, is_install=not upgrade, is_upgrade=upgrade)


def render_alone(values: dict) -> dict[str, str]:
    """Template → text without a cluster, as `helm template`, `--dry-run=client` and most GitOps tools would."""
    return loaded().render(values, name="tickgate", namespace=NAMESPACE)


@functools.cache
def rendered(path: Path) -> dict[str, str]:
    return taken(path.name, values_of(path))


def taken(name: object, values: dict, cluster: list[dict] | None = None) -> dict[str, str]:
    """The rendering of values that the chart must take."""
    helm = module("helm_python")
    try:
        return render(values, cluster)
    except helm.HelmError as error:
        raise Failed(f"{name}: {error}") from None


def parsed(texts: dict[str, str]) -> list[dict]:
    """Every object of a rendering."""
    yaml = module("yaml")
    documents = (yaml.load_all(text, Loader=yaml.CSafeLoader) for name, text in texts.items() if name.endswith(".yaml"))
    return [entry for each in documents for entry in each if entry]


def objects(path: Path) -> list[dict]:
    """Every object that a values file renders to."""
    return parsed(rendered(path))


def one(entries: list[dict], kind: str, suffix: str = "") -> dict:
    """The object of a kind whose name ends as asked."""
    matching = [entry for entry in entries if entry["kind"] == kind and entry["metadata"]["name"].endswith(suffix)]
    if len(matching) != 1:
        raise Failed(f"{len(matching)} objects of kind {kind} with a name ending in {suffix!r}, not one")
    return matching[0]


def trial(values: dict, cluster: list[dict] | None = None) -> list[dict]:
    """Every object of the trial with these values over it."""
    return parsed(taken(values, over(TRIAL, values), cluster))


def over(base: dict, values: dict) -> dict:
    """One set of values over another, as Helm lays them: maps are merged, anything else replaces."""
    merged = dict(base)
    for key, value in values.items():
        merged[key] = over(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged


def refusal(values: dict, rendering=render) -> str | None:
    """What the chart says to values it refuses; None if it takes them."""
    helm = module("helm_python")
    try:
        rendering(values)
    except helm.HelmError as error:
        return re.sub(r"\s+", " ", str(error))
    return None
