"""Stores cursors, so that they survive a restart of the program."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Protocol

from ._core.hub import Saved
from .errors import Invalid


class CursorStore(Protocol):
    """Keeps cursors; give an own one for a database. Called on a thread of the connection, one call at a time."""

    def load(self) -> tuple[str | None, dict[str, str]] | None:
        """The user and the cursors that were saved; `None` if nothing was."""

    def save(self, user: str | None, cursors: dict[str, str]) -> None:
        """Replaces what was saved, completely or not at all."""


class CursorFile:
    """A file of cursors. It is replaced in one step, so that a crash leaves the old or the new one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def load(self) -> tuple[str | None, dict[str, str]] | None:
        try:
            text = self.path.read_text("utf-8")
        except FileNotFoundError:
            return None
        try:
            saved = json.loads(text)
            user, cursors = saved["user"], saved["cursors"]
            if not (user is None or isinstance(user, str)) or not isinstance(cursors, dict):
                raise TypeError("not a file of cursors")
            if not all(isinstance(cursor, str) for cursor in cursors.values()):
                raise TypeError("a cursor is not a string")
        except (ValueError, KeyError, TypeError) as error:
            raise Invalid(f"{self.path} cannot be read as cursors: {error}") from error
        return user, cursors

    def save(self, user: str | None, cursors: dict[str, str]) -> None:
        text = json.dumps({"user": user, "cursors": cursors}, indent=1, sort_keys=True)
        directory = self.path.parent
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=directory, prefix=".cursors-", delete=False) as file:
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, self.path)
            except BaseException:
                os.unlink(file.name)
                raise


def store_of(cursors: str | os.PathLike[str] | CursorStore | None) -> CursorStore | None:
    """The store that `cursors=` names."""
    return CursorFile(cursors) if isinstance(cursors, str | os.PathLike) else cursors


def load(store: CursorStore | None) -> Saved | None:
    saved = store.load() if store is not None else None
    return Saved(saved[0], dict(saved[1])) if saved is not None else None
