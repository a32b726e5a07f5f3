"""Checks the address to which Commet sends people back. Its origin must be allowed."""

from billing.config import Settings, origin_of
from billing.errors import FieldError, InvalidRequest


def allowed_target(settings: Settings, url: str | None, field: str, *, own: str = "") -> str:
    """Returns `url`, or the app's own address if `url` is None.

    `own` is the origin of the API itself, which is always allowed. If the origin of `url` is not
    allowed, raises InvalidRequest, which names `field`.
    """
    if url is None:
        return settings.app_url
    if origin_of(url) not in settings.allowed_origins | {own} - {""}:
        raise InvalidRequest(
            errors=[FieldError(field, "origin_not_allowed", "This origin is not allowed.")]
        )
    return url
