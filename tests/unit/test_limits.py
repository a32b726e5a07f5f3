"""The table of limits in docs/usage.md says what the code takes, and leaves no field out."""

import inspect
import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count
from typing import Annotated, Any

import pytest
from pydantic import StringConstraints, TypeAdapter, ValidationError

from billing import amounts
from billing.credentials import identity_tokens
from billing.field_types import (
    GROUP_BY_PATTERN,
    Day,
    FeatureCode,
    IdempotencyKey,
    LimitAmount,
    Properties,
    Property,
    Quantity,
    QuantityOrZero,
    SignedQuantity,
    UserId,
)
from billing.http import api, bodies
from billing.http.shapes.accounts import PutUser, VerifyEmail
from billing.http.shapes.checkout import Checkout
from billing.http.shapes.estimates import Estimate
from billing.http.shapes.events import CreateEndpoint
from billing.http.shapes.limits import CreateThreshold
from billing.http.shapes.portal import Portal
from billing.http.shapes.signing_in import SignUp
from billing.http.shapes.usage import Correct, Reserve, UsageBatch
from billing.usage import ledger
from functions.track_usage import app as track_usage
from tests.unit.markdown import ROOT
from tests.unit.request_models import request_models

PAGE = ROOT / "docs" / "usage.md"


def is_taken(kind: TypeAdapter[Any], value: object) -> bool:
    try:
        kind.validate_python(value)
    except ValidationError:
        return False
    return True


def sizes(kind: Any, make: Callable[[int], object] = lambda n: "a" * n) -> str:
    """The least and the most of something that is taken, as a reader would say it."""
    adapter = TypeAdapter(kind)
    least = next(n for n in range(5_000) if is_taken(adapter, make(n)))
    most = next(n for n in count(least) if not is_taken(adapter, make(n + 1)))
    return f"{least:,} to {most:,}" if least else f"at most {most:,}"


def field(model: Any, name: str) -> Any:
    """The type of one field, with its limits."""
    info = model.model_fields[name]
    return Annotated[info.annotation, info]


def default_body() -> int:
    found = inspect.signature(api.resolver).parameters["max_body_bytes"].default
    assert isinstance(found, int)
    return found


def confirmation(length: int) -> str:
    return "chg_" + "a" * (length - 4)


QUANTITY = (
    f"above 0, at most {int(amounts.MAX_QUANTITY):,}; {amounts.MAX_DIGITS} significant digits,"
    f" {amounts.MAX_DECIMALS} of them decimals at most"
)
MAIL = "@example.com"
GroupBy = Annotated[str, StringConstraints(pattern=GROUP_BY_PATTERN)]

EXPECTED = {
    "bodies of `/usage…`": f"at most {track_usage.MAX_BODY_BYTES:,} bytes, and at most"
    f" {bodies._MOST_SENT:,} as AWS counts them: quotes and backslashes twice, base64 for other"
    " types than JSON",
    "other bodies": f"at most {default_body():,} bytes",
    "names in one object": f"at most {bodies.MAX_NAMES}",
    "`events`": sizes(field(UsageBatch, "events"), lambda n: [0] * n),
    "`usage` of an estimate": sizes(
        field(Estimate, "usage"), lambda n: [{"feature": "a", "quantity": 1}] * n
    )
    + " features",
    "`user_id`": f"{sizes(UserId)} characters: letters, digits and `_.:-`, the first a letter or a"
    " digit",
    "`feature`": f"{sizes(FeatureCode)} characters: `a` to `z`, digits and `_`",
    "`quantity`": QUANTITY,
    "`quantity` of a correction": "the same, above or below 0",
    "`quantity` of an estimate": "the same, or 0",
    "total of a period": f"at most {int(amounts.MAX_QUANTITY):,}",
    "`idempotency_key`, `corrects`": f"{sizes(IdempotencyKey)} characters",
    "`occurred_at`": "a time with an offset of less than 16 hours, at most 35 days ago and"
    " 5 minutes ahead",
    "`properties`": f"{sizes(Properties, lambda n: {str(i): '' for i in range(n)})} names and"
    f" values, each a text of {sizes(Property)} characters",
    "`reason`": f"{sizes(field(Correct, 'reason'))} characters",
    "`expires_in`": f"{sizes(field(Reserve, 'expires_in'), lambda n: n)} seconds",
    "`amount` of a spend limit": "0 or more, below 1,000,000,000, with at most 4 decimals; or null",
    "`amount` of a threshold": "as a `quantity`",
    "`measure` of a threshold": "`usage` or `spend`",
    "`percent` of a threshold": "a whole number,"
    f" {sizes(field(CreateThreshold, 'percent'), lambda n: n)}",
    "`cursor`": f"at most {track_usage.MAX_CURSOR:,} characters",
    "`limit`": f"1 to {ledger.MAX_PAGE:,}",
    "`from`, `to`": "a time with an offset of less than 16 hours",
    "`from`, `to` of sums": "a day, as in `2026-11-30`",
    "`group_by`": "`day`, `property.<name>` or `day,property.<name>`; the name has"
    f" {sizes(GroupBy, lambda n: 'property.' + 'a' * n)} characters",
    "`format`": "`json` or `csv`",
    "`email`": "at most "
    + sizes(field(PutUser, "email"), lambda n: "a" * (n - len(MAIL)) + MAIL).split()[-1]
    + " characters",
    "`name`": f"{sizes(field(PutUser, 'name'))} characters",
    "`password`, `current_password`": f"{sizes(field(SignUp, 'password'))} characters",
    "`plan_code`": f"{sizes(field(Checkout, 'plan_code'))} characters",
    "`billing_interval`": f"{sizes(field(Checkout, 'billing_interval'))} characters: `a` to"
    " `z` and `_`",
    "`interval` of an estimate": "`weekly`, `monthly`, `quarterly`, `semiannual` or `yearly`",
    "`confirmation`": f"{sizes(field(Checkout, 'confirmation'), confirmation)} characters",
    "`success_url`, `return_url`": sizes(field(Portal, "return_url")) + " characters",
    "`cookie`, `immediate`, `thresholds`": "true or false",
    "`iss`": "1 to 2,000 characters",
    "`sub`": f"1 to {identity_tokens.MAX_SUBJECT} characters",
    "`url` of an endpoint": f"at most {sizes(field(CreateEndpoint, 'url')).split()[-1]}"
    " characters: an https address that is reached from the internet",
    "`types`": sizes(field(CreateEndpoint, "types"), lambda n: ["access.ended"] * n) + " types",
    "`description`": f"{sizes(field(CreateEndpoint, 'description'))} characters",
    "`enabled`": "true or false",
    "`event`": "the id of an outgoing event",
    "`state`": "`pending`, `sent` or `failed`",
    "`after`": "0 or a place that was answered",
    "token of an identity provider": f"at most {identity_tokens.MAX_TOKEN_LENGTH:,} characters",
    "`token`": f"{sizes(field(VerifyEmail, 'token'))} characters",
}


