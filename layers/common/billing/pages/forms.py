"""Reads the forms of the pages, and checks them with the models of the API."""

import re
from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import parse_qsl

from aws_lambda_powertools.utilities.data_classes.common import BaseProxyEvent
from pydantic import BaseModel, ValidationError

from billing.errors import (
    BillingError,
    FieldError,
    InvalidRequest,
    PayloadTooLarge,
    UnsupportedMediaType,
)
from billing.http import api

MAX_BYTES = 16 * 1024
MAX_FIELDS = 50
_TYPE = "application/x-www-form-urlencoded"

# A number whose thousands have commas between them.
_GROUPED = re.compile(r"\d{1,3}(,\d{3})+(\.\d*)?")

Values = Mapping[str, str]
Model = TypeVar("Model", bound=BaseModel)


def read(event: BaseProxyEvent) -> dict[str, str]:
    """Returns the fields of a form, without surrounding spaces. Passwords are not changed.

    Raises UnsupportedMediaType, PayloadTooLarge and InvalidRequest.
    """
    if not event.body:
        return {}
    kind = event.raw_event["headers"].get("content-type", "").partition(";")[0].strip().lower()
    if kind != _TYPE:
        raise UnsupportedMediaType(f"A form is sent as {_TYPE}.")
    try:
        text = event.decoded_body or ""
        if len(text.encode()) > MAX_BYTES:
            raise PayloadTooLarge(f"The form is larger than {MAX_BYTES} bytes.")
        fields = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError:
        raise InvalidRequest("The form is not readable.") from None
    return {name: value if is_secret(name) else value.strip() for name, value in fields}


def is_secret(field: str) -> bool:
    """Returns whether the typed text of the field is never shown again."""
    return "password" in field or field == "token"


def number(typed: str) -> str:
    """Returns a typed number without the spaces and commas between its thousands.

    Other commas are not removed, so that the number is refused: "100,50" is not 10050.
    """
    plain = "".join(typed.split())
    return plain.replace(",", "") if _GROUPED.fullmatch(plain) else plain


def checked(model: type[Model], values: Values) -> Model:
    """The form as the model of the API. Fields that are empty count as left out.

    Raises InvalidRequest with the fields that are wrong.
    """
    filled = {name: values[name] for name in model.model_fields if values.get(name)}
    try:
        return model.model_validate(filled)
    except ValidationError as error:
        errors = [api.field_error(each, each["loc"]) for each in error.errors()]
        raise InvalidRequest(errors=errors) from None


def wrong_fields(error: BillingError) -> dict[str, FieldError]:
    """The first error of each field, by the field's name."""
    found: dict[str, FieldError] = {}
    for each in error.errors:
        found.setdefault(each.field, each)
    return found
