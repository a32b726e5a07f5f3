"""Request bodies and queries, checked the way Commet documents them. Unknown fields are ignored."""

from decimal import Decimal
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from standin.catalogue import Interval
from standin.clock import parse_iso
from standin.errors import ApiError

Timezone = Literal[
    "UTC", "America/New_York", "America/Chicago", "America/Denver", "America/Los_Angeles",
    "America/Sao_Paulo", "America/Mexico_City", "America/Buenos_Aires", "America/Santiago",
    "America/Bogota", "America/Lima", "America/Asuncion", "Europe/London", "Europe/Paris",
    "Europe/Berlin", "Europe/Madrid", "Asia/Tokyo", "Asia/Shanghai", "Asia/Singapore",
    "Asia/Dubai", "Australia/Sydney",
]  # fmt: skip


def _check_moment(text: str) -> str:
    try:
        parse_iso(text)
    except ValueError:
        raise ValueError("must be an ISO-8601 timestamp") from None
    return text


def _check_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http or https URL")
    return text


def _check_email(text: str) -> str:
    name, _, domain = text.strip().rpartition("@")
    if not name or "." not in domain or " " in text.strip():
        raise ValueError("must be an email address")
    return text.strip()


def _check_number(value: Any) -> Any:
    # pydantic would also read a number from a string, but JSON callers must send a number.
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic expects ValueError
    return value


Email = Annotated[str, Field(max_length=200), AfterValidator(_check_email)]
OwnId = Annotated[str, Field(min_length=1, max_length=100)]
CustomerKey = Annotated[str, Field(min_length=1, max_length=200)]
FeatureCode = Annotated[str, Field(pattern=r"^[a-z0-9_]+$", min_length=1, max_length=100)]
Moment = Annotated[str, AfterValidator(_check_moment)]
Url = Annotated[str, Field(max_length=2048), AfterValidator(_check_url)]
Quantity = Annotated[Decimal, BeforeValidator(_check_number)]

RecurringInterval = Literal["weekly", "monthly", "quarterly", "semiannual", "yearly"]

B = TypeVar("B", bound=BaseModel)


class _Body(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", strict=False
    )


class Address(_Body):
    """A postal address."""

    line1: str
    line2: str | None = None
    city: str
    state: str | None = None
    postal_code: str
    country: str
    region: str | None = None


class CreateCustomer(_Body):
    """POST /customers."""

    email: Email
    id: OwnId | None = None
    external_id: OwnId | None = None
    full_name: str | None = Field(default=None, max_length=200)
    tax_document: str | None = None
    address: Address | None = None
    address_id: str | None = None
    timezone: Timezone | None = None
    metadata: dict[str, Any] | None = None

    @property
    def own_id(self) -> str | None:
        """The caller's id, from either of its two fields."""
        return self.id or self.external_id

    @model_validator(mode="after")
    def _one_own_id(self) -> Self:
        if self.id and self.external_id and self.id != self.external_id:
            raise ValueError("id and externalId are two names of one id, and differ")
        return self

    @field_validator("address_id")
    @classmethod
    def _known_address(cls, value: str | None) -> str | None:
        if value is not None:
            raise ValueError("there is no such address; send it as address")
        return value


class UpdateCustomer(_Body):
    """PATCH /customers/{id}: only the fields that were sent change."""

    email: Email | None = None
    external_id: OwnId | None = None
    full_name: str | None = Field(default=None, max_length=200)
    tax_document: str | None = None
    address: Address | None = None
    timezone: Timezone | None = None
    metadata: dict[str, Any] | None = None


class CreateCustomers(_Body):
    """POST /customers/batch. Each entry is checked alone."""

    customers: list[dict[str, Any]] = Field(min_length=1, max_length=100)


class CreateSubscription(_Body):
    """POST /subscriptions."""

    customer_id: CustomerKey
    plan_id: str | None = None
    plan_code: str | None = None
    billing_interval: Interval | None = None
    price_id: str | None = None
    initial_seats: dict[str, Annotated[int, Field(ge=0)]] | None = None
    provider: str | None = None
    name: str | None = Field(default=None, max_length=200)
    start_date: Moment | None = None
    success_url: Url | None = None
    prepaid_periods: int = Field(default=1, ge=1, le=60, strict=True)
    custom_trial_days: int | None = Field(default=None, ge=0, le=730)
    skip_trial: bool | None = None
    cancel_at_period_end: bool = False
    offer_id: str | None = None
    promo_code: str | None = None
    card_promotion_id: str | None = None

    @model_validator(mode="after")
    def _one_plan(self) -> Self:
        if (self.plan_id is None) == (self.plan_code is None):
            raise ValueError("exactly one of planId and planCode is required")
        return self

    @model_validator(mode="after")
    def _one_kind_of_terms(self) -> Self:
        asked = {
            "offerId": self.offer_id,
            "promoCode": self.promo_code,
            "cardPromotionId": self.card_promotion_id,
            "customTrialDays": self.custom_trial_days is not None,
            "skipTrial": self.skip_trial,
        }
        given = [name for name, value in asked.items() if value]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} exclude each other")
        if self.cancel_at_period_end and self.custom_trial_days:
            raise ValueError("cancelAtPeriodEnd and customTrialDays exclude each other")
        return self


class CancelSubscription(_Body):
    """POST /subscriptions/{id}/cancel."""

    reason: str | None = Field(default=None, max_length=1000)
    immediate: bool = False


