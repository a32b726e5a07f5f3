"""The types of outgoing events (docs/events.md says when each is written, and with what data)."""

TYPES = (
    "access.granted",
    "access.ended",
    "subscription.changed",
    "payment.failed",
    "payment.recovered",
    "payment.refunded",
    "payment.disputed",
    "payment.dispute_resolved",
    "debt.opened",
    "debt.closed",
    "usage.threshold_reached",
    "usage.limit_reached",
    "spend.threshold_reached",
    "spend.limit_reached",
    "usage.corrected",
    "usage.parked",
    "usage.credit_needed",
    "user.registered",
    "user.erased",
)

_ONE = "|".join(each.replace(".", r"\.") for each in TYPES)
# A list of types in a query. A misspelt type would match nothing, so it is refused.
LIST_PATTERN = f"^({_ONE})(,({_ONE}))*$"
