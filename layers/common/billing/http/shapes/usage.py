"""Usage: events, checks, reservations, corrections."""

from decimal import Decimal
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from billing.field_types import (
    FeatureCode,
    IdempotencyKey,
    OccurredAt,
    Properties,
    Quantity,
    SignedQuantity,
    Text,
    UserId,
)
from billing.http import json_schema
from billing.http.json_schema import known, one_of
from billing.http.shapes.base import (
    Amount,
    Currency,
    FeatureReplyCode,
    NamedUser,
    Reply,
    Request,
    Time,
    UsagePeriodReply,
    UserIdReply,
)
from billing.http.shapes.limits import SpendingReply
from billing.http.shapes.problems import WrongField

# Why usage is refused. `limit_reached` and others are problems, too (docs/problems.md).
_REFUSED = (
    "limit_reached",
    "subscription_required",
    "access_unconfirmed",
    "feature_not_in_plan",
    "feature_not_metered",
    "payment_overdue",
    "spend_limit_reached",
    "price_unknown",
    "total_too_large",
)

UsedBy = Annotated[
    UserId,
    Field(
        description="The user who used it: your own id of a registered user, or one of ours.",
        examples=["customer-42"],
    ),
]

UsedFeature = Annotated[
    FeatureCode,
    Field(description="The code of a metered feature in the catalogue.", examples=["storage"]),
]

UsedQuantity = Annotated[
    Quantity, Field(description="How much, in the feature's unit.", examples=["3"])
]

UsageKey = Annotated[
    IdempotencyKey,
    Field(
        description="A text of your own that names this unit of work, unique for the user and"
        " feature. Sending the same key again counts nothing twice.",
        examples=["render-2026-03-01-0001"],
    ),
]

UsageProperties = Annotated[
    Properties,
    Field(
        description="Texts of your own by name, which the ledger's export repeats.",
        examples=[{"region": "eu"}],
    ),
]


class UsageEvent(Request):
    """Something that was used."""

    user_id: UsedBy
    feature: UsedFeature
    quantity: UsedQuantity = Decimal(1)
    idempotency_key: UsageKey
    occurred_at: OccurredAt | None = Field(
        default=None,
        description="When it was used: at most 35 days ago. Left out: now.",
        examples=["2026-03-01T09:30:00Z"],
    )
    properties: UsageProperties = Field(default_factory=dict)


class UsageBatch(Request):
    """Up to 1,000 events in the form of a single event. Each gets its own verdict."""

    events: Annotated[
        list[Any],
        Field(min_length=1, max_length=1000, description="The events, 1 to 1,000."),
        json_schema.list_of("UsageEvent", most=1000),
    ]


# These are dictionaries and not models, because json writes dictionaries faster and an answer can
# hold a thousand verdicts.
class UsageVerdict(TypedDict):
    """What became of one event."""

    index: Annotated[
        int, Field(description="The event's position in the request, from 0.", examples=[0])
    ]
    idempotency_key: Annotated[
        str | None,
        Field(
            description="The event's key. Null where the event has none that is valid.",
            examples=["render-2026-03-01-0001"],
        ),
    ]
    status: Annotated[
        str,
        Field(
            description="`accepted` and `duplicate`: the event is counted, once. `conflict`: the"
            " key was used with different content. `refused`: not counted, see `code`."
        ),
        one_of("accepted", "duplicate", "conflict", "refused"),
    ]
    code: Annotated[
        Annotated[
            str,
            known(
                *_REFUSED,
                "unknown_user",
                "too_old",
                "before_subscription",
                "in_future",
                "invalid_event",
            ),
        ]
        | None,
        Field(
            description="Why the event was refused. Null if it was not.",
            examples=[None, "limit_reached"],
        ),
    ]
    errors: NotRequired[
        Annotated[
            list[WrongField],
            Field(description="The wrong fields of an `invalid_event`, at most 3."),
        ]
    ]


class UsageTaken(TypedDict):
    """What became of the events of one request."""

    accepted: Annotated[
        int, Field(description="The number of events counted by this request.", examples=[1])
    ]
    duplicates: Annotated[
        int, Field(description="The number of events that were counted before.", examples=[0])
    ]
    refused: Annotated[
        int, Field(description="The number of refused and conflicting events.", examples=[0])
    ]
    results: Annotated[
        list[UsageVerdict],
        Field(
            description="One verdict for each event, in the order sent.",
            examples=[
                [
                    {
                        "index": 0,
                        "idempotency_key": "render-2026-03-01-0001",
                        "status": "accepted",
                        "code": None,
                    }
                ]
            ],
        ),
    ]


class UsageCheck(Request):
    """A quantity that a user is about to use. A signed-in user leaves `user_id` out."""

    feature: Annotated[
        FeatureCode,
        Field(description="The code of a feature in the catalogue.", examples=["storage"]),
    ]
    quantity: UsedQuantity = Decimal(1)
    user_id: NamedUser = None


