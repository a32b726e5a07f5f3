"""The data of each type of outgoing event, as pydantic models, and the JSON Schemas made from them.

The SQL that emits an event builds its data (routines/telling.sql, routines/thresholds.sql). A test
compares the SQL with these models. Fields may be added; schema_changes.py refuses other changes.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Decimals = Annotated[
    str,
    Field(
        pattern=r"^-?\d+(\.\d+)?$",
        description="A decimal number.",
        examples=["12.5"],
        json_schema_extra={"format": "decimal"},
    ),
]
Feature = Annotated[
    str, Field(description="The feature's code in the catalogue.", examples=["storage"])
]
SubscriptionId = Annotated[str | None, Field(description="Commet's id.", examples=["sub_a1"])]
PlanId = Annotated[str | None, Field(description="Commet's id of the plan.", examples=["pln_a1"])]
PlanName = Annotated[str | None, Field(description="The plan's name.", examples=["Usage Pro"])]
Status = Annotated[
    Literal["active", "trialing", "past_due", "paused", "canceled"],
    Field(description="The subscription's status.", examples=["active"]),
]


class Data(BaseModel):
    """The data of an event. Readers pass over fields that they do not know."""

    model_config = ConfigDict(extra="forbid")


class AccessGranted(Data):
    """The user may use the plan's features."""

    subscription_id: SubscriptionId
    plan_id: PlanId
    plan: PlanName
    status: Status | None = Field(
        description="The subscription's status. Null without one.", examples=["active"]
    )


class AccessEnded(AccessGranted):
    """The user may not use metered features any more."""

    reason: str = Field(
        description="The subscription's status, or `ended` (a known end passed and Commet has not"
        " confirmed it for a day), `erased`, `no_subscription`.",
        examples=["canceled"],
    )


class SubscriptionChanged(Data):
    """The subscription as it is now, and in `changes` what is different."""

    subscription_id: SubscriptionId
    plan_id: PlanId
    plan: PlanName
    interval: str | None = Field(
        description="How often it is paid. Null on a free plan.", examples=["monthly"]
    )
    status: Status
    cancel_at: datetime | None = Field(
        description="When it ends. Null if no end is booked.", examples=["2026-10-01T00:00:00.000Z"]
    )
    trial_ends_at: datetime | None = Field(
        description="When the trial ends. Null if none runs.", examples=["2026-10-01T00:00:00.000Z"]
    )
    scheduled_change: dict[str, Any] | None = Field(
        description="The plan that begins later. Null if none is booked.",
        examples=[{"plan_id": "pln_a2", "plan_name": "Usage Max", "interval": "monthly"}],
    )
    changes: list[
        Literal[
            "plan", "interval", "status", "cancellation_booked", "cancellation_withdrawn",
            "trial",
            "change_booked", "change_withdrawn", "trial_ending",
        ]
    ] = Field(description="What is different.", examples=[["plan"]])  # fmt: skip


class _Payment(Data):
    amount: Decimals | None = Field(
        description="In units of `currency`. Null where Commet does not say it.", examples=["29.00"]
    )
    currency: str | None = Field(
        description="An ISO 4217 code in lower case. Null if not known.", examples=["usd"]
    )
    reason: str | None = Field(description="Commet's code.", examples=["card_declined"])


class PaymentFailed(_Payment):
    """A payment was declined. The dashboard has the link on which it can be made up for."""

    invoice_id: str = Field(description="Commet's id.", examples=["inv_a1"])


class PaymentRecovered(PaymentFailed):
    """A payment that had failed was made up for."""


class PaymentRefunded(_Payment):
    """Money went back: all of the payment, or a part."""

    transaction_id: str = Field(description="Commet's id of the payment.", examples=["txn_a1"])


class PaymentDisputed(PaymentRefunded):
    """The cardholder takes a payment back through the bank."""


class PaymentDisputeResolved(PaymentRefunded):
    """A dispute ended."""

    outcome: Literal["won", "lost", "unknown"] = Field(
        description="Of the product: `lost` makes a debt.", examples=["won"]
    )


class DebtOpened(Data):
    """The user owes for usage that was not billed, or not paid."""

    debt: int = Field(description="The debt's number.", examples=[7])
    kind: Literal["lost_usage", "voided_invoice", "lost_dispute"] = Field(
        description="Where the debt comes from.", examples=["lost_usage"]
    )
    amount: Decimals = Field(description="In units of `currency`.", examples=["12.5"])
    currency: str | None = Field(
        description="An ISO 4217 code in lower case. Null if not known.", examples=["usd"]
    )


class DebtClosed(DebtOpened):
    """The user does not owe it any more."""

    ended_by: Literal["paid", "collected", "forgiven", "withdrawn", "moved"] = Field(
        description="How it ended. `moved`: the person came back, and the new user owes it.",
        examples=["paid"],
    )


class _OfPeriod(Data):
    period_start: datetime = Field(
        description="When the allowance period begins.", examples=["2026-09-01T00:00:00.000Z"]
    )
    period_end: datetime = Field(description="When it ends.", examples=["2026-10-01T00:00:00.000Z"])


class Threshold(Data):
    """A threshold: of `percent` and `amount` one is there."""

    percent: Decimals | None = Field(
        default=None, description="Of what is included, or of the limit.", examples=["80"]
    )
    amount: Decimals | None = Field(
        default=None, description="A quantity, or an amount of money.", examples=["100"]
    )


class UsageThresholdReached(_OfPeriod):
    """Usage of a feature reached a threshold, once in a period."""

    feature: Feature
    threshold: Threshold = Field(description="Which.", examples=[{"percent": "80"}])
    used: Decimals = Field(description="The quantity used in the period.", examples=["800"])
    included: Decimals | None = Field(
        description="The included quantity. Null if unlimited.", examples=["1000"]
    )


