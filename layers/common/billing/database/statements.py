"""Reads named SQL statements from the file beside the module that runs them."""

import re
from functools import cached_property
from pathlib import Path

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


class Statements:
    """The statements of `NAME.sql`, for the module `NAME.py` in the same folder, by name.

    `Statements(__file__)["accept"]` is the text under `-- name: accept`. Raises KeyError if the
    file has no statement with this name. The file is read when the first statement is used.
    """

    def __init__(self, module_file: str) -> None:
        self._file = Path(module_file).with_suffix(".sql")

    def __getitem__(self, name: str) -> str:
        return self.texts[name]

    @cached_property
    def texts(self) -> dict[str, str]:
        """Every statement of the file, by name."""
        _, *parts = _NAME.split(self._file.read_text(encoding="utf-8"))
        return dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))
