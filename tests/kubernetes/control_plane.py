"""The control plane and the nodes: started in order, each once the one before it answers.

Addresses are those of namespaces that nobody else is in (see inside.sh), so they and the ports are fixed.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import time
from pathlib import Path

from api import Api
from checks import LOGS, PROGRAMS, STATE, Failed, step, wait_until

# Both address families, IPv4 first.
MACHINE = "10.10.0.1"
MACHINE_6 = "fd00:10:10::1"
# Name, zone and addresses. Three, so that one can be drained and two replicas still find different ones.
NODES = [(f"node-{n}", f"zone-{n}", f"10.10.0.1{n},fd00:10:10::1{n}") for n in (1, 2, 3)]
PODS = "10.244.0.0/16,fd00:10:244::/56"
SERVICES = "10.96.0.0/16,fd00:10:96::/112"
API_PORT = 6443
START_SECONDS_MAX = 60


class ControlPlane:
    """`with ControlPlane() as control_plane:` has `api`, and programs that find the cluster by `environment`."""

    def __init__(self) -> None:
        self.processes: dict[str, subprocess.Popen] = {}
        self.folder = STATE / "control-plane"
        self.token = secrets.token_hex(16)
        self.kubeconfig = self.folder / "kubeconfig"
        self.environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "HELM_DRIVER": "secret", "HOME": str(self.folder),
                            "PATH": f"{self.folder}/bin:{os.environ['PATH']}"}  # fmt: skip

    def __enter__(self) -> ControlPlane:
        (self.folder / "bin").mkdir(parents=True)
        for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl"):
            (self.folder / "bin" / name).symlink_to(PROGRAMS / "bin/controlplane")
        (self.folder / "bin/helm").symlink_to(PROGRAMS / "bin/helm")
        with step("etcd, API server"):
            self._start_etcd()
            self._start_api_server()
        with step("controller manager, scheduler, kube-proxy, name server"):
            self._start_controllers()
        with step(f"{len(NODES)} nodes"):
            self._start_nodes()
        return self

    def __exit__(self, kind, value, trace) -> None:
        # The pods end with this process namespace.
        for process in reversed(self.processes.values()):
            process.kill()
        for process in self.processes.values():
            process.wait()

    def check_alive(self) -> None:
        """Fails if a part of the cluster has ended: what is seen from then on would be its fault."""
        for name, process in self.processes.items():
            if (code := process.poll()) is not None:
                raise Failed(f"{name} ended with {code}; the end of {LOGS / name}.log:\n{tail(LOGS / f'{name}.log')}")

    def run(self, *words: object, seconds: float = 120, stdin: str | None = None) -> str:
        """Runs kubectl, helm or the like, and returns what it printed."""
        command = [str(word) for word in words]
        try:
            done = subprocess.run(command, env=self.environment, input=stdin, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"{' '.join(command[:4])}: not finished after {seconds:g} s") from None
        if done.returncode:
            raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def apply(self, *objects: dict) -> None:
        """Applies objects, as a list."""
        self.run("kubectl", "apply", "--server-side", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def _start(self, name: str, *words: object) -> None:
        with (LOGS / f"{name}.log").open("wb") as log:
            command = [str(word) for word in words]
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment, start_new_session=True)

    def _await(self, name: str, holds) -> None:
        def look():
            self.check_alive()
            return holds()

        wait_until(look, START_SECONDS_MAX, f"{name} to answer ({LOGS / name}.log)")

    def _start_etcd(self) -> None:
        data = self.folder / "etcd"
        # What it holds lives no longer than the machine's memory anyway.
        self._start("etcd", "etcd", "--data-dir", data, "--unsafe-no-fsync", "--listen-client-urls", "http://127.0.0.1:2379",
                    "--advertise-client-urls", "http://127.0.0.1:2379", "--listen-peer-urls", "http://127.0.0.1:2380",
                    "--log-level", "warn")  # fmt: skip
        self._await("etcd", lambda: listens("127.0.0.1", 2379))

    def _start_api_server(self) -> None:
        certificates, accounts = self.folder / "certificates", self.folder / "service-accounts.pem"
        subprocess.run(["openssl", "genrsa", "-out", accounts, "2048"], check=True, capture_output=True)
        tokens = self.folder / "tokens.csv"
        tokens.write_text(f'{self.token},admin,admin,"system:masters"\n')
        # fmt: off
        self._start("kube-apiserver", "kube-apiserver", "--etcd-servers", "http://127.0.0.1:2379",
                    "--bind-address", MACHINE, "--advertise-address", MACHINE, "--secure-port", API_PORT, "--cert-dir", certificates,
                    "--token-auth-file", tokens, "--authorization-mode", "RBAC",
                    "--service-cluster-ip-range", SERVICES, "--service-account-issuer", "https://kubernetes.default.svc",
                    "--service-account-key-file", accounts, "--service-account-signing-key-file", accounts)
        # fmt: on
        authority = certificates / "apiserver.crt"
        self._await("kube-apiserver", authority.exists)
        self._write_kubeconfig(authority)
        self.api = Api(MACHINE, API_PORT, self.token, str(authority))
        self._await("kube-apiserver", self._is_ready)

    def _is_ready(self) -> bool:
        try:
            return self.api.exists("/api/v1/namespaces/default")
        except (OSError, Failed):
            return False

    def _write_kubeconfig(self, authority: Path) -> None:
        cluster = {"server": f"https://{MACHINE}:{API_PORT}", "certificate-authority": str(authority)}
        self.kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        }))  # fmt: skip

    def _start_controllers(self) -> None:
        kubeconfig = ["--kubeconfig", self.kubeconfig]
        # fmt: off
        self._start("kube-controller-manager", "kube-controller-manager", *kubeconfig, "--leader-elect=false", "--bind-address", "127.0.0.1",
                    "--service-account-private-key-file", self.folder / "service-accounts.pem",
                    "--root-ca-file", self.folder / "certificates/apiserver.crt",
                    "--allocate-node-cidrs", "--cluster-cidr", PODS, "--node-cidr-mask-size-ipv4", 24, "--node-cidr-mask-size-ipv6", 64)
        self._start("kube-scheduler", "kube-scheduler", *kubeconfig, "--leader-elect=false", "--bind-address", "127.0.0.1")
        # All nodes are this machine: one proxy serves them, and thereby the clients too.
        self._start("kube-proxy", "kube-proxy", *kubeconfig, "--proxy-mode", "nftables", "--hostname-override", NODES[0][0],
                    "--cluster-cidr", PODS, "--conntrack-max-per-core", 0, "--bind-address", MACHINE)
        self._start("names", PROGRAMS / "bin/names", *kubeconfig, "--listen", f"{MACHINE}:53")
        # fmt: on
        self._await("kube-controller-manager", lambda: listens("127.0.0.1", 10257))
        self._await("kube-scheduler", lambda: listens("127.0.0.1", 10259))

    def _start_nodes(self) -> None:
        images = STATE / "images"
        here = Path(__file__).parent
        self.run(here / "images.sh", os.environ["TICKGATE_BIN"], images)
        for name, zone, addresses in NODES:
            # fmt: off
            self._start(name, PROGRAMS / "bin/kubelet", "-kubeconfig", self.kubeconfig, "-node", name, "-zone", zone, "-addresses", addresses,
                        "-state", STATE / "nodes", "-logs", LOGS / "pods", "-images", images / "images.json",
                        "-container", PROGRAMS / "bin/container", "-gateways", f"{MACHINE},{MACHINE_6}", "-resolver", MACHINE)
            # fmt: on

        def all_are_ready() -> bool:
            self.check_alive()
            nodes = self.api.items("/api/v1/nodes")
            return len(nodes) == len(NODES) and all(node["spec"].get("podCIDR") and not node["spec"].get("taints") for node in nodes)

        wait_until(all_are_ready, START_SECONDS_MAX, "the nodes to be ready")


def listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


def tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
