#!/usr/bin/env python3
"""Demo publisher: ticks, trades, equity and the orders of user `alice`, over the HTTP API. Standard library only.

    TICKGATE_API=http://127.0.0.1:8001 TICKGATE_API_KEY=… python3 deploy/demo/publisher.py [seconds]

Every publication has a msg_id, so that a retry on another replica after a fault is published only once.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import time
import urllib.error
import urllib.request
import uuid

REPLICAS = os.environ.get("TICKGATE_API", "http://127.0.0.1:8001").split(",")
KEY = os.environ.get("TICKGATE_API_KEY", "")
PRICES = {"BTCUSDT": 50_000.0, "ETHUSDT": 3_000.0, "ADAUSDT": 0.5}
TICK_SECONDS = 0.1


def publish(channel: str, data: dict, user: str | None = None) -> None:
    """Publishes through one replica, or through the next one if it does not respond."""
    body = {"channel": channel, "data": data, "msg_id": uuid.uuid4().hex}
    if user:
        body["user"] = user
    for replica in random.sample(REPLICAS, len(REPLICAS)):
        request = urllib.request.Request(
            f"{replica}/api/v1/publish",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
        )
        try:
            urllib.request.urlopen(request, timeout=2).close()
            return
        except urllib.error.HTTPError as refusal:
            if refusal.code < 500:
                raise SystemExit(f"{replica} refuses: {refusal.code} {refusal.read().decode(errors='replace')}")
            print(f"{replica} answers {refusal.code}, trying the next", flush=True)
        except OSError as fault:
            print(f"{replica} does not answer ({fault}), trying the next", flush=True)
    print("no replica took it; it is lost to this demo", flush=True)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() // 1_000_000 % 1000:03}Z"


def main() -> None:
    ends = time.monotonic() + float(sys.argv[1]) if len(sys.argv) > 1 else float("inf")
    equity = 100_000.0
    for turn in itertools.count():
        if time.monotonic() >= ends:
            break
        for symbol in PRICES:
            PRICES[symbol] *= 1 + random.gauss(0, 0.0003)
            price = f"{PRICES[symbol]:.4f}"
            publish(f"ticker:{symbol}", {"type": "ticker", "symbol": symbol, "price": price, "timestamp": now()})
            if random.random() < 0.3:
                publish(f"trades:{symbol}", {"type": "trade", "symbol": symbol, "price": price, "quantity": f"{random.uniform(0.01, 2):.3f}", "timestamp": now()})
        if turn % 10 == 0:
            equity *= 1 + random.gauss(0, 0.001)
            publish("equity_update", {"type": "equity_update", "equity": f"{equity:.2f}", "timestamp": now()})
        if turn % 20 == 0:
            publish("orders", {"type": "order_update", "order_id": str(turn), "status": "filled", "timestamp": now()}, user="alice")
        if turn % 100 == 0:
            print(f"{turn} rounds published", flush=True)
        time.sleep(TICK_SECONDS)


if __name__ == "__main__":
    main()