class UsageLimitReached(_OfPeriod):
    """Usage was refused because the included quantity is used up; told once in a period."""

    feature: Feature
    used: Decimals = Field(description="The quantity used in the period.", examples=["800"])
    limit: Decimals | None = Field(
        description="The limit. Null if there is none.", examples=["1000"]
    )


class SpendThresholdReached(_OfPeriod):
    """Overage reached a threshold of the spend limit, once in a period."""

    threshold: Threshold = Field(description="Which.", examples=[{"percent": "80"}])
    spent: Decimals = Field(
        description="What overage costs in the period so far.", examples=["80.00"]
    )
    limit: Decimals | None = Field(
        description="The limit. Null if there is none.", examples=["1000"]
    )
    currency: str | None = Field(
        description="An ISO 4217 code in lower case. Null if not known.", examples=["usd"]
    )


class SpendLimitReached(_OfPeriod):
    """Usage was refused because of the spend limit; told once in a period."""

    spent: Decimals = Field(
        description="What overage costs in the period so far.", examples=["80.00"]
    )
    limit: Decimals | None = Field(
        description="The limit. Null if there is none.", examples=["1000"]
    )
    currency: str | None = Field(
        description="An ISO 4217 code in lower case. Null if not known.", examples=["usd"]
    )


class UsageCorrected(_OfPeriod):
    """A correction changed a total."""

    feature: Feature
    key: str | None = Field(default=None, description="The correction's key.", examples=["fix-7"])
    quantity: Decimals = Field(description="The quantity.", examples=["12.5"])
    total: Decimals = Field(description="The total after it.", examples=["800"])


class UsageParked(_OfPeriod):
    """A delivery to Commet waits for a person, or for an answer about its outcome."""

    feature: Feature
    quantity: Decimals = Field(description="The quantity.", examples=["12.5"])
    reason: str | None = Field(description="Why.", examples=["no_active_subscription"])
    amount: Decimals | None = Field(
        description="In units of `currency`. Null if not known.", examples=["12.5"]
    )
    currency: str | None = Field(
        description="An ISO 4217 code in lower case. Null if not known.", examples=["usd"]
    )


class UsageCreditNeeded(_OfPeriod):
    """Commet billed more than was used, in a period that is over."""

    feature: Feature
    quantity: Decimals = Field(description="The quantity.", examples=["12.5"])
    amount: Decimals | None = Field(
        description="Null while it is not known what was billed.", examples=["12.5"]
    )
    currency: str | None = Field(
        description="An ISO 4217 code in lower case. Null if not known.", examples=["usd"]
    )


class UserRegistered(Data):
    """A person signed up and confirmed the address, or the product registered the user."""


class UserErased(Data):
    """What was known of the user is gone."""


MODELS: dict[str, type[Data]] = {
    "access.granted": AccessGranted,
    "access.ended": AccessEnded,
    "subscription.changed": SubscriptionChanged,
    "payment.failed": PaymentFailed,
    "payment.recovered": PaymentRecovered,
    "payment.refunded": PaymentRefunded,
    "payment.disputed": PaymentDisputed,
    "payment.dispute_resolved": PaymentDisputeResolved,
    "debt.opened": DebtOpened,
    "debt.closed": DebtClosed,
    "usage.threshold_reached": UsageThresholdReached,
    "usage.limit_reached": UsageLimitReached,
    "spend.threshold_reached": SpendThresholdReached,
    "spend.limit_reached": SpendLimitReached,
    "usage.corrected": UsageCorrected,
    "usage.parked": UsageParked,
    "usage.credit_needed": UsageCreditNeeded,
    "user.registered": UserRegistered,
    "user.erased": UserErased,
}


# Of every schema. Adding a field leaves it, and no other change is allowed (schema_changes.py).
_VERSION = 1


def schema(kind: str) -> dict[str, Any]:
    """Returns the JSON Schema of a whole event of this type, a CloudEvent.

    It allows more fields in `data` than it names, because later versions may add fields.
    """
    data = MODELS[kind].model_json_schema()
    words = data.pop("description")
    definitions = data.pop("$defs", {})
    for each in (data, *definitions.values()):
        each.pop("additionalProperties", None)
    found: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:usage-billing:event:{kind}:{_VERSION}",
        "title": kind,
        "description": words,
        "type": "object",
        "properties": {
            "specversion": _said("The version of CloudEvents.", "1.0", const="1.0"),
            "id": _said(
                "The event's id, the same whenever it arrives.",
                "0d3f6f0a-5f0c-4d3c-9a57-2f1e7c1b9d11",
                format="uuid",
            ),
            "source": _said(
                "The product's address, or `/`.", "https://app.example.com", format="uri-reference"
            ),
            "type": _said("The event's type.", kind, const=kind),
            "subject": _said("The user's id.", "customer-17"),
            "time": _said("When it became true.", "2026-09-01T09:30:00.000Z", format="date-time"),
            "datacontenttype": _said(
                "The form of `data`.", "application/json", const="application/json"
            ),
            "sequence": _said(
                "The number of the event among those of the user.", "7", pattern="^[1-9][0-9]*$"
            ),
            "data": data
            | {"description": "What belongs to the type.", "examples": [_example(data)]},
        },
        "required": [
            "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "sequence",
            "data",
        ],
    }  # fmt: skip
    return found | ({"$defs": definitions} if definitions else {})


def _said(words: str, example: str, **more: str) -> dict[str, Any]:
    return {"type": "string", "description": words, "examples": [example]} | more


def _example(data: dict[str, Any]) -> dict[str, Any]:
    """Returns data made of the examples of its fields."""
    return {name: form["examples"][0] for name, form in data.get("properties", {}).items()}
