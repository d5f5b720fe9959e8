"""Turns the object of a publication into a value of the type that the application asked for."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

from .errors import Invalid


def converter(type: type[Any] | Callable[[dict[str, Any]], Any] | None) -> Callable[[dict[str, Any]], Any] | None:
    """How to make a `type` of a `dict`: a dataclass (fields that it does not have are left out), a Pydantic model of either
    version, a `msgspec.Struct`, or any function; `None` leaves the `dict`."""
    if type is None or type is dict:
        return None
    if dataclasses.is_dataclass(type):
        return _dataclass(type)
    if validate := getattr(type, "model_validate", None) or getattr(type, "parse_obj", None):
        return _guarded(type, validate)
    if hasattr(type, "__struct_fields__"):
        msgspec: Any = importlib.import_module("msgspec")
        return _guarded(type, lambda data: msgspec.convert(data, type))
    return _guarded(type, type)


def _dataclass(type: Any) -> Callable[[dict[str, Any]], Any]:
    names = [field.name for field in dataclasses.fields(type) if field.init]
    return _guarded(type, lambda data: type(**{name: data[name] for name in names if name in data}))


def _guarded(type: Any, convert: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    name = getattr(type, "__name__", repr(type))

    def guarded(data: dict[str, Any]) -> Any:
        try:
            return convert(data)
        except Exception as error:
            raise Invalid(f"a message is no {name}: {error}") from error

    return guarded
