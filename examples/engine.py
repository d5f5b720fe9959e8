"""An engine that publishes its fills: one JSON object a line on standard input, such as {"user": "demo", "fill_id": "7", ...}.

Each fill has a `msg_id`, so that it can be sent again until it is answered: the gateway stores it once. Only Python's
standard library is needed.

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
    """Publishes until the gateway answers; returns the id of the message. A refused fill raises: sending it again is no use."""
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
            print(f"no answer ({gone}); trying again", file=sys.stderr)
        time.sleep(wait)
        wait = min(2 * wait, 5.0)


for line in sys.stdin:
    print(publish(json.loads(line)), flush=True)
