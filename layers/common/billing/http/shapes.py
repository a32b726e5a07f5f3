"""The shapes of our own HTTP API, as pydantic models. Fields may be added, not renamed.

Quantities and money are decimal strings, times ISO-8601 UTC.
"""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from typing_extensions import TypedDict

from billing.field_types import (
    Email,
    FeatureCode,
    IdempotencyKey,
    LimitAmount,
    Name,
    OccurredAt,
    Properties,
    Quantity,
    SignedQuantity,
    Text,
    Url,
    UserId,
    encodable,
)


def _iso_utc(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Time = Annotated[datetime, PlainSerializer(_iso_utc, return_type=str, when_used="json")]
Amount = Annotated[str, Field(pattern=r"^-?\d+(\.\d+)?$", examples=["30", "2.50"])]


class Request(BaseModel):
    """A request's body. Unknown fields are refused, because they are usually a typo."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __repr__(self) -> str:
        # Powertools formats every body for its debug log, even while that log is off. For a batch
        # this took a sixth of the request's time. For a sign-in it would contain the password.
        return f"{type(self).__name__}(...)"

    __str__ = __repr__


class Reply(BaseModel):
    """An answer's body."""

    model_config = ConfigDict(frozen=True)


class UsagePeriodReply(Reply):
    start: Time
    end: Time


class Problem(Reply):
    """RFC 9457 problem document. `code` is stable. `errors` name fields, never their values.

    `as_of` comes with `access_unconfirmed`: the time of our newest information about the
    subscription. `amount` (in major units), `currency` and `pay_url` come with `debt_open`.
    """

    class Field(Reply):
        field: str
        code: str
        message: str

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[Field] = []
    as_of: datetime | None = None
    amount: str | None = None
    currency: str | None = None
    pay_url: str | None = None


# --- accounts ---------------------------------------------------------------------------------


NewPassword = Annotated[str, Field(min_length=8, max_length=128), AfterValidator(encodable)]
TypedPassword = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(encodable)]
LinkToken = Annotated[Text, Field(max_length=200, description="The token of the link.")]


class SignUp(Request):
    email: Email
    password: NewPassword
    name: Name | None = None
    cookie: bool = False


class SignIn(Request):
    email: Email
    password: TypedPassword
    cookie: bool = False


class SignInByLink(Request):
    token: LinkToken
    cookie: bool = False


class UserReply(Reply):
    id: str
    email: str | None
    name: str | None


class SessionReply(Reply):
    token: str | None = Field(description="Null where the token was set as a cookie.")
    expires_at: Time


class SignedIn(Reply):
    user: UserReply
    session: SessionReply


class AccountReply(Reply):
    """A user's own account."""

    id: str
    email: str | None = Field(description="Null until the identity provider tells one.")
    email_verified: bool = Field(description="Whether the address is proven to be the user's.")
    next_email: str | None = Field(
        description="Replaces `email` once the link in the mail to it was confirmed."
    )
    name: str | None
    own_account: bool = Field(description="Whether the user signed up here, with a password.")
    created_at: Time


class AccountShown(Reply):
    account: AccountReply


class AccountChange(Request):
    """What is to change. A field that is left out stays as it is."""

    name: Name | None = Field(None, description="Null removes the name.")
    email: Email | None = Field(
        None,
        description="The next address. It counts once it is confirmed by the link in a mail.",
    )
    current_password: TypedPassword | None = Field(None, description="Needed for another address.")


class VerifyEmail(Request):
    """Confirms an address, by the account's session or with its password."""

    token: LinkToken
    password: TypedPassword | None = Field(
        None, description="Needed where the request has no session of the account."
    )


class ChangePassword(Request):
    current_password: TypedPassword
    password: NewPassword


class ForgotPassword(Request):
    email: Email


class ResetPassword(Request):
    token: LinkToken
    password: NewPassword


class ListedSession(Reply):
    id: str
    current: bool = Field(description="Whether it is the session of this request.")
    device: str | None = Field(description='As "Firefox on Linux". Null where it is not known.')
    created_at: Time
    last_seen_at: Time = Field(description="To the hour.")
    expires_at: Time


class SessionList(Reply):
    sessions: list[ListedSession]


class PutUser(Request):
    email: Email
    name: Name | None = None


class PatchUser(Request):
    """What is left out stays as it is."""

    email: Email | None = None
    name: Name | None = Field(None, description="Null removes the name.")


class UserPut(Reply):
    user: UserReply


class ErasureReply(Reply):
    user_id: str
    erased: Literal[True] = True


class Export(Reply):
    """Everything recorded about a user. Follow `next_cursor` until it is null."""

    user_id: str
    exported_at: Time
    sections: dict[str, list[dict[str, Any]]] = Field(
        description="Rows by section. A page goes on where the last one ended."
    )
    next_cursor: str | None = Field(description="Null on the last page.")


