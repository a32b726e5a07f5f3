"""Where Commet may send people back to: only to origins the deployer allows."""

from billing.config import Settings, origin_of
from billing.errors import FieldError, InvalidRequest


def allowed_target(settings: Settings, url: str | None, field: str) -> str:
    """The address to return to: the one asked for, or the app's own; raises InvalidRequest."""
    if url is None:
        return settings.app_url
    if origin_of(url) not in settings.allowed_origins:
        raise InvalidRequest(
            errors=[FieldError(field, "origin_not_allowed", "That origin is not allowed.")]
        )
    return url
