"""The trading client in Python, as its document gives it. Only the address is ours, and the token comes by argument."""

import asyncio
import json
import os
import sys

import websockets

GATEWAY = os.environ["GATEWAY"]


async def trading_client(token):
    uri = f"{GATEWAY}/ws/trading?token={token}"

    async with websockets.connect(uri) as websocket:
        # Subscribe to updates
        await websocket.send(json.dumps({
            "type": "subscribe",
            "channels": ["orders", "risk_alerts"]
        }))

        # Listen for messages
        while True:
            message = await websocket.recv()
            data = json.loads(message)
            print(f"Received: {data}")


# Run the client
asyncio.run(trading_client(sys.argv[1]))