class EraseAccount(Request):
    """Your password, typed anew."""

    password: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(encodable)]


class AuditEntry(Reply):
    """One entry of the audit trail."""

    at: Time
    actor_kind: str = Field(description="user, service, operator or system")
    actor: str | None = Field(
        description="The user's id, the service key's name or the operator's author."
    )
    action: str
    outcome: str = Field(description="`done`, or the code of the refusal.")
    request_id: str | None
    network: str | None = Field(
        description="Of sign-ins: a part of the client's address, a /24 (IPv4) or a /48 (IPv6)."
    )
    details: dict[str, str | int | bool]


class AuditPage(Reply):
    entries: list[AuditEntry] = Field(description="Newest first.")
    next_cursor: str | None = Field(description="Null on the last page.")


# --- plans and checkout -------------------------------------------------------------------------


class PriceReply(Reply):
    amount: Amount
    currency: str
    interval: str
    is_default: bool
    trial_days: int


class OveragePrice(Reply):
    enabled: bool
    unit_price: Amount | None


class PlanFeatureReply(Reply):
    code: str
    name: str
    type: str = Field(description="boolean, usage, seats or quota")
    enabled: bool
    unit: str | None
    included: Amount | None
    unlimited: bool
    overage: OveragePrice | None


class PlanReply(Reply):
    code: str
    name: str
    description: str | None
    is_free: bool
    prices: list[PriceReply]
    features: list[PlanFeatureReply]


class Plans(Reply):
    as_of: Time
    plans: list[PlanReply]


class Checkout(Request):
    plan_code: Annotated[Text, Field(min_length=1, max_length=100)]
    billing_interval: Annotated[str, Field(pattern=r"^[a-z_]{1,20}$")] | None = None
    success_url: Url | None = None
    user_id: UserId | None = Field(
        None, description="The user, for a service key. A session leaves it out."
    )
    confirmation: Annotated[str, Field(pattern=r"^chg_[A-Za-z0-9_-]{10,40}$")] | None = Field(
        None,
        description="Of a change of plan that was shown: the same request with it performs the"
        " change, once, however often it is sent.",
    )


class PlanRefReply(Reply):
    id: str | None
    name: str | None


class CheckoutSubscription(Reply):
    id: str
    status: str
    plan: PlanRefReply


class PlanTermsReply(Reply):
    """What a plan gives of one feature."""

    enabled: bool
    included: Amount | None
    unlimited: bool
    overage_unit_price: Amount | None = Field(description="Null where there is no overage.")


class FeatureChangeReply(Reply):
    code: str
    name: str
    unit: str | None
    change: Literal["gained", "lost", "changed", "same"]
    before: PlanTermsReply
    after: PlanTermsReply
    used: Amount = Field(description="In the running period.")
    used_beyond: Amount = Field(
        description="How much of what was used is more than the new plan includes."
    )


class PlanChangeReply(Reply):
    """A change of plan: what it means, or what became of it."""

    state: Literal["preview", "completed", "scheduled"]
    currency: str
    due_now: Amount | None = Field(
        description="Of a preview: what is charged once it is confirmed: the price, usage beyond"
        " what was included, and tax, less the credit. Of a completed change: what was charged."
    )
    credit: Amount | None = Field(description="For what is left of the old period.")
    effective_at: Time | None = Field(
        description="When the change takes effect. Null where it takes effect at once, or has."
    )
    then_amount: Amount | None = Field(description="The price of each period from then on.")
    then_interval: str | None = Field(description="Null for a free plan.")
    features: list[FeatureChangeReply] = Field(
        description="The features that the plans give differently. Empty unless a preview."
    )
    confirmation: str | None = Field(description="Null unless a preview.")
    confirmation_expires_at: Time | None


class CheckoutReply(Reply):
    subscription: CheckoutSubscription
    checkout_url: str | None
    change: PlanChangeReply | None = Field(
        description="Of a user who has a subscription: the change of its plan."
    )


class Portal(Request):
    return_url: Url | None = None
    user_id: UserId | None = Field(
        None, description="The user, for a service key. A session leaves it out."
    )


class PortalReply(Reply):
    portal_url: str


class Cancel(Request):
    immediate: bool = Field(
        default=False, description="Now, and not at the end of the period that is paid."
    )
    user_id: UserId | None = Field(
        None, description="The user, for a service key. A session leaves it out."
    )


class OfUser(Request):
    """The user of a request that needs nothing else."""

    user_id: UserId | None = Field(
        None, description="The user, for a service key. A session leaves it out."
    )


class SubscriptionState(Reply):
    id: str
    status: str
    cancel_at_period_end: bool
    ends_at: Time | None = Field(
        description="When a canceled subscription ends or ended. Null if it is not canceled."
    )


