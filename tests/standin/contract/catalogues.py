"""Variations of the catalogue that ships with the stand-in."""

import json
from pathlib import Path
from typing import Any

from standin.catalogue import DEFAULT_FILE


def with_price(folder: Path, plan: str, number: int = 0, **fields: Any) -> Path:
    """A catalogue file in which one price of that plan (the first, unless told) is different."""
    catalogue = json.loads(DEFAULT_FILE.read_text())
    found = next(p for p in catalogue["plans"] if p["code"] == plan)
    found["prices"][number] |= fields
    file = folder / "catalogue.json"
    file.write_text(json.dumps(catalogue))
    return file
