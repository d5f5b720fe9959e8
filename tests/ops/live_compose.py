"""What docker-compose.yml starts beside the replicas, without containers: the publisher and the watcher, as written."""

from __future__ import annotations

import sys

from checks import Failed, Missing, check
from cluster import API_KEY, Cluster, gateway_binary
from compose import ComposeCluster, services
from isolated import isolated
from tools import run


@check("live: the compose file's publisher and watcher meet over nginx and three replicas", live=True)
@isolated
def compose() -> str:
    with ComposeCluster() as cluster:
        cluster.start_nginx()
        watcher = cluster.run("watcher", [gateway_binary(), *cluster.command("watcher"), "--count", "20"], services()["watcher"]["environment"])
        _, *arguments = cluster.command("publisher")
        publisher = cluster.run("publisher", [sys.executable, *arguments], services()["publisher"]["environment"])
        if code := watcher.ended(25):
            raise Failed(f"the watcher ended with {code}: {watcher.tail()}; publisher: {publisher.tail()}")
        lines = [line for line in watcher.log.read_text().splitlines() if "BTCUSDT" in line]
        if len(lines) < 20 or publisher.running.poll() is not None:
            raise Failed(f"{len(lines)} messages seen; publisher: {publisher.tail()}")
        return f"{len(lines)} messages through nginx"


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
