"""The schemas of outgoing events only grow from release to release."""

import json
from pathlib import Path
from typing import Any

import pytest

from local.openapi import __main__ as command
from local.openapi import event_types
from local.openapi.schema_changes import RECORDED, breaks, broken, recorded

TEXT, NULL = {"type": "string"}, {"type": "null"}
NULLABLE = {"anyOf": [TEXT, NULL]}
SOME = {"type": "string", "enum": ["a", "b"]}


def of(form: dict[str, Any]) -> dict[str, Any]:
    """A schema of events whose data always has a field `x` of that form."""
    data = {"type": "object", "properties": {"x": form}, "required": ["x"]}
    return {"type": "object", "properties": {"data": data}, "required": ["data"]}


def referring(form: dict[str, Any], *, nullable: bool = False) -> dict[str, Any]:
    """The same, with the form under `$defs`."""
    to = {"$ref": "#/$defs/Form"}
    return of({"anyOf": [to, NULL]} if nullable else to) | {"$defs": {"Form": form}}


def fields(*required: str, **forms: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": forms, "required": list(required)}


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        (TEXT, TEXT, []),
        (NULLABLE, TEXT, []),
        (TEXT, NULLABLE, ["data.x has another form"]),
        (TEXT, {"type": "integer"}, ["data.x has another form"]),
        (TEXT, {}, ["data.x has another form"]),
        ({}, TEXT, []),
        (TEXT | {"pattern": "^a"}, TEXT, ["data.x has another form"]),
        (TEXT, TEXT | {"pattern": "^a"}, []),
        (TEXT | {"format": "uuid"}, TEXT | {"format": "date"}, ["data.x has another form"]),
        (SOME, TEXT | {"enum": ["a"]}, []),
        (SOME, TEXT | {"const": "b"}, []),
        (SOME, TEXT | {"enum": ["a", "b", "c"]}, ["data.x may be 'c'"]),
        (SOME, TEXT, ["data.x may have any value"]),
        (TEXT | {"const": "a"}, TEXT | {"const": "b"}, ["data.x may be 'b'"]),
        (TEXT, SOME, []),
        (
            {"anyOf": [SOME, NULL]},
            {"anyOf": [TEXT | {"enum": ["c"]}, NULL]},
            ["data.x may be 'c'"],
        ),
        ({"type": "array", "items": SOME}, {"type": "array", "items": SOME}, []),
        (
            {"type": "array", "items": SOME},
            {"type": "array", "items": TEXT},
            ["data.x[] may have any value"],
        ),
        ({"type": "array", "items": TEXT}, {"type": "array"}, ["data.x[] has another form"]),
        (
            {"type": "object", "additionalProperties": TEXT},
            {"type": "object", "additionalProperties": NULL},
            ["data.x[] has another form"],
        ),
        (fields(a=TEXT), fields(a=TEXT, b=TEXT), []),
        (fields(a=TEXT), fields(b=TEXT), ["data.x.a is gone"]),
        (fields("a", a=TEXT), fields(a=TEXT), ["data.x.a may be missing"]),
        (fields("a", a=TEXT), fields("a", a=NULL), ["data.x.a has another form"]),
        (fields(a=SOME), fields(a=TEXT), ["data.x.a may have any value"]),
    ],
)
class TestForms:
    def test_in_its_place(self, old: dict[str, Any], new: dict[str, Any], wrong: list[str]) -> None:
        assert breaks(of(old), of(new)) == wrong

    def test_under_a_name(self, old: dict[str, Any], new: dict[str, Any], wrong: list[str]) -> None:
        """Wherever the form is written, an event looks the same."""
        assert breaks(referring(old), referring(new)) == wrong
        assert breaks(of(old), referring(new)) == wrong
        assert breaks(referring(old, nullable=True), referring(new, nullable=True)) == (
            [] if new == NULLABLE else wrong
        )


def test_the_field_itself() -> None:
    assert breaks(of(TEXT), {"type": "object", "properties": {}}) == ["data is gone"]
    assert breaks(of(TEXT) | {"$id": "urn:a:1"}, of(TEXT) | {"$id": "urn:a:2"}) == [
        "its $id is another"
    ]


def test_of_all_types() -> None:
    """A new one may come, and none may go."""
    old = {"access.granted": of(SOME), "access.ended": of(TEXT)}
    assert broken({}, old) == []
    assert broken(old, old | {"debt.opened": of(TEXT)}) == []
    assert broken(old, {"access.granted": of(TEXT)}) == [
        "access.granted: data.x may have any value",
        "access.ended is gone",
    ]


def test_todays_schemas_break_nothing_of_their_own() -> None:
    today = {kind: event_types.schema(kind) for kind in event_types.MODELS}
    assert today
    assert broken(today, today) == []


class TestRecorded:
    def test_the_newest_release_counts(self, tmp_path: Path) -> None:
        for version in ("0.9.0", "0.10.0", "0.2.0"):
            self.record(tmp_path, version, {"debt.opened": {"title": version}})
        (tmp_path / "0.11.0").mkdir()  # a release that recorded no schemas
        assert recorded(tmp_path) == {"debt.opened": {"title": "0.10.0"}}

    def test_before_the_first_release(self, tmp_path: Path) -> None:
        assert recorded(tmp_path / "releases") == {}

    @pytest.mark.parametrize("action", ["--check", "--write"])
    def test_a_change_that_breaks_them_is_refused(
        self,
        action: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """And nothing is written."""
        (tmp_path / "docs/events").mkdir(parents=True)
        self.record(tmp_path / "releases", "0.1.0", {"debt.opened": of(TEXT)})
        monkeypatch.setattr(command, "ROOT", tmp_path)
        assert command.main([action]) == 1
        told = capsys.readouterr().err
        assert "debt.opened: data.x is gone" in told
        assert list((tmp_path / "docs").rglob("*.json")) == []

    @staticmethod
    def record(releases: Path, version: str, schemas: dict[str, Any]) -> None:
        place = releases / version / RECORDED
        place.mkdir(parents=True)
        for kind, schema in schemas.items():
            (place / f"{kind}.json").write_text(json.dumps(schema))
