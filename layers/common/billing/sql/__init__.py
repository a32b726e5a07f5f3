"""Named SQL: `queries("accounts")["insert_user"]` is the statement under `-- name: insert_user`."""

import re
from functools import cache
from pathlib import Path

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@cache
def queries(area: str) -> dict[str, str]:
    """The statements of one file of this folder, by name."""
    text = (Path(__file__).parent / f"{area}.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    return dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))
