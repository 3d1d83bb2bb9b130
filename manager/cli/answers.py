"""How the answer to a query is shown: a column a field, whatever the query gave."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any

from manager.cli.table import Column, Document, Sheet, Value, plain, rfc3339
from manager.repository.question import Answer, Field

Row = tuple[Any, ...]
LONG = ("int8", "numeric")


def sheet_of(answer: Answer) -> Sheet[Row]:
    """The fields in their order; a row's name is its first value."""
    columns = tuple(Column(field.name, partial(_value, place)) for place, field in enumerate(answer.fields))
    return Sheet(columns, name=_name, document=partial(_document, answer.fields))


def _value(place: int, row: Row) -> Value:
    value = row[place]
    if value is None or isinstance(value, (str, bool, int, float, datetime)):
        return value
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, (Mapping, Sequence)) and not isinstance(value, bytes):
        return json.dumps(_inside("", value))
    return str(value)


def _name(row: Row) -> str:
    return plain(_value(0, row)) if row else ""


def _document(fields: Sequence[Field], row: Row) -> Document:
    return {field.name: _inside(field.type, value) for field, value in zip(fields, row, strict=True)}


def _inside(kind: str, value: Any) -> object:
    """As in every document: 64-bit numbers and more as text, times in RFC 3339."""
    if value is None or isinstance(value, (str, bool, float)):
        return value
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (list, tuple)):
        return [_inside(kind.removeprefix("_").removesuffix("[]"), each) for each in value]
    return value if isinstance(value, int) and kind not in LONG else str(value)
