"""Compares the schemas of outgoing events with those of the last release, which they must not
break.

`make release` records the schemas (`deploy/release.py`). Before the first release there is no
record, and every change is allowed.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# The folder of a recorded release that has its schemas, one file for each type.
RECORDED = "event_schemas"

Schema = dict[str, Any]


def recorded(releases: Path) -> dict[str, Schema]:
    """Returns the schemas of the newest release that has recorded some, by type.

    Returns none if no release has.
    """
    found = sorted(
        releases.glob(f"*.*.*/{RECORDED}"),
        key=lambda each: tuple(map(int, each.parent.name.split("."))),
    )
    return {
        file.stem: json.loads(file.read_text(encoding="utf-8"))
        for folder in found[-1:]
        for file in sorted(folder.glob("*.json"))
    }


def broken(old: Mapping[str, Schema], new: Mapping[str, Schema]) -> list[str]:
    """Returns what readers of the old schemas miss, each with its type; an empty list is right.

    New types are no problem, because readers pass over types that they do not know.
    """
    wrong = []
    for kind, schema in old.items():
        if kind in new:
            wrong += [f"{kind}: {each}" for each in breaks(schema, new[kind])]
        else:
            wrong.append(f"{kind} is gone")
    return wrong


def breaks(old: Schema, new: Schema) -> list[str]:
    """Returns what readers of the old schema miss in events of the new one; an empty list is
    right.

    Every event of the new schema has to be valid under the old one, and no field that the old one
    names may be gone. Fields may be added.
    """
    wrong = [] if old.get("$id") == new.get("$id") else ["its $id is another"]
    return wrong + list(_Comparison(old, new).between(old, new, ""))


class _Comparison:
    def __init__(self, old: Schema, new: Schema) -> None:
        self._old = old
        self._new = new

    def between(self, old: Schema, new: Schema, at: str) -> Iterator[str]:
        """Yields what differs between the forms of one value. `at` names the value."""
        before, after = _alternatives(old, self._old), _alternatives(new, self._new)
        if len(before) == len(after) == 1:
            yield from self._between(before[0], after[0], at)
            return
        for form in after:
            same = [each for each in before if each.get("type") == form.get("type")]
            if len(same) == 1:
                yield from self._between(same[0], form, at)
            elif all(list(self._between(each, form, at)) for each in before):
                yield f"{at} has another form"

    def _between(self, old: Schema, new: Schema, at: str) -> Iterator[str]:
        """Does the same for two forms without alternatives."""
        if any(
            word in old and old[word] != new.get(word) for word in ("type", "pattern", "format")
        ):
            yield f"{at} has another form"
            return
        values = _values(old)
        if values is not None:
            allowed = _values(new)
            if allowed is None:
                yield f"{at} may have any value"
            else:
                yield from (f"{at} may be {each!r}" for each in allowed if each not in values)
        yield from self._of_fields(old, new, at)
        for word in ("items", "additionalProperties"):
            if isinstance(old.get(word), dict):
                form = new.get(word)
                yield from self.between(
                    old[word], form if isinstance(form, dict) else {}, f"{at}[]"
                )

    def _of_fields(self, old: Schema, new: Schema, at: str) -> Iterator[str]:
        was, now = old.get("properties", {}), new.get("properties", {})
        for name, form in was.items():
            place = f"{at}.{name}" if at else name
            if name not in now:
                yield f"{place} is gone"
                continue
            if name in old.get("required", []) and name not in new.get("required", []):
                yield f"{place} may be missing"
            yield from self.between(form, now[name], place)


def _alternatives(form: Schema, root: Schema) -> list[Schema]:
    """Returns the forms that a value may have, with the texts of `$ref` in their places."""
    if "$ref" in form:
        name = form["$ref"].removeprefix("#/$defs/")
        beside = {word: value for word, value in form.items() if word != "$ref"}
        return _alternatives(root["$defs"][name] | beside, root)
    if "anyOf" in form:
        return [one for each in form["anyOf"] for one in _alternatives(each, root)]
    return [form]


def _values(form: Schema) -> list[Any] | None:
    """Returns the only values that a form allows, None if it allows others."""
    if "const" in form:
        return [form["const"]]
    found: list[Any] | None = form.get("enum")
    return found
