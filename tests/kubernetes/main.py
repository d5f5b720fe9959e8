"""Runs the scenarios on one cluster. `tests/kubernetes/run.sh` starts it, in namespaces of its own."""

from __future__ import annotations

import signal
import sys
import time
import traceback

import documents
import installs
import journey
from checks import LOGS, Failed
from control_plane import ControlPlane
from surroundings import LoadBalancers, prepare

# Each in its own namespaces of the cluster; one that fails does not keep the next from running.
SCENARIOS = {"documents": documents.run, "installs": installs.run, "journey": journey.run}
# The whole run; when it is over, SIGALRM ends this process, and with it everything.
SECONDS_MAX = 3600


def main(words: list[str]) -> int:
    signal.alarm(SECONDS_MAX)
    selected = {name: run for name, run in SCENARIOS.items() if not words or any(word in name for word in words)}
    if not selected:
        print(f"no scenario is called {' or '.join(words)}; there are: {', '.join(SCENARIOS)}")
        return 2
    began = time.monotonic()
    failures = 0
    try:
        print("cluster", flush=True)
        with ControlPlane() as control_plane, LoadBalancers(control_plane.api):
            prepare(control_plane)
            for name, run in selected.items():
                failures += not _run(name, lambda: run(control_plane))
    except Failed as failure:
        print(f"FAIL  cluster: {failure}")
        failures += 1
    print(f"{'FAILED' if failures else 'passed'} in {time.monotonic() - began:.0f} s; logs are in {LOGS}", flush=True)
    return 1 if failures else 0


def _run(name: str, run) -> bool:
    print(name, flush=True)
    began = time.monotonic()
    try:
        note = run()
    except Failed as failure:
        print(f"FAIL  {name} ({time.monotonic() - began:.0f} s): {failure}", flush=True)
    except Exception:  # a defect of the scenario itself
        print(f"FAIL  {name} ({time.monotonic() - began:.0f} s): {traceback.format_exc()}", flush=True)
    else:
        print(f"ok    {name} ({time.monotonic() - began:.0f} s): {note}", flush=True)
        return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
