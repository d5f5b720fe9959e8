"""What decides without I/O: queues, cursors, publications of a scripted gateway."""

from __future__ import annotations

import http.server
import json
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from conftest import SOON, eventually

import tickgate
from tickgate import Outbox
from tickgate._convert import converter
from tickgate._core.backoff import after_code, back_off
from tickgate._core.channels import Options
from tickgate._core.hub import Gap, Hub
from tickgate._core.queue import Entry, Queue
from tickgate._core.read import Push, Unreadable, messages_of, object_of, push_of
from tickgate.outbox import FailedPublication
from tickgate.plain import plain, text


class Wishes:
    """The link's side: what is wanted, and from where."""

    def __init__(self) -> None:
        self.wanted: dict[str, str | None] = {}

    def want(self, name: str, options: Options, cursor: str | None) -> None:
        self.wanted[name] = cursor

    def drop(self, name: str) -> None:
        del self.wanted[name]

    def suspend(self, name: str) -> None:
        del self.wanted[name]


@pytest.mark.parametrize("cls", ["reliable", "event"])
@pytest.mark.parametrize("seed", range(20))
def test_every_message_is_read_or_in_a_gap_and_the_cursor_never_passes_what_is_not_handled(cls: str, seed: int) -> None:
    chance = random.Random(seed)
    link = Wishes()
    hub = Hub(link, lambda: None)
    buffer = chance.choice([1, 3, 8])
    queue = Queue(hub, buffer, True, lambda: None)
    queue.add("a", Options(), None)
    hub.granted("a", cls, True)
    published = 0
    read: list[int] = []
    told = 0
    open_entries: list[Entry] = []
    for _ in range(400):
        step = chance.random()
        if step < 0.6:
            # The gateway sends what follows the place where it was asked to go on.
            if "a" in link.wanted:
                published += 1
                hub.push(Push("a", f"7-{published}", {"n": published}, False, False, 0))
                assert "a" in link.wanted or cls == "reliable"
        elif step < 0.8:
            for entry in queue.take(chance.randint(1, 5)):
                if entry.gap is not None:
                    assert entry.gap.reason == "slow_application"
                    told += entry.gap.count or 0
                    # Nothing is read before it is handled.
                    queue.done(entry)
                else:
                    assert entry.push is not None
                    read.append(entry.push.data["n"])
                    open_entries.append(entry)
        elif open_entries:
            queue.done(open_entries.pop(chance.randrange(len(open_entries))))
        # One more than fits, and a gap in the place of what gave way.
        assert queue.waiting <= buffer + 1
        handled = int((hub.channels["a"].handled or "7-0")[2:])
        unhandled = [entry.push.data["n"] for entry in open_entries if entry.push]
        assert handled < min(unhandled, default=published + 1)
    while open_entries:
        queue.done(open_entries.pop())
    while taken := queue.take(100):
        for entry in taken:
            if entry.gap is not None:
                told += entry.gap.count or 0
            elif entry.push is not None:
                read.append(entry.push.data["n"])
            queue.done(entry)
    assert "a" in link.wanted
    assert len(read) + told == published
    assert read == sorted(set(read))
    assert told == 0 or cls == "event"
    assert hub.cursors() == ({"a": f"7-{published}"} if published else {})


def test_a_gap_of_several_channels_is_one_and_stays_when_one_of_them_is_left() -> None:
    hub = Hub(Wishes(), lambda: None)
    queue = Queue(hub, 10, True, lambda: None)
    for name in ("a", "b"):
        queue.add(name, Options(), None)
        hub.granted(name, "reliable", True)
    gap = Gap(("a", "b"), "7-1", "7-4", 2, "retention")
    hub.gap(gap, "7-3")
    queue.remove("a")
    taken = queue.take(10)
    assert [entry.gap for entry in taken] == [gap]
    assert hub.cursors() == {}
    queue.done(taken[0])
    assert hub.cursors() == {"b": "7-3"}
    assert queue.take(10) == []


def test_another_user_gets_nothing_of_the_one_before() -> None:
    link = Wishes()
    hub = Hub(link, lambda: None)
    queue = Queue(hub, 10, True, lambda: None)
    queue.add("a", Options(), None)
    hub.is_user("alice", False)
    hub.granted("a", "reliable", True)
    for number in range(3):
        hub.push(Push("a", f"7-{number}", {}, False, False, 0))
    taken = queue.take(1)
    hub.is_user("bob", True)
    assert link.wanted == {"a": None}
    assert not taken[0].feed.valid
    assert queue.take(10) == []
    queue.done(taken[0])
    assert hub.saved() is not None
    assert hub.cursors() == {}


def test_what_cannot_be_read() -> None:
    for frame in ("", "{", b"{}", "[" * 100_000):
        with pytest.raises(Unreadable):
            messages_of(frame, json.loads)
    for message in (1, None, [], {}, {"type": 1}):
        with pytest.raises(Unreadable):
            object_of(message)
    for meta in (1, {}, {"channel": 1}, {"channel": "a", "id": 1}):
        with pytest.raises(Unreadable):
            push_of({"_meta": meta})


