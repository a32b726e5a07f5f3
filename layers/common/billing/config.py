"""Reads environment variables into frozen settings. They hold ids of secrets, never a secret."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from urllib.parse import urlsplit

from billing import email_address
from billing.amounts import decimals

_HOSTED_ORIGINS = "https://pay.commet.co,https://commet.co,https://sandbox.commet.co"


class Misconfigured(ValueError):
    """An environment variable is malformed. The message names the variable, never its value."""


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    host: str
    port: int
    name: str
    sslmode: str
    ca: str  # "aws": database/ca.pem; "public": the certificate authorities that browsers trust
    pooled: bool  # behind a pooler, where connections can keep no prepared statements or settings
    secret_id: str  # the id of the secret {"username", "password"}


@dataclass(frozen=True, slots=True)
class Settings:
    """One function's settings. A field has its default if its environment variable is not set."""

    database: DatabaseSettings
    owner_secret_id: str
    accounts_secret_id: str  # of the role `accounts`; migrations need it
    commet_base_url: str
    commet_secret_id: str
    commet_mode: str
    webhook_secret_id: str
    service_keys_secret_id: str
    app_secret_id: str
    people_secret_id: str
    app_url: str
    api_url: str  # the API's own address, if the stack knows it; "": below app_url
    allowed_origins: frozenset[str]
    own_accounts: bool  # whether people can sign up and sign in here
    api_reference: bool  # whether the API serves its description at /docs and /openapi.json
    pages: bool  # whether the stack has pages for people
    pages_language: str  # of the pages' texts, such as "en" or "de-CH"
    pages_accent: str  # the colour of the pages' buttons, such as "#4338ca"; "": the default
    support_email: str  # the address that the pages name for help; "": none
    hosted_origins: frozenset[str]  # of Commet's checkout and portal: forms may redirect there
    operators: frozenset[str]  # who may see the operators' page: keys of addresses
    # The identity provider whose tokens are accepted; an empty issuer: none.
    oidc_issuer: str
    oidc_audiences: frozenset[str]  # one of them must be the token's
    oidc_email_claim: str
    oidc_name_claim: str
    oidc_jwks_url: str  # address of the keys; empty: from the provider's discovery document
    currency: str
    past_due_has_access: bool
    # The sum of debts at which a user is refused, by currency, in major units. None: no sum is too
    # large.
    debt_floor: Mapping[str, Decimal | None]
    refuse_debtors: bool
    sign_ups_per_hour: int  # allowed from one address
    product_name: str  # the name that mails use; no password may be made of it
    email_from: str  # the address that mails come from; "": no mail is sent
    email_configuration_set: str  # SES's configuration set for our mails; "": none
    email_endpoint: str | None  # the address of SES, if not the public one
    event_bus: str  # the EventBridge bus that outgoing events are put on: name or ARN; "": none
    events_endpoint: str | None  # the address of EventBridge, if not the public one
    receivers_on_loopback: bool  # whether endpoints may be on this machine (the local stack)
    send_mail_function: str  # the ARN of the function that sends mails; "": none is invoked
    trusted_proxy_hops: int
    delivery_interval: timedelta
    # Amounts in major units by currency. None: no limit. A currency that is missing has no overage.
    overage_ceiling: Mapping[str, Decimal | None]  # of a user in an allowance period
    # unclaimed overage of this amount does not wait
    deliver_at_once_from: Mapping[str, Decimal | None]
    late_usage_grace: timedelta  # how long after the end of access earlier usage is taken
    webhook_on_api: bool  # whether the API takes webhooks, in addition to the function's own URL
    delivery_workers: int  # deliveries that are sent to Commet at the same time
    secrets_extension_port: int | None
    secrets_endpoint: str | None
    clock_url: str
    function: str
    webhook_url: str  # the address of our webhook endpoint that is registered at Commet
    commet_calls_per_second: int  # the call budget of the whole stack
    inbox_payload_age: timedelta  # older webhooks lose their payload
    inbox_id_age: timedelta  # older webhooks lose their row
    delivery_age: timedelta  # deliveries of periods closed longer ago are merged
    ledger_age: timedelta  # older ledger rows are replaced by their idempotency keys
    audit_age: timedelta  # older entries of the audit trail are deleted
    event_age: timedelta  # older outgoing events are deleted

    @property
    def live_statuses(self) -> frozenset[str]:
        """The subscription statuses that give access."""
        statuses = {"active", "trialing"}
        return frozenset(statuses | {"past_due"} if self.past_due_has_access else statuses)


