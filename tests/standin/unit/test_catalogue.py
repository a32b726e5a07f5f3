"""Catalogue files, in JSON and YAML."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from standin.catalogue import DEFAULT_FILE, Catalogue, CatalogueError, load_catalogue


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
    ("change", "line", "said"),
    [
        (
            "unknown feature",
            '"code": "nowhere"',
            "plans.1.features.0.code: plan usage_pro has the unknown feature nowhere",
        ),
        ("same code twice", 'code": "free"', "plans.1.code: codes of plans must be unique: free"),
        (
            "same plan twice",
            '"id": "pln_usagepro"',
            "plans.4.id: ids of plans must be unique: pln_usagepro",
        ),
        (
            "same price twice",
            '"id": "pp_usagepro_m"',
            "plans.2.prices.0.id: ids of prices must be unique: pp_usagepro_m",
        ),
        (
            "same feature twice",
            '"code": "storage", "name"',
            "features.2.code: codes of features must be unique: storage",
        ),
        (
            "granted twice",
            '"storage", "includedAmount": 100, "overage": {"enabled": true, "unitPrice": 1000}',
            "plans.1.features.2.code: features of plan usage_pro must be unique: storage",
        ),
        (
            "overage without a price",
            '"overage": {"enabled": true}',
            "plans.1.features.0.overage: overage that is enabled needs a unitPrice",
        ),
        ("typo", '"isFre"', "plans.1.isFre: there is no such field; do you mean isFree?"),
        (
            "negative price",
            '"price": -1',
            "plans.1.prices.0.price: Input should be greater than or equal to 0",
        ),
        ("no plans", "{", "plans: this field is missing"),
    ],
)
@pytest.mark.parametrize("form", ["json", "yaml"])
def test_mistakes_are_found_at_the_start(
    tmp_path: Path, form: str, change: str, line: str, said: str
) -> None:
    """Not by the first customer; with the file, the line, and the place in it."""
    file = tmp_path / f"catalogue.{form}"
    text = _text(_broken(change)) if form == "json" else yaml.dump(_broken(change), sort_keys=False)
    file.write_text(text)
    with pytest.raises(CatalogueError) as refused:
        load_catalogue(file)
    head, reason = str(refused.value).split("\n")
    where, _, rest = reason.strip().partition(", ")
    assert head == f"The catalogue {file} cannot be used:"
    assert rest == said
    number = int(where.removeprefix("line "))
    if form == "json":
        named = [n for n, each in enumerate(text.split("\n"), 1) if line in each]
        assert number == (named[-1] if line != "{" else 1)


def _text(catalogue: dict[str, Any]) -> str:
    """JSON with one entry of a list on each line, as people write it."""
    rows = []
    for part, entries in catalogue.items():
        rows.append(f'"{part}": [')
        for entry in entries:
            simple = {k: v for k, v in entry.items() if k not in {"features", "prices"}}
            rows.append("{" + json.dumps(simple)[1:-1] + ("," if len(simple) < len(entry) else ""))
            lists = [each for each in ("features", "prices") if each in entry]
            for n, name in enumerate(lists):
                body = ",\n".join("      " + json.dumps(each) for each in entry[name])
                rows.append(f'  "{name}": [\n{body}]' + ("," if n + 1 < len(lists) else ""))
            rows.append("}" + ("," if entry is not entries[-1] else ""))
        rows.append("]" + ("," if part != list(catalogue)[-1] else ""))
    return "{" + "\n".join(rows) + "}"


SMALL = """\
# A file storage, sold in euros.
features:
  - {code: storage, name: Storage, type: usage, unitName: GB}
  - {code: support, name: Support, type: boolean}
plans:
  - code: free
    name: Free
    isFree: true
    features: &little
      - {code: storage, includedAmount: 5}
    prices: []
  - code: team
    name: Team
    features:
      - code: storage
        includedAmount: 100
        overage: {enabled: true, unitPrice: 900}
      - {code: support}
    prices:
      - {billingInterval: monthly, price: 1900, trialDays: 14, isDefault: true}
      - {billingInterval: yearly, price: 19000}
