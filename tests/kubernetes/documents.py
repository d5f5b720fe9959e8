"""The commands that documents tell operators to type, typed as they stand, in a cluster that knows nothing of the gateway.

Only what an operator must fill in is replaced: the address of Redis and its password.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from checks import CHART, ROOT, STATE, Failed, step
from control_plane import ControlPlane
from release import Deployment, Release
from surroundings import CERTIFICATES, REDIS_HOST, public_key

NAMESPACE = "tickgate"
FILLED_IN = {"redis.example.com": REDIS_HOST, "PASSWORD": "change-me"}
SECONDS_MAX = 400


def run(control_plane: ControlPlane) -> str:
    folder = _working_folder()
    _plain_manifests(control_plane, folder)
    trial, production, *secrets = blocks("helm/tickgate/README.md")[0].split("\n\n")
    with step("helm/tickgate/README.md: a trial, from the installation to the end"):
        type_in(control_plane, trial, folder)
    release = Release(control_plane, NAMESPACE, CHART / "ci/production-values.yaml")
    with step("helm/tickgate/README.md: production"):
        type_in(control_plane, production, folder)
        for paragraph in secrets:
            type_in(control_plane, paragraph, folder)
        release.check()
    with step("what Helm prints after the installation"):
        type_in(control_plane, _notes(release), folder)
    with step("docs/operations.md: upgrade, test, rollback"):
        (upgrade,) = [block for block in blocks("docs/operations.md") if "helm rollback" in block]
        type_in(control_plane, upgrade, folder)
        release.check()
    with step("uninstalled"):
        release.uninstall()
        control_plane.run("kubectl", "delete", "namespace", NAMESPACE, seconds=SECONDS_MAX)
    return "every command of the documents worked"


def _notes(release: Release) -> str:
    """The commands among the release's notes. Instead of a forwarded port, the address of the Service."""
    notes = release.control_plane.run("helm", "get", "notes", release.release, "--namespace", NAMESPACE)
    commands = re.findall(r"^  ((?:kubectl|helm|KEY=|curl)(?:.*\\\n)*.*)", notes, flags=re.MULTILINE)
    (forwarding,) = [command for command in commands if "port-forward" in command]
    text = "\n".join(command for command in commands if command != forwarding)
    return text.replace("127.0.0.1:8001", release.addresses("-ops")[0]).replace("curl ", "curl --fail-with-body ")


def _plain_manifests(control_plane: ControlPlane, folder: Path) -> None:
    deployment = Deployment(control_plane, NAMESPACE)
    with step("deploy/README.md: the plain manifests, applied and ready"):
        (block,) = blocks("deploy/README.md")
        type_in(control_plane, block, folder)
        try:
            deployment.complete_rollout()
        except Failed as failure:
            raise Failed(f"{failure}\n{deployment.explain()}") from None
        deployment.check()
    with step("deleted"):
        control_plane.run("kubectl", "delete", "-k", ROOT / "deploy/k8s", seconds=SECONDS_MAX)
        deployment.await_end()


def blocks(document: str) -> list[str]:
    """The shell commands of a document, a text for each block."""
    found = re.findall(r"^( *)```sh\n(.*?)^\1```", (ROOT / document).read_text(), flags=re.MULTILINE | re.DOTALL)
    if not found:
        raise Failed(f"{document} has no shell commands")
    return [textwrap.dedent(text).strip() for _, text in found]


def type_in(control_plane: ControlPlane, commands: str, folder: Path | None = None, **replaced: str) -> None:
    """Runs commands as a shell would, up to the first that fails. `replaced` is filled in besides what always is."""
    for placeholder, value in {**FILLED_IN, **replaced}.items():
        commands = commands.replace(placeholder, value)
    control_plane.run("bash", "-euxo", "pipefail", "-c", f"cd {folder or ROOT}\n{commands}", seconds=SECONDS_MAX)


def _working_folder() -> Path:
    """What an operator has at hand: a checkout, and files of the platform."""
    folder = STATE / "documents"
    folder.mkdir()
    for name in ("helm", "deploy"):
        (folder / name).symlink_to(ROOT / name)
    for name, source in (("ca.crt", "ca.crt"), ("tls.crt", "redis.crt"), ("tls.key", "redis.key")):
        (folder / name).write_text((CERTIFICATES / source).read_text())
    (folder / "current.pem").write_text(public_key())
    (folder / "values.yaml").write_text((CHART / "ci/production-values.yaml").read_text())
    return folder
