"""Each action that the audit trail knows is written somewhere."""

import re

import pytest

from billing.audit.trail import Action
from tests.unit.cloudformation import ROOT
from tests.unit.source import BILLING

TRAIL = BILLING / "audit" / "trail.py"


@pytest.mark.parametrize("action", Action, ids=lambda action: action.name)
def test_it_is_written(action: Action) -> None:
    code = [*BILLING.rglob("*.py"), *(ROOT / "functions").glob("*/app.py")]
    written = any(
        re.search(rf"\bAction\.{action.name}\b", file.read_text(encoding="utf-8")) for file in code
    )
    routines = (BILLING / "database" / "routines").glob("*.sql")
    by_routine = any(f"'{action.value}'" in file.read_text(encoding="utf-8") for file in routines)
    assert written or by_routine
