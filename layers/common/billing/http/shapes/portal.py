"""The portal, canceling, and paying again."""

from pydantic import Field

from billing.field_types import Url
from billing.http.shapes.base import NamedUser, Reply, Request, SubscriptionStatus, Time


class Portal(Request):
    """Where people return to from the portal, and whose portal it is."""

    return_url: Url | None = Field(
        default=None,
        description="The page that people return to. Its origin must be an allowed one. Left out:"
        " the product's own page.",
        examples=["https://app.example.com/billing"],
        json_schema_extra={"format": "uri"},
    )
    user_id: NamedUser = None


class PortalReply(Reply):
    """A portal session."""

    portal_url: str = Field(
        description="The address of the portal, for this user alone. Good for 30 minutes.",
        examples=["https://commet.co/portal/prt_2wEe"],
        json_schema_extra={"format": "uri"},
    )


class Cancel(Request):
    """When the subscription is to end."""

    immediate: bool = Field(
        default=False, description="Now, and not at the end of the period that is paid."
    )
    user_id: NamedUser = None


class OfUser(Request):
    """The user of a request that needs nothing else."""

    user_id: NamedUser = None


class SubscriptionState(Reply):
    """A subscription after it was canceled or kept."""

    id: str = Field(description="The subscription's id.", examples=["sub_3Vx9"])
    status: SubscriptionStatus = Field(description="The subscription's state.")
    cancel_at_period_end: bool = Field(
        description="Whether it ends with the paid period.", examples=[True]
    )
    ends_at: Time | None = Field(
        description="When a canceled subscription ends or ended. Null if it is not canceled."
    )


class Canceled(Reply):
    """The subscription of the user."""

    subscription: SubscriptionState


class RecoveryReply(Reply):
    """Where an overdue payment is made."""

    recovery_url: str = Field(
        description="The page on which the overdue payment can be paid. Only for the user.",
        examples=["https://commet.co/recover/rec_8Lm1"],
        json_schema_extra={"format": "uri"},
    )
