"""Outgoing events, and the endpoints that they are sent to."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from billing.events.known_types import TYPES
from billing.field_types import OccurredAt, Text, Url
from billing.http.json_schema import known, one_of
from billing.http.shapes.base import NextCursor, Reply, Request, Time, UserIdReply


def _known_type(text: str) -> str:
    if text not in TYPES:
        raise ValueError("must be a type of event (docs/events.md)")
    return text


EventType = Annotated[str, AfterValidator(_known_type), one_of(*TYPES)]

EndpointUrl = Annotated[
    Url,
    Field(
        description="Where events are posted: an https address that is reached from the internet.",
        examples=["https://app.example.com/hooks/billing"],
    ),
]

EndpointTypes = Annotated[
    list[EventType] | None,
    Field(
        min_length=1,
        max_length=50,
        description="The types of events that are sent. Null: all.",
        examples=[["access.granted", "access.ended"]],
    ),
]

EndpointDescription = Annotated[
    Text,
    Field(max_length=200, description="A note of yours.", examples=["The backend in production"]),
]


class OutgoingEventReply(TypedDict):
    """A CloudEvent (version 1.0): something became true of a user."""

    specversion: Annotated[str, Field(description="The version of CloudEvents.", examples=["1.0"])]
    id: Annotated[
        str,
        Field(
            description="The event's id. It is the same wherever and however often it is sent.",
            examples=["0d3f6f0a-5f0c-4d3c-9a57-2f1e7c1b9d11"],
        ),
    ]
    source: Annotated[
        str, Field(description="The product's address.", examples=["https://app.example.com"])
    ]
    type: Annotated[str, Field(description="What became true.", examples=["access.granted"])]
    subject: Annotated[str, Field(description="The user's id.", examples=["customer-42"])]
    time: Annotated[
        str,
        Field(
            description="When it became true.",
            examples=["2026-03-01T09:30:00.000Z"],
            json_schema_extra={"format": "date-time"},
        ),
    ]
    datacontenttype: Annotated[
        str, Field(description="The form of `data`.", examples=["application/json"])
    ]
    sequence: Annotated[
        str,
        Field(description="Counts the user's events: 1, 2, 3 and so on.", examples=["7"]),
    ]
    data: Annotated[
        dict[str, Any],
        Field(
            description="What belongs to the type (docs/events.md).",
            examples=[{"plan_id": "pln_1", "plan": "pro", "status": "active"}],
        ),
    ]


class OutgoingEventPage(Reply):
    """Events in their order."""

    events: list[OutgoingEventReply] = Field(description="The events. None: nothing is new.")
    next_after: int = Field(
        description="Send this as `after` to read on, now or later.", examples=[412]
    )


class CreateEndpoint(Request):
    """An address of the product that events are posted to."""

    url: EndpointUrl
    types: EndpointTypes = None
    description: EndpointDescription = ""


class ChangeEndpoint(Request):
    """What is to change of an endpoint. Fields that are left out stay as they are."""

    url: EndpointUrl | None = None
    types: EndpointTypes = None
    description: EndpointDescription | None = None
    enabled: bool | None = Field(
        default=None, description="Whether events are sent to it.", examples=[True]
    )


class EndpointReply(Reply):
    """An address of the product that events are posted to."""

    id: str = Field(description="The endpoint's id.", examples=["ep_8f2c41d09ab37e65f1c0d2b4"])
    url: str = Field(
        description="Where events are posted.", examples=["https://app.example.com/hooks/billing"]
    )
    types: list[str] | None = Field(
        description="The types of events that are sent. Null: all.",
        examples=[["access.granted", "access.ended"]],
    )
    description: str = Field(description="Your note.", examples=["The backend in production"])
    enabled: bool = Field(description="Whether events are sent to it.", examples=[True])
    disabled_by: Annotated[str, known("failures", "gone", "request")] | None = Field(
        description="Why it is switched off: it took nothing for three days (`failures`), it"
        " answered 410 (`gone`), or somebody asked (`request`). Null: it is switched on.",
        examples=[None, "failures"],
    )
    disabled_at: Time | None = Field(description="When it was switched off.", examples=[None])
    failing_since: Time | None = Field(
        description="The first failure after which it took nothing. Null: it is not failing.",
        examples=[None],
    )
    previous_secret_until: Time | None = Field(
        description="Until when the secret before the newest one signs as well.", examples=[None]
    )
    created_at: Time = Field(description="When it was made.")


class EndpointWithSecret(EndpointReply):
    """An endpoint with its newest secret. The secret is never answered again."""

    secret: str = Field(
        description="Verifies signatures after Standard Webhooks.",
        examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwmDkUyqYyZpQ="],
    )


class EndpointList(Reply):
    """All endpoints."""

    endpoints: list[EndpointReply] = Field(description="The endpoints, the oldest first.")


WhyNotTaken = Annotated[
    str,
    known(
        *("status", "redirect", "timeout", "connection", "tls", "dns", "not_public"),
        *("not_http", "url", "internal_error"),
    ),
]


class EventAttemptReply(Reply):
    """One time that an event was sent to an endpoint."""

    at: Time = Field(description="When the attempt ended.")
    http_status: int | None = Field(
        description="The HTTP status of the answer. Null: none came.", examples=[503]
    )
    reason: WhyNotTaken | None = Field(
        description="Why the endpoint did not take the event. Null: it took it."
    )
    milliseconds: int = Field(description="How long the call took.", examples=[84])


class EventDeliveryReply(Reply):
    """One event for an endpoint, and what became of it."""

    event: str = Field(
        description="The event's id.", examples=["0d3f6f0a-5f0c-4d3c-9a57-2f1e7c1b9d11"]
    )
    type: str = Field(description="The event's type.", examples=["access.granted"])
    user_id: UserIdReply
    sequence: str = Field(description="The event's number among the user's.", examples=["7"])
    state: Annotated[str, known("pending", "sent", "failed")] = Field(
        description="`pending`: it waits, for the first time or again. `sent`: the endpoint took"
        " it. `failed`: not taken for three days; it is sent again if you ask."
    )
    attempts: int = Field(description="How often it was sent.", examples=[1])
    next_attempt_at: Time | None = Field(
        description="When it is sent next, at the earliest. Null: it is not sent again."
    )
    attempted_at: Time | None = Field(description="When it was last sent.")
    http_status: int | None = Field(
        description="The HTTP status of the last answer. Null: none came.", examples=[503]
    )
    reason: WhyNotTaken | None = Field(description="Why the last attempt failed.")
    ended_at: Time | None = Field(description="When it was taken or given up.", examples=[None])
    log: list[EventAttemptReply] = Field(description="The newest ten attempts, the newest first.")


class EventDeliveryPage(Reply):
    """Deliveries to an endpoint, the newest event first."""

    deliveries: list[EventDeliveryReply] = Field(description="The deliveries of this page.")
    next_cursor: NextCursor


class Redeliver(Request):
    """Either one event, or all events of the endpoint's types in a range of time."""

    event: UUID | None = Field(
        default=None,
        description="The event's id.",
        examples=["0d3f6f0a-5f0c-4d3c-9a57-2f1e7c1b9d11"],
    )
    start: OccurredAt | None = Field(
        default=None,
        alias="from",
        description="Events that became true at this time or later.",
        examples=["2026-03-01T00:00:00Z"],
    )
    end: OccurredAt | None = Field(
        default=None,
        alias="to",
        description="Events that became true before this time.",
        examples=["2026-03-02T00:00:00Z"],
    )


class Redelivered(Reply):
    """Events that are sent again."""

    queued: int = Field(
        description="How many events now wait that did not wait before.", examples=[12]
    )
