"""Checks the template variables of a queue: a JSON Schema for the values that a run may bring."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from launch_worker.errors import InputError
from launch_worker.model.checks import VALUE_NAME
from launch_worker.model.macros import as_text
from launch_worker.untrusted.patterns import PatternError, searcher
from launch_worker.untrusted.text import read_json

#: Keywords that are refused: they name a schema elsewhere, which could change or never end.
_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_MAX_BYTES = 64 * 1024
_MAX_DEPTH = 30
_MAX_SHOWN = 200
#: Characters of a text that are searched. A pattern of 10 KB of states takes half a second for that.
_MAX_SEARCHED = 1024
#: Seconds of processor time for the check of one run's values.
_MAX_S = 1.0


def check_schema(schema: Mapping[str, Any]) -> None:
    """Check a schema of template variables. Raises InputError, in one sentence."""
    if not isinstance(schema, Mapping):
        raise InputError("the template variables must be a JSON Schema, a map")
    if not schema:
        return
    _check_shape(schema)
    if schema.get("type") != "object":
        raise InputError('the schema of the template variables must have "type": "object", with a property a variable')
    text = _text(schema)
    from jsonschema.exceptions import SchemaError

    # With both keywords the library would search by Python's own regular expressions.
    if '"unevaluatedProperties"' in text and '"patternProperties"' in text:
        raise InputError(
            "the template variables have unevaluatedProperties and patternProperties, which are not allowed together; "
            "use additionalProperties"
        )
    try:
        validator = _validator(text)
    except SchemaError as error:
        where = ".".join(str(part) for part in error.absolute_path)
        place = f" at {where}" if where else ""
        raise InputError(f"the template variables are no valid JSON Schema{place}: {_short(error.message)}") from None
    except PatternError as error:
        raise InputError(f"the template variables have a pattern that cannot be used: {error}") from None
    except RecursionError:
        raise InputError(_TOO_DEEP) from None
    for name, rule in schema.get("properties", {}).items():
        if not VALUE_NAME.fullmatch(name):
            raise InputError(f"{name[:60]!r} is not a name for a template variable; use letters, digits, _ and .")
        if isinstance(rule, Mapping) and "default" in rule:
            reason = _reason(validator.evolve(schema=rule), rule["default"], at=name)
            if reason:
                raise InputError(f"the schema does not allow its own default: {reason}")


def complete_values(schema: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the schema's defaults for those that are missing. Raises InputError with the reason."""
    if not schema:
        return dict(values)
    if not _is_finite(values):
        raise InputError("the values of template variables must be finite numbers: NaN and Infinity are not")
    completed: dict[str, Any] = _with_defaults(schema, values)
    reason = _reason(_validator(_text(schema)), completed)
    if reason:
        raise InputError(reason)
    return completed


_TOO_DEEP = f"the schema of the template variables is nested more than {_MAX_DEPTH} deep; make it simpler"


def _check_shape(schema: Any, depth: int = 0) -> None:
    if depth > _MAX_DEPTH:
        raise InputError(_TOO_DEEP)
    if isinstance(schema, Mapping):
        for name, value in schema.items():
            if not isinstance(name, str):
                raise InputError(f"{name!r} in the schema of the template variables must be a text")
            if name in _REFERENCES:
                raise InputError(
                    f"{name} is not allowed in the template variables; write what it refers to in its place"
                )
            _check_shape(value, depth + 1)
    elif isinstance(schema, (list, tuple)):
        for value in schema:
            _check_shape(value, depth + 1)


def _text(schema: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(schema, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise InputError(f"the template variables cannot be written as JSON: {error}") from None
    if len(text.encode()) > _MAX_BYTES:
        raise InputError(f"the template variables have more than {_MAX_BYTES:,} bytes; make them shorter")
    return text


@lru_cache(maxsize=64)
def _validator(text: str) -> Any:
    # Imported on demand: most queues have no variables.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError
    from jsonschema.validators import extend

    schema = read_json(text)
    Draft202012Validator.check_schema(schema)
    patterns = _Patterns()
    for wanted in _patterns_in(schema):
        _ = patterns[wanted]

    def pattern(_: Any, wanted: str, value: Any, __: Any) -> Iterator[ValidationError]:
        if isinstance(value, str) and not patterns[wanted](value):
            yield ValidationError(f"{value!r} does not match {wanted!r}")

    def pattern_properties(validator: Any, rules: Mapping[str, Any], value: Any, _: Any) -> Iterator[ValidationError]:
        for wanted, rule in rules.items() if isinstance(value, dict) else ():
            for name in filter(patterns[wanted], value):
                yield from validator.descend(value[name], rule, path=name, schema_path=wanted)

    def additional_properties(validator: Any, rule: Any, value: Any, siblings: Any) -> Iterator[ValidationError]:
        if not isinstance(value, dict):
            return
        known, wanted = siblings.get("properties", {}), siblings.get("patternProperties", {})
        for name in value:
            if name in known or any(patterns[each](name) for each in wanted):
                continue
            if rule is False:
                yield ValidationError(f"Additional properties are not allowed ({name!r} was unexpected)")
            else:
                yield from validator.descend(value[name], rule, path=name)

    def unique_items(_: Any, wanted: bool, value: Any, __: Any) -> Iterator[ValidationError]:
        if wanted and isinstance(value, list) and len(set(map(_key, value))) < len(value):
            yield ValidationError(f"{value!r} has non-unique elements")

    # The library searches by Python's regular expressions, which may never end, and compares each two elements.
    ours = {
        "pattern": pattern,
        "patternProperties": pattern_properties,
        "additionalProperties": additional_properties,
        "uniqueItems": unique_items,
    }
    bounded = {word: _bounded(check) for word, check in (Draft202012Validator.VALIDATORS | ours).items()}
    return extend(Draft202012Validator, bounded)(schema)  # type: ignore[no-untyped-call]


def _key(value: Any) -> Any:
    """A value to compare with others as JSON has them: 1 is 1.0, and true is no 1."""
    if isinstance(value, dict):
        return frozenset((name, _key(inner)) for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(_key, value))
    return (bool, value) if isinstance(value, bool) else value


#: Keywords whose values are no schemas, and those whose values are maps of names to schemas.
_PLAIN = frozenset({"default", "const", "enum", "examples"})
_OF_NAMES = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})