class UsageAllowed(Reply):
    """Of a boolean feature only `allowed` and `code` say something: it has no quantities."""

    allowed: bool = Field(description="Whether the quantity may be used now.", examples=[True])
    remaining: Amount | None = Field(
        description="The part of the included quantity that is neither used nor held. Null where"
        " the feature is unlimited or not in the plan.",
        examples=["580"],
    )
    overage_quantity: Amount = Field(
        description="The part of the quantity beyond the included one.", examples=["0"]
    )
    unit_price: Amount | None = Field(
        description="The price of one unit beyond the included quantity, in units of `currency`."
        " Null where it is not known, or the feature has none.",
        examples=["0.002"],
    )
    cost: Amount | None = Field(
        description="The price of `overage_quantity`, not rounded: an invoice rounds the sum. Null"
        " where the price is not known yet.",
        examples=["0.00"],
    )
    currency: Currency
    spending: SpendingReply | None = Field(
        description="Null where the feature has no overage, or access is not confirmed."
    )
    code: Annotated[str, known(*_REFUSED)] | None = Field(
        default=None,
        description="Why the quantity may not be used. Null if it may.",
        examples=[None, "limit_reached"],
    )


class Reserve(Request):
    """A quantity to hold until the work is done."""

    user_id: UsedBy
    feature: UsedFeature
    quantity: UsedQuantity = Decimal(1)
    idempotency_key: UsageKey
    expires_in: Annotated[
        int,
        Field(
            ge=1,
            le=3600,
            description="After how many seconds the quantity is free again, unless confirmed.",
            examples=[300],
        ),
    ] = 300
    properties: UsageProperties = Field(default_factory=dict)


class ReservationReply(Reply):
    """A quantity that is held for a user."""

    id: str = Field(
        description="The reservation's id, to confirm or release it.", examples=["rsv_6d1e80"]
    )
    user_id: UserIdReply
    feature: FeatureReplyCode
    idempotency_key: str = Field(
        description="The key that was sent. The usage is counted under the same key.",
        examples=["render-2026-03-01-0001"],
    )
    quantity: Amount = Field(description="The quantity that is held.", examples=["3"])
    expires_at: Time = Field(description="When the quantity is free again, unless confirmed.")
    state: Annotated[str, one_of("held", "confirmed", "released", "expired")] = Field(
        description="`held`: it counts against the limit. `confirmed`: it was counted as used."
        " `released` and `expired`: it counts no more."
    )
    booked: Amount | None = Field(
        description="The confirmed quantity. Null until confirmed.", examples=[None, "2"]
    )


class Confirm(Request):
    """The quantity that the work took. Leave it out to confirm the held quantity."""

    quantity: Quantity | None = Field(
        default=None,
        description="How much the work took, in the feature's unit. Left out: the held quantity.",
        examples=["2"],
    )


class Release(Request):
    """An empty object."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})


class Correct(Request):
    """A quantity to add to a user's total. A negative quantity is taken off the total."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "user_id": "customer-42",
                    "feature": "storage",
                    "quantity": "-3",
                    "idempotency_key": "refund-0001",
                    "reason": "The render failed.",
                    "corrects": "render-2026-03-01-0001",
                }
            ]
        }
    )

    user_id: UsedBy
    feature: UsedFeature
    quantity: SignedQuantity = Field(
        description="How much to add, or, below 0, to take off, in the feature's unit.",
        examples=["-3"],
    )
    idempotency_key: UsageKey
    reason: Annotated[Text, Field(min_length=1, max_length=500)] = Field(
        description="Why, for the ledger.", examples=["The render failed."]
    )
    corrects: IdempotencyKey | None = Field(
        default=None,
        description="The idempotency key of the wrong entry. The period in which it was booked is"
        " corrected.",
        examples=["render-2026-03-01-0001"],
    )
    occurred_at: OccurredAt | None = Field(
        default=None,
        description="The period that contains this time is corrected. With neither `occurred_at`"
        " nor `corrects`, the running period is.",
        examples=["2026-03-01T09:30:00Z"],
    )


class NeedsCredit(Reply):
    """The period is over, so its invoice stays as it is. Give the money back in Commet."""

    quantity: Amount = Field(
        description="The quantity that was reported to Commet and is too much. It may be less than"
        " the correction, because usage that was not reported yet needs no credit.",
        examples=["3"],
    )
    amount: Amount | None = Field(
        description="The price of `quantity`, in units of `currency`: zero within the included"
        " quantity. Null where the price is not known.",
        examples=["0.01"],
    )
    currency: Currency
    period: UsagePeriodReply


class CorrectionTaken(Reply):
    """A correction that was booked."""

    idempotency_key: str = Field(description="The key of the correction.", examples=["refund-0001"])
    status: Annotated[str, one_of("accepted", "duplicate")] = Field(
        description="`accepted`: booked by this request. `duplicate`: booked before."
    )
    quantity: Amount = Field(
        description="The quantity that was added, or taken off.", examples=["-3"]
    )
    period: UsagePeriodReply
    used: Amount = Field(
        description="The total of the corrected period after the correction.", examples=["417"]
    )
    needs_credit: NeedsCredit | None = Field(
        description="What to give back in Commet, because the period is over. Null otherwise."
    )
