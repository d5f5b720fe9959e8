"""The connector that feeds orders and logs in, as its document gives it. Only the address is ours; a line on its input
is sent as it stands, so that a test can send what a connector must not."""

import asyncio
import json
import os
import sys
import warnings

import websockets
from socket_models import (
    IngestEventType,
    LogLevel,
    SocketMessage,
    SocketMessageType,
    create_heartbeat,
    create_ingest_message,
    create_log_message,
)

warnings.simplefilter("ignore", DeprecationWarning)


class QuantowerConnector:
    def __init__(self, server_url: str):
        self.server_url = server_url
        self.websocket = None
        self.client_id = "quantower-connector"
        self.running = False

    async def connect(self):
        """Connect to WebSocket server"""
        try:
            self.websocket = await websockets.connect(self.server_url)
            self.running = True
            print(f"Connected to {self.server_url}")

            # Start message processing loop
            asyncio.create_task(self.process_messages())

            # Start heartbeat loop
            asyncio.create_task(self.heartbeat_loop())

        except Exception as e:
            print(f"Failed to connect: {e}")

    async def disconnect(self):
        """Disconnect from server"""
        self.running = False
        if self.websocket:
            await self.websocket.close()

    async def send_order_event(self, run_id: str, order_data: dict):
        """Send order event to server"""
        message = create_ingest_message(
            source=self.client_id,
            run_id=run_id,
            event_type=IngestEventType.ORDER,
            payload=order_data
        )
        await self.send_message(message)

    async def send_execution_event(self, run_id: str, execution_data: dict):
        """Send execution event to server"""
        message = create_ingest_message(
            source=self.client_id,
            run_id=run_id,
            event_type=IngestEventType.EXECUTION,
            payload=execution_data
        )
        await self.send_message(message)

    async def send_log(self, level: LogLevel, message: str, meta: dict = None):
        """Send log message to server"""
        log_message = create_log_message(
            source=self.client_id,
            level=level,
            logger_name="quantower_connector",
            message=message,
            meta=meta
        )
        await self.send_message(log_message)

    async def send_message(self, message: SocketMessage):
        """Send message to server"""
        if self.websocket:
            try:
                await self.websocket.send(message.json())
            except Exception as e:
                print(f"Failed to send message: {e}")

    async def process_messages(self):
        """Process incoming messages from server"""
        while self.running and self.websocket:
            try:
                raw_message = await self.websocket.recv()
                message_data = json.loads(raw_message)
                message = SocketMessage(**message_data)

                # Handle server messages (ACK, errors, etc.)
                await self.handle_server_message(message)

            except websockets.exceptions.ConnectionClosed:
                break
            except Exception as e:
                print(f"Error processing message: {e}")

    async def handle_server_message(self, message: SocketMessage):
        """Handle messages from server"""
        if message.msg_type == SocketMessageType.ACK:
            print(f"Received ACK for message: {message.payload['acknowledged_msg_id']}")
        elif message.msg_type == SocketMessageType.ERROR:
            print(f"Server error: {message.payload['code']} - {message.payload['message']}")
        # Add other message types as needed

    async def heartbeat_loop(self):
        """Send periodic heartbeat messages"""
        while self.running:
            try:
                heartbeat = create_heartbeat(source=self.client_id)
                await self.send_message(heartbeat)
                await asyncio.sleep(30)  # Send heartbeat every 30 seconds
            except Exception as e:
                print(f"Heartbeat error: {e}")
                break


async def lines():
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        yield line.decode().rstrip("\n")


# Usage example
async def main():
    connector = QuantowerConnector(os.environ["GATEWAY"] + "/ws/ingest")
    await connector.connect()

    # Send some test events
    await connector.send_order_event("run-123", {
        "order_id": "ord-test-1",
        "symbol": "BTCUSDT",
        "side": "BUY",
        "quantity": 0.1,
        "price": 45000.0
    })

    await connector.send_log(LogLevel.INFO, "Connector started successfully")

    # Keep running
    async for line in lines():
        await connector.websocket.send(line)


if __name__ == "__main__":
    asyncio.run(main())
