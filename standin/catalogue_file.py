"""Reads a catalogue file, JSON or YAML, and records the line of each value."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_YAML = {".yaml", ".yml"}

Place = tuple[str | int, ...]


class UnreadableError(ValueError):
    """The file is neither JSON nor YAML, or has a key twice. `reasons` has one line for each."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = reasons


@dataclass(frozen=True)
class Document:
    """The content of a file. `lines` has the line of every value, by the value's place, counted
    from 1.
    """

    value: Any
    lines: Mapping[Place, int]

    def line(self, place: Place) -> int | None:
        """Returns the line of a place. If there is no value, returns the line of the value
        around it.
        """
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place)


def read(file: Path) -> Document:
    """Returns the content of the file: YAML if its name ends in a YAML extension, else JSON.

    Raises UnreadableError, and OSError if there is no such file.
    """
    data = file.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableError(f"line {line}: this is not UTF-8 text") from None
    return _yaml(text) if file.suffix.lower() in _YAML else _json(text)


def _json(text: str) -> Document:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UnreadableError(f"line {error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise UnreadableError("not JSON: too many brackets inside each other") from None
    # JSON is YAML, except that YAML allows no tabs between values. JSON has tabs nowhere else.
    loader = yaml.SafeLoader(text.replace("\t", " "))
    try:
        node = loader.get_single_node()
    except yaml.YAMLError:  # YAML refuses some characters; then only the lines are missing
        return Document(value, {})
    if node is None:  # a file that has only `null` is no node for YAML
        return Document(value, {})
    _refuse_repeated_keys(node)
    return Document(value, dict(_lines(node)))


def _yaml(text: str) -> Document:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise UnreadableError("line 1: the file is empty")
        _refuse_repeated_keys(node)
        value = loader.construct_document(node)
        # Only now, because `<<` has been replaced by the values that it stands for.
        return Document(value, dict(_lines(node)))
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UnreadableError(f"{where}not YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UnreadableError(f"line {line}: not YAML: {error.reason}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, UnreadableError):
            raise
        raise UnreadableError(f"not YAML: {error}") from None  # 2026-13-01 is no date


def _lines(
    node: yaml.Node, place: Place = (), around: tuple[int, ...] = ()
) -> Iterator[tuple[Place, int]]:
    """Every place in the node, with its line."""
    if not place:
        yield place, node.start_mark.line + 1
    if id(node) in around:  # an anchor that contains itself
        return
    around = (*around, id(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            at = (*place, str(key.value))
            yield at, key.start_mark.line + 1
            yield from _lines(value, at, around)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield (*place, number), value.start_mark.line + 1
            yield from _lines(value, (*place, number), around)


def _refuse_repeated_keys(node: yaml.Node) -> None:
    """Raises UnreadableError for two equal keys, of which JSON and YAML would silently take the
    last.
    """
    reasons, todo, seen = [], [node], set()
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, yaml.SequenceNode):
            todo += each.value
        elif isinstance(each, yaml.MappingNode):
            first: dict[str, int] = {}
            for key, value in each.value:
                line = key.start_mark.line + 1
                if str(key.value) in first and key.value != "<<":
                    before = first[str(key.value)]
                    reasons.append(
                        (line, f"line {line}: {key.value} stands on line {before} already")
                    )
                first.setdefault(str(key.value), line)
                todo.append(value)
    if reasons:
        raise UnreadableError(*(reason for _, reason in sorted(reasons)))
