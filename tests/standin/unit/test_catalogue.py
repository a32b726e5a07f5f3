"""Catalogue files."""

import json
from pathlib import Path
from typing import Any

import pytest

from standin.catalogue import DEFAULT_FILE, load_catalogue


def test_the_one_that_ships() -> None:
    """The plans our documentation speaks of."""
    catalogue = load_catalogue()
    assert [p.code for p in catalogue.plans] == ["free", "usage_pro", "usage_max", "fixed_box"]
    pro = catalogue.plan("usage_pro")
    assert pro is not None
    assert [(p.billing_interval, p.price) for p in pro.prices] == [
        ("monthly", 2900),
        ("yearly", 29000),
    ]


def _broken(change: str) -> dict[str, Any]:
    catalogue: dict[str, Any] = json.loads(DEFAULT_FILE.read_text())
    plan = catalogue["plans"][1]
    match change:
        case "unknown feature":
            plan["features"][0]["code"] = "nowhere"
        case "same code twice":
            plan["code"] = "free"
        case "overage without a price":
            plan["features"][0]["overage"] = {"enabled": True}
        case "typo":
            plan["isFre"] = True
        case "negative price":
            plan["prices"][0]["price"] = -1
    return catalogue


@pytest.mark.parametrize(
    "change",
    ["unknown feature", "same code twice", "overage without a price", "typo", "negative price"],
)
def test_mistakes_are_found_at_the_start(tmp_path: Path, change: str) -> None:
    """Not by the first customer."""
    file = tmp_path / "catalogue.json"
    file.write_text(json.dumps(_broken(change)))
    with pytest.raises(ValueError, match=r"\w+"):
        load_catalogue(file)
