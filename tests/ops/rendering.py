"""The chart, rendered: shared by the checks of chart, policy and monitoring. Never judges."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from checks import ROOT, Failed
from tools import module

CHART = ROOT / "helm/tickgate"
NAMESPACE = "tickgate"


def values_files() -> list[Path]:
    return sorted((CHART / "ci").glob("*-values.yaml"))


@functools.cache
def loaded():
    return module("helm_python").Chart.load(str(CHART))


def render(values: dict) -> dict[str, str]:
    """Template → text, as `helm template tickgate` would."""
    return loaded().render(values, name="tickgate", namespace=NAMESPACE)


@functools.cache
def rendered(path: Path) -> dict[str, str]:
    return render(module("yaml").safe_load(path.read_text()))


def objects(path: Path) -> list[dict]:
    """Every object that a values file renders to."""
    yaml = module("yaml")
    found = []
    for name, text in rendered(path).items():
        if name.endswith(".yaml"):
            found += [entry for entry in yaml.safe_load_all(text) if entry]
    return found


def one(entries: list[dict], kind: str, suffix: str = "") -> dict:
    """The object of a kind whose name ends as asked."""
    matching = [entry for entry in entries if entry["kind"] == kind and entry["metadata"]["name"].endswith(suffix)]
    if len(matching) != 1:
        raise Failed(f"{len(matching)} objects of kind {kind} with a name ending in {suffix!r}, not one")
    return matching[0]


def refusal(values: dict) -> str | None:
    """What the chart says to values it refuses; None if it takes them."""
    helm = module("helm_python")
    try:
        render(values)
    except helm.HelmError as error:
        return re.sub(r"\s+", " ", str(error))
    return None
