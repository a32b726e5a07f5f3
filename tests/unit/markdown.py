"""Pages as tests read them."""

import re
from pathlib import Path


def sections(page: Path) -> dict[str, str]:
    """What is below each heading, by the anchor that GitHub gives it."""
    text = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    parts = re.split(r"^#{1,4} (.+)$", text, flags=re.MULTILINE)[1:]
    return {anchor_of(title): body for title, body in zip(parts[::2], parts[1::2], strict=True)}


def anchor_of(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
