"""What a check is, and how all of them are run. Knows nothing of gateways."""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

# Seconds one check may take. Long, because only a failure takes so long.
PATIENCE = 60


class Group:
    """Checks that share one world: something that is started before them and stopped after them."""

    def __init__(self, name: str, world: Callable[[], Any]):
        self.name, self.world = name, world
        self.checks: list[tuple[str, Callable[[Any], Awaitable[None]]]] = []

    def check(self, function: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
        self.checks.append((f"{self.name}: {function.__name__.replace('_', ' ')}", function))
        return function

    async def run(self, words: list[str]) -> tuple[int, int]:
        """Runs those whose name contains one of the words (all without words). Returns passed and failed."""
        wanted = [(name, check) for name, check in self.checks if not words or any(word in name for word in words)]
        if not wanted:
            return 0, 0
        passed = failed = 0
        async with self.world() as world:
            for name, check in wanted:
                began = time.monotonic()
                try:
                    await asyncio.wait_for(check(world), PATIENCE)
                except Exception:
                    failed += 1
                    print(f"FAIL  {name}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
                else:
                    passed += 1
                    print(f"pass  {name} ({time.monotonic() - began:.1f} s)", flush=True)
                await world.after_each()
            if failed:
                print(world.log(), file=sys.stderr, flush=True)
        return passed, failed


def equal(found: Any, wanted: Any, what: str = "") -> None:
    """Fails with both sides."""
    assert found == wanted, f"{what}\n  found  {found!r}\n  wanted {wanted!r}"
