"""One replica that lets nobody in without a token, as in production: the refusals of the feed's document."""

from __future__ import annotations

import asyncio

from checks import Group, equal
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from world import SOON, World, token

GROUP = Group("tokens required", lambda: World(env={"TICKGATE__AUTH__ANONYMOUS": "never"}))
check = GROUP.check


@check
async def feed_refuses_with_1008_and_the_documents_reasons(world: World) -> None:
    for query, reason in (("", "Authentication required"), ("?token=garbage", "Invalid token")):
        async with connect(f"{world.gateway.url}/ws{query}", origin="http://localhost:3000") as browser:
            try:
                await asyncio.wait_for(browser.recv(), SOON)
            except ConnectionClosed as closed:
                equal((closed.rcvd.code, closed.rcvd.reason), (1008, reason))
            else:
                raise AssertionError("let in")
        try:
            await connect(f"{world.gateway.url}/ws{query}")
        except InvalidStatus as refused:
            equal(refused.response.status_code, 401)
        else:
            raise AssertionError("let in")


@check
async def feed_lets_in_whoever_has_a_token(world: World) -> None:
    client = await world.client(f"/ws?token={token('7', claim='user_id')}")
    equal(client.welcome["user"], "7")
    equal(len((await client.expect("subscribed"))["channels"]), 4)


@check
async def a_run_is_watched_and_commanded_only_with_the_right(world: World) -> None:
    watcher = await world.client(f"/ws/backtest/run-1?token={token('watcher', runs=['other-*'], commands=True)}")
    equal((await watcher.expect("subscribed"))["errors"][0]["code"], 4502)
    await watcher.send(type="command", command="stop")
    equal((await watcher.expect("error"))["code"], 4502)
    owner = await world.client(f"/ws/backtest/run-1?token={token('owner', runs=['run-*'], commands=True)}")
    equal((await owner.expect("subscribed"))["channels"][0]["channel"], "events")
    await owner.send(type="command", command="stop")
    await owner.expect("command_accepted")