class ChangePlan(_Body):
    """POST /subscriptions/{id}/change-plan."""

    new_plan_id: str | None = None
    new_billing_interval: RecurringInterval | None = None
    success_url: Url | None = None
    offer_id: str | None = None


class PreviewChange(_Body):
    """POST /subscriptions/{id}/preview-change."""

    plan_id: str
    billing_interval: Interval | None = None
    offer_id: str | None = None


class Reactivate(_Body):
    """POST /subscriptions/{id}/reactivate."""

    offer_id: str | None = None


class CreatePause(_Body):
    """POST /subscriptions/{id}/pause; `durationDays` must be given, null for an open end."""

    mode: Literal["immediate", "period_end"]
    duration_days: int | None = Field(gt=0, le=3650, strict=True)


class UpdatePause(_Body):
    """PATCH /subscriptions/{id}/pause."""

    duration_days: int | None = Field(gt=0, le=3650, strict=True)


class UpdatePaymentMethod(_Body):
    """POST /subscriptions/{id}/payment-method/update."""

    success_url: Url | None = None


Amount = Annotated[int, Field(gt=0, le=99_999_999, strict=True)]
Currency = Annotated[str, Field(pattern=r"^[A-Za-z]{3}$"), AfterValidator(str.lower)]
Description = Annotated[str, Field(min_length=1, max_length=500)]
Labels = dict[str, str]


class CreatePayment(_Body):
    """POST /payments: a link to pay."""

    amount: Amount
    currency: Currency
    description: Description
    customer_id: CustomerKey | None = None
    success_url: Url | None = None
    metadata: Labels | None = None


class ChargePayment(_Body):
    """POST /payments/charge: a charge of the saved card."""

    customer_id: CustomerKey
    amount: Amount
    currency: Currency
    description: Description
    metadata: Labels | None = None


class UsageProperty(_Body):
    """A label of a usage event."""

    property: str
    value: str


class TrackUsage(_Body):
    """POST /usage/events."""

    customer_id: CustomerKey
    feature_code: FeatureCode
    value: Quantity | None = Field(default=None, ge=0, le=10**15)
    event_id: str | None = Field(default=None, min_length=1, max_length=200)
    timestamp: Moment | None = None
    properties: list[UsageProperty] = []
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class CheckUsage(_Body):
    """POST /usage/check."""

    customer_id: CustomerKey
    feature_code: FeatureCode
    quantity: int = Field(default=1, gt=0, strict=True)


class SetUsage(_Body):
    """PUT /usage."""

    customer_id: CustomerKey
    feature_code: FeatureCode
    value: int = Field(ge=0, strict=True)
    reason: str | None = Field(default=None, max_length=1000)


class CreatePortalSession(_Body):
    """POST /portal/sessions."""

    customer_id: CustomerKey | None = None
    email: Email | None = None
    return_url: Url | None = None

    @model_validator(mode="after")
    def _one_identifier(self) -> Self:
        if (self.customer_id is None) == (self.email is None):
            raise ValueError("exactly one of customerId and email is required")
        return self


def _check_endpoint_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme == "https" and parts.hostname:
        return text
    if parts.scheme == "http" and parts.hostname and _is_loopback(parts.hostname):
        return text
    raise ValueError("must be https; plain http is accepted for loopback addresses only")


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _check_events(names: list[str]) -> list[str]:
    from standin.events import EVENT_NAMES  # imported here, because events uses this module

    unknown = sorted(set(names) - EVENT_NAMES)
    if unknown:
        raise ValueError(f"unknown events: {', '.join(unknown)}")
    return list(dict.fromkeys(names))


EndpointUrl = Annotated[str, Field(max_length=2048), AfterValidator(_check_endpoint_url)]
EventList = Annotated[list[str], Field(min_length=1), AfterValidator(_check_events)]


class CreateWebhook(_Body):
    """POST /webhooks."""

    url: EndpointUrl
    events: EventList
    description: str | None = Field(default=None, max_length=500)
    api_version: str | None = None


class UpdateWebhook(_Body):
    """PATCH /webhooks/{id}: only the fields that were sent change."""

    url: EndpointUrl | None = None
    events: EventList | None = None
    description: str | None = Field(default=None, max_length=500)
    is_active: bool | None = None
    api_version: str | None = None


class AdvanceClock(_Body):
    """POST /test-clock."""

    advance_days: int | None = Field(default=None, ge=1, le=3650, strict=True)
    frozen_time: Moment | None = None

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.advance_days is None) == (self.frozen_time is None):
            raise ValueError("exactly one of advanceDays and frozenTime is required")
        return self


class Page(_Body):
    """Paging of every list."""

    cursor: str | None = None
    limit: int = Field(default=25, ge=1, le=100)

    @field_validator("limit", mode="before")
    @classmethod
    def _digits(cls, value: Any) -> Any:
        return int(value) if isinstance(value, str) and value.isdecimal() else value


def read(model: type[B], data: Any) -> B:
    """Check data against a schema. Raises ApiError: validation_error with a list of details."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise validation_error(error) from None


def validation_error(error: ValidationError) -> ApiError:
    """Returns pydantic's errors in Commet's form."""
    details = [
        {"field": _field_name(item["loc"]), "message": _sentence(item["msg"])}
        for item in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    first = details[0]
    return ApiError(
        "validation_error",
        f"{first['field']}: {first['message']}",
        param=str(first["field"]),
        details=details,
    )


def _field_name(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) or "body"


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ")
