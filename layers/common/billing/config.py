"""Reads environment variables into frozen settings. They hold ids of secrets, never a secret."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit


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
    commet_base_url: str
    commet_secret_id: str
    commet_mode: str
    webhook_secret_id: str
    service_keys_secret_id: str
    app_secret_id: str
    app_url: str
    allowed_origins: frozenset[str]
    currency: str
    past_due_has_access: bool
    sign_ups_per_hour: int  # allowed from one address
    trusted_proxy_hops: int
    delivery_interval: timedelta
    webhook_on_api: bool  # whether the API takes webhooks too, beside the function's own URL
    delivery_workers: int  # deliveries that are sent to Commet at the same time
    secrets_extension_port: int | None
    secrets_endpoint: str | None
    clock_url: str
    function: str
    webhook_url: str  # the address of our webhook endpoint, as it is registered at Commet
    commet_calls_per_second: int  # the call budget of the whole stack
    inbox_payload_age: timedelta  # older webhooks lose their payload
    inbox_id_age: timedelta  # older webhooks lose their row
    delivery_age: timedelta  # deliveries of periods closed longer ago are merged
    ledger_age: timedelta  # older ledger rows are replaced by their idempotency keys

    @property
    def live_statuses(self) -> frozenset[str]:
        """The subscription statuses that give access."""
        statuses = {"active", "trialing"}
        return frozenset(statuses | {"past_due"} if self.past_due_has_access else statuses)


def from_env(env: Mapping[str, str]) -> Settings:
    """The settings in environment variables. Raises Misconfigured for a malformed one."""
    app_url = env.get("APP_URL", "")
    origins = {_origin(o) for o in env.get("ALLOWED_ORIGINS", "").split(",") if o.strip()}
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
        commet_base_url=env.get("COMMET_BASE_URL", "https://commet.co/api/v1").rstrip("/"),
        commet_secret_id=env.get("COMMET_SECRET_ARN", ""),
        commet_mode=_mode(env),
        webhook_secret_id=env.get("WEBHOOK_SECRET_ARN", ""),
        service_keys_secret_id=env.get("SERVICE_KEYS_SECRET_ARN", ""),
        app_secret_id=env.get("APP_SECRET_ARN", ""),
        app_url=app_url,
        allowed_origins=frozenset((origins | {origin_of(app_url)}) - {""}),
        currency=env.get("BILLING_CURRENCY", "usd").lower(),
        past_due_has_access=_flag(env, "PAST_DUE_HAS_ACCESS", default=True),
        sign_ups_per_hour=_integer(env, "SIGN_UPS_PER_HOUR", 100),
        trusted_proxy_hops=_integer(env, "TRUSTED_PROXY_HOPS", 0),
        delivery_interval=timedelta(seconds=_integer(env, "DELIVERY_INTERVAL_SECONDS", 300)),
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
    )


def origin_of(url: str) -> str:
    """The origin of an http(s) URL, as browsers write it; '' for any other text."""
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


def _origin(text: str) -> str:
    origin = origin_of(text.strip())
    if not origin:
        raise Misconfigured("ALLOWED_ORIGINS must list origins like https://app.example.com")
    return origin


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
