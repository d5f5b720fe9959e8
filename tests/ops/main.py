"""Runs the checks. `tests/ops/run.sh` starts it with the virtual environment."""

from __future__ import annotations

import argparse
import sys

import chart  # noqa: F401  each module declares its checks when imported
import chart_alerts  # noqa: F401
import chart_cluster  # noqa: F401
import chart_files  # noqa: F401
import chart_refusals  # noqa: F401
import chart_start  # noqa: F401
import chart_values  # noqa: F401
import containers  # noqa: F401
import live_compose  # noqa: F401
import live_image  # noqa: F401
import live_prometheus  # noqa: F401
import live_proxies  # noqa: F401
import live_proxy_logs  # noqa: F401
import live_redis  # noqa: F401
import live_rollout  # noqa: F401
import machines  # noqa: F401
import machines_live  # noqa: F401
import missing_tools  # noqa: F401
import monitoring  # noqa: F401
import policy  # noqa: F401
import runbooks  # noqa: F401
import workflows  # noqa: F401
from checks import REGISTRY


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks everything that operators are given.")
    parser.add_argument("--live", action="store_true", help="also run the checks that start the gateway")
    parser.add_argument("words", nargs="*", help="only checks whose name contains one of these")
    arguments = parser.parse_args()
    return REGISTRY.run(arguments.words, arguments.live)


if __name__ == "__main__":
    sys.exit(main())
