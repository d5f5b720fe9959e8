"""The client as `tickgate-client-suite` plays with it: lines of JSON, as docs/client-suite.md describes them. `asyncio` or
`blocking` says which face of the client plays."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import sys
import threading
import time
from typing import Any

import tickgate

Line = dict[str, Any]


class Output(logging.Handler):
    """Writes lines in their order. One of a gap waits for a moment, since it counts as handled only after it was written."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: queue.SimpleQueue[tuple[Line | None, float]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def write(self, line: Line, delay: float = 0.0) -> None:
        self._lines.put(({name: value for name, value in line.items() if value is not None or name == "id"}, delay))

    def emit(self, record: logging.LogRecord) -> None:
        self.write({"event": "log", "text": record.getMessage()})

    def end(self) -> None:
        self._lines.put((None, 0.0))
        self._thread.join()

    def _run(self) -> None:
        while True:
            line, delay = self._lines.get()
            if line is None:
                return
            time.sleep(delay)
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


class Adapter:
    """What both faces share."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.tokens: queue.SimpleQueue[Line] = queue.SimpleQueue()
        auth = os.environ["TICKGATE_AUTH"]
        self.options: dict[str, Any] = {
            "url": os.environ["TICKGATE_URL"],
            "token": None if auth == "none" else self.token,
            "auth": "message" if auth == "message" else "handshake",
            "on_state": self.on_state,
        }
        self.channels = json.loads(os.environ["TICKGATE_CHANNELS"])

    def token(self) -> str:
        self.output.write({"event": "token"})
        line = self.tokens.get()
        if "error" in line:
            raise RuntimeError(line["error"])
        return str(line["token"])

    def on_state(self, status: tickgate.Status) -> None:
        wait = None if status.retry_in is None else round(status.retry_in * 1000)
        self.output.write(
            {"event": "state", "state": status.state, "code": status.code, "reason": status.reason, "wait_ms": wait}
        )

    def report(self, message: tickgate.Message[dict[str, Any]]) -> None:
        line = {"event": "message", "channel": message.channel, "id": message.id, "data": message.data}
        line["replayed"] = message.replayed or None
        line["snapshot"] = message.snapshot or None
        line["conflated"] = message.conflated or None
        message.done()
        self.output.write(line)

    def report_gap(self, gap: tickgate.Gap) -> None:
        fields = {"channels": list(gap.channels), "after": gap.after, "before": gap.before, "count": gap.count}
        self.output.write({"event": "gap", **fields, "reason": gap.reason}, 0.01)

    def refused(self, error: tickgate.GatewayError) -> None:
        self.output.write({"event": "refused", "channel": error.channel, "code": error.code, "error": error.error})

    def subscribe(self, messages: Any, elements: list[Any]) -> None:
        for element in elements:
            options = {"channel": element} if isinstance(element, str) else dict(element)
            name = options.pop("channel")
            # Options change by leaving a channel: it may be among those that are read.
            messages.remove(name)
            messages.add(name, **options)

    def outcome(self, ref: str, published: tickgate.Published) -> None:
        line = {"event": "outcome", "ref": ref, "outcome": "accepted"}
        self.output.write({**line, "id": published.id, "duplicate": published.duplicate})

    def failed(self, ref: str, error: tickgate.GatewayError) -> None:
        outcome = "unknown" if isinstance(error, tickgate.Unknown) else "refused"
        self.output.write(
            {"event": "outcome", "ref": ref, "outcome": outcome, "code": error.code, "error": error.error or str(error)}
        )


def lines() -> Any:
    """The suite's lines, and a last one at the end of input."""
    for text in sys.stdin:
        yield json.loads(text)
    yield {"command": "stop"}


