"""The operator's parameters that decide whether usage is given."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal

from billing.amounts import format_decimal

Amounts = Mapping[str, Decimal | None]


@dataclass(frozen=True, slots=True)
class Rules:
    """The operator's parameters that decide whether usage is given.

    `statuses` are the subscription statuses that give access. `ceilings` (OverageCeiling) and
    `at_once` (DeliverAtOnceFrom) are amounts in major units by currency. None means that there is
    no such limit. In a currency without a ceiling there is no overage. `late_grace`
    (LateUsageGrace) is how long after the end of access usage is taken that occurred before that
    end. `currency` is used if Commet has not named one. `spending` is the JSON text that the
    routines read (database/routines/spending.sql).
    """

    statuses: Collection[str]
    ceilings: Amounts = field(default_factory=dict)
    at_once: Amounts = field(default_factory=dict)
    currency: str = "usd"
    late_grace: timedelta = timedelta(hours=1)
    spending: str = field(init=False)

    def __post_init__(self) -> None:
        spending = {
            "currency": self.currency,
            "ceilings": _texts(self.ceilings),
            "at_once": _texts(self.at_once),
        }
        object.__setattr__(self, "spending", json.dumps(spending))


def _texts(amounts: Amounts) -> dict[str, str | None]:
    return {c: None if a is None else format_decimal(a) for c, a in amounts.items()}
