"""Catalogue files."""

import json
from pathlib import Path
from typing import Any

import pytest

from standin.catalogue import DEFAULT_FILE, CatalogueError, load_catalogue


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
    plans, features = catalogue["plans"], catalogue["features"]
    match change:
        case "unknown feature":
            plans[1]["features"][0]["code"] = "nowhere"
        case "same code twice":
            plans[1]["code"] = "free"
        case "same plan twice":
            plans.append({**plans[1], "code": "usage_more", "prices": []})
        case "same price twice":
            plans[2]["prices"][0]["id"] = plans[1]["prices"][0]["id"]
        case "same feature twice":
            features.append({**features[0], "id": "ftr_other"})
        case "granted twice":
            plans[1]["features"].append(plans[1]["features"][0])
        case "overage without a price":
            plans[1]["features"][0]["overage"] = {"enabled": True}
        case "typo":
            plans[1]["isFre"] = True
        case "negative price":
            plans[1]["prices"][0]["price"] = -1
        case "no plans":
            del catalogue["plans"]
    return catalogue


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("unknown feature", "plan usage_pro has the unknown feature nowhere"),
        ("same code twice", "codes of plans must be unique: free"),
        ("same plan twice", "ids of plans must be unique: pln_usagepro"),
        ("same price twice", "ids of prices must be unique: pp_usagepro_m"),
        ("same feature twice", "codes of features must be unique: storage"),
        ("granted twice", "features of plan usage_pro must be unique: storage"),
        (
            "overage without a price",
            "plans.1.features.0.overage: overage that is enabled needs a unitPrice",
        ),
        ("typo", "plans.1.isFre: Extra inputs are not permitted"),
        ("negative price", "plans.1.prices.0.price: Input should be greater than or equal to 0"),
        ("no plans", "plans: Field required"),
    ],
)
def test_mistakes_are_found_at_the_start(tmp_path: Path, change: str, said: str) -> None:
    """Not by the first customer; with the file and the place in it."""
    file = tmp_path / "catalogue.json"
    file.write_text(json.dumps(_broken(change)))
    with pytest.raises(CatalogueError) as refused:
        load_catalogue(file)
    assert str(refused.value) == f"The catalogue {file} cannot be used:\n  {said}"


@pytest.mark.parametrize("content", [b"", b"{", b'{"plans": \xff}', b"[]", None])
def test_what_is_no_catalogue(tmp_path: Path, content: bytes | None) -> None:
    """Empty, cut short, no text, no object, a directory."""
    file = tmp_path / "catalogue.json"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(CatalogueError, match=rf"^The catalogue {file} cannot be used:\n  \w"):
        load_catalogue(file)