def _patterns_in(schema: Any) -> Iterator[str]:
    """All regular expressions of a schema."""
    if isinstance(schema, list):
        for each in schema:
            yield from _patterns_in(each)
    if not isinstance(schema, dict):
        return
    for keyword, value in schema.items():
        if keyword == "pattern":
            yield value
        elif keyword in _OF_NAMES:
            yield from value if keyword == "patternProperties" else ()
            for rule in value.values():
                yield from _patterns_in(rule)
        elif keyword not in _PLAIN:
            yield from _patterns_in(value)


class _Budget(threading.local):
    """The processor time of this thread at which the check of one run's values is given up."""

    until_s = 0.0

    def begin(self) -> None:
        self.until_s = time.thread_time() + _MAX_S

    def look(self) -> None:
        if time.thread_time() > self.until_s:
            raise ValueError(f"all checks together take more than {_MAX_S:g} s")


_budget = _Budget()


def _bounded(check: Callable[..., Any]) -> Callable[..., Any]:
    """The check of one keyword, which is given up when all checks together have taken too long."""

    def bounded(*arguments: Any) -> Any:
        _budget.look()
        return check(*arguments)

    return bounded


class _Patterns(dict[str, Callable[[str], bool]]):
    """A searcher for each pattern, made once. Each text is bounded."""

    def __missing__(self, pattern: str) -> Callable[[str], bool]:
        try:
            # Texts are short, and the time for all is bounded.
            search = searcher(pattern, max_weight=math.inf)
        except PatternError as error:
            raise PatternError(f"{_short(pattern)!r}: {error}") from None

        def bounded(text: str) -> bool:
            if len(text) > _MAX_SEARCHED:
                raise PatternError(
                    f"a text has more than {_MAX_SEARCHED:,} characters, and patterns are tried on no more"
                )
            found = search(text)
            _budget.look()
            return found

        self[pattern] = bounded
        return bounded


def _with_defaults(schema: Any, values: Any) -> Any:
    """The values with defaults, also within maps that are given; a missing map is not made."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(values, Mapping) or not isinstance(properties, Mapping):
        return values
    completed = dict(values)
    for name, rule in properties.items():
        if name in completed:
            completed[name] = _with_defaults(rule, completed[name])
        elif isinstance(rule, Mapping) and "default" in rule:
            completed[name] = rule["default"]
    return completed


def _reason(validator: Any, value: Any, *, at: str = "") -> str:
    """Why the rules refuse the value of the variable `at`, or of all; '' when they allow it."""
    from jsonschema.exceptions import best_match

    _budget.begin()
    try:
        error = best_match(validator.iter_errors(value))
    except (ArithmeticError, RecursionError, TypeError, ValueError) as failure:
        return f"the schema of the template variables cannot be tried on them ({failure}); ask who configured the queue"
    if error is None:
        return ""
    path = ".".join(str(part) for part in ([at] if at else []) + list(error.absolute_path))
    if error.validator == "required" and isinstance(error.instance, Mapping):
        missing = next((name for name in error.validator_value if name not in error.instance), "")
        full = f"{path}.{missing}" if path else missing
        return f"template variable {full!r} is missing; give it a value with --set {full}=VALUE"
    message = _short(error.message)
    if not path:
        return f"template variables: {message}"
    if error.validator == "type" and error.validator_value == "string" and not path.count("."):
        message += f"; write it as a text: --set '{path}=\"{as_text(error.instance)}\"'"
    return f"template variable {path!r}: {message}"


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, (list, tuple)) or all(map(_is_finite, value))


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= _MAX_SHOWN else one_line[:_MAX_SHOWN] + "…"
