"""The runtime stage of the image, built from the host's binary, unpacked, and run read-only as 65532.

No container engine is needed: buildah builds and mounts, a mount namespace makes the file system read-only.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

from checks import ROOT, Failed, Missing, check
from cluster import API_KEY, TOKEN_SECRET, Process, free_ports, gateway_binary, get, wait_until
from tools import debian, library_path, run

MEBIBYTE = 1 << 20
IMAGE_BYTES_MAX = 60 * MEBIBYTE


class Buildah:
    """buildah with a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.program = debian("buildah")
        self.folder = folder
        (folder / "policy.json").write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        (folder / "registries.conf").write_text("")
        self.environment = {**library_path(), "CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf"), "TMPDIR": str(folder),
                            "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"}  # fmt: skip

    def __call__(self, *command: object, ok: bool = True) -> str:
        root = ["--root", self.folder / "root", "--runroot", self.folder / "run", "--storage-driver", "vfs"]
        found = run(self.program, *root, *command, env=self.environment)
        if ok and found.returncode:
            raise Failed(f"buildah {command[0]}: {found.stdout.strip()[-1500:]}")
        return found.stdout.strip()


@check("live: image: runtime stage built, run read-only as 65532, answers /health", live=True)
def image() -> str:
    if os.geteuid() != 0 or not shutil.which("unshare"):
        raise Missing("needs root and unshare, for a read-only mount")
    binary = gateway_binary()
    with tempfile.TemporaryDirectory(prefix="tickgate-image-") as name:
        folder = Path(name)
        rootfs, context = folder / "rootfs", folder / "context"
        context.mkdir()
        stripped = context / "tickgate"
        shutil.copy(binary, stripped)
        run("strip", "--strip-debug", stripped)
        found = run(ROOT / "deploy/image/rootfs.sh", stripped, rootfs)
        if found.returncode:
            raise Failed(f"rootfs.sh: {found.stdout.strip()}")
        buildah = Buildah(folder)
        # The stage alone: the stages before it need a registry and a compiler.
        stage = context / "Dockerfile"
        text = (ROOT / "deploy/Dockerfile").read_text()
        stage.write_text("FROM scratch AS runtime" + text.split("FROM scratch AS runtime")[1])
        # fmt: off
        buildah("build", "--signature-policy", folder / "policy.json", "--build-context", f"rootfs={rootfs}",
                "--build-arg", "TICKGATE_VERSION=0.0.0", "--format", "docker", "--tag", "tickgate:test", "--file", stage, context)
        # fmt: on
        settings = _settings(buildah)
        container = buildah("from", "--signature-policy", folder / "policy.json", "tickgate:test")
        unpacked = Path(buildah("mount", container))
        size = sum(path.lstat().st_size for path in unpacked.rglob("*") if path.is_file() and not path.is_symlink())
        if size > IMAGE_BYTES_MAX:
            raise Failed(f"the image holds {size // MEBIBYTE} MiB")
        programs = [path for path in unpacked.rglob("*") if path.is_file() and os.access(path, os.X_OK) and ".so" not in path.name]
        if [path.name for path in programs] != ["tickgate"]:
            raise Failed(f"the image holds the programs {sorted(path.name for path in programs)}")
        note = _run_read_only(folder, unpacked, settings)
        return f"{size / MEBIBYTE:.1f} MiB, {note}"


def _settings(buildah: Buildah) -> dict:
    """The image's configuration, checked: user, entry point, health check, labels, stop signal."""
    settings = json.loads(buildah("inspect", "--type", "image", "tickgate:test"))["Docker"]["config"]
    expected = {"User": "65532:65532", "Entrypoint": ["/usr/bin/tickgate"], "Cmd": ["serve"], "StopSignal": "SIGTERM"}
    for key, value in expected.items():
        if settings.get(key) != value:
            raise Failed(f"{key} is {settings.get(key)}, not {value}")
    if settings["Healthcheck"]["Test"][:2] != ["CMD", "/usr/bin/tickgate"]:
        raise Failed(f"the health check is {settings['Healthcheck']['Test']}")
    labels = {name.removeprefix("org.opencontainers.image.") for name in settings["Labels"]}
    if missing := {"title", "description", "licenses", "version", "revision"} - labels:
        raise Failed(f"labels missing: {', '.join(sorted(missing))}")
    return settings


def _run_read_only(folder: Path, unpacked: Path, settings: dict) -> str:
    """Entry point and command of the image, in its file system, which nobody can write, as its user, without rights."""
    port, ops = free_ports(2)
    environment = {
        "TICKGATE__SERVER__LISTEN": f"127.0.0.1:{port}", "TICKGATE__SERVER__OPS_LISTEN": f"127.0.0.1:{ops}",
        "TICKGATE__DRAIN__DELAY": "1s", "TICKGATE__DRAIN__SPREAD": "1s",
        "TICKGATE__SERVER__MODE": "production", "TICKGATE__AUTH__HS256_SECRETS": TOKEN_SECRET, "TICKGATE__AUTH__API_KEYS": API_KEY,
    }  # fmt: skip

    def inside(command: list[str]) -> list[object]:
        mounts = f"mount --bind {unpacked} {unpacked} && mount -o remount,bind,ro {unpacked} && ! touch {unpacked}/tmp/x 2>/dev/null"
        drop = f"exec setpriv --no-new-privs chroot --userspec={settings['User']} {unpacked} {' '.join(command)}"
        return ["unshare", "--mount", "sh", "-c", f"{mounts} && {drop}"]

    gateway = Process(folder, "gateway", inside(settings["Entrypoint"] + settings["Cmd"]), environment)
    gateway.start()
    try:
        def healthy() -> bool:
            if gateway.running.poll() is not None:
                raise Failed(f"the gateway ended with {gateway.running.returncode}: {gateway.tail()}")
            return get(f"http://127.0.0.1:{port}/health")[0] == 200

        wait_until(healthy, 15, "the image's gateway answers /health")
        body = json.loads(get(f"http://127.0.0.1:{port}/health")[1])
        status = Path(f"/proc/{gateway.running.pid}/status").read_text()
        if "Uid:\t65532\t65532\t65532\t65532" not in status or "CapEff:\t0000000000000000" not in status:
            raise Failed("the gateway does not run as 65532 without capabilities")
        checked = run(*inside(settings["Healthcheck"]["Test"][1:]), env={"PATH": os.environ["PATH"], **environment})
        if checked.returncode:
            raise Failed(f"the health check says {checked.stdout.strip()}")
        gateway.send(signal.SIGTERM)
        if code := gateway.ended(10):
            raise Failed(f"after SIGTERM the gateway ended with {code}: {gateway.tail()}")
    finally:
        gateway.kill()
    return f"status {body['status']}, its health check passes, SIGTERM ends it with 0"
