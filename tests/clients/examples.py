"""The examples of the documents, run as they stand there: each is published, and heard by a client."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path

from checks import Group, equal
from world import API_KEY, HERE, Process, World, free_port, token

ROOT = HERE.parent.parent
GROUP = Group("examples", lambda: World(redis=True, env={"TICKGATE__DRAIN__SPREAD": "0s", "TICKGATE__REDIS__ENGINES": "true"}))
check = GROUP.check


def example(document: str, mark: str) -> str:
    """The block that begins with this mark."""
    found = re.search(rf"^```{re.escape(mark)}\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{document} has no block marked {mark!r}"
    return found[1]


async def run(world: World, mark: str, document: str) -> str:
    """Runs an example with all that the documents say it has in its environment. Returns what it said."""
    shutil.copy(ROOT / "src/backplane/redis/scripts/publish.lua", world.dir)
    language = mark.split(" ")[0]
    interpreter = {"sh": ["sh", "-ec"], "python": [os.environ["PYTHON"], "-c"], "javascript": ["node", "-e"]}[language]
    env = {
        "API": world.gateway.api,
        "KEY": API_KEY,
        "GATEWAY": world.gateway.url,
        "TOKEN": token("engine", publish=["*"]),
        "REDIS_URL": f"redis://127.0.0.1:{world.redis_port}",
        "PATH": f"{Path(os.environ['TICKGATE_BIN']).resolve().parent}:{os.environ['PATH']}",
    }
    return await (await Process.start(*interpreter, example(document, mark), env=env, cwd=world.dir)).finished()


@check
async def publishing_by_http_and_websocket(world: World) -> None:
    alice = await world.client(f"/ws/trading?token={token('alice')}")
    await alice.subscribe("orders")
    marks = {
        "sh http": ["1"],
        "python http": ["2"],
        "javascript http": ["3"],
        "sh lines": ["4", "5"],
        "sh cli": ["6"],
        "python socket": ["7"],
        "javascript socket": ["8"],
    }
    for mark, orders in marks.items():
        said = await run(world, mark, "docs/publishing.md")
        for order in orders:
            message = await alice.expect("order_update")
            equal(message["order_id"], order, mark)
            assert message["_meta"]["id"] in said, f"{mark} was not told the id: {said}"
    await run(world, "python http", "docs/publishing.md")
    await alice.nothing_more()


@check
async def publishing_by_envelope(world: World) -> None:
    tab = await world.client("/ws/backtest/run-123")
    await tab.expect("subscribed")
    said = await run(world, "python envelope", "docs/publishing.md")
    assert "acknowledged_msg_id" in said, said
    message = await tab.next()
    equal(message["payload"]["payload_json"]["order_id"], "9")


@check
async def publishing_straight_into_redis(world: World) -> None:
    alice = await world.client(f"/ws/trading?token={token('alice')}")
    await alice.subscribe("orders")
    await alice.subscribe("ticker:BTCUSDT", snapshot=False)
    for mark, price, order in (("sh", "50000.10", None), ("python", "50000.20", "7"), ("javascript", "50000.30", "8")):
        await run(world, mark, "docs/publishing-from-redis.md")
        heard = []
        while not (any(m.get("price") == price for m in heard) and (not order or any(m.get("id") == order for m in heard))):
            heard.append(await alice.next())
        assert sum(m.get("type") == "order" for m in heard) <= 1, f"an order came twice: {heard}"


@check
async def the_wire_documents_curl(world: World) -> None:
    alice = await world.client(f"/ws/trading?token={token('alice')}")
    await alice.subscribe("orders")
    text = (ROOT / "docs/wire.md").read_text()
    command = re.search(r"^curl -s .*?'\n(?=\{)", text, re.MULTILINE | re.DOTALL)[0]
    command = command.replace("localhost:8001", world.gateway.api.removeprefix("http://"))
    said = await (await Process.start("sh", "-ec", command, env={"KEY": API_KEY})).finished()
    equal((await alice.expect("order_update"))["_meta"]["id"] in said, True, said)


@check
async def the_wire_documents_event_stream(world: World) -> None:
    """Lost and opened again by the document's two lines: what was published meanwhile comes, and then the live ones."""
    env = {"TOKEN": token("alice")}

    async def opened(mark: str, **more: str) -> Process:
        command = example("docs/wire.md", mark).replace("localhost:8000", world.gateway.url.removeprefix("ws://"))
        stream = await Process.start("sh", "-ec", f"exec {command.strip()}", env={**env, **more})
        world.programs.append(stream)
        return stream

    stream = await opened("sh sse")
    await stream.line('^data: {"type":"subscribed",.*"errors":\\[\\]')
    await stream.line("^id: ")
    await world.gateway.publish("orders", {"type": "order_update", "order_id": "1"}, user="alice")
    await stream.line('^data: {"type":"order_update","order_id":"1"')
    last = (await stream.line("^id: ")).removeprefix("id: ")
    await stream.stop()
    for order in ("2", "3"):
        await world.gateway.publish("orders", {"type": "order_update", "order_id": order}, user="alice")
    stream = await opened("sh sse again", LAST=last)
    for order in ("2", "3"):
        await stream.line(f'^data: {{"type":"order_update","order_id":"{order}",.*"replayed":true')
    await world.gateway.publish("trades:BTCUSDT", {"type": "trade", "price": "1"})
    await stream.line('^data: {"type":"trade","price":"1","_meta":{"channel":"trades:BTCUSDT","id":"[0-9-]+"}}')
    assert not stream.has('"order_id":"1"'), stream.lines


