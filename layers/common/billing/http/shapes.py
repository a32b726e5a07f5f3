"""The shapes of our own HTTP API, as pydantic models. Fields may be added, not renamed.

Quantities and money are decimal strings, times ISO-8601 UTC. Each field has a description and an
example for the OpenAPI document (tests/unit/local/test_openapi_words.py).
"""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from typing_extensions import TypedDict

from billing.errors import TITLES
from billing.events.known_types import TYPES
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
from billing.http import json_schema
from billing.http.json_schema import known, one_of


def _iso_utc(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Time = Annotated[
    datetime, PlainSerializer(_iso_utc, return_type=str, when_used="json"), json_schema.TIME
]
Amount = Annotated[
    str,
    Field(
        pattern=r"^-?\d+(\.\d+)?$",
        examples=["30", "2.50"],
        json_schema_extra=json_schema.DECIMAL,
    ),
]
Day = Annotated[date, Field(description="The day, in UTC.", examples=["2026-03-01"])]
Currency = Annotated[
    str, Field(description="The currency, an ISO 4217 code in lower case.", examples=["usd"])
]
UserIdReply = Annotated[
    str, Field(description="The user's id.", examples=["usr_8f2c41d09ab37e65f1c0d2b4"])
]
FeatureReplyCode = Annotated[
    str, Field(description="The feature's code in the catalogue.", examples=["storage"])
]
NextCursor = Annotated[
    str | None,
    Field(
        description="Send this text as `cursor` to get the next page. Null on the last page.",
        examples=["eyJhZnRlciI6IDQyfQ"],
    ),
]

SubscriptionStatus = Annotated[
    str,
    known("active", "trialing", "past_due", "paused", "canceled", "pending_payment", "draft"),
]
Interval = Annotated[
    str, known("monthly", "weekly", "quarterly", "semiannual", "yearly", "one_time")
]

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


# The user of a request that both a person and a service key may send.
NamedUser = Annotated[
    UserId | None,
    Field(
        description="The user, for a service key. A session leaves it out.",
        examples=["customer-42"],
    ),
]


class UsagePeriodReply(Reply):
    """An allowance period: what is included is counted in it."""

    start: Time = Field(description="When the period began.", examples=["2026-03-01T00:00:00.000Z"])
    end: Time = Field(
        description="When the period ends. This moment is not part of it.",
        examples=["2026-04-01T00:00:00.000Z"],
    )


# --- problems ---------------------------------------------------------------------------------


class WrongField(TypedDict):
    """One field that is wrong. The field's value is never repeated."""

    field: Annotated[
        str,
        Field(
            description="The path to the field in the body, or the name of the parameter.",
            examples=["quantity"],
        ),
    ]
    code: Annotated[
        str, Field(description="What is wrong, for programs.", examples=["greater_than"])
    ]
    message: Annotated[
        str,
        Field(
            description="What is wrong, for people.", examples=["Input should be greater than 0"]
        ),
    ]


class Problem(Reply):
    """An error as an RFC 9457 problem document. Programs read `code`, which is stable."""

    type: str = Field(
        description="The address of this problem's explanation, relative to the API.",
        examples=["/docs/problems#limit_reached"],
        json_schema_extra={"format": "uri-reference"},
    )
    title: str = Field(
        description="What is the matter, the same text for each problem with this code.",
        examples=["The plan's included quantity is used up"],
    )
    status: int = Field(description="The HTTP status of the answer.", examples=[402])
    detail: str = Field(
        description="What is the matter in this request, for people.",
        examples=["Less of the included quantity is left than was asked for."],
    )
    code: Annotated[str, known(*TITLES)] = Field(
        description="Which problem it is. New codes may be added.", examples=["limit_reached"]
    )
    request_id: str = Field(
        description="The id of the request. Name it when you ask for help: the log has it.",
        examples=["JKJaXmPLvHcESHA="],
    )
    errors: list[WrongField] = Field(
        default=[], description="Of `invalid_request`: the wrong fields, at most 20."
    )
    as_of: datetime | None = Field(
        default=None,
        description="Of `access_unconfirmed`: the time of our newest information about the"
        " subscription.",
        examples=["2026-03-01T09:30:00+00:00"],
    )
    amount: Amount | None = Field(
        default=None,
        description="Of `debt_open`: how much the user owes, in units of `currency`.",
        examples=["12.40"],
    )
    currency: str | None = Field(
        default=None,
        description="Of `debt_open`: the currency of `amount`, an ISO 4217 code in lower case.",
        examples=["usd"],
    )
    pay_url: str | None = Field(
        default=None,
        description="Of `debt_open`: the page on which the user pays. Null where there is none.",
        examples=["https://commet.co/pay/plink_7Qd2"],
        json_schema_extra={"format": "uri"},
    )


# --- accounts ---------------------------------------------------------------------------------


NewPassword = Annotated[
    str,
    Field(
        min_length=8,
        max_length=128,
        description="The new password. Common passwords, and ones made of the email address or the"
        " product's name, are refused.",
        examples=["a long walk home"],
        json_schema_extra={"format": "password"},
    ),
    AfterValidator(encodable),
]
TypedPassword = Annotated[
    str,
    Field(
        min_length=1,
        max_length=128,
        description="The account's password.",
        examples=["a long walk home"],
        json_schema_extra={"format": "password"},
    ),
    AfterValidator(encodable),
]
LinkToken = Annotated[
    Text,
    Field(
        max_length=200,
        description="The token of the link in the mail.",
        examples=["lnk_4b1f9f3e6c2a"],
    ),
]
OwnEmail = Annotated[
    Email,
    Field(
        description="The account's email address.",
        examples=["ana@example.com"],
        json_schema_extra={"format": "idn-email"},
    ),
]
ContactEmail = Annotated[
    Email,
    Field(
        description="The address that invoices go to. Several users may have the same.",
        examples=["ana@example.com"],
        json_schema_extra={"format": "idn-email"},
    ),
]
EmailReply = Annotated[str, Field(json_schema_extra={"format": "idn-email"})]
InCookie = Annotated[
    bool,
    Field(
        description="Whether the session's token is set as a cookie, for pages, and not in the"
        " answer's body."
    ),
]


class SignUp(Request):
    """A new account with an email address and a password."""

    email: OwnEmail
    password: NewPassword
    name: Name | None = Field(
        default=None, description="The person's name, as invoices have it.", examples=["Ana Torres"]
    )
    cookie: InCookie = False


class SignIn(Request):
    """The address and password of an account."""

    email: OwnEmail
    password: TypedPassword
    cookie: InCookie = False


class SignInByLink(Request):
    """The token of a link to sign in with."""

    token: LinkToken
    cookie: InCookie = False


class UserReply(Reply):
    """A user, as invoices name them."""

    id: UserIdReply
    email: EmailReply | None = Field(
        description="The user's email address. Null until an identity provider tells one.",
        examples=["ana@example.com"],
    )
    name: str | None = Field(
        description="The user's name. Null where none was given.", examples=["Ana Torres"]
    )


class SessionReply(Reply):
    """A session that was opened."""

    token: str | None = Field(
        description="Send it as `Authorization: Bearer …`. Null where it was set as a cookie.",
        examples=["ses_5f0c9e7d2b1a4c3e"],
    )
    expires_at: Time = Field(
        description="When the session ends, unless it is used. Each use moves the end."
    )


class SignedIn(Reply):
    """A user who signed in, and the session."""

    user: UserReply
    session: SessionReply


class AccountReply(Reply):
    """A user's own account."""

    id: UserIdReply
    email: EmailReply | None = Field(
        description="The account's email address. Null until the identity provider tells one.",
        examples=["ana@example.com"],
    )
    email_verified: bool = Field(description="Whether the address is proven to be the user's.")
    next_email: EmailReply | None = Field(
        description="Replaces `email` once the link in the mail to it was confirmed. Null where no"
        " change is asked for.",
        examples=["ana@example.org"],
    )
    name: str | None = Field(
        description="The user's name. Null where none was given.", examples=["Ana Torres"]
    )
    own_account: bool = Field(description="Whether the user signed up here, with a password.")
    created_at: Time = Field(description="When the account was made.")


class AccountShown(Reply):
    """The account of the caller."""

    account: AccountReply


AboutThresholds = Annotated[
    bool,
    Field(
        strict=True,
        description="Whether you get mails when usage or spending reaches a threshold.",
        examples=[True],
    ),
]


class MailPreferences(Request):
    """Which mails you want. Mails about payments and the end of a trial are always sent."""

    thresholds: AboutThresholds


class MailPreferencesReply(Reply):
    """Which mails you get, of those that you can switch off."""

    thresholds: AboutThresholds


class AccountChange(Request):
    """What is to change. A field that is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Ana Torres"}]})

    name: Name | None = Field(
        default=None, description="The new name. Null removes the name.", examples=["Ana Torres"]
    )
    email: Email | None = Field(
        default=None,
        description="The next address. It counts once it is confirmed by the link in a mail; of a"
        " user of an identity provider, at once.",
        examples=["ana@example.org"],
        json_schema_extra={"format": "idn-email"},
    )
    current_password: TypedPassword | None = Field(
        default=None,
        description="The password. Needed for another address by those who have one here.",
    )


class VerifyEmail(Request):
    """Confirms an address, by the account's session or with its password."""

    token: LinkToken
    password: TypedPassword | None = Field(
        default=None, description="Needed where the request has no session of the account."
    )


class ChangePassword(Request):
    """The old password and the new one."""

    current_password: TypedPassword
    password: NewPassword


class ForgotPassword(Request):
    """Whose password was forgotten."""

    email: OwnEmail


class ResetPassword(Request):
    """A new password, and the token that permits setting it."""

    token: LinkToken
    password: NewPassword


class ListedSession(Reply):
    """One of the caller's sessions."""

    id: str = Field(
        description="The session's id, with which it can be ended.",
        examples=["sess_91ce04b7a2d85f36"],
    )
    current: bool = Field(description="Whether it is the session of this request.")
    device: str | None = Field(
        description="The browser and the system. Null where they are not known.",
        examples=["Firefox on Linux"],
    )
    created_at: Time = Field(description="When the person signed in.")
    last_seen_at: Time = Field(description="When the session was last used, to the hour.")
    expires_at: Time = Field(description="When the session ends, unless it is used.")


class SessionList(Reply):
    """All sessions of the caller."""

    sessions: list[ListedSession] = Field(description="The session of this request comes first.")


class PutUser(Request):
    """A user of your product, as invoices name them."""

    email: ContactEmail
    name: Name | None = Field(
        default=None, description="The user's name, as invoices have it.", examples=["Ana Torres"]
    )


class PatchUser(Request):
    """What is left out stays as it is."""

    email: ContactEmail | None = None
    name: Name | None = Field(
        default=None, description="The new name. Null removes the name.", examples=["Ana Torres"]
    )


class UserPut(Reply):
    """A user."""

    user: UserReply


class ErasureReply(Reply):
    """An erasure that has begun."""

    user_id: UserIdReply
    erased: Literal[True] = Field(
        default=True, description="Name and address are gone. The rest follows by itself."
    )


class Export(Reply):
    """Everything recorded about a user. Follow `next_cursor` until it is null."""

    user_id: UserIdReply
    exported_at: Time = Field(description="When this page was made.")
    sections: dict[str, list[dict[str, Any]]] = Field(
        description="Rows by section. A page goes on where the last one ended.",
        examples=[{"account": [{"id": "usr_8f2c41d09ab37e65f1c0d2b4"}]}],
    )
    next_cursor: NextCursor


class EraseAccount(Request):
    """Your password, typed anew."""

    password: TypedPassword


class AuditEntry(Reply):
    """One entry of the audit trail."""

    at: Time = Field(description="When it was done.")
    actor_kind: Annotated[str, one_of("user", "service", "operator", "system")] = Field(
        description="Who did it: the user, a service key, an operator or the stack itself."
    )
    actor: str | None = Field(
        description="The user's id, the service key's name or the operator's author. Null where"
        " nobody was signed in.",
        examples=["usr_8f2c41d09ab37e65f1c0d2b4"],
    )
    action: str = Field(description="What was done.", examples=["account.signed_in"])
    outcome: str = Field(description="`done`, or the code of the refusal.", examples=["done"])
    request_id: str | None = Field(
        description="The id of the request. Null where there was none.",
        examples=["JKJaXmPLvHcESHA="],
    )
    network: str | None = Field(
        description="Of sign-ins: a part of the client's address, a /24 (IPv4) or a /48 (IPv6).",
        examples=["203.0.113.0/24"],
    )
    details: dict[str, str | int | bool] = Field(
        description="What belongs to the action, by name.", examples=[{"by_link": True}]
    )


class AuditPage(Reply):
    """Some entries of the audit trail."""

    entries: list[AuditEntry] = Field(description="Newest first.")
    next_cursor: NextCursor


# --- plans and checkout -------------------------------------------------------------------------


class PriceReply(Reply):
    """What a plan costs for each interval."""

    amount: Amount = Field(
        description="The price for one interval, in units of `currency`.", examples=["29.00"]
    )
    currency: Currency
    interval: Interval = Field(description="How often the price is charged.")
    is_default: bool = Field(description="Whether a checkout that names no interval takes it.")
    trial_days: int = Field(
        description="How many days are free before the first charge. 0 for a user who had a trial.",
        examples=[14],
    )


class OveragePrice(Reply):
    """What usage beyond the included quantity costs."""

    enabled: bool = Field(description="Whether usage beyond the included quantity is sold.")
    unit_price: Amount | None = Field(
        description="The price of one unit, in units of the plan's currency. Null where there is"
        " none.",
        examples=["0.002"],
    )


class PlanFeatureReply(Reply):
    """What a plan gives of one feature."""

    code: FeatureReplyCode
    name: str = Field(description="The feature's name, for people.", examples=["Storage"])
    type: Annotated[str, known("usage", "boolean", "seats", "quota")] = Field(
        description="How the feature is sold: metered (`usage`), or on and off (`boolean`)."
    )
    enabled: bool = Field(description="Whether the plan has the feature.")
    unit: str | None = Field(
        description="What one unit is called. Null where the catalogue names none.",
        examples=["GB"],
    )
    included: Amount | None = Field(
        description="The quantity that the price includes in each period. Null where the feature is"
        " unlimited or not metered.",
        examples=["1000"],
    )
    unlimited: bool = Field(description="Whether any quantity is included.")
    overage: OveragePrice | None = Field(
        description="What more than the included quantity costs. Null for a boolean feature."
    )


class PlanReply(Reply):
    """A plan that is sold."""

    id: str = Field(
        description="The plan's id, as a subscription's `plan.id` has it.", examples=["pln_5tKx"]
    )
    code: str = Field(description="The plan's code, for a checkout.", examples=["usage_pro"])
    name: str = Field(description="The plan's name, for people.", examples=["Usage Pro"])
    description: str | None = Field(
        description="What the plan is for. Null where the catalogue says nothing.",
        examples=["For products that grow with their users"],
    )
    is_free: bool = Field(description="Whether the plan costs nothing. It needs no payment method.")
    prices: list[PriceReply] = Field(description="The prices by interval. Empty for a free plan.")
    features: list[PlanFeatureReply] = Field(description="What the plan gives, by feature.")


class Plans(Reply):
    """The plans that anybody may choose."""

    as_of: Time = Field(description="When the billing provider last named the plans.")
    plans: list[PlanReply] = Field(description="In the order of the catalogue.")


class Checkout(Request):
    """The plan that a user chose."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"plan_code": "usage_pro", "billing_interval": "monthly"}]}
    )

    plan_code: Annotated[Text, Field(min_length=1, max_length=100)] = Field(
        description="The code of the plan, from `GET /plans`.", examples=["usage_pro"]
    )
    billing_interval: Annotated[str, Field(pattern=r"^[a-z_]{1,20}$")] | None = Field(
        default=None,
        description="The interval of the price. Left out: the plan's default price.",
        examples=["monthly"],
    )
    success_url: Url | None = Field(
        default=None,
        description="The page that people return to after they paid. Its origin must be an allowed"
        " one. Left out: the product's own page.",
        examples=["https://app.example.com/welcome"],
        json_schema_extra={"format": "uri"},
    )
    user_id: NamedUser = None
    confirmation: Annotated[str, Field(pattern=r"^chg_[A-Za-z0-9_-]{10,40}$")] | None = Field(
        default=None,
        description="Of a change of plan that was shown: the same request with it performs the"
        " change, once, however often it is sent.",
        examples=["chg_4f9a1c7be20d"],
    )


class PlanRefReply(Reply):
    """Which plan it is."""

    id: str | None = Field(
        description="The plan's id at the billing provider. Null where it named none.",
        examples=["pln_5tKx"],
    )
    name: str | None = Field(
        description="The plan's name. Null where the provider named none.", examples=["Usage Pro"]
    )


class CheckoutSubscription(Reply):
    """The subscription that a checkout made or continues."""

    id: str = Field(description="The subscription's id.", examples=["sub_3Vx9"])
    status: SubscriptionStatus = Field(
        description="The subscription's state. `pending_payment` until the checkout is paid.",
        examples=["pending_payment"],
    )
    plan: PlanRefReply


class PlanTermsReply(Reply):
    """What a plan gives of one feature."""

    enabled: bool = Field(description="Whether the plan has the feature.")
    included: Amount | None = Field(
        description="The quantity included in each period. Null where it is unlimited or not"
        " metered.",
        examples=["1000"],
    )
    unlimited: bool = Field(description="Whether any quantity is included.")
    overage_unit_price: Amount | None = Field(
        description="The price of one unit beyond the included quantity. Null where there is no"
        " overage.",
        examples=["0.002"],
    )


class FeatureChangeReply(Reply):
    """How a change of plan changes one feature."""

    code: FeatureReplyCode
    name: str = Field(description="The feature's name, for people.", examples=["Storage"])
    unit: str | None = Field(
        description="What one unit is called. Null where the catalogue names none.",
        examples=["GB"],
    )
    change: Literal["gained", "lost", "changed", "same"] = Field(
        description="What happens to the feature."
    )
    before: PlanTermsReply
    after: PlanTermsReply
    used: Amount = Field(description="The quantity used in the running period.", examples=["420"])
    used_beyond: Amount = Field(
        description="How much of what was used is more than the new plan includes.",
        examples=["0"],
    )


class PlanChangeReply(Reply):
    """A change of plan: what it means, or what became of it."""

    state: Literal["preview", "completed", "scheduled"] = Field(
        description="`preview`: nothing has changed yet. `completed`: the plan has changed."
        " `scheduled`: it changes at `effective_at`."
    )
    currency: Currency
    due_now: Amount | None = Field(
        description="Of a preview: what is charged once it is confirmed: the price, usage beyond"
        " what was included, and tax, less the credit. Of a completed change: what was charged. In"
        " units of `currency`.",
        examples=["17.50"],
    )
    credit: Amount | None = Field(
        description="What is given back for the rest of the old period, in units of `currency`.",
        examples=["11.50"],
    )
    effective_at: Time | None = Field(
        description="When the change takes effect. Null where it takes effect at once, or has."
    )
    then_amount: Amount | None = Field(
        description="The price of each period from then on, in units of `currency`.",
        examples=["29.00"],
    )
    then_interval: Interval | None = Field(
        description="How often `then_amount` is charged. Null for a free plan."
    )
    features: list[FeatureChangeReply] = Field(
        description="The features that the plans give differently. Empty unless a preview."
    )
    confirmation: str | None = Field(
        description="Send it in the same request to perform the change. Null unless a preview.",
        examples=["chg_4f9a1c7be20d"],
    )
    confirmation_expires_at: Time | None = Field(
        description="Until when `confirmation` is good: ten minutes. Null unless a preview."
    )


class CheckoutReply(Reply):
    """A checkout that was started, or a change of plan."""

    subscription: CheckoutSubscription
    checkout_url: str | None = Field(
        description="The page on which the user pays. Null where nothing has to be paid there.",
        examples=["https://commet.co/checkout/chk_9sQm"],
        json_schema_extra={"format": "uri"},
    )
    change: PlanChangeReply | None = Field(
        description="Of a user who has a subscription: the change of its plan. Null otherwise."
    )


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
    cancel_at_period_end: bool = Field(description="Whether it ends with the paid period.")
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


class InvoiceReply(Reply):
    """An invoice. Amounts are in units of `currency`."""

    id: str = Field(description="The invoice's id.", examples=["inv_b2"])
    number: str | None = Field(
        description="The number on the invoice. Null for a draft.", examples=["INV-0043"]
    )
    status: Annotated[str, known("paid", "outstanding", "draft", "void", "uncollectible")] = Field(
        description="Whether the invoice is paid."
    )
    type: str | None = Field(
        description="What the invoice is for. Null where the provider does not say.",
        examples=["recurring"],
    )
    currency: Currency
    subtotal: Amount = Field(description="The sum before tax.", examples=["29.00"])
    tax: Amount = Field(description="The tax.", examples=["5.51"])
    total: Amount = Field(description="What is to be paid.", examples=["34.51"])
    period: UsagePeriodReply | None = Field(
        description="The period that the invoice is about. Null where there is none."
    )
    issued_at: Time | None = Field(description="When it was issued. Null for a draft.")
    due_at: Time | None = Field(description="By when it is to be paid. Null where not said.")


class InvoicePage(Reply):
    """Some invoices of a user."""

    invoices: list[InvoiceReply] = Field(description="Newest first.")
    next_cursor: NextCursor


class InvoiceLineReply(Reply):
    """One line of an invoice."""

    type: str = Field(description="What the line is for.", examples=["feature_overage"])
    description: str = Field(
        description="The line's text, for people.", examples=["Storage beyond 1,000 GB"]
    )
    feature: str | None = Field(
        description="The feature's name. Null unless of usage.", examples=["Storage"]
    )
    used: Amount | None = Field(
        description="The quantity used. Null unless of usage.", examples=["1250"]
    )
    included: Amount | None = Field(
        description="The included quantity. Null unless of usage.", examples=["1000"]
    )
    overage: Amount | None = Field(
        description="The quantity that is charged. Null unless of usage.", examples=["250"]
    )
    amount: Amount = Field(
        description="What the line costs, in units of the invoice's currency.", examples=["0.50"]
    )


class InvoiceDetail(InvoiceReply):
    """An invoice with its lines. Amounts are in units of `currency`."""

    lines: list[InvoiceLineReply] = Field(description="The invoice's lines, in its order.")
    pdf_url: str = Field(
        description="The address of the PDF. Good for a week.",
        examples=["https://commet.co/invoices/inv_b2.pdf"],
        json_schema_extra={"format": "uri"},
    )


# --- usage ------------------------------------------------------------------------------------


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
        Field(description="Why the event was refused. Null if it was not."),
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


class SpendingReply(Reply):
    """The cost of usage beyond the included quantities in the running period, and its limit."""

    spent: Amount = Field(
        description="The cost so far, in units of `currency`. Held reservations count as if they"
        " were used.",
        examples=["12.40"],
    )
    limit: Amount | None = Field(
        description="The most that it may cost, in units of `currency`. Null where there is no"
        " limit.",
        examples=["500.00"],
    )
    set_by: Literal["default", "product", "user"] = Field(description="Whose limit applies.")
    currency: Currency


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


class LedgerPeriodReply(Reply):
    """The allowance period in which an entry was booked, and what the period belongs to.

    A plan change opens another period, even on the same day: tell periods apart by `id`.
    """

    id: str = Field(description="The period's id.", examples=["1042"])
    start: Time = Field(description="When the period began.", examples=["2026-03-01T00:00:00.000Z"])
    end: Time = Field(
        description="When the period ends. This moment is not part of it.",
        examples=["2026-04-01T00:00:00.000Z"],
    )
    subscription_id: str = Field(
        description="The subscription that the period belongs to.", examples=["sub_3Vx9"]
    )
    plan_id: str | None = Field(
        description="The plan's id at the billing provider. Null where it named none.",
        examples=["pln_5tKx"],
    )


class LedgerEntry(Reply):
    """One booking of usage."""

    booked_at: Time = Field(description="When it was booked.")
    occurred_at: Time = Field(description="When it was used.")
    user_id: UserIdReply
    feature: FeatureReplyCode
    kind: Annotated[str, one_of("event", "confirm", "correction")] = Field(
        description="A usage event, a confirmed reservation, or a correction."
    )
    quantity: Amount = Field(
        description="The quantity, in the feature's unit. Below 0 for some corrections.",
        examples=["3"],
    )
    idempotency_key: str = Field(
        description="The key that was sent.", examples=["render-2026-03-01-0001"]
    )
    period: LedgerPeriodReply
    late: bool = Field(description="Whether it occurred before the period in which it was booked.")
    reason: str | None = Field(
        description="Of a correction: why. Null otherwise.", examples=["The render failed."]
    )
    author: str | None = Field(
        description="Of a correction: the name of the service key that sent it. Null otherwise.",
        examples=["backend"],
    )
    needs_credit: bool = Field(
        description="Whether a correction came after the period's end, so that money has to be"
        " given back in Commet."
    )
    properties: dict[str, str] = Field(
        description="The texts that were sent with the event, by name.",
        examples=[{"region": "eu"}],
    )


class LedgerPage(Reply):
    """Some entries of the ledger."""

    events: list[LedgerEntry] = Field(description="The entries in the order of booking.")
    next_cursor: NextCursor = Field(
        description="Send this text as `cursor` to get the next page. Null on the last page."
        " Earlier pages may have fewer entries than `limit`, or none: a page ends before 6 MB."
    )


class UsageSum(Reply):
    """What was used of a feature in one period: on a day, or with one value of a property."""

    day: date | None = Field(
        description="The day (UTC), as on the dashboard. Null where the sums are not by day.",
        examples=["2026-03-14"],
    )
    feature: FeatureReplyCode
    value: str | None = Field(
        description="The property's value. Null for usage without the property, and where the sums"
        " are not by a property.",
        examples=["eu"],
    )
    quantity: Amount = Field(
        description="The quantity, in the feature's unit. Below 0 for some corrections.",
        examples=["35"],
    )
    late: Amount = Field(
        description="The part of the quantity that occurred before the period.", examples=["0"]
    )
    corrected: Amount = Field(
        description="The part of the quantity that corrections added or took off.", examples=["-3"]
    )
    period: LedgerPeriodReply


class UsageSums(Reply):
    """What one user used, in sums."""

    sums: list[UsageSum] = Field(description="The sums, by period, day, feature and value.")
    next_cursor: NextCursor


# --- dashboard ------------------------------------------------------------------------------------


class CurrentPeriod(Reply):
    """The period that is paid."""

    start: Time = Field(description="When the period began.", examples=["2026-03-01T00:00:00.000Z"])
    end: Time = Field(
        description="When the period ends, and is renewed unless canceled.",
        examples=["2026-04-01T00:00:00.000Z"],
    )
    days_remaining: int = Field(
        description="How many days are left, the begun one included.", examples=[12]
    )


class ScheduledChangeReply(Reply):
    """A change of plan that is booked."""

    plan: PlanRefReply
    interval: Interval | None = Field(
        description="How often the new price is charged. Null for a free plan."
    )
    effective_at: Time | None = Field(
        description="When the plan changes. Null where the provider has not said it."
    )


class SubscriptionReply(Reply):
    """A user's subscription."""

    id: str = Field(description="The subscription's id.", examples=["sub_3Vx9"])
    status: SubscriptionStatus = Field(description="The subscription's state.")
    plan: PlanRefReply
    current_period: CurrentPeriod | None = Field(
        description="The period that is paid. Null while nothing is paid yet."
    )
    cancel_at_period_end: bool = Field(description="Whether it ends with the current period.")
    scheduled_change: ScheduledChangeReply | None = Field(
        description="The change of plan that is booked. Null where none is."
    )
    trial_ends_at: Time | None = Field(
        description="When the trial ends or ended. Null where there was none."
    )
    as_of: Time = Field(description="The time of our newest information about the subscription.")


class OverageReply(Reply):
    """Usage beyond the included quantity."""

    enabled: bool = Field(description="Whether usage beyond the included quantity is sold.")
    quantity: Amount = Field(
        description="The quantity beyond the included one, in the feature's unit.", examples=["0"]
    )
    unit_price: Amount | None = Field(
        description="The price of one unit, in units of `currency`. Null where there is none.",
        examples=["0.002"],
    )
    cost: Amount | None = Field(
        description="The price of `quantity`, in units of `currency`. Null where the price is not"
        " known yet.",
        examples=["0.00"],
    )
    currency: Currency


class DailyUsage(Reply):
    """What was used on one day."""

    date: Day
    quantity: Amount = Field(description="The quantity, in the feature's unit.", examples=["35"])


class UsageReply(Reply):
    """What a user used of one metered feature in the running period."""

    feature: FeatureReplyCode
    name: str = Field(description="The feature's name, for people.", examples=["Storage"])
    unit: str | None = Field(
        description="What one unit is called. Null where the catalogue names none.",
        examples=["GB"],
    )
    period: UsagePeriodReply
    used: Amount = Field(description="The quantity used in the period.", examples=["420"])
    held: Amount = Field(
        description="The quantity of all held reservations; not part of `used`.", examples=["0"]
    )
    carried: Amount = Field(
        description="The part of `used` that was counted in an earlier period and is billed in"
        " this one.",
        examples=["0"],
    )
    used_before: Amount = Field(
        description="Used in earlier free periods that were left early. It lowers `remaining`, and"
        " is not part of `used`.",
        examples=["0"],
    )
    included: Amount | None = Field(
        description="The quantity that the price includes. Null where the feature is unlimited.",
        examples=["1000"],
    )
    remaining: Amount | None = Field(
        description="What is left of `included`. Null where the feature is unlimited.",
        examples=["580"],
    )
    unlimited: bool = Field(description="Whether any quantity is included.")
    overage: OverageReply
    daily: list[DailyUsage] = Field(description="The quantity by day, for the days with usage.")


class PaymentTroubleReply(Reply):
    """A payment that went wrong and is not settled."""

    kind: Annotated[str, one_of("failed_payment", "dispute", "unpaid_invoice")] = Field(
        description="What went wrong."
    )
    since: Time = Field(description="When it went wrong.")
    amount: Amount | None = Field(
        description="How much it is about, in units of `currency`. Null where the provider has not"
        " said it.",
        examples=["34.51"],
    )
    currency: str | None = Field(
        description="The currency of `amount`, an ISO 4217 code in lower case. Null without"
        " `amount`.",
        examples=["usd"],
    )
    recovery_url: str | None = Field(
        description="Of a failed payment: the page on which it can be paid. Only for the user:"
        " whoever has the address can pay there.",
        examples=["https://commet.co/recover/rec_8Lm1"],
        json_schema_extra={"format": "uri"},
    )


class DebtReply(Reply):
    """What a user owes for usage of an earlier plan."""

    amount: Amount = Field(description="How much, in units of `currency`.", examples=["12.40"])
    currency: Currency


class FeatureReply(Reply):
    """A feature that a plan has or does not have. It is not metered."""

    feature: FeatureReplyCode
    name: str = Field(description="The feature's name, for people.", examples=["Priority support"])
    allowed: bool = Field(description="Whether the user has the feature now.")


class Dashboard(Reply):
    """What a user has, used and owes."""

    user: UserReply
    access: bool = Field(description="Whether the user may use the product now.")
    subscription: SubscriptionReply | None = Field(
        description="The user's subscription. Null where there is none."
    )
    payment: PaymentTroubleReply | None = Field(
        description="Null where nothing has to be settled. While a payment is disputed, no checkout"
        " can be started."
    )
    debt: DebtReply | None = Field(
        description="What the user owes for usage of an earlier plan. Until it is paid, no checkout"
        " can be started: `POST /checkout` answers 402 `debt_open` with the page to pay on."
    )
    usage: list[UsageReply] = Field(description="The metered features, with what was used.")
    features: list[FeatureReply] = Field(
        description="The boolean features. `allowed` is false without access."
    )
    spending: SpendingReply | None = Field(description="Null where the plan has no overage.")


class SpendLimit(Request):
    """How much overage may cost in an allowance period, in the user's currency. Null: no limit."""

    amount: LimitAmount | None = Field(
        description="The most that overage may cost in a period, in units of the user's currency."
        " Null removes the limit.",
        examples=["250.00"],
    )


class SpendLimitReply(Reply):
    """The limit that now applies."""

    spending: SpendingReply | None = Field(description="Null where the plan has no overage.")


class CreateThreshold(Request):
    """How much has to be used or spent before an outgoing event says so.

    Send `percent` or `amount`, and not both.
    """

    feature: Annotated[
        FeatureCode | None,
        Field(
            description="The feature's code. Left out: each feature. Never with `spend`.",
            examples=["storage"],
        ),
    ] = None
    measure: Literal["usage", "spend"] = Field(
        default="usage",
        description="`usage`: what is used of a feature. `spend`: what overage costs.",
        examples=["usage"],
    )
    percent: Annotated[
        int | None,
        Field(
            ge=1,
            le=1000,
            strict=True,
            description="A percentage of what is included, or of the spend limit.",
            examples=[90],
        ),
    ] = None
    amount: Annotated[
        Quantity | None,
        Field(
            description="A quantity of the feature, or with `spend` an amount in units of the"
            " user's currency.",
            examples=[None],
        ),
    ] = None


class CreateThresholdOfUser(CreateThreshold):
    """How much has to be used or spent, by one user or by any."""

    user_id: Annotated[
        UserId | None,
        Field(description="The user. Left out: all users.", examples=["customer-42"]),
    ] = None


class ThresholdReply(Reply):
    """How much has to be used or spent before an outgoing event says so."""

    id: str | None = Field(
        description="The threshold's id. Null for a default.",
        examples=["thr_6d1e80f2c41d09ab37e65f1c0d2b4a7c"],
    )
    user_id: str | None = Field(
        description="The user. Null: all users.", examples=["usr_8f2c41d09ab37e65f1c0d2b4"]
    )
    set_by: Annotated[str, known("default", "operator", "product", "user")] = Field(
        description="Who added it: the `product` for one user, the `operator` for all, or the"
        " `user`."
    )
    measure: Annotated[str, known("usage", "spend")] = Field(
        description="`usage`: what is used of a feature. `spend`: what overage costs."
    )
    feature: str | None = Field(
        description="The feature's code. Null: each feature.", examples=["storage"]
    )
    percent: int | None = Field(
        description="A percentage of what is included, or of the spend limit. Null: see `amount`.",
        examples=[90],
    )
    amount: Amount | None = Field(
        description="A quantity, or an amount in units of the user's currency. Null: see"
        " `percent`.",
        examples=[None],
    )
    created_at: Time | None = Field(description="When it was added. Null for a default.")


class ThresholdList(Reply):
    """Thresholds."""

    thresholds: list[ThresholdReply] = Field(description="The thresholds, those of usage first.")


class Health(Reply):
    """The stack works."""

    status: Annotated[str, one_of("ok")] = Field(description="Always `ok`: else the status is 503.")


# --- events ---------------------------------------------------------------------------------------


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
        " answered 410 (`gone`), or somebody asked (`request`). Null: it is switched on."
    )
    disabled_at: Time | None = Field(description="When it was switched off.")
    failing_since: Time | None = Field(
        description="The first failure after which it took nothing. Null: it is not failing."
    )
    previous_secret_until: Time | None = Field(
        description="Until when the secret before the newest one signs as well."
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
        description="The HTTP status of the answer. Null: none came.", examples=[200]
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
        description="The HTTP status of the last answer. Null: none came.", examples=[200]
    )
    reason: WhyNotTaken | None = Field(description="Why the last attempt failed.")
    ended_at: Time | None = Field(description="When it was taken or given up.")
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
