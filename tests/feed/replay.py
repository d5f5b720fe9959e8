"""Builds from a recording what clients should receive: every trade, every book and every ticker, by topic.

Shares nothing with the feed: it reads the lines as docs/feeds.md describes them, and prints one JSON object.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone


def time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"


def main(path: str) -> None:
    topics: dict[str, dict[str, dict]] = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            _, source, body = line.rstrip("\n").split("\t", 2)
            if source != "ws":
                continue
            frame = json.loads(body)
            if "stream" not in frame:
                continue
            name, kind = frame["stream"].split("@", 1)
            data, symbol = frame["data"], name.upper()
            if kind == "aggTrade":
                side = "sell" if data["m"] else "buy"
                message = {"price": data["p"], "quantity": data["q"], "side": side, "timestamp": time(data["T"])}
                topics.setdefault(f"trades:{symbol}", {})[str(data["a"])] = message
            elif kind == "ticker" and data["L"] >= 0:
                message = {"price": data["c"], "price_change": data["p"], "price_change_percent": data["P"]}
                message |= {"high_price": data["h"], "low_price": data["l"], "volume": data["v"]}
                topics.setdefault(f"ticker:{symbol}", {})[time(data["E"])] = message
            elif kind == "depth20@100ms":
                message = {"bids": data["bids"], "asks": data["asks"]}
                topics.setdefault(f"orderbook:{symbol}", {})[str(data["lastUpdateId"])] = message
    print(json.dumps(topics))


main(sys.argv[1])
