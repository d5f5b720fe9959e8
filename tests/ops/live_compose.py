"""What docker-compose.yml starts beside the replicas, without containers: the publisher and the watcher, as written."""

from __future__ import annotations

import sys

from checks import ROOT, Failed, Missing, check
from cluster import API_KEY, Cluster, gateway_binary
from tools import module, run

PUBLISHER = ROOT / "deploy/demo/publisher.py"


@check("live: the compose file's publisher and watcher meet over three replicas", live=True)
def compose() -> str:
    services = module("yaml").safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    with Cluster(3) as cluster:
        api = ",".join(f"http://127.0.0.1:{replica.ops}" for replica in cluster.replicas)
        command = [part.replace("nginx:8080", f"127.0.0.1:{cluster.replicas[2].port}") for part in services["watcher"]["command"]]
        watcher = cluster.run("watcher", [gateway_binary(), *command, "--count", "20"])
        publisher = cluster.run("publisher", [sys.executable, "-u", PUBLISHER, "30"], {"TICKGATE_API": api, "TICKGATE_API_KEY": API_KEY})
        if code := watcher.ended(25):
            raise Failed(f"the watcher ended with {code}: {watcher.tail()}")
        lines = [line for line in watcher.log.read_text().splitlines() if "BTCUSDT" in line]
        if len(lines) < 20 or publisher.running.poll() is not None:
            raise Failed(f"{len(lines)} messages seen; publisher: {publisher.tail()}")
        return f"{len(lines)} messages through `{' '.join(services['watcher']['command'][:1])}`"


@check("live: helm test's command passes against three replicas", live=True)
def smoke() -> str:
    """The arguments of the chart's test pod, with the addresses of this cluster."""
    from rendering import CHART, objects, one

    (pod,) = one(objects(CHART / "ci/trial-values.yaml"), "Pod")["spec"]["containers"]
    verb = pod["args"][0]
    if "unrecognized subcommand" in run(gateway_binary(), verb, "--help").stdout:
        raise Missing(f"this gateway has no verb `{verb}`")
    with Cluster(3) as cluster:
        configuration = cluster.folder / "smoke.toml"
        settings = cluster.replicas[0].environment
        configuration.write_text(
            f'[auth]\nhs256_secrets = ["{settings["TICKGATE__AUTH__HS256_SECRETS"]}"]\napi_keys = ["{API_KEY}"]\n'
            '[server]\nmode = "production"\n'
        )
        replaced = {
            "ws://tickgate.tickgate.svc:8000": f"ws://127.0.0.1:{cluster.replicas[0].port}",
            "http://tickgate-ops.tickgate.svc:8001": f"http://127.0.0.1:{cluster.replicas[1].ops}",
            "/etc/tickgate/tickgate.toml": str(configuration),
        }
        found = run(gateway_binary(), *[replaced.get(part, part) for part in pod["args"]], env={})
        if found.returncode:
            raise Failed(found.stdout.strip())
        return found.stdout.strip().splitlines()[-1] if found.stdout.strip() else ""
