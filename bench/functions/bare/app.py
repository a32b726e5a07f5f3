"""A function without any import of ours: the least that a cold start takes."""

from typing import Any


def handler(_event: dict[str, Any], _context: object) -> dict[str, Any]:
    return {}
