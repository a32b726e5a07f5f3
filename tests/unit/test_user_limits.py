"""What is counted by a user's id in `attempts` goes with the erasure of the user."""

import re

from tests.unit.source import BILLING


def test_every_count_by_user_is_erased() -> None:
    counted = {
        name
        for file in BILLING.rglob("*.py")
        for text in [file.read_text(encoding="utf-8")]
        if "limits import" in text
        for name in re.findall(r'(?<!idempotency_key=)f"([a-z-]+):\{user(?:_id|\.id)\}"', text)
    }
    routine = (BILLING / "database/routines/erasing.sql").read_text(encoding="utf-8")
    erased = re.search(r"function attempts_of\(.*?unnest\(array\[(.*?)\]\)", routine, re.DOTALL)
    assert erased
    assert {"checkout", "portal", "export"} <= counted
    assert counted == set(re.findall(r"'([a-z-]+)'", erased[1]))
