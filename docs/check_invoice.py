"""Holds the export of the ledger against one invoice of Commet. Ends with 1 where they differ.

    API=... KEY=... COMMET=... COMMET_KEY=... python3 docs/check_invoice.py INVOICE [PERIOD]

API is the address of your stack and KEY a service key with the scope `read`. COMMET is Commet's
address (https://commet.co/api/v1) and COMMET_KEY its API key. INVOICE is Commet's id of the invoice
(`inv_...`). PERIOD is the id of an allowance period in the export, for the rare invoice whose
period cannot be told from its dates: two changes of plan on one day with no usage between them.

An invoice bills usage afterwards: that of the period which ended when the invoice was issued. For
each feature, the script adds up the entries of this period, takes off what the plan includes, and
compares the price of the rest with the invoice.
"""

import json
import os
import sys
from collections import defaultdict
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

SECONDS = 30


def main() -> int:
    invoice_id, *chosen = sys.argv[1:]
    invoice = ask_commet(f"/invoices/{quote(invoice_id)}")
    entries = [
        entry
        for entry in export(user_of(invoice["customerId"]))
        if entry["period"]["subscription_id"] == invoice["subscriptionId"]
    ]
    period = chosen[0] if chosen else billed_period(invoice, entries)
    features = compare(invoice, [each for each in entries if each["period"]["id"] == period])
    differs = any(each["expected"] != each["billed"] for each in features)
    result = {
        "invoice": invoice["id"],
        "currency": invoice["currency"],
        "period": period,
        "features": features,
        "differs": differs,
    }
    print(json.dumps(result, indent=1))  # noqa: T201 - a program
    return int(differs)


def user_of(customer_id: str) -> str:
    """Our id of a customer. Commet names customers by its own id (`cus_...`) or by ours."""
    if not customer_id.startswith("cus_"):
        return customer_id
    return str(ask_commet(f"/customers/{quote(customer_id)}")["externalId"])


def billed_period(invoice: dict[str, Any], entries: list[dict[str, Any]]) -> str | None:
    """The id of the period whose usage the invoice bills, None if nothing was used in it."""
    begins, issued = time(invoice["periodStart"]), time(invoice["issueDate"])
    # At a renewal the new period begins where the billed one ends.
    ended = [entry for entry in entries if time(entry["period"]["end"]) == begins]
    # A change of plan ends the period early, and may open the next one on the same day. The invoice
    # was issued in between.
    cut_short = [
        entry
        for entry in entries
        if time(entry["booked_at"]) < issued
        and time(entry["period"]["end"]) > begins
        and time(entry["period"]["start"]) <= issued
    ]
    found = ended or cut_short
    return max((entry["period"]["id"] for entry in found), key=int, default=None)


def compare(invoice: dict[str, Any], entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each feature that was used or billed, what it should cost and what was billed."""
    used: dict[str, Decimal] = defaultdict(Decimal)
    for entry in entries:
        used[entry["feature"]] += Decimal(entry["quantity"])
    lines = {
        line["featureName"]: line
        for line in invoice["lineItems"]
        if line["lineType"] == "feature_overage"
    }
    plans = {entry["period"]["plan_id"] for entry in entries} - {None}  # one, as of one period
    terms = {
        feature["code"]: feature
        for plan in plans
        for feature in ask_commet(f"/plans/{quote(plan)}")["features"]
    }
    found = []
    for code, quantity in sorted(used.items()):
        feature = terms.get(code, {"name": code, "includedAmount": 0, "overage": {}})
        line = lines.pop(feature["name"], None)
        # The line tells what applied to the period, even if the plan was changed since.
        included = line["includedAmount"] if line else feature["includedAmount"]
        unit_price = line["unitAmount"] if line else feature["overage"].get("unitPrice")
        if feature.get("unlimited"):
            unit_price = 0
        beyond = max(quantity - Decimal(included or 0), Decimal(0))
        found.append(
            {
                "feature": code,
                "used": f"{quantity.normalize():f}",
                "included": included,
                "expected": minor_units(beyond, unit_price or 0),
                "billed": line["amount"] if line else 0,
            }
        )
    for name, line in lines.items():
        found.append({"feature": name, "used": "0", "expected": 0, "billed": line["amount"]})
    return found


def minor_units(units: Decimal, unit_price: int) -> int:
    """The price of units in cents, half a cent up. `unit_price` is in Commet's rate scale."""
    return int((units * unit_price / 100).quantize(Decimal(1), ROUND_HALF_UP))


def export(user_id: str) -> list[dict[str, Any]]:
    """All entries of one user in the ledger."""
    entries: list[dict[str, Any]] = []
    query = {"user_id": user_id, "limit": "1000"}
    while True:
        page = ask(
            f"{os.environ['API']}/usage/events?{urlencode(query)}",
            {"authorization": f"Bearer {os.environ['KEY']}"},
        )
        entries += page["events"]
        if page["next_cursor"] is None:
            return entries
        query["cursor"] = page["next_cursor"]


def ask_commet(path: str) -> dict[str, Any]:
    return ask(os.environ["COMMET"] + path, {"x-api-key": os.environ["COMMET_KEY"]})


def ask(url: str, headers: dict[str, str]) -> dict[str, Any]:
    with urlopen(Request(url, headers=headers), timeout=SECONDS) as answer:  # noqa: S310 - named
        found: dict[str, Any] = json.load(answer, parse_float=Decimal)
        return found


def time(text: str) -> datetime:
    return datetime.fromisoformat(text)


if __name__ == "__main__":
    sys.exit(main())
