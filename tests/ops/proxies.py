"""The shipped proxy configurations with the addresses of a test. Changes addresses and folders, nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from checks import ROOT


def nginx_configuration(folder: Path, listen: int, replicas: list[int]) -> Path:
    """deploy/nginx/nginx.conf, listening on loopback, writing below `folder`."""
    text = (ROOT / "deploy/nginx/nginx.conf").read_text()
    for number, port in enumerate(replicas, 1):
        text = text.replace(f"gateway-{number}:8000", f"127.0.0.1:{port}")
    text = text.replace("listen 8080", f"listen 127.0.0.1:{listen}")
    text = text.replace("/tmp/", f"{folder}/").replace("/dev/stdout", f"{folder}/access.log")
    return _write(folder / "nginx.conf", text)


def haproxy_configuration(folder: Path, listen: int, replicas: list[int]) -> Path:
    """deploy/haproxy/haproxy.cfg, listening on loopback, for as many clients as a developer's limits allow."""
    text = (ROOT / "deploy/haproxy/haproxy.cfg").read_text()
    for number, port in enumerate(replicas, 1):
        text = text.replace(f"gateway-{number}:8000", f"127.0.0.1:{port}")
    text = text.replace("bind :8080", f"bind 127.0.0.1:{listen}").replace("maxconn 60000", "maxconn 8000")
    return _write(folder / "haproxy.cfg", text)


def _write(path: Path, text: str) -> Path:
    if left := re.search(r"gateway-\d:\d+", text):
        raise AssertionError(f"{left[0]} has no address in this test")
    path.write_text(text)
    return path
