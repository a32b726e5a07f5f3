"""What unit tests share: template.yaml as SAM CLI reads it, once for the same parameters."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from local.gateway import template
from tests.unit.cloudformation import TEMPLATE

_parse = template._parse


@pytest.fixture(scope="module", autouse=True)
def _read_once() -> Iterator[None]:
    """SAM CLI takes a second to read template.yaml, and half of `deploy`'s tests read it.

    With other parameters it takes half of that, because the text is the same.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template, "_parse", _remembered)
        yield


def _remembered(path: Path, parameters: Mapping[str, str]) -> Any:
    if path != TEMPLATE:
        return _parse(path, parameters)
    return _of_template(path.stat().st_mtime_ns, tuple(sorted(parameters.items())))


@cache
def _of_template(_modified: int, parameters: tuple[tuple[str, str], ...]) -> Any:
    template.import_sam_cli()
    from samcli.commands._utils import template as files

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "yaml_parse", lambda text: deepcopy(_yaml(text)))
        return _parse(TEMPLATE, dict(parameters))


@cache
def _yaml(text: str) -> Any:
    from samcli.yamlhelper import yaml_parse

    return yaml_parse(text)
