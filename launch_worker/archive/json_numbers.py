"""Makes conditions in SQL on numbers in the JSON of configs and summaries, which each fitting row meets."""

from __future__ import annotations

import json
import math
from typing import Any

from sqlalchemy import ColumnElement, case, cast, exists, false, func, literal, or_, true
from sqlalchemy.dialects.postgresql import JSONB, JSONPATH

from launch_worker.archive.schema import runs
from launch_worker.model.conditions import Test

_c = runs.c
_SIGNS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
#: Parts of JSON texts that PostgreSQL refuses to read, and many that it does not; and characters of the longest text
#: that it is given.
_ODD = "NaN|Infinity|u0000|u[dD][89a-fA-F]|[eE][+-]?[0-9]{4}"
_LONGEST = 8000


def number_condition(test: Test, *, is_sqlite: bool) -> ColumnElement[bool] | None:
    """What a row has for certain in which a value of `config` or `summary` compares so; None where that is unknown.

    Rows whose JSON the database cannot read meet it too.
    """
    sign = _SIGNS.get(test.word)
    if sign is None:
        return None
    edge = test.operands[0]
    if isinstance(edge, (bool, str)) or not isinstance(edge, (int, float)) or abs(edge) > 1e300:
        return None
    # One step wider: the database may round a number that is longer than its own.
    edge = math.nextafter(float(edge), -math.inf if sign[0] == ">" else math.inf)
    head, *names = test.path.split(".")
    # A key may have dots, and in W&B's filters a value is `config.NAME.value`.
    ends = [names, names[:-1]] if names[-1] == "value" and len(names) > 1 else [names]
    keys = sorted({".".join(end[at:]) for end in ends for at in range(len(end))})
    column = _c.config if head == "config" else _c.record
    has = (_in_sqlite if is_sqlite else _in_postgresql)(head, keys, sign, edge)
    # Of a run that is not sealed only Redis has the summary.
    return case((column == "", false() if head == "config" else true()), else_=has)


def _in_sqlite(head: str, keys: list[str], sign: str, edge: float) -> ColumnElement[Any]:
    text: ColumnElement[Any] = _c.config if head == "config" else func.json_extract(_c.record, "$.summary")
    values = func.json_tree(text).table_valued("key", "type", "value")
    is_number = values.c.type.in_(["integer", "real"])
    found = exists().where(is_number, values.c.key.in_(keys), values.c.value.op(sign, is_comparison=True)(edge))
    return case((text.is_(None), false()), (func.json_valid(text) == 1, found), else_=true())


def _in_postgresql(head: str, keys: list[str], sign: str, edge: float) -> ColumnElement[Any]:
    column = _c.config if head == "config" else _c.record
    text: ColumnElement[Any] = column if head == "config" else cast(column, JSONB)["summary"].astext
    is_key = " || ".join(f"@.key == $key{at}" for at in range(len(keys)))
    path = f'$.** ? (@.type() == "object").keyvalue() ? ({is_key}).value ? (@ {sign} $edge)'
    values = json.dumps({f"key{at}": key for at, key in enumerate(keys)} | {"edge": edge})
    # A record may have an empty summary.
    read = cast(func.nullif(text, ""), JSONB)
    found = func.jsonb_path_exists(read, cast(literal(path), JSONPATH), cast(literal(values), JSONB), True)
    is_odd = or_(column.op("~", is_comparison=True)(_ODD), func.length(column) > _LONGEST)
    return case((is_odd, true()), else_=func.coalesce(found, false()))
