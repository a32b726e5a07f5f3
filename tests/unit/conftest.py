"""What unit tests share: template.yaml as SAM CLI reads it, once for the same parameters."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from local.gateway import template
from tests.unit.cloudformation import TEMPLATE

_parse = template._parse


@pytest.fixture(scope="module", autouse=True)
def _read_once() -> Iterator[None]:
    """SAM CLI takes a second to read template.yaml, and half of `deploy`'s tests read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template, "_parse", _remembered)
        yield


def _remembered(path: Path, parameters: Mapping[str, str]) -> Any:
    if path != TEMPLATE:
        return _parse(path, parameters)
    return _of_template(path.stat().st_mtime_ns, tuple(sorted(parameters.items())))


@cache
def _of_template(_modified: int, parameters: tuple[tuple[str, str], ...]) -> Any:
    return _parse(TEMPLATE, dict(parameters))
