"""Runs the checks. `tests/clients/run.sh` starts it with the virtual environment."""

from __future__ import annotations

import asyncio
import sys

import cluster
import examples
import single
import strict



async def main() -> int:
    passed = failed = 0
    for group in (single.GROUP, strict.GROUP, cluster.GROUP, examples.GROUP):
        more_passed, more_failed = await group.run(sys.argv[1:])
        passed, failed = passed + more_passed, failed + more_failed
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