def table() -> dict[str, str]:
    """The rows of the table, by their first cell."""
    text = PAGE.read_text(encoding="utf-8").split("\n## Limits\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", text, re.MULTILINE)
    return dict(rows[1:])


def names() -> Iterator[str]:
    for model in request_models():
        yield from (field.alias or name for name, field in model.model_fields.items())
    for path in json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"].values():
        for operation in path.values():
            found = operation.get("parameters", [])
            yield from (each["name"] for each in found if each["in"] == "query")


@pytest.mark.parametrize("name", EXPECTED)
def test_a_limit_is_what_the_code_takes(name: str) -> None:
    assert table()[name] == EXPECTED[name]


def test_no_other_row() -> None:
    """A row that no test compares could say anything."""
    assert list(table()) == list(EXPECTED)


def test_no_field_is_left_out() -> None:
    """Neither of a body nor of a query."""
    told = {name for row in table() for name in re.findall(r"`(\w+)`", row)}
    found = set(names())
    assert {"properties", "cursor", "reason"} <= found
    assert sorted(found - told) == []


@pytest.mark.parametrize(
    ("kind", "taken", "refused"),
    [
        (Quantity, "999999999999999", "1000000000000000"),
        (Quantity, "999999999.999999", "9999999999.999999"),
        (Quantity, "0.000001", "0.0000001"),
        (Quantity, "0.000001", "0"),
        (QuantityOrZero, "0", "-0.000001"),
        (QuantityOrZero, "999999999999999", "1000000000000000"),
        (QuantityOrZero, "999999999.999999", "9999999999.999999"),
        (QuantityOrZero, "0.000001", "0.0000001"),
        (SignedQuantity, "-999999999999999", "-1000000000000000"),
        (SignedQuantity, "-0.000001", "0"),
        (LimitAmount, "999999999.9999", "1000000000"),
        (LimitAmount, "0", "-0.0001"),
        (LimitAmount, "0.0001", "0.00001"),
        (UserId, "A1_.:-", "_a"),
        (FeatureCode, "a1_", "A"),
        (Day, "2026-11-30", "2026-11-31"),
        (Day, "0001-01-01", "2026-11-30T00:00:00Z"),
        (GroupBy, "day", "week"),
        (GroupBy, "day,property.day", "property."),
    ],
)
def test_the_limits_that_are_words(kind: Any, taken: str, refused: str) -> None:
    assert is_taken(TypeAdapter(kind), taken)
    assert not is_taken(TypeAdapter(kind), refused)


def test_the_ages_of_usage() -> None:
    """They stand in the routine that accepts usage."""
    routine = ROOT / "layers/common/billing/database/routines/accepting.sql"
    text = routine.read_text(encoding="utf-8")
    for limit in (timedelta(days=35), timedelta(minutes=5)):
        written = f"{limit.days} days" if limit.days else f"{limit.seconds // 60} minutes"
        assert f"interval '{written}'" in text
        assert written in EXPECTED["`occurred_at`"].replace(" ago", "")
