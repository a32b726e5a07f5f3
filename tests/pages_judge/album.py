"""`make pages-judge PICTURES=folder`: pictures of every page and state, for a person to look at."""

import re
from collections import Counter
from pathlib import Path

from playwright.sync_api import Page

WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")


class Album:
    """Takes the place of a `Reader`, and takes pictures of the pages instead of reading them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.defects: dict[str, list[str]] = {}
        self.done: Counter[str] = Counter()
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, page: Page, state: str) -> None:
        """Takes the whole page at each width, in light and dark."""
        assert state not in self.defects, f"{state} was read before"
        self.defects[state] = []
        self.done["states"] += 1
        name = re.sub(r"[^a-z0-9]+", "-", state.lower()).strip("-")
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                path = self.folder / f"{name}-{width}-{scheme}.png"
                page.screenshot(path=path, full_page=True)
                self.done["pictures"] += 1
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 1280, "height": 900})