class Canceled(Reply):
    subscription: SubscriptionState


class RecoveryReply(Reply):
    recovery_url: str


class InvoiceReply(Reply):
    id: str
    number: str | None
    status: str = Field(description="draft, outstanding, paid, void or uncollectible")
    type: str | None
    currency: str
    subtotal: Amount
    tax: Amount
    total: Amount
    period: UsagePeriodReply | None
    issued_at: Time | None
    due_at: Time | None


class InvoicePage(Reply):
    invoices: list[InvoiceReply]
    next_cursor: str | None = Field(description="Null on the last page.")


class InvoiceLineReply(Reply):
    type: str
    description: str
    feature: str | None = Field(description="The feature's name. Null unless of usage.")
    used: Amount | None
    included: Amount | None
    overage: Amount | None
    amount: Amount


class InvoiceDetail(InvoiceReply):
    lines: list[InvoiceLineReply]
    pdf_url: str = Field(description="Good for a week.")


# --- usage ------------------------------------------------------------------------------------


class UsageEvent(Request):
    """Something that was used."""

    user_id: UserId
    feature: FeatureCode
    quantity: Quantity = Decimal(1)
    idempotency_key: IdempotencyKey
    occurred_at: OccurredAt | None = None
    properties: Properties = Field(default_factory=dict)


class UsageBatch(Request):
    """Up to 1,000 events in the form of a single event. Each gets its own verdict."""

    events: Annotated[list[Any], Field(min_length=1, max_length=1000)]


# These are dictionaries and not models, because json writes dictionaries faster and an answer can
# hold a thousand verdicts.


class WrongField(TypedDict):
    field: str
    code: str
    message: str


class UsageVerdict(TypedDict):
    index: int
    idempotency_key: str | None
    status: Annotated[str, Field(description="accepted, duplicate, conflict or refused")]
    code: str | None
    errors: NotRequired[
        Annotated[list[WrongField], Field(description="The wrong fields of an `invalid_event`.")]
    ]


class UsageTaken(TypedDict):
    accepted: int
    duplicates: int
    refused: Annotated[int, Field(description="The number of refused and conflicting events.")]
    results: list[UsageVerdict]


class SpendingReply(Reply):
    """The cost of usage beyond the included quantities in the running period, and its limit."""

    spent: Amount = Field(description="Held reservations count as if they were used.")
    limit: Amount | None = Field(description="Null where there is no limit.")
    set_by: Literal["default", "product", "user"] = Field(description="Whose limit applies.")
    currency: str


class UsageCheck(Request):
    """A quantity that a user is about to use. A signed-in user leaves `user_id` out."""

    feature: FeatureCode
    quantity: Quantity = Decimal(1)
    user_id: UserId | None = None


class UsageAllowed(Reply):
    """Of a boolean feature only `allowed` and `code` say something: it has no quantities."""

    allowed: bool
    remaining: Amount | None = Field(
        description="The part of the included quantity that is neither used nor held. Null where"
        " the feature is unlimited or not in the plan."
    )
    overage_quantity: Amount = Field(description="The part beyond the included quantity.")
    unit_price: Amount | None = Field(
        description="The price of one unit beyond the included quantity. Null where it is not"
        " known, or the feature has none."
    )
    cost: Amount | None = Field(
        description="The price of `overage_quantity`, not rounded: an invoice rounds the sum. Null"
        " where the price is not known yet."
    )
    currency: str
    spending: SpendingReply | None = Field(
        description="Null where the feature has no overage, or access is not confirmed."
    )
    code: str | None = None


class Reserve(Request):
    """A quantity to hold until the work is done."""

    user_id: UserId
    feature: FeatureCode
    quantity: Quantity = Decimal(1)
    idempotency_key: IdempotencyKey
    expires_in: Annotated[int, Field(ge=1, le=3600, description="Seconds.")] = 300
    properties: Properties = Field(default_factory=dict)


class ReservationReply(Reply):
    id: str
    user_id: str
    feature: str
    idempotency_key: str
    quantity: Amount
    expires_at: Time
    state: str = Field(description="held, confirmed, released or expired")
    booked: Amount | None = Field(description="The confirmed quantity. Null until confirmed.")


class Confirm(Request):
    """The quantity that the work took. Leave it out to confirm the held quantity."""

    quantity: Quantity | None = None


class Release(Request):
    """An empty object."""


class Correct(Request):
    """A quantity to add to a user's total. A negative quantity is taken off the total."""

    user_id: UserId
    feature: FeatureCode
    quantity: SignedQuantity
    idempotency_key: IdempotencyKey
    reason: Annotated[Text, Field(min_length=1, max_length=500)]
    corrects: IdempotencyKey | None = Field(
        None,
        description="The idempotency key of the wrong entry. The period in which it was booked is"
        " corrected.",
    )
    occurred_at: OccurredAt | None = Field(
        None,
        description="The period that contains this time is corrected. With neither `occurred_at`"
        " nor `corrects`, the running period is.",
    )


