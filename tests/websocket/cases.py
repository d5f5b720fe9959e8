"""Runs the public cases of WebSocket conformance against an echo server, and says which of them pass.

    python3 cases.py SUITE ws://127.0.0.1:9001 [group ...]

SUITE is the unpacked source of autobahntestsuite. Each case judges itself by what it received and how the connection
ended; this file only is the client that the cases command. Its rules are those of the suite's own client.
"""

import asyncio
import collections
import json
import os
import random
import socket
import struct
import sys
from urllib.parse import urlsplit

import suite

# How long the server has to answer a Close, and then to end the connection.
CLOSE_TIMEOUT = 1.0
# No case outside of group 9 takes longer.
CASE_TIMEOUT = 120.0
AT_ONCE = 16
MAY_BE_SENT = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, *range(3000, 5000)}


def raw(text):
    return text.encode("latin-1") if isinstance(text, str) else text


def xor(payload, mask):
    if not payload:
        return payload
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    mixed = int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")
    return mixed.to_bytes(len(payload), "little")


class Protocol(asyncio.Protocol):
    """What a case calls `self.p`: it sends what it is told, and keeps the books by which a case judges the end."""

    STATE_CLOSED, STATE_CONNECTING, STATE_CLOSING, STATE_OPEN = range(4)
    CLOSE_STATUS_CODE_NORMAL = 1000
    CLOSE_STATUS_CODE_PROTOCOL_ERROR = 1002
    CLOSE_STATUS_CODE_INVALID_PAYLOAD = 1007

    def __init__(self, case, host):
        self.factory = self
        self.isServer = False
        self.host = host
        self.state = self.STATE_CONNECTING
        self.connectionWasOpen = False
        self.closedByMe = self.failedByMe = self.droppedByMe = self.wasClean = False
        self.remoteCloseCode = self.localCloseCode = self.localCloseReason = None
        self.createWirelog = False
        self.autoFragmentSize = 0
        self.txFrameStats = collections.Counter()
        self.unread = bytearray()
        self.message = None
        self.ended = asyncio.get_running_loop().create_future()
        self.outgoing = asyncio.Queue()
        self.case = case(self)

    # -- the connection --

    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.writer = asyncio.ensure_future(self.write_all())
        transport.write(
            f"GET / HTTP/1.1\r\nHost: {self.host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )

    async def write_all(self):
        """Pieces go out one by one, so that a frame in chops arrives in chops."""
        while True:
            pieces = await self.outgoing.get()
            for piece in pieces:
                self.transport.write(piece)
                if len(pieces) > 1:
                    await asyncio.sleep(0)

    def data_received(self, data):
        self.unread += data
        if self.state == self.STATE_CONNECTING:
            head, separator, rest = bytes(self.unread).partition(b"\r\n\r\n")
            if not separator:
                return
            if not head.startswith(b"HTTP/1.1 101 ") or b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" not in head:
                self.transport.abort()
                return
            self.unread = bytearray(rest)
            self.state = self.STATE_OPEN
            self.connectionWasOpen = True
            self.case.onOpen()
        while self.state != self.STATE_CLOSED and self.take_frame():
            pass

    def connection_lost(self, error):
        self.state = self.STATE_CLOSED
        self.writer.cancel()
        self.case.onConnectionLost(self.failedByMe)
        if not self.ended.done():
            self.ended.set_result(None)

    # -- what comes --

    def take_frame(self):
        if len(self.unread) < 2:
            return False
        first, length = self.unread[0], self.unread[1]
        start = 2
        if length == 126:
            start = 4
            length = int.from_bytes(self.unread[2:4], "big")
        elif length == 127:
            start = 10
            length = int.from_bytes(self.unread[2:10], "big")
        if len(self.unread) < start + length:
            return False
        payload = bytes(self.unread[start : start + length])
        del self.unread[: start + length]
        self.frame(first, payload)
        return True

    def frame(self, first, payload):
        opcode = first & 0x0F
        if first & 0x70 or not first & 0x80 and opcode != 1 and opcode != 2 and opcode != 0:
            return self.failConnection()
        if opcode == 8:
            self.closed(payload)
        elif self.failedByMe:
            pass
        elif opcode == 9:
            self.case.onPing(payload.decode("latin-1"))
        elif opcode == 10:
            self.case.onPong(payload.decode("latin-1"))
        elif opcode in (0, 1, 2):
            if (opcode == 0) == (self.message is None):
                return self.failConnection()
            if opcode:
                self.message = (opcode, bytearray())
            self.message[1].extend(payload)
            if first & 0x80:
                opcode, whole = self.message
                self.message = None
                self.case.onMessage(whole.decode("latin-1"), opcode == 2)
        else:
            self.failConnection()

    def closed(self, payload):
        code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else None
        self.remoteCloseCode = code
        if len(payload) == 1 or (code is not None and code not in MAY_BE_SENT):
            return self.failConnection()
        self.wasClean = True
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(1000, isReply=True)
        self.later(CLOSE_TIMEOUT, self.not_dropped)

    def not_dropped(self):
        """The server is the one to end the connection."""
        self.wasClean = False
        self.droppedByMe = True
        self.transport.abort()

    # -- what a case commands --

    def sendFrame(self, opcode, payload="", fin=True, rsv=0, mask=None, payload_len=None, chopsize=None, sync=False):
        payload = raw(payload)
        if payload_len is not None:
            payload = (payload * (payload_len // max(len(payload), 1) + 1))[:payload_len]
        head = self.head(opcode, len(payload), fin, rsv)
        mask = random.randbytes(4)
        data = head + mask + xor(payload, mask)
        self.txFrameStats[opcode] += 1
        step = chopsize or len(data)
        self.outgoing.put_nowait([data[at : at + step] for at in range(0, len(data), step)])

    def head(self, opcode, length, fin=True, rsv=0):
        first = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
        if length <= 125:
            return first + bytes([0x80 | length])
        if length <= 0xFFFF:
            return first + struct.pack("!BH", 0x80 | 126, length)
        return first + struct.pack("!BQ", 0x80 | 127, length)

    def sendMessage(self, payload, isBinary=False, fragmentSize=None, sync=False, doNotCompress=False):
        if self.state != self.STATE_OPEN:
            return
        opcode, size = (2 if isBinary else 1), fragmentSize or self.autoFragmentSize or max(len(payload), 1)
        starts = range(0, max(len(payload), 1), size)
        for start in starts:
            self.sendFrame(0 if start else opcode, payload[start : start + size], fin=start + size >= len(payload))

    def beginMessage(self, isBinary=False):
        self.opcode = 2 if isBinary else 1

    def beginMessageFrame(self, length):
        self.mask, self.sent = random.randbytes(4), 0
        self.outgoing.put_nowait([self.head(self.opcode, length, fin=False) + self.mask])

    def sendMessageFrameData(self, payload):
        turn = self.sent % 4
        self.sent += len(payload)
        self.outgoing.put_nowait([xor(raw(payload), self.mask[turn:] + self.mask[:turn])])

    def endMessage(self):
        self.sendFrame(0)

    def sendClose(self, code=None, reason=None):
        self.sendCloseFrame(code, reason)

    def sendCloseFrame(self, code=None, reasonUtf8=None, isReply=False):
        if self.state != self.STATE_OPEN:
            return
        payload = struct.pack("!H", code) if code is not None else b""
        self.sendFrame(8, payload + raw(reasonUtf8 or ""))
        self.state = self.STATE_CLOSING
        self.closedByMe = not isReply
        self.localCloseCode, self.localCloseReason = code, reasonUtf8
        if self.closedByMe:
            self.later(CLOSE_TIMEOUT, lambda: self.remoteCloseCode is None and not self.wasClean and self.not_dropped())

    def failConnection(self):
        if self.state == self.STATE_CLOSED:
            return
        self.failedByMe = True
        if self.state == self.STATE_CLOSING:
            self.droppedByMe = True
            self.transport.close()
        else:
            self.sendCloseFrame(1001, "Going Away")

    def later(self, delay, act):
        asyncio.get_running_loop().call_later(delay, lambda: self.state != self.STATE_CLOSED and act())

    def continueLater(self, delay, act, tag=None):
        self.later(delay, act)

    def killAfter(self, delay):
        self.later(delay, self.failConnection)

    def closeAfter(self, delay):
        self.later(delay, self.sendClose)

    def enableWirelog(self, enable):
        pass


async def run(case, url, turns):
    async with turns:
        loop = asyncio.get_running_loop()
        host, port = url.hostname, url.port
        _, protocol = await loop.create_connection(lambda: Protocol(case, f"{host}:{port}"), host, port)
        try:
            await asyncio.wait_for(protocol.ended, CASE_TIMEOUT)
        except TimeoutError:
            protocol.transport.abort()
        return protocol.case


async def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    folder, url = sys.argv[1], urlsplit(sys.argv[2])
    groups = sys.argv[3:] or ["1", "2", "3", "4", "5", "6", "7", "10"]
    cases = suite.load(folder, Protocol)
    wanted = {number: case for number, case in cases.items() if number.split(".")[0] in groups}
    turns = asyncio.Semaphore(AT_ONCE)
    judged = await asyncio.gather(*(run(case, url, turns) for case in wanted.values()))
    results = {number: (case.behavior, case.behaviorClose) for number, case in zip(wanted, judged)}
    bad = 0
    for number, case in zip(wanted, judged):
        if not {case.behavior, case.behaviorClose} <= {case.OK, case.INFORMATIONAL}:
            bad += 1
            print(f"{number}: {case.behavior}, close {case.behaviorClose}: {case.result} {case.resultClose}")
    for group in groups:
        of_group = collections.Counter(judged[0] for number, judged in results.items() if number.split(".")[0] == group)
        print(f"group {group:>2}: " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(of_group.items())))
    print(f"{len(results)} cases, {bad} failed")
    if report := os.environ.get("CASES_REPORT"):
        with open(report, "w") as file:
            json.dump(results, file, indent=1)
    # Fewer would mean that the cases were not found.
    sys.exit(1 if bad or not results else 0)


asyncio.run(main())
