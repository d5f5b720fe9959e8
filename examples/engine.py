"""An engine that publishes its fills: one JSON object per line on standard input, such as {"user": "demo", "fill_id": "7", ...}.

Each fill has a `msg_id`, so the engine can retry until it gets a response: the gateway stores the fill only once. Requires only
Python's standard library.

    API=http://127.0.0.1:8001 KEY=... python3 examples/engine.py < fills.jsonl
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request

API, KEY = os.environ["API"], os.environ["KEY"]


def publish(fill: dict) -> str:
    """Retries until the gateway responds; returns the id of the message. Raises if the fill is refused: a retry would not help."""
    body = {
        "channel": "orders",
        "user": fill["user"],
        "msg_id": f"fill-{fill['fill_id']}",
        "data": {"type": "fill", **fill},
    }
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    wait = 0.1
    while True:
        request = urllib.request.Request(f"{API}/api/v1/publish", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.load(answer)["id"]
        except urllib.error.HTTPError as refused:
            if refused.code < 500 and refused.code != 429:
                raise SystemExit(f"fill {fill['fill_id']} is refused: {refused.read().decode()}") from None
            wait = max(wait, float(refused.headers.get("Retry-After", 0)))
        except OSError as gone:
            print(f"no response ({gone}); retrying", file=sys.stderr)
        time.sleep(wait)
        wait = min(2 * wait, 5.0)


for line in sys.stdin:
    print(publish(json.loads(line)), flush=True)
