"""Asks Commet about a total before that total is replaced at Commet.

A replacement changes the total of the allowance that runs at Commet when the call arrives. This may
be a newer allowance than the one in the mirror, because the webhook of a plan change may be late or
lost. Commet would then bill the total of the old allowance a second time in the new one.
"""

import json
from collections.abc import Sequence
from decimal import Decimal

from billing.commet.answers import FeatureAccess
from billing.delivery.outbox import Delivery

# Commet adds doubles, so its sums are rounded to the six decimals that quantities have.
_EXACT = Decimal("0.000001")


def reason_against(replacement: Delivery, answers: Sequence[FeatureAccess]) -> str | None:
    """Returns why this replacement must not be sent; None if it may be sent.

    `answers` is Commet's `feature_access`.
    `period_over`: Commet does not count in the replacement's period now.
    `already_lower`: the correction would raise Commet's total, but corrections only lower it. So
    Commet's total belongs to another allowance that began on the same day, or somebody else has
    lowered it.
    """
    consumption = next((a.consumption for a in answers if a.code == replacement.feature), None)
    if consumption is None or consumption.period.start != replacement.starts_at:
        return "period_over"
    body = json.loads(replacement.body)
    lowers = consumption.units_used.quantize(_EXACT) >= body["value"]
    return None if lowers or body["reason"] != "correction" else "already_lower"
