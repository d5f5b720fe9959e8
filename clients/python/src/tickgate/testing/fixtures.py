"""Fixtures that pytest finds automatically if this package is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .process import GatewayProcess


@pytest.fixture(scope="session")
def tickgate_gateway() -> Iterator[GatewayProcess]:
    """A separate gateway for all tests of the session, in memory."""
    with GatewayProcess() as gateway:
        yield gateway