def from_env(env: Mapping[str, str]) -> Settings:
    """Returns the settings in environment variables. Raises Misconfigured for a malformed one."""
    app_url = env.get("APP_URL", "")
    return Settings(
        database=DatabaseSettings(
            host=env.get("DATABASE_HOST", ""),
            port=_integer(env, "DATABASE_PORT", 5432),
            name=env.get("DATABASE_NAME", "billing"),
            sslmode=env.get("DATABASE_SSLMODE", "verify-full"),
            ca=env.get("DATABASE_CA", "aws"),
            pooled=_flag(env, "DATABASE_POOLED", default=False),
            secret_id=env.get("DATABASE_SECRET_ARN", ""),
        ),
        owner_secret_id=env.get("DATABASE_OWNER_SECRET_ARN", ""),
        accounts_secret_id=env.get("DATABASE_ACCOUNTS_SECRET_ARN", ""),
        commet_base_url=env.get("COMMET_BASE_URL", "https://commet.co/api/v1").rstrip("/"),
        commet_secret_id=env.get("COMMET_SECRET_ARN", ""),
        commet_mode=_mode(env),
        webhook_secret_id=env.get("WEBHOOK_SECRET_ARN", ""),
        service_keys_secret_id=env.get("SERVICE_KEYS_SECRET_ARN", ""),
        app_secret_id=env.get("APP_SECRET_ARN", ""),
        people_secret_id=env.get("PEOPLE_SECRET_ARN", ""),
        app_url=app_url,
        api_url=env.get("API_URL", ""),
        allowed_origins=_origins(env, "ALLOWED_ORIGINS", "") | ({origin_of(app_url)} - {""}),
        own_accounts=_flag(env, "OWN_ACCOUNTS", default=True),
        api_reference=_flag(env, "API_REFERENCE", default=True),
        pages=_flag(env, "PAGES", default=True),
        pages_language=_matching(env, "PAGES_LANGUAGE", "en", r"[a-z]{2}(-[A-Z]{2})?"),
        pages_accent=_matching(env, "PAGES_ACCENT", "", r"(#[0-9a-f]{6})?"),
        support_email=env.get("SUPPORT_EMAIL", ""),
        hosted_origins=_hosted_origins(env),
        operators=_addresses(env, "OPERATORS"),
        oidc_issuer=_provider_url(env, "OIDC_ISSUER"),
        oidc_audiences=frozenset(
            filter(None, (each.strip() for each in env.get("OIDC_AUDIENCE", "").split(",")))
        ),
        oidc_email_claim=env.get("OIDC_EMAIL_CLAIM") or "email",
        oidc_name_claim=env.get("OIDC_NAME_CLAIM") or "name",
        oidc_jwks_url=_provider_url(env, "OIDC_JWKS_URL"),
        currency=_currency(env),
        past_due_has_access=_flag(env, "PAST_DUE_HAS_ACCESS", default=True),
        debt_floor=amounts_by_currency(env, "DEBT_FLOOR", "usd=5,eur=5,gbp=5"),
        refuse_debtors=_flag(env, "REFUSE_DEBTORS", default=True),
        sign_ups_per_hour=_integer(env, "SIGN_UPS_PER_HOUR", 100),
        product_name=env.get("PRODUCT_NAME") or "Usage Billing",
        email_from=env.get("EMAIL_FROM", ""),
        email_configuration_set=env.get("EMAIL_CONFIGURATION_SET", ""),
        email_endpoint=env.get("EMAIL_ENDPOINT_URL") or None,
        event_bus=env.get("EVENT_BUS", ""),
        events_endpoint=env.get("EVENTS_ENDPOINT_URL") or None,
        receivers_on_loopback=_flag(env, "EVENT_RECEIVERS_ON_LOOPBACK", default=False),
        send_mail_function=env.get("SEND_MAIL_FUNCTION", ""),
        trusted_proxy_hops=_integer(env, "TRUSTED_PROXY_HOPS", 0),
        delivery_interval=timedelta(seconds=_integer(env, "DELIVERY_INTERVAL_SECONDS", 300)),
        overage_ceiling=amounts_by_currency(env, "OVERAGE_CEILING", "usd=500,eur=500,gbp=500"),
        deliver_at_once_from=amounts_by_currency(env, "DELIVER_AT_ONCE_FROM", "usd=5,eur=5,gbp=5"),
        late_usage_grace=timedelta(seconds=_integer(env, "LATE_USAGE_GRACE", 3600)),
        webhook_on_api=_flag(env, "WEBHOOK_ON_API", default=True),
        delivery_workers=_integer(env, "DELIVERY_WORKERS", 8),
        secrets_extension_port=_integer(env, "PARAMETERS_SECRETS_EXTENSION_HTTP_PORT", 0) or None,
        secrets_endpoint=env.get("SECRETS_ENDPOINT_URL") or None,
        clock_url=env.get("CLOCK_URL", ""),
        function=env.get("POWERTOOLS_SERVICE_NAME", "billing"),
        webhook_url=env.get("WEBHOOK_URL", ""),
        commet_calls_per_second=_integer(env, "COMMET_CALLS_PER_SECOND", 20),
        inbox_payload_age=timedelta(days=_integer(env, "INBOX_PAYLOAD_DAYS", 30)),
        inbox_id_age=timedelta(days=_integer(env, "INBOX_ID_DAYS", 400)),
        delivery_age=timedelta(days=_integer(env, "DELIVERY_DAYS", 35)),
        ledger_age=timedelta(days=_integer(env, "LEDGER_DAYS", 400)),
        audit_age=timedelta(days=_integer(env, "AUDIT_DAYS", 400)),
        event_age=timedelta(days=_integer(env, "EVENT_DAYS", 90)),
    )


