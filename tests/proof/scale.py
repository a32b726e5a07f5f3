"""How much each proof tries: `make prove` sets PROOF=full, `make test` runs seconds of it."""

import os

FULL = os.environ.get("PROOF") == "full"


def scaled(full: int, reduced: int) -> int:
    """The size for this run."""
    return full if FULL else reduced
