"""Tries a gateway from outside: `python -m tickgate.test_client --test market|trading|health|all`. Ends with 1 if something
does not work."""

from __future__ import annotations

import argparse
import json
import sys
import time
from urllib.parse import urlsplit, urlunsplit

import httpx

from .connection import Connection, connect
from .errors import GatewayError, TickgateError

_READY_TIMEOUT = 10.0


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tickgate.test_client", description="Tries a gateway from outside.")
    parser.add_argument("--test", choices=["market", "trading", "health", "all"], default="all")
    parser.add_argument("--token", help="a user's token, for the trading endpoint")
    parser.add_argument("--url", default="ws://localhost:8000", help="of the public listener (%(default)s)")
    parser.add_argument("--symbols", default="BTCUSDT,ETHUSDT", help="such as %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to listen (%(default)s)")
    return parser.parse_args(given)


def _await_live(connection: Connection) -> None:
    """Waits until everything is subscribed to."""
    deadline = time.monotonic() + _READY_TIMEOUT
    while connection.status.state != "live":
        status = connection.status
        if status.state == "closed" or time.monotonic() > deadline:
            raise TickgateError(f"no connection: {status.reason or status.state} ({status.code})")
        time.sleep(0.02)


def _listen(url: str, token: str | None, channels: list[str], seconds: float) -> None:
    with connect(url, token=token) as connection:
        messages = connection.messages(*channels, on_gap=lambda gap: print(f"   gap: {gap}"))
        try:
            _await_live(connection)
        except TickgateError:
            # A channel that is refused says more than a connection that is not live.
            messages.next(timeout=0.1)
            raise
        print(f"   connected to {url} as {connection.user or 'nobody'}; listening for {seconds:g} s to {', '.join(channels)}")
        until, count = time.monotonic() + seconds, 0
        while (left := until - time.monotonic()) > 0:
            try:
                message = messages.next(timeout=left)
            except TimeoutError:
                break
            count += 1
            if count <= 20:
                print(f"   {message.channel} {message.id}: {json.dumps(message.data)}")
        print(f"   {count} messages")


def market(arguments: argparse.Namespace) -> None:
    """The public endpoint. Silence is not a failure: prices arrive when they are published."""
    symbols = arguments.symbols.split(",")
    channels = [f"{kind}:{symbol}" for symbol in symbols for kind in ("ticker", "trades", "orderbook")]
    _listen(f"{arguments.url}/ws/market", None, channels, arguments.seconds)


def trading(arguments: argparse.Namespace) -> None:
    """The endpoint of a user."""
    if not arguments.token:
        raise TickgateError("--token is required")
    channels = ["orders", "risk_alerts", "bot_status", "portfolio"]
    channels += [f"ticker:{symbol}" for symbol in arguments.symbols.split(",")]
    _listen(f"{arguments.url}/ws/trading", arguments.token, channels, arguments.seconds)


def health(arguments: argparse.Namespace) -> None:
    """The status over HTTP, and a connection that stays alive."""
    parts = urlsplit(arguments.url)
    base = urlunsplit(("https" if parts.scheme == "wss" else "http", parts.netloc, parts.path.rstrip("/"), "", ""))
    for path, good in (("/health", "healthy"), ("/ws/status", "active")):
        response = httpx.get(base + path, timeout=5.0)
        body = response.json()
        print(f"   {path}: {response.status_code} {json.dumps(body)}")
        if response.status_code != 200 or body.get("status") != good:
            raise TickgateError(f"{path} is not {good}")
    with connect(f"{arguments.url}/ws/market") as connection:
        _await_live(connection)
        print(f"   a connection is {connection.status.state}")


def main(given: list[str] | None = None) -> int:
    """Runs what is asked for. Returns the exit status."""
    arguments = _arguments(given)
    tests = {"market": market, "trading": trading, "health": health}
    failed = 0
    for name in [arguments.test] if arguments.test != "all" else ["health", "market", "trading"]:
        print(f"-- {name}")
        try:
            tests[name](arguments)
            print(f"-- {name}: ok")
        except (TickgateError, httpx.HTTPError, ValueError, TimeoutError) as error:
            failed += 1
            what = f"{type(error).__name__}: {error}" if not isinstance(error, GatewayError) else str(error)
            print(f"-- {name}: FAILED: {what}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