def test_the_back_off_and_the_codes() -> None:
    assert (back_off(0, 0.0), back_off(0, 1.0), back_off(99, 1.0)) == (0.05, 0.5, 30.0)
    assert [after_code(code) for code in (None, 1012, 4001, 4003, 1000, 4004, 4500)] == [
        "yes",
        "yes",
        "new_token",
        "yes",
        "no",
        "no",
        "no",
    ]


def test_types() -> None:
    import msgspec
    import pydantic

    class Model(pydantic.BaseModel):
        n: int

    class Struct(msgspec.Struct):
        n: int

    for type in (Model, Struct):
        convert = converter(type)
        assert convert is not None
        assert convert({"n": 1, "more": 2}).n == 1
        with pytest.raises(tickgate.Invalid):
            convert({"n": "x"})
    assert converter(dict) is None


def test_what_has_no_form_in_json() -> None:
    deep: list[Any] = []
    for _ in range(40):
        deep = [deep]
    for wrong in (float("nan"), deep, object, b"bytes", object()):
        with pytest.raises(tickgate.Invalid):
            plain(wrong)
    for number in ("x" and True, float("inf"), [1]):
        with pytest.raises(tickgate.Invalid):
            text(number)
    assert text(0.1) == "0.1"


class Scripted:
    """A gateway that answers `publish` by a script, over real sockets."""

    def __init__(self, answer: Callable[[list[dict[str, Any]]], tuple[int, list[dict[str, Any]]] | None]) -> None:
        self.seen: list[list[dict[str, Any]]] = []
        scripted = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                lines = [json.loads(line) for line in body.splitlines()]
                scripted.seen.append(lines)
                answered = answer(lines)
                if answered is None:
                    self.close_connection = True
                    return
                status, results = answered
                content = b"".join(json.dumps(result).encode() + b"\n" for result in results)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True).start()

    @property
    def numbers(self) -> list[list[int]]:
        return [[line["data"]["n"] for line in lines] for lines in self.seen]

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def stored(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"line": number + 1, "id": f"7-{line['data']['n']}", "duplicate": False} for number, line in enumerate(lines)]


def test_a_refusal_for_a_moment_is_repeated_with_the_same_msg_id_and_little_at_once() -> None:
    hold = threading.Event()

    def answer(lines: list[dict[str, Any]]) -> tuple[int, list[dict[str, Any]]]:
        hold.wait(SOON)
        results = stored(lines)
        for result, line in zip(results, lines, strict=True):
            if line["data"]["n"] == 2 and sum(2 in numbers for numbers in server.numbers) < 3:
                refused = {"status": 503, "error": "try_again_later", "detail": "wait", "retry_after_ms": 10}
                result.clear()
                result.update(refused)
                if sum(2 in numbers for numbers in server.numbers) == 1:
                    # These must not pass the one that is repeated.
                    outbox.put("trades:X", {"n": 5})
                    outbox.put("trades:X", {"n": 6})
        return 200, results

    with Scripted(answer) as server, Outbox(server.url, "key") as outbox:
        for n in range(5):
            outbox.put("trades:X", {"n": n})
        hold.set()
        assert outbox.flush(SOON)
        first = next(at for at, numbers in enumerate(server.numbers) if 2 in numbers)
        behind = [n for n in server.numbers[first] if n > 2]
        assert server.numbers[first + 1 : first + 3] == [[2], [2]]
        ids = {line["msg_id"] for lines in server.seen for line in lines if line["data"]["n"] == 2}
        assert len(ids) == 1
        stats = outbox.stats
        assert (stats.sent, stats.failed, stats.retried, stats.reordered) == (7, 0, 1, len(behind))


def test_an_answer_that_breaks_off_is_repeated_from_there() -> None:
    def answer(lines: list[dict[str, Any]]) -> tuple[int, list[dict[str, Any]]] | None:
        if len(server.seen) == 1:
            return None
        return 200, stored(lines)[: 1 if len(server.seen) == 2 else None]

    with Scripted(answer) as server, Outbox(server.url, "key") as outbox:
        for n in range(3):
            outbox.put("trades:X", {"n": n})
        assert outbox.flush(SOON)
        assert (outbox.stats.sent, outbox.stats.failed, outbox.stats.reordered) == (3, 0, 0)
        # The first again, since nobody knows; then what has no answer yet.
        assert [numbers[0] for numbers in server.numbers][:3] == [0, 0, 1]


def test_an_outcome_that_stays_unknown_is_said_to_be() -> None:
    errors: list[FailedPublication] = []
    with Scripted(lambda lines: None) as server, Outbox(server.url, "key", max_age=0.5, on_error=errors.append) as outbox:
        msg_id = outbox.put("orders", {"n": 1}, user="alice")
        eventually("it was given up", lambda: errors)
        assert isinstance(errors[0].error, tickgate.Unknown)
        assert errors[0].error.msg_id == msg_id
    with Scripted(lambda lines: None) as server, tickgate.Gateway(server.url, "key", retries=2) as api:
        with pytest.raises(tickgate.Unknown) as unknown:
            api.publish("orders", {"n": 1}, msg_id="mine")
        assert unknown.value.msg_id == "mine"
        assert len(server.seen) == 3


def test_every_public_name_is_explained() -> None:
    for name in tickgate.__all__:
        assert getattr(tickgate, name).__doc__, name
