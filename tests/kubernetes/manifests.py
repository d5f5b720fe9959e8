"""The plain manifests of deploy/k8s, applied as deploy/README.md says."""

from __future__ import annotations

from checks import CHART, ROOT, Failed, step
from control_plane import ControlPlane
from release import Deployment
from surroundings import make_namespace

NAMESPACE = "tickgate"


def run(control_plane: ControlPlane) -> str:
    # The values that they are rendered from name the Secrets that they expect.
    make_namespace(control_plane, NAMESPACE, (CHART / "ci/plain-values.yaml").read_text())
    deployment = Deployment(control_plane, NAMESPACE)
    with step("applied and ready"):
        control_plane.run("kubectl", "apply", "-k", ROOT / "deploy/k8s")
        try:
            deployment.complete_rollout()
        except Failed as failure:
            raise Failed(f"{failure}\n{deployment.explain()}") from None
    deployment.check()
    with step("deleted"):
        control_plane.run("kubectl", "delete", "-k", ROOT / "deploy/k8s", seconds=300)
        deployment.await_end()
    return "applied, used, deleted"
