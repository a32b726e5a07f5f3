"""Checks the address that Commet sends people back to: its origin must be an allowed one."""

from billing.config import Settings, origin_of
from billing.errors import FieldError, InvalidRequest


def allowed_target(settings: Settings, url: str | None, field: str, *, own: str = "") -> str:
    """`url`, or the app's own address where `url` is None.

    `own` is the origin of the API itself, which is always allowed. Raises InvalidRequest, naming
    `field`, where the origin of `url` is not allowed.
    """
    if url is None:
        return settings.app_url
    if origin_of(url) not in settings.allowed_origins | {own} - {""}:
        raise InvalidRequest(
            errors=[FieldError(field, "origin_not_allowed", "This origin is not allowed.")]
        )
    return url
