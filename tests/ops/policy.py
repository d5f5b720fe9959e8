"""Policy: runs checkov on everything that is rendered, and records the reason for each accepted finding."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from checks import ROOT, Failed, check
from rendering import rendered, values_files
from tools import CHECKOV, checkov, remembered, run

# Accepted findings, each with its reason. The check fails if a reason is no longer needed.
REASONS = {
    "CKV_K8S_40": "high user id, in openshift-values only: OpenShift assigns a range of user ids to each namespace, and does not admit a fixed one",
    "CKV_K8S_43": "image by digest: the digest is the operator's to pin (image.digest, ci/production-values.yaml)",
    "CKV_K8S_15": "pull policy Always: tags are never moved, and a node with the image must start it without the registry",
}
# Reasons that apply only to some files.
ONLY_IN = {"CKV_K8S_40": "/openshift-values/"}


def _manifests() -> dict[str, str]:
    """Everything that is applied to a cluster, by file name."""
    found = {
        f"{path.stem}/{Path(name).name}": text
        for path in values_files()
        for name, text in rendered(path).items()
        if name.endswith(".yaml") and text.strip()
    }
    found |= {f"plain/{path.name}": path.read_text() for path in (ROOT / "deploy/k8s").glob("*.yaml")}
    found["image/Dockerfile"] = (ROOT / "deploy/Dockerfile").read_text()
    return found


@check("policy (checkov): nothing found without a written reason")
def policy() -> str:
    """Slow, so the result is cached until the manifests change."""
    manifests = _manifests()
    # Generated passwords differ each time and do not affect policy.
    stable = {name: text for name, text in manifests.items() if not name.endswith("secret.yaml")}
    for name in stable:
        stable[name] = "\n".join(line for line in stable[name].splitlines() if "password" not in line)
    return remembered("policy", [CHECKOV, REASONS, ONLY_IN, stable], lambda: _scan(manifests))


def _scan(manifests: dict[str, str]) -> str:
    program = checkov()
    with tempfile.TemporaryDirectory() as folder:
        for name, text in manifests.items():
            target = Path(folder) / name
            target.parent.mkdir(exist_ok=True)
            target.write_text(text)
        found = run(program, "--directory", folder, "--framework", "kubernetes", "dockerfile", "--output", "json", "--compact",
                    "--quiet", "--soft-fail", env={"PATH": "/usr/bin:/bin", "HOME": folder, "LOG_LEVEL": "ERROR"})  # fmt: skip
    return _judge(found.stdout)


def _judge(output: str) -> str:
    start = min(at for at in (output.find("{"), output.find("[")) if at >= 0)
    reports = json.loads(output[start:])
    passed, excused, left = 0, set(), []
    for report in reports if isinstance(reports, list) else [reports]:
        passed += report["summary"]["passed"]
        for finding in report["results"]["failed_checks"]:
            if finding["check_id"] in REASONS and ONLY_IN.get(finding["check_id"], "") in finding["file_path"]:
                excused.add(finding["check_id"])
            else:
                left.append(f"{finding['check_id']} {finding['check_name']} ({finding['file_path']} {finding['resource']})")
    if left:
        raise Failed("; ".join(sorted(set(left))))
    if unused := set(REASONS) - excused:
        raise Failed(f"these reasons are no longer needed: {', '.join(sorted(unused))}")
    return f"{passed} passed, 0 failed, {len(excused)} kinds of finding stand with a reason"
