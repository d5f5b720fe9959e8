"""The API server, spoken to directly: single requests, and a watch that keeps a list of objects up to date."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable
from urllib.parse import quote

from checks import Failed

REQUEST_SECONDS_MAX = 30


class NotFound(Failed):
    """The API server has no such object."""


class Api:
    """Requests with an administrator's token."""

    def __init__(self, host: str, port: int, token: str, authority: str) -> None:
        self.host, self.port = host, port
        self.headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        self.tls = ssl.create_default_context(cafile=authority)

    def request(self, method: str, path: str, body: object = None, kind: str = "application/json") -> dict:
        """One request. An answer other than 2xx is an error."""
        connection = self.connect(REQUEST_SECONDS_MAX)
        try:
            headers = {**self.headers, "Content-Type": kind}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status == 404:
            raise NotFound(f"{method} {path}: not found")
        if answer.status >= 300:
            raise Failed(f"{method} {path}: {answer.status} {text[:500]}")
        return json.loads(text)

    def get(self, path: str) -> dict:
        return self.request("GET", path)

    def exists(self, path: str) -> bool:
        try:
            self.get(path)
        except NotFound:
            return False
        return True

    def create(self, path: str, body: dict) -> dict:
        return self.request("POST", path, body)

    def patch(self, path: str, body: dict) -> dict:
        """A merge patch."""
        return self.request("PATCH", path, body, "application/merge-patch+json")

    def items(self, path: str, selector: str = "") -> list[dict]:
        query = f"?labelSelector={quote(selector)}" if selector else ""
        return self.get(path + query)["items"]

    def connect(self, timeout: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=self.tls)


class Watch:
    """The objects of one path, by name, as the API server reports them; `changed` is called after each change."""

    def __init__(self, api: Api, path: str, changed: Callable[[dict[str, dict]], None] = lambda objects: None) -> None:
        self.api, self.path, self.changed = api, path, changed
        self.objects: dict[str, dict] = {}
        self.stopping = False
        self.failure: Exception | None = None
        self.version = self._list()
        self.thread = threading.Thread(target=self._run, name=f"watch {path}", daemon=True)
        self.thread.start()

    def check(self) -> None:
        """Raises what went wrong in the meantime."""
        if self.failure:
            raise self.failure

    def stop(self) -> None:
        """Ends it, and raises what went wrong in the meantime."""
        self.stopping = True
        self.check()

    def _list(self) -> str:
        found = self.api.get(self.path)
        self.objects = {item["metadata"]["name"]: item for item in found["items"]}
        self.changed(self.objects)
        return found["metadata"]["resourceVersion"]

    def _run(self) -> None:
        try:
            while not self.stopping:
                self._follow()
        except Exception as error:  # raised by check(), in the thread that can act on it
            self.failure = error

    def _follow(self) -> None:
        connection = self.api.connect(REQUEST_SECONDS_MAX)
        try:
            connection.request("GET", f"{self.path}?watch=1&timeoutSeconds=20&resourceVersion={self.version}", headers=self.api.headers)
            answer = connection.getresponse()
            while line := answer.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    # The version is too old to go on from.
                    self.version = self._list()
                    return
                self._take(event)
        except OSError:
            time.sleep(0.2)
        finally:
            connection.close()

    def _take(self, event: dict) -> None:
        metadata = event["object"]["metadata"]
        self.version = metadata["resourceVersion"]
        if event["type"] == "DELETED":
            self.objects.pop(metadata["name"], None)
        else:
            self.objects[metadata["name"]] = event["object"]
        self.changed(self.objects)