"""


class TestYaml:
    def read(self, place: Path, text: str) -> Catalogue:
        file = place / "plans.yaml"
        file.write_text(text)
        return load_catalogue(file)

    def said(self, place: Path, text: str) -> list[str]:
        with pytest.raises(CatalogueError) as refused:
            self.read(place, text)
        return str(refused.value).split("\n")[1:]

    def test_one_of_yours(self, tmp_path: Path) -> None:
        """With a trial, a price by the year and a limit. Ids are made of the codes."""
        catalogue = self.read(tmp_path, SMALL)
        assert [feature.id for feature in catalogue.features] == ["ftr_storage", "ftr_support"]
        free, team = catalogue.plans
        assert (free.id, team.id) == ("pln_free", "pln_team")
        assert [(p.id, p.billing_interval, p.price, p.trial_days) for p in team.prices] == [
            ("pp_team_monthly", "monthly", 1900, 14),
            ("pp_team_yearly", "yearly", 19000, 0),
        ]

    def test_a_free_plan_needs_no_prices(self, tmp_path: Path) -> None:
        """Any other plan says how it is paid."""
        free = self.read(tmp_path, SMALL.replace("    prices: []\n", "")).plan("free")
        assert free is not None
        assert free.prices == ()
        text = SMALL.replace("    prices: []\n", "").replace("    isFree: true\n", "")
        assert self.said(tmp_path, text) == ["  line 6, plans.0.prices: this field is missing"]

    def test_what_ships_reads_the_same(self, tmp_path: Path) -> None:
        text = yaml.dump(json.loads(DEFAULT_FILE.read_text()), sort_keys=False)
        assert self.read(tmp_path, text) == load_catalogue()

    def test_parts_may_be_shared(self, tmp_path: Path) -> None:
        """By anchors; a mistake is named where the plan says so, and where it was written."""
        shared = SMALL.replace("prices: []", "prices: []\n  - {code: lite, name: Lite,"
                               " isFree: true, features: *little, prices: []}")  # fmt: skip
        lite = self.read(tmp_path, shared).plan("lite")
        assert lite is not None
        assert lite.features[0].included_amount == 5
        wrong = shared.replace("includedAmount: 5}", "includedAmount: five}")
        assert [line.split(":")[0] for line in self.said(tmp_path, wrong)] == [
            "  line 10, plans.0.features.0.includedAmount",
            "  line 10, plans.1.features.0.includedAmount",
        ]

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            (("price: 1900,", "price: 19.00,"), "line 20, plans.1.prices.0.price: this is a"
             " whole number, in the minor unit of the currency: 1900 is 19.00"),
            (("includedAmount: 100", "includedAmonut: 100"), "line 16,"
             " plans.1.features.0.includedAmonut: there is no such field; do you mean"
             " includedAmount?"),
            (("price: 19000", "price: 19000, price: 1"), "line 21: price stands on line 21"
             " already"),
            (("isFree: true", "\tisFree: true"), "line 8: not YAML: found character '\\t' that"
             " cannot start any token"),
            (("billingInterval: yearly", "billingInterval: monthly"), "line 21,"
             " plans.1.prices.1.id: ids of prices must be unique: pp_team_monthly"),
            (("includedAmount: 100", "includedAmount: 0.5"), "line 16,"
             " plans.1.features.0.includedAmount: this is a whole number, written without quotes"),
            (("{enabled: true, unitPrice: 900}", "{unitPrice: 900}"), "line 17,"
             " plans.1.features.0.overage: overage with a unitPrice needs enabled: true (or"
             " false)"),
            (("{enabled: true, unitPrice: 900}", "true"), "line 17, plans.1.features.0.overage:"
             " this is an object with fields, such as {name: value}"),
            (("code: team", "code: Team Plan"), "line 12, plans.1.code: a code is written in a to"
             " z, 0 to 9 and _"),
            (("features:\n  - {code: storage, name", "currency: eur\nfeatures:\n  - {code: storage,"
             " name"), "line 2, currency: a catalogue has no currency: name it where you start, as"
             " in CURRENCY=eur make run"),
        ],
        ids=["fraction", "misspelt", "repeated", "tab", "two by the month", "half a unit",
             "forgotten overage", "no object", "capitals", "currency"],
    )  # fmt: skip
    def test_mistakes_have_a_line(self, tmp_path: Path, wrong: tuple[str, str], said: str) -> None:
        [line] = self.said(tmp_path, SMALL.replace(*wrong))
        assert line.strip() == said

    @pytest.mark.parametrize("text", ["", "# nothing\n", "- 1\n", "a: &a [*a]\n", "plans: {", "?"])
    def test_what_is_no_catalogue(self, tmp_path: Path, text: str) -> None:
        said = self.said(tmp_path, text)
        assert said
        assert all(line.startswith("  line ") for line in said)


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