@check
async def the_three_lines_that_a_fresh_gateway_prints(world: World) -> None:
    """As a stranger sees it: no file, no variable, only the ports are ours."""
    listen, operations = (f"127.0.0.1:{free_port()}" for _ in range(2))
    gateway = await Process.start(os.environ["TICKGATE_BIN"], "serve", "--listen", listen, "--ops-listen", operations)
    world.programs.append(gateway)
    lines = {}
    for name in ("watch", "subscribe", "publish"):
        await gateway.line(f"^{name}:$")
        lines[name] = await gateway.line("^  ")
    await gateway.line("serving")
    watch, subscribe = [await Process.start("sh", "-c", f"exec {lines[name]}") for name in ("watch", "subscribe")]
    world.programs += [watch, subscribe]
    await watch.line('ticker:BTCUSDT .*"type":"ticker"')
    # The tail says on standard error when it is subscribed.
    await subscribe.line("orders")
    await (await Process.start("sh", "-c", lines["publish"])).finished()
    await subscribe.line('"type":"order_update","order_id":"1"')


@check
async def the_readmes_market_and_publish_snippets(world: World) -> None:
    def here(text: str) -> str:
        public, operations = world.gateway.url.removeprefix("ws://"), world.gateway.api.removeprefix("http://")
        return text.replace("localhost:8000", public).replace("localhost:8001", operations)

    # A page has a WebSocket of its own.
    page = "globalThis.WebSocket = require('ws');" + here(example("README.md", "javascript market"))
    programs = [
        await Process.start("node", "-e", page),
        await Process.start(os.environ["PYTHON"], "-u", "-c", here(example("README.md", "python market"))),
    ]
    world.programs += programs
    await programs[0].line('"type":"ticker"')
    await programs[1].line('"type":"trade"')
    demo = await world.client(f"/ws/trading?token={token('demo')}")
    await demo.subscribe("orders")
    said = await (await Process.start("sh", "-ec", here(example("README.md", "sh publish")), env={"KEY": API_KEY})).finished()
    assert (await demo.expect("order_update"))["_meta"]["id"] in said, said


@check
async def the_readmes_three_replicas(world: World) -> None:
    """The lines as they stand there; only the ports and the folder of the program are ours."""
    ports = {name: str(free_port()) for name in ("6390", "8100", "8101", "8110", "8111", "8120", "8121")}

    def here(lines: str) -> str:
        lines = lines.replace("81${n}0", "$(eval echo \\$PORT_81${n}0)").replace("81${n}1", "$(eval echo \\$PORT_81${n}1)")
        for name, port in ports.items():
            lines = lines.replace(f":{name}", f":{port}").replace(f"--port {name}", f"--port {port}")
        return lines.replace("target/release/tickgate", os.environ["TICKGATE_BIN"])

    env = {f"PORT_{name}": port for name, port in ports.items()}
    start = here(example("README.md", "sh replicas"))
    replicas = await Process.start("sh", "-ec", start + "\nwait", env=env, cwd=world.dir, group=True)
    world.programs.append(replicas)
    for _ in range(3):
        await replicas.line("serving")
    said = await (await Process.start("sh", "-ec", here(example("README.md", "sh across")))).finished()
    assert '"type":"order_update","order_id":"1"' in said, said


@check
async def the_trader_and_the_engine(world: World) -> None:
    """Fills that are published while the trader is away come when it is back, once; so do those that no gateway answered."""
    gateway = world.gateway
    trader = Path(os.environ["TICKGATE_BIN"]).resolve().parent / "examples/trader"
    assert trader.exists(), f"{trader} is not built (cargo test --workspace --no-run)"
    env = {"API": gateway.api, "KEY": API_KEY, "TOKEN": token("trader")}
    engine = await Process.start(os.environ["PYTHON"], ROOT / "examples/engine.py", env=env)
    world.programs.append(engine)

    async def trade() -> Process:
        started = await Process.start(trader, f"{gateway.url}/ws/trading", world.dir / "cursors.json", env=env)
        world.programs.append(started)
        await started.line("^state live$")
        return started

    async def fill(number: int) -> None:
        await engine.say(f'{{"user": "trader", "fill_id": "{number}"}}')

    running = await trade()
    await fill(1)
    await running.line('^order .*"fill_id": "1"')
    first = await engine.line("-0$")
    while first not in (world.dir / "cursors.json").read_text():
        await asyncio.sleep(0.01)
    await running.stop()
    await fill(2)
    await engine.line("-1$")
    running = await trade()
    await gateway.stop(kill=True)
    await fill(3)
    await engine.line("retrying$")
    await gateway.start()
    await running.line('^order .*"fill_id": "3"')
    heard = [line for line in running.lines if line.startswith("order")]
    equal(len(heard), 2, f"fills 2 and 3, once each: {running.lines}")
    assert '"fill_id": "2"' in heard[0], heard
    assert not running.has("^gap"), running.lines
