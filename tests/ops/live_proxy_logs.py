"""No log of a shipped proxy holds a token, however a client sends it and whatever goes wrong on the way."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from checks import ROOT, Failed, check
from cluster import Process, get, token, wait_until
from compose import PROXY, ComposeCluster
from isolated import isolated
from tools import debian, library_path

SECONDS = 5
DESCRIPTORS = 20_000
UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"


def _requests(jwt: str, ticket: str, key: str) -> Iterator[tuple[str, bytes]]:
    """Every way to send a secret, right or wrong, with what it is called."""

    def request(target: str, *headers: str, upgrade: bool = True, version: str = "1.1") -> bytes:
        lines = "".join(f"{header}\r\n" for header in headers)
        return f"GET {target} HTTP/{version}\r\nHost: gateway\r\n{lines}{UPGRADE if upgrade else ''}\r\n".encode()

    path = "/ws/trading"
    yield "query", request(f"{path}?token={jwt}")
    yield "authorization", request(path, f"Authorization: Bearer {jwt}")
    yield "sub-protocol", request(path, f"Sec-WebSocket-Protocol: tickgate.v1, bearer.{jwt}")
    yield "ticket", request(f"{path}?ticket={ticket}")
    yield "server-sent events, query", request(f"/sse?channels=orders&token={jwt}", upgrade=False)
    yield "server-sent events, header", request("/sse?channels=orders", f"Authorization: Bearer {jwt}", upgrade=False)
    yield "API key", request("/api/v1/connections", f"X-API-Key: {key}", upgrade=False)
    yield "API key as bearer", request("/api/v1/connections", f"Authorization: Bearer {key}", upgrade=False)
    yield "cookie and referer", request(path, f"Cookie: token={jwt}", f"Referer: http://page/?token={jwt}")
    yield "absolute target", request(f"http://gateway{path}?token={jwt}")
    yield "user of the target", request(f"http://user:{jwt}@gateway{path}")
    for sign in ["%3F", "%3f", ";", "&", "=", "%26", "#"]:
        yield f"misplaced query after {sign}", request(f"{path}{sign}token={jwt}")
    yield "two queries", request(f"{path}?x=1?token={jwt}")
    yield "unknown version", request(f"{path}?token={jwt}", version="9.9")
    yield "HTTP/1.0", request(f"{path}?token={jwt}", upgrade=False, version="1.0")
    yield "space in the target", request(f"{path}?token={jwt} {jwt}")
    yield "header without a colon", request(path, f"Authorization Bearer {jwt}")
    yield "header with a control character", request(path, f"Authorization: Bearer {jwt}\x01")
    yield "header name of a token", request(path, f"{jwt}: x")
    yield "long target", request(f"{path}?token={jwt}&x={'x' * 40_000}")
    yield "long header", request(path, f"Authorization: Bearer {jwt}{'x' * 40_000}")
    yield "no request at all", f"{jwt}\r\n\r\n".encode()
    yield "method of a token", f"{jwt} / HTTP/1.1\r\nHost: gateway\r\n\r\n".encode()
    yield "host of a token", f"GET / HTTP/1.1\r\nHost: {jwt}\r\n\r\n".encode()
    yield "body that does not come", f"POST {path}?token={jwt} HTTP/1.1\r\nHost: gateway\r\nContent-Length: 9\r\n\r\n".encode()


def _send(request: bytes, patience: float = SECONDS) -> int:
    """The status of the answer; 0 without one."""
    host, port = PROXY.split(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), SECONDS) as connection:
        connection.settimeout(patience)
        connection.sendall(request)
        head = connection.recv(4096).split(b" ", 2)
        return int(head[1]) if len(head) > 1 and head[1].isdigit() else 0
    return 0


def _no_token(start: Callable[[ComposeCluster], Process]) -> str:
    with ComposeCluster({"TICKGATE__DRAIN__DELAY": "1s", "TICKGATE__DRAIN__SPREAD": "1s"}) as cluster:
        proxy = start(cluster)
        jwt = token("alice", secret=cluster.token_secret)

        def ticket() -> str:
            asked = urllib.request.Request(
                f"http://{cluster.replicas[0].operations}/api/v1/tickets", method="POST", headers={"Authorization": f"Bearer {jwt}"}
            )
            with urllib.request.urlopen(asked, timeout=SECONDS) as answer:
                return json.load(answer)["ticket"]

        tickets, sent = [ticket()], 0
        expected = {"query": 101, "authorization": 101, "sub-protocol": 101, "ticket": 101, "server-sent events, query": 200}
        for name, request in _requests(jwt, tickets[0], cluster.api_key):
            patience = 1.0 if "does not come" in name else SECONDS
            if (status := _send(request, patience)) != expected.get(name, status):
                raise Failed(f"{name}: {status}, not {expected[name]}")
            sent += 1
        simple = f"GET /ws/trading?token={jwt} HTTP/1.1\r\nHost: gateway\r\n{UPGRADE}\r\n".encode()
        statuses = [_send(simple)]
        # A replica that answers nothing until its client gives up, one that drains, one that is dead, and no replica at all.
        for replica in cluster.replicas:
            replica.send(signal.SIGSTOP)
        statuses.append(_send(simple, 0.5))
        for replica in cluster.replicas:
            replica.send(signal.SIGCONT)
        for replica in cluster.replicas[:2]:
            replica.send(signal.SIGTERM)
        statuses += [_send(simple) for _ in range(5)]
        for replica in cluster.replicas:
            replica.kill()
        statuses += [_send(simple) for _ in range(3)]
        if not set(statuses[-3:]) <= {502, 503}:
            raise Failed(f"without a replica {proxy.name} answers {statuses}")
        text = proxy.log.read_text(errors="replace")
        if "/ws/trading" not in text:
            raise Failed(f"{proxy.name} logs no request: {proxy.tail()}")
        secrets = [*jwt.split(".")[1:], *tickets, cluster.api_key, "bearer."]
        for line in text.splitlines():
            if any(secret[:24] in line for secret in secrets) or "token" in line:
                raise Failed(f"{proxy.name} logs a secret: {line[:300]}")
        return f"{sent + len(statuses)} requests, {len(text.splitlines())} lines"


@check("nginx as shipped: no log holds a token")
@isolated
def nginx() -> str:
    return _no_token(ComposeCluster.start_nginx)


@check("haproxy as shipped: no log holds a token")
@isolated
def haproxy() -> str:
    return _no_token(ComposeCluster.start_haproxy)


@check(f"haproxy as shipped starts under a hard limit of {DESCRIPTORS} descriptors, without a warning")
@isolated
def descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, DESCRIPTORS), DESCRIPTORS))
    command = [str(debian("haproxy")), "-db", "-f", str(ROOT / "deploy/haproxy/haproxy.cfg")]
    checked = subprocess.run([command[0], "-c", *command[2:]], env=library_path(), capture_output=True, text=True, timeout=SECONDS)
    if checked.returncode or "WARNING" in checked.stdout + checked.stderr:
        raise Failed(checked.stdout + checked.stderr)
    proxy = Process(Path("/tmp"), "haproxy-descriptors", command, library_path())
    try:
        proxy.start()
        wait_until(lambda: proxy.running.poll() is not None or get(f"http://{PROXY}/health")[0] == 503, SECONDS, "HAProxy answers")
        if proxy.running.poll() is not None or "FD limit" in proxy.tail():
            raise Failed(f"HAProxy: {proxy.tail()}")
    finally:
        proxy.kill()
        proxy.log.unlink(missing_ok=True)
