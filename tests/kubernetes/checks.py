"""What the scenarios share: how a failure is reported, how a step is timed, and where things are."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "helm/tickgate"
PROGRAMS = Path(os.environ["TICKGATE_KUBERNETES_PROGRAMS"])
STATE = Path(os.environ["TICKGATE_KUBERNETES_STATE"])
LOGS = Path(os.environ["TICKGATE_KUBERNETES_LOGS"])
GATEWAY = Path(os.environ["TICKGATE_BIN"]).resolve()

Found = TypeVar("Found")


class Failed(Exception):
    """Something does not work as it should; the text says what."""


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Prints how long a step took once it is done."""
    began = time.monotonic()
    yield
    print(f"  {time.monotonic() - began:6.1f} s  {name}", flush=True)


def wait_until(holds: Callable[[], Found], seconds: float, what: str, every: float = 0.2) -> Found:
    """Asks until the answer is true, and returns it."""
    deadline = time.monotonic() + seconds
    while True:
        if found := holds():
            return found
        if time.monotonic() > deadline:
            raise Failed(f"timed out after {seconds:g} s waiting for {what}")
        time.sleep(every)