class Awaited(Adapter):
    """The adapter over `AsyncConnection`."""

    async def run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.go = asyncio.Event()
        self.go.set()
        self.stop = asyncio.Event()
        self.requests: set[asyncio.Task[None]] = set()
        async with tickgate.connect(**self.options) as connection:
            self.connection = connection
            self.messages = connection.messages(on_gap=self.on_gap)
            self.subscribe(self.messages, self.channels)
            reader = asyncio.create_task(self.read())
            threading.Thread(target=self.listen, daemon=True).start()
            await self.stop.wait()
            reader.cancel()
        # The outcome of what was open at the end.
        await asyncio.gather(*self.requests)

    async def on_gap(self, gap: tickgate.Gap) -> None:
        await self.go.wait()
        self.report_gap(gap)

    async def read(self) -> None:
        while True:
            try:
                async for message in self.messages:
                    await self.go.wait()
                    self.report(message)
                return
            except tickgate.GatewayError as error:
                self.refused(error)
            except tickgate.Closed:
                return

    def listen(self) -> None:
        for line in lines():
            if line["command"] == "token":
                self.tokens.put(line)
            else:
                self.loop.call_soon_threadsafe(self.perform, line)

    def perform(self, line: Line) -> None:
        match line["command"]:
            case "subscribe":
                self.subscribe(self.messages, line["channels"])
            case "unsubscribe":
                for channel in line["channels"]:
                    self.messages.remove(channel)
            case "publish" | "command":
                task = asyncio.create_task(self.request(line))
                self.requests.add(task)
                task.add_done_callback(self.requests.discard)
            case "hold":
                self.go.clear()
            case "go":
                self.go.set()
            case "cursors":
                self.output.write({"event": "cursors", "cursors": self.connection.cursors()})
            case "stop":
                self.stop.set()

    async def request(self, line: Line) -> None:
        within = line["deadline_ms"] / 1000
        try:
            if line["command"] == "publish":
                published = await self.connection.publish(line["channel"], line["data"], within=within)
            else:
                published = await self.connection.command(line["name"], within=within)
            self.outcome(line["ref"], published)
        except tickgate.GatewayError as error:
            self.failed(line["ref"], error)


class Blocking(Adapter):
    """The adapter over `Connection`."""

    def run(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.requests: list[threading.Thread] = []
        with tickgate.connect(**self.options) as connection:
            self.connection = connection
            self.messages = connection.messages(on_gap=self.on_gap)
            self.subscribe(self.messages, self.channels)
            threading.Thread(target=self.read, daemon=True).start()
            for line in lines():
                if line["command"] == "stop":
                    break
                self.perform(line)
        for thread in self.requests:
            thread.join()

    def on_gap(self, gap: tickgate.Gap) -> None:
        self.go.wait()
        self.report_gap(gap)

    def read(self) -> None:
        while True:
            try:
                for message in self.messages:
                    self.go.wait()
                    self.report(message)
                return
            except tickgate.GatewayError as error:
                self.refused(error)
            except tickgate.Closed:
                return

    def perform(self, line: Line) -> None:
        match line["command"]:
            case "token":
                self.tokens.put(line)
            case "subscribe":
                self.subscribe(self.messages, line["channels"])
            case "unsubscribe":
                for channel in line["channels"]:
                    self.messages.remove(channel)
            case "publish" | "command":
                thread = threading.Thread(target=self.request, args=[line])
                self.requests.append(thread)
                thread.start()
            case "hold":
                self.go.clear()
            case "go":
                self.go.set()
            case "cursors":
                self.output.write({"event": "cursors", "cursors": self.connection.cursors()})

    def request(self, line: Line) -> None:
        within = line["deadline_ms"] / 1000
        try:
            if line["command"] == "publish":
                published = self.connection.publish(line["channel"], line["data"], within=within)
            else:
                published = self.connection.command(line["name"], within=within)
            self.outcome(line["ref"], published)
        except tickgate.GatewayError as error:
            self.failed(line["ref"], error)


def play(face: str) -> None:
    """Plays until the suite stops it."""
    output = Output()
    logging.getLogger("tickgate").addHandler(output)
    logging.getLogger("tickgate").propagate = False
    if face == "blocking":
        Blocking(output).run()
    else:
        asyncio.run(Awaited(output).run())
    output.end()


if __name__ == "__main__":
    play(sys.argv[1])
    # A thread may still read from standard input.
    os._exit(0)
