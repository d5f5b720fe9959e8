"""Values of all kinds as JSON has them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from .errors import Invalid

__all__ = ["now", "plain", "plain_object", "text"]

_DEPTH_MAX = 32


def now() -> str:
    """The time in UTC with milliseconds, as the gateway writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON has it: dataclasses, Pydantic models and other objects become objects of their public attributes,
    decimals, times and ids become text. Raises `Invalid` for what has no such form."""
    if value is None or (isinstance(value, bool | str | int) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Invalid(f"{value} is not a valid JSON number")
        return value
    if depth >= _DEPTH_MAX:
        raise Invalid(f"nested deeper than {_DEPTH_MAX} levels")
    if isinstance(value, Enum):
        return plain(value.value, depth + 1)
    if isinstance(value, Decimal | UUID):
        return str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): plain(one, depth + 1) for key, one in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray):
        return [plain(one, depth + 1) for one in value]
    if hasattr(value, "item") and callable(value.item):
        # A scalar of numpy.
        return plain(value.item(), depth + 1)
    return _attributes(value, depth)


def _attributes(value: Any, depth: int) -> dict[str, Any]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif dump := getattr(value, "model_dump", None) or (getattr(value, "__fields__", None) and getattr(value, "dict", None)):
        fields = dump()
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        fields = {name: one for name, one in vars(value).items() if not name.startswith("_")}
    else:
        raise Invalid(f"{type(value).__name__} cannot be encoded as JSON")
    return {name: plain(one, depth + 1) for name, one in fields.items()}


def plain_object(value: Any) -> dict[str, Any]:
    """The same for what must be an object."""
    result = plain(value)
    if not isinstance(result, dict):
        raise Invalid(f"{type(value).__name__} cannot be encoded as a JSON object")
    return result


def text(value: Any) -> str | None:
    """A price or quantity as text, written as it is."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise Invalid(f"{value!r} is not a price or quantity")
    if not math.isfinite(value):
        raise Invalid(f"{value} is not a price or quantity")
    return format(value, "f") if isinstance(value, Decimal) else format(Decimal(repr(value)), "f")
