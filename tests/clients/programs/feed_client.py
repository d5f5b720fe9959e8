"""The feed's client in Python, as its document gives it. Only the address is ours, and the token comes by argument."""

import asyncio
import json
import os
import sys

import websockets

GATEWAY = os.environ["GATEWAY"]


async def connect():
    uri = f"{GATEWAY}/ws?token={sys.argv[1]}"

    async with websockets.connect(uri) as websocket:
        print("Connected to WebSocket server")

        # Receive messages
        async for message in websocket:
            data = json.loads(message)
            print(f"Received: {data['type']}")
            print(f"Data: {data}")


asyncio.run(connect())
