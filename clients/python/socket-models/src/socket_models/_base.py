"""A base class for models that works with Pydantic 1 and 2. Times and decimals are text in JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Self

import pydantic

PYDANTIC_2 = not pydantic.VERSION.startswith("1.")


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
