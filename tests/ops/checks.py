"""What a check is: a function with a name that passes, or fails with a sentence. A missing tool is a failure."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


class Failed(Exception):
    """The thing checked is wrong; the text says how."""


class Missing(Failed):
    """A tool that the check needs is not installed; the text says which."""


def expect(subject: object, holds: bool, what: str) -> None:
    """Fails with the sentence, after the name of the file or the value it is about, unless it holds."""
    if not holds:
        raise Failed(f"{getattr(subject, 'name', subject)}: {what}")


class Registry:
    """The checks in the order in which they were declared."""

    def __init__(self) -> None:
        self.checks: list[tuple[str, bool, Callable[[], str | None]]] = []

    def check(self, name: str, *, live: bool = False):
        """Declares a check. What it returns is shown behind its name. `live` ones start the gateway."""

        def declare(function: Callable[[], str | None]):
            self.checks.append((name, live, function))
            return function

        return declare

    def run(self, words: list[str], live: bool) -> int:
        """Runs what the words select, one line each. Answers with the exit code."""
        counts = {"passed": 0, "failed": 0}
        for name, is_live, function in self.checks:
            if (words and not any(word in name for word in words)) or (is_live and not live):
                continue
            began = time.monotonic()
            try:
                outcome, note = "passed", function() or ""
            except Failed as reason:
                outcome, note = "failed", str(reason)
            except Exception:  # a defect of the check itself: told like any other failure, the rest still runs
                outcome, note = "failed", traceback.format_exc()
            counts[outcome] += 1
            label = {"passed": "ok   ", "failed": "FAIL "}[outcome]
            print(f"{label} {name} ({time.monotonic() - began:.1f} s){': ' if note else ''}{note}", flush=True)
        print(f"{counts['passed']} passed, {counts['failed']} failed")
        return 1 if counts["failed"] or not counts["passed"] else 0


REGISTRY = Registry()
check = REGISTRY.check
