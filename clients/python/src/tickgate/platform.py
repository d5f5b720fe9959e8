"""Publications of a trading platform's services: orders, alerts, bots and portfolios of users, and public prices. Prices and
quantities may be text, `Decimal` or numbers; they are sent as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .errors import Invalid
from .outbox import Outbox
from .plain import now, plain, text
from .shared import default_outbox

__all__ = ["Platform"]

# A price or a book that could not be sent within this time is useless, in seconds.
PRICE_AGE_MAX = 5.0

Number = Any
Level = tuple[Number, Number]


class Platform:
    """Each call takes microseconds and returns the `msg_id`; messages are sent in the background, in order. Additional fields
    are sent unchanged; those that are `None` are omitted. Without an `outbox`, it uses the program's shared one."""

    def __init__(self, outbox: Outbox | None = None) -> None:
        self._outbox = outbox

    @property
    def outbox(self) -> Outbox:
        """The outbox that sends the messages."""
        if self._outbox is None:
            self._outbox = default_outbox()
        return self._outbox

    def order_update(
        self,
        user: str,
        *,
        order_id: str,
        status: str,
        filled_quantity: Number = None,
        remaining_quantity: Number = None,
        average_price: Number = None,
        msg_id: str | None = None,
        **fields: Any,
    ) -> str:
        """A user's order has changed."""
        message = {
            "order_id": order_id,
            "status": status,
            "filled_quantity": text(filled_quantity),
            "remaining_quantity": text(remaining_quantity),
            "average_price": text(average_price),
        }
        return self._send("orders", "order_update", message, fields, user, msg_id)

    def risk_alert(
        self,
        user: str,
        *,
        alert_type: str,
        severity: str,
        message: str,
        limit_value: Number = None,
        current_value: Number = None,
        msg_id: str | None = None,
        **fields: Any,
    ) -> str:
        """A limit of a user is close or exceeded."""
        alert = {
            "alert_type": alert_type,
            "severity": severity,
            "message": message,
            "limit_value": text(limit_value),
            "current_value": text(current_value),
        }
        return self._send("risk_alerts", "risk_alert", alert, fields, user, msg_id)

    def bot_status(
        self,
        user: str,
        *,
        bot_id: str,
        name: str,
        status: str,
        performance: Any = None,
        msg_id: str | None = None,
        **fields: Any,
    ) -> str:
        """A user's bot has changed."""
        message = {"bot_id": bot_id, "name": name, "status": status, "performance": plain(performance)}
        return self._send("bot_status", "bot_status", message, fields, user, msg_id)

    def portfolio(self, user: str, *, msg_id: str | None = None, **fields: Any) -> str:
        """A user's whole portfolio. The channel is of class `state`: each message replaces the previous ones."""
        return self._send("portfolio", "portfolio", {}, fields, user, msg_id)

    def ticker(
        self,
        symbol: str,
        *,
        price: Number,
        price_change: Number = None,
        price_change_percent: Number = None,
        high_price: Number = None,
        low_price: Number = None,
        volume: Number = None,
        **fields: Any,
    ) -> str:
        """The price of a symbol. It is dropped if it cannot be sent within 5 seconds."""
        message = {
            "symbol": symbol,
            "price": text(price),
            "price_change": text(price_change),
            "price_change_percent": text(price_change_percent),
            "high_price": text(high_price),
            "low_price": text(low_price),
            "volume": text(volume),
        }
        return self._send(f"ticker:{symbol}", "ticker", message, fields, max_age=PRICE_AGE_MAX)

    def trade(self, symbol: str, *, price: Number, quantity: Number, side: str, **fields: Any) -> str:
        """A trade of a symbol; `side` is `buy` or `sell`."""
        if side not in ("buy", "sell"):
            raise Invalid("`side` must be `buy` or `sell`")
        message = {"symbol": symbol, "price": text(price), "quantity": text(quantity), "side": side}
        return self._send(f"trades:{symbol}", "trade", message, fields)

    def orderbook(self, symbol: str, *, bids: Iterable[Level], asks: Iterable[Level], **fields: Any) -> str:
        """The order book of a symbol: levels of price and quantity, best first. It is dropped if it cannot be sent within
        5 seconds."""
        message = {
            "symbol": symbol,
            "bids": [[text(price), text(quantity)] for price, quantity in bids],
            "asks": [[text(price), text(quantity)] for price, quantity in asks],
        }
        return self._send(f"orderbook:{symbol}", "orderbook", message, fields, max_age=PRICE_AGE_MAX)

    def _send(
        self,
        channel: str,
        type: str,
        message: dict[str, Any],
        fields: dict[str, Any],
        user: str | None = None,
        msg_id: str | None = None,
        max_age: float | None = None,
    ) -> str:
        whole = {"type": type, **message, **plain(fields)}
        whole.setdefault("timestamp", now())
        given = {name: value for name, value in whole.items() if value is not None}
        return self.outbox.put(channel, given, user=user, msg_id=msg_id, max_age=max_age)
