"""What bodies are, before anything is done with them."""

import pytest
from pydantic import TypeAdapter, ValidationError

from billing.schemas import OccurredAt, SignIn


def test_no_body_is_written_out() -> None:
    """What formats a body for a log learns its kind and nothing in it."""
    body = SignIn(email="ana@example.com", password="correct horse")
    assert (str(body), repr([body])) == ("SignIn(...)", "[SignIn(...)]")


@pytest.mark.parametrize("text", ["1", "1757500000", "-1", "+1.5", "1e9", "", "today"])
def test_a_time_is_written_as_one(text: str) -> None:
    """Digits alone are no time, in quotes or not: pydantic would count seconds since 1970."""
    with pytest.raises(ValidationError):
        TypeAdapter(OccurredAt).validate_python(text)


def test_a_time_says_its_zone() -> None:
    """With an offset it is taken, without one it is not."""
    times = TypeAdapter(OccurredAt)
    assert times.validate_python("2026-09-10T12:00:00+02:00").isoformat().endswith("+02:00")
    with pytest.raises(ValidationError):
        times.validate_python("2026-09-10T12:00:00")
