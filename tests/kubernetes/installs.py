"""Every values file of helm/tickgate/ci is installed, used, upgraded without a change, and removed."""

from __future__ import annotations

from checks import CHART, Failed, step
from control_plane import ControlPlane
from release import Release
from surroundings import make_namespace


def run(control_plane: ControlPlane) -> str:
    files = sorted((CHART / "ci").glob("*-values.yaml"))
    if not files:
        raise Failed("helm/tickgate/ci has no values files")
    for values in files:
        name = values.name.removesuffix("-values.yaml")
        make_namespace(control_plane, f"ci-{name}", values.read_text())
        _try_out(Release(control_plane, f"ci-{name}", values), name)
        control_plane.check_alive()
    return f"{len(files)} values files"


def _try_out(release: Release, name: str) -> None:
    with step(f"{name}: installed and ready"):
        release.install()
    with step(f"{name}: used from outside the cluster{' and by helm test' if release.has_smoke_test() else ''}"):
        release.check()
        if release.has_smoke_test():
            release.test()
    before = sorted(pod["metadata"]["name"] for pod in release.pods())
    with step(f"{name}: upgraded to the same, removed"):
        release.upgrade()
        after = sorted(pod["metadata"]["name"] for pod in release.pods())
        if before != after:
            raise Failed(f"an upgrade without a change replaced pods: {before} became {after}")
        restarts = {pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["restartCount"] for pod in release.pods()}
        if any(restarts.values()):
            raise Failed(f"pods were restarted: {restarts}\n{release.explain()}")
        release.uninstall()