def origin_of(url: str) -> str:
    """Returns the origin of an http(s) URL, in the form of browsers; '' for any other text."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, default) else "")


def is_https_or_loopback(url: str) -> bool:
    """Returns whether the URL is https, or http to this machine, without user, query or
    fragment.
    """
    if not origin_of(url):
        return False
    parts = urlsplit(url)
    if parts.query or parts.fragment or not url.isprintable() or " " in url:
        return False
    return parts.scheme == "https" or parts.hostname in ("localhost", "127.0.0.1", "::1")


def amounts_by_currency(
    env: Mapping[str, str], name: str, default: str
) -> Mapping[str, Decimal | None]:
    """Returns the list of amounts in variable `name`, such as `usd=500,eur=none`, by currency.

    Amounts are in major units; None if the list says `none`. If the list does not have a currency,
    the amount comes from `default`, a list in the same form. Raises Misconfigured if the list is
    malformed, has a currency twice, has an amount that is not above zero or has more decimals than
    the currency, or if neither list has the billing currency. A function without the variable does
    not need the list, so only `default` is read then.
    """
    amounts = _amounts(name, default) | _amounts(name, env.get(name, ""))
    if name in env and _currency(env) not in amounts:
        raise Misconfigured(f"{name} must have an amount for BILLING_CURRENCY, or none")
    return amounts


def _amounts(name: str, text: str) -> dict[str, Decimal | None]:
    amounts: dict[str, Decimal | None] = {}
    for entry in filter(None, (part.strip().lower() for part in text.split(","))):
        currency, _, amount = (part.strip() for part in entry.partition("="))
        if not re.fullmatch(r"[a-z]{3}", currency) or currency in amounts:
            raise Misconfigured(f"{name} must list each currency once, like usd=500,eur=none")
        amounts[currency] = None if amount == "none" else _amount(name, amount, currency)
    return amounts


def _amount(name: str, text: str, currency: str) -> Decimal:
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,4})?", text):
        amount = Decimal(text)
        if amount and amount == round(amount, decimals(currency)):
            return amount
    raise Misconfigured(
        f"{name} must have amounts above 0 with no more decimals than their currency, or none"
    )


def _currency(env: Mapping[str, str]) -> str:
    return env.get("BILLING_CURRENCY", "usd").lower()


def _origins(env: Mapping[str, str], name: str, default: str) -> frozenset[str]:
    """Returns the origins that variable `name` lists. Raises Misconfigured for any other text
    in it.
    """
    listed = [text.strip() for text in env.get(name, default).split(",")]
    origins = frozenset(origin_of(text) for text in listed if text)
    if "" in origins:
        raise Misconfigured(f"{name} must list origins like https://app.example.com")
    return origins


def _hosted_origins(env: Mapping[str, str]) -> frozenset[str]:
    """Returns Commet's origins. They are written into a header, where `;` or a space would end
    them.
    """
    origins = _origins(env, "HOSTED_ORIGINS", _HOSTED_ORIGINS)
    if not all(re.fullmatch(r"https?://[a-z0-9._:\[\]-]+", origin) for origin in origins):
        raise Misconfigured("HOSTED_ORIGINS must list origins like https://pay.commet.co")
    return origins


def _addresses(env: Mapping[str, str], name: str) -> frozenset[str]:
    """Returns the email addresses that variable `name` lists, as keys that can be compared."""
    listed = (text.strip() for text in env.get(name, "").split(","))
    return frozenset(email_address.key(text) for text in listed if text)


def _matching(env: Mapping[str, str], name: str, default: str, pattern: str) -> str:
    text = env.get(name) or default
    if not re.fullmatch(pattern, text):
        raise Misconfigured(f"{name} must be like {pattern}")
    return text


def _provider_url(env: Mapping[str, str], name: str) -> str:
    url = env.get(name, "")
    if url and not is_https_or_loopback(url):
        raise Misconfigured(f"{name} must be an https address (http on this machine only)")
    return url


def _mode(env: Mapping[str, str]) -> str:
    mode = env.get("COMMET_MODE", "live")
    if mode not in ("live", "sandbox"):
        raise Misconfigured("COMMET_MODE must be live or sandbox")
    return mode


def _integer(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name) or str(default)
    try:
        return int(text)
    except ValueError:
        raise Misconfigured(f"{name} must be a whole number") from None


def _flag(env: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = env.get(name) or str(default)
    if text.lower() not in ("true", "false"):
        raise Misconfigured(f"{name} must be true or false")
    return text.lower() == "true"
