"""Fixtures of pytest, which finds them by itself where this package is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .process import GatewayProcess


@pytest.fixture(scope="session")
def tickgate_gateway() -> Iterator[GatewayProcess]:
    """A gateway of its own for all tests of the session, in memory."""
    with GatewayProcess() as gateway:
        yield gateway
