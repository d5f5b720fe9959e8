"""A base class for models that works with Pydantic 1 and 2. Times and decimals are text in JSON."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Self
from uuid import UUID

import pydantic

PYDANTIC_2 = not pydantic.VERSION.startswith("1.")


# Types of columns that JSON does not have.
_COLUMNS = (date, Enum, UUID)


def now() -> str:
    """The time in UTC with milliseconds, as the gateway writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


if PYDANTIC_2:
    from pydantic_core import from_json, to_json

    class Model(pydantic.BaseModel):
        """A model that keeps fields it does not declare, and reads attributes of objects."""

        model_config = pydantic.ConfigDict(extra="allow", from_attributes=True)

        def json(self, **options: Any) -> str:
            """The model as JSON."""
            return self.model_dump_json(**options)

        @classmethod
        def parse_raw(cls, text: str | bytes) -> Self:  # type: ignore[override]
            """A model from JSON."""
            return cls.model_validate(from_json(text))

        @classmethod
        def of(cls, row: Any) -> Self:
            """A model from an object's attributes, such as a row of SQLAlchemy."""
            return cls.model_validate(row)

        @classmethod
        def json_schema(cls) -> dict[str, Any]:
            """The JSON Schema of the model."""
            return cls.model_json_schema()

    def plain(value: Any) -> Any:
        """A value as JSON has it: enums, times and decimals become text."""
        return from_json(to_json(value))

    class Entity(Model):
        """A model of rows, as databases return them: times, UUIDs, enums and numbers become the text of text fields."""

        model_config = pydantic.ConfigDict(coerce_numbers_to_str=True)

        @pydantic.field_validator("*", mode="before")
        @classmethod
        def _plain(cls, value: Any) -> Any:
            return plain(value) if isinstance(value, _COLUMNS) else value

else:
    import json as _json

    from pydantic.json import pydantic_encoder

    def _encoded(value: Any) -> Any:
        return str(value) if isinstance(value, Decimal) else pydantic_encoder(value)

    class Model(pydantic.BaseModel):  # type: ignore[no-redef]
        """A model that keeps fields it does not declare, and reads attributes of objects."""

        class Config:
            extra = "allow"
            orm_mode = True
            json_encoders = {Decimal: str}  # noqa: RUF012

        @classmethod
        def of(cls, row: Any) -> Self:
            """A model from an object's attributes, such as a row of SQLAlchemy."""
            return cls.from_orm(row)

        @classmethod
        def json_schema(cls) -> dict[str, Any]:
            """The JSON Schema of the model."""
            return cls.schema()

    def plain(value: Any) -> Any:
        """A value as JSON has it: enums, times and decimals become text."""
        return _json.loads(_json.dumps(value, default=_encoded))

    class Entity(Model):  # type: ignore[no-redef]
        """A model of rows, as databases return them: times, UUIDs, enums and numbers become the text of text fields."""

        @pydantic.validator("*", pre=True)
        def _plain(cls, value: Any) -> Any:  # noqa: N805
            return plain(value) if isinstance(value, _COLUMNS) else value