class NeedsCredit(Reply):
    """The period is over, so its invoice stays as it is. Give the money back in Commet."""

    quantity: Amount = Field(
        description="The quantity that was reported to Commet and is too much. It may be less than"
        " the correction, because usage that was not reported yet needs no credit."
    )
    amount: Amount | None = Field(
        description="The price of `quantity`: zero within the included quantity. Null where the"
        " price is not known."
    )
    currency: str
    period: UsagePeriodReply


class CorrectionTaken(Reply):
    idempotency_key: str
    status: str = Field(description="accepted or duplicate")
    quantity: Amount
    period: UsagePeriodReply
    used: Amount = Field(description="The total of the corrected period after the correction.")
    needs_credit: NeedsCredit | None


class LedgerPeriodReply(Reply):
    """The allowance period in which an entry was booked, and what the period belongs to.

    A plan change opens another period, even on the same day: tell periods apart by `id`.
    """

    id: str
    start: Time
    end: Time
    subscription_id: str
    plan_id: str | None


class LedgerEntry(Reply):
    booked_at: Time
    occurred_at: Time
    user_id: str
    feature: str
    kind: str = Field(description="event, confirm (of a reservation) or correction")
    quantity: Amount
    idempotency_key: str
    period: LedgerPeriodReply
    late: bool = Field(description="Whether it occurred before the period in which it was booked.")
    reason: str | None
    author: str | None = Field(
        description="Of a correction: the name of the service key that sent it."
    )
    needs_credit: bool
    properties: dict[str, str]


class LedgerPage(Reply):
    events: list[LedgerEntry]
    next_cursor: str | None = Field(
        description="Null on the last page. Earlier pages may have fewer entries than `limit`, or"
        " none: a page ends before 6 MB."
    )


# --- dashboard ------------------------------------------------------------------------------------


class CurrentPeriod(Reply):
    start: Time
    end: Time
    days_remaining: int


class ScheduledChangeReply(Reply):
    """A change of plan that is booked."""

    plan: PlanRefReply
    interval: str | None = Field(description="Null for a free plan.")
    effective_at: Time | None


class SubscriptionReply(Reply):
    id: str
    status: str
    plan: PlanRefReply
    current_period: CurrentPeriod | None
    cancel_at_period_end: bool
    scheduled_change: ScheduledChangeReply | None
    trial_ends_at: Time | None
    as_of: Time


class OverageReply(Reply):
    enabled: bool
    quantity: Amount
    unit_price: Amount | None
    cost: Amount | None = Field(description="Null where the price is not known yet.")
    currency: str


class DailyUsage(Reply):
    date: date
    quantity: Amount


class UsageReply(Reply):
    feature: str
    name: str
    unit: str | None
    period: UsagePeriodReply
    used: Amount
    held: Amount = Field(description="The quantity of all held reservations; not part of `used`.")
    carried: Amount = Field(
        description="The part of `used` that was counted in an earlier period and is billed in"
        " this one."
    )
    used_before: Amount = Field(
        description="Used in earlier free periods that were left early. It lowers `remaining`, and"
        " is not part of `used`."
    )
    included: Amount | None
    remaining: Amount | None
    unlimited: bool
    overage: OverageReply
    daily: list[DailyUsage]


class PaymentTroubleReply(Reply):
    """A payment that went wrong and is not settled."""

    kind: str = Field(description="failed_payment, dispute or unpaid_invoice")
    since: Time
    amount: Amount | None = Field(description="Null where the provider has not said it.")
    currency: str | None
    recovery_url: str | None = Field(
        description="Of a failed payment: the page on which it can be paid. Only for the user:"
        " whoever has the address can pay there."
    )


class FeatureReply(Reply):
    """A feature that a plan has or does not have. It is not metered."""

    feature: str
    name: str
    allowed: bool


class Dashboard(Reply):
    user: UserReply
    access: bool
    subscription: SubscriptionReply | None
    payment: PaymentTroubleReply | None = Field(
        description="Null where nothing has to be settled. While a payment is disputed, no checkout"
        " can be started."
    )
    usage: list[UsageReply]
    features: list[FeatureReply] = Field(
        description="The boolean features. `allowed` is false without access."
    )
    spending: SpendingReply | None = Field(description="Null where the plan has no overage.")


class SpendLimit(Request):
    """How much overage may cost in an allowance period, in the user's currency. Null: no limit."""

    amount: LimitAmount | None


class SpendLimitReply(Reply):
    spending: SpendingReply | None = Field(description="Null where the plan has no overage.")


class Health(Reply):
    status: str
