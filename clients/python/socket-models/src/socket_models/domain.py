"""Domain objects of a platform. Each model declares the fields that the platform's services share, and keeps any others."""

from __future__ import annotations

from decimal import Decimal

from pydantic import Field

from ._base import Entity

__all__ = [
    "Execution",
    "Order",
    "OrderOcoGroup",
    "RunSeries",
    "RunSeriesBar",
    "StrategyInstance",
    "StrategyRun",
    "Trade",
]


class StrategyInstance(Entity):
    """A configured strategy."""

    instance_id: str | None = None
    name: str | None = None
    symbols_json: list[str] = Field(default_factory=list)


class StrategyRun(Entity):
    """A run of a strategy."""

    run_id: str
    instance_id: str | None = None
    status: str | None = None
    started_utc: str | None = None
    ended_utc: str | None = None


class Order(Entity):
    """An order."""

    order_id: str
    run_id: str | None = None
    symbol: str
    side: str
    order_type: str | None = None
    quantity: Decimal
    price: Decimal | None = None
    status: str | None = None
    created_utc: str | None = None


class OrderOcoGroup(Entity):
    """A group of orders in which a fill of one cancels the others (OCO)."""

    group_id: str | None = None
    run_id: str | None = None
    order_ids: list[str] = Field(default_factory=list)


class Execution(Entity):
    """A fill."""

    execution_id: str
    order_id: str | None = None
    run_id: str | None = None
    quantity: Decimal
    price: Decimal | None = None
    executed_utc: str | None = None


class Trade(Entity):
    """A trade that was reconstructed from executions."""

    trade_id: str
    run_id: str | None = None
    symbol: str | None = None
    side: str | None = None
    quantity: Decimal | None = None
    entry_price: Decimal | None = None
    exit_price: Decimal | None = None
    pnl: Decimal | None = None


class RunSeries(Entity):
    """A series of bars that runs share."""

    series_id: str | None = None
    run_id: str | None = None
    symbol: str
    timeframe: str | None = None


class RunSeriesBar(Entity):
    """A bar of a series."""

    series_id: str | None = None
    bar_utc: str
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal | None = None
