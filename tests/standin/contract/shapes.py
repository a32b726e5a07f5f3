"""Holding an answer against the SDK's own types: nothing missing, nothing unknown, all typed."""

import types
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import commet.types

_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    if cls not in _HINTS:
        _HINTS[cls] = get_type_hints(cls, vars(commet.types))
    return _HINTS[cls]


def assert_complete(raw: Any, parsed: Any, where: str = "answer") -> None:
    """The JSON has every key its type requires and no other, and every value has its type."""
    if is_dataclass(parsed) and not isinstance(parsed, type):
        assert isinstance(raw, dict), where
        _assert_keys(raw, parsed, where)
        for field in fields(parsed):
            value, key = getattr(parsed, field.name), field.metadata["wire_name"]
            if key in raw:
                hint = _hints(type(parsed))[field.name]
                assert _fits(value, hint), f"{where}.{key}: {value!r} is not {hint}"
                assert_complete(raw[key], value, f"{where}.{key}")
    elif isinstance(parsed, list):
        for index, (one, other) in enumerate(zip(raw, parsed, strict=True)):
            assert_complete(one, other, f"{where}[{index}]")


def _assert_keys(raw: dict[str, Any], parsed: Any, where: str) -> None:
    known = {f.metadata["wire_name"]: f.metadata["required"] for f in fields(parsed)}
    missing = {key for key, required in known.items() if required} - raw.keys()
    assert not missing, f"{where} lacks {sorted(missing)}"
    assert not raw.keys() - known.keys(), f"{where} has unknown {sorted(raw.keys() - known.keys())}"


def _fits(value: Any, hint: Any) -> bool:  # noqa: PLR0911 - one line per kind of type
    origin = get_origin(hint)
    if hint is Any:
        return True
    if origin in {Union, types.UnionType}:
        return any(_fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin is list:
        return isinstance(value, list) and all(_fits(v, get_args(hint)[0]) for v in value)
    if origin is dict:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return isinstance(value, hint)
    return isinstance(value, hint)
