"""Commet's error codes, and the one exception that carries them to the caller.

If Commet documents a code's status, that status is used. The status of other codes follows from the
type of the error, which Commet's catalogue of codes states.
"""

from http import HTTPStatus
from typing import Any

from standin.settings import API_VERSION

_STATUS_BY_TYPE = {
    "validation_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "not_found_error": 404,
    "conflict_error": 409,
    "rate_limit_error": 429,
    "internal_error": 500,
}

_TYPES = {
    "validation_error": (
        "validation_error invalid_json no_change_requested offer_not_applicable"
        " plan_change_scheduled plans_not_in_same_group free_plan_change_not_supported"
    ),
    "authentication_error": "unauthorized forbidden sandbox_only",
    "not_found_error": (
        "customer_not_found plan_not_found price_not_found feature_not_found"
        " subscription_not_found invoice_not_found webhook_not_found not_found"
        " offer_not_found promo_code_not_found no_active_subscription"
        " transaction_not_found payment_not_found payment_method_not_found"
        " endpoint_deprecated endpoint_not_available"
    ),
    "conflict_error": (
        "already_has_active_subscription subscription_not_active invalid_subscription_status"
        " charge_in_progress subscription_already_canceled not_scheduled_for_cancellation"
        " already_scheduled one_time_subscription_not_cancelable no_outstanding_invoice"
        " no_prices_configured subscription_required duplicate idempotency_key_mismatch"
        " idempotency_in_progress no_payment_method plan_unavailable payment_not_cancelable"
        " card_promotions_not_available provider_unsupported"
    ),
    "billing_error": (
        "charge_failed included_limit_reached insufficient_credits insufficient_balance"
        " feature_not_in_plan feature_disabled missing_regional_price pricing_mode_mismatch"
        " payment_failed seat_limit_exceeded"
    ),
    "rate_limit_error": "rate_limited",
    "internal_error": (
        "internal_error subscription_creation_failed subscription_activation_failed"
        " subscription_cancel_failed subscription_uncancel_failed idempotency_unavailable"
        " subscription_has_open_dispute"
    ),
}

ERROR_TYPES = {code: kind for kind, codes in _TYPES.items() for code in codes.split()}

_STATUS_BY_CODE = {
    "forbidden": 403,
    "sandbox_only": 403,
    "endpoint_deprecated": 410,
    "no_payment_method": 422,
    "plan_unavailable": 422,
    "subscription_uncancel_failed": 409,
    "subscription_has_open_dispute": 409,
}


def status_of(code: str) -> int:
    """Returns the HTTP status of a code; 500 for a code that is not Commet's."""
    kind = ERROR_TYPES.get(code, "internal_error")
    return _STATUS_BY_CODE.get(code, _STATUS_BY_TYPE[kind])


class ApiError(Exception):
    """A complete error answer: status, code, type, message and the field it concerns."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        details: Any = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.details = details
        self.headers = headers or {}

    @property
    def status(self) -> int:
        """The HTTP status that goes with the code."""
        return status_of(self.code)

    def body(self) -> dict[str, Any]:
        """The JSON body, with the keys Commet sends."""
        return error_body(
            self.code, ERROR_TYPES[self.code], self.message, param=self.param, details=self.details
        )


def invalid(field: str, message: str) -> ApiError:
    """A `validation_error` about one field."""
    return ApiError(
        "validation_error",
        message,
        param=field,
        details=[{"field": field, "message": message}],
    )


def error_body(
    code: str, kind: str, message: str, *, param: str | None = None, details: Any = None
) -> dict[str, Any]:
    """Returns the error envelope. `param` is left out if the error concerns no field."""
    error: dict[str, Any] = {"type": kind, "code": code, "message": message}
    if param is not None:
        error["param"] = param
    error["details"] = details
    error["doc_url"] = f"https://commet.co/docs/api-reference/{API_VERSION}/errors/{code}.md"
    return {"error": error}


def code_for_status(status: int) -> tuple[str, str]:
    """Returns the code and type of a bare status, for injected failures."""
    known = {
        400: "validation_error",
        401: "unauthorized",
        402: "payment_failed",
        403: "forbidden",
        404: "not_found",
        409: "duplicate",
        429: "rate_limited",
    }
    code = known.get(status, "internal_error")
    return code, ERROR_TYPES[code]


def phrase(status: int) -> str:
    """The usual words for a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"
