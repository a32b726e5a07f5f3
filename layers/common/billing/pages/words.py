"""The words of the pages: one folder for each language, one TOML file for each page.

A text may contain simple HTML, and places such as `{plan}` for values. Values are escaped. A text
that depends on a number has two forms: `one` and `other`.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

Texts = Mapping[str, Any]


class Words:
    """The texts of one language, by `file.key`."""

    def __init__(self, folder: Path) -> None:
        self._texts: dict[str, Texts] = {
            file.stem: tomllib.loads(file.read_text(encoding="utf-8"))
            for file in sorted(folder.glob("*.toml"))
        }

    def __call__(self, key: str, **values: object) -> Markup:
        """Returns the text with the values in its places. Raises KeyError if there is no such text.

        If the text has the forms `one` and `other`, the value `count` decides.
        """
        page, _, name = key.partition(".")
        text = self._texts[page][name]
        if isinstance(text, Mapping):
            text = text["one" if str(values["count"]) == "1" else "other"]
        return Markup(text).format(**values)  # noqa: S704 - the texts are the project's own

    def has(self, key: str) -> bool:
        """Whether there is such a text."""
        page, _, name = key.partition(".")
        return name in self._texts.get(page, {})

    def section(self, page: str) -> dict[str, str]:
        """All texts of a file, for code that puts values into them and escapes them itself."""
        return dict(self._texts[page])

    def names(self) -> set[str]:
        """The keys of all texts."""
        return {f"{page}.{name}" for page, texts in self._texts.items() for name in texts}
