"""Forms: what is read, what is refused, what is never shown again."""

import base64

import pytest
from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEventV2

from billing.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from billing.http.shapes.signing_in import SignUp
from billing.pages import forms

TYPE = "application/x-www-form-urlencoded"


def sent(body: str | None, kind: str = TYPE, *, encoded: bool = False) -> APIGatewayProxyEventV2:
    headers = {"content-type": kind}
    return APIGatewayProxyEventV2({"body": body, "headers": headers, "isBase64Encoded": encoded})


def test_fields_are_read_without_the_spaces_around_them_and_passwords_as_typed() -> None:
    found = forms.read(sent("email=+a%40b.example+&password=+with+spaces+&name="))
    assert found == {"email": "a@b.example", "password": " with spaces ", "name": ""}


def test_a_body_in_base64_is_read_as_api_gateway_sends_it() -> None:
    body = base64.b64encode(b"name=Ana").decode()
    assert forms.read(sent(body, encoded=True)) == {"name": "Ana"}


def test_a_form_without_a_body_has_no_fields() -> None:
    assert forms.read(sent(None)) == {}


@pytest.mark.parametrize(
    "kind", ["application/json", "multipart/form-data; boundary=x", "", "text/plain"]
)
def test_another_type_is_refused(kind: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        forms.read(sent("a=1", kind))


def test_a_large_form_is_refused() -> None:
    with pytest.raises(PayloadTooLarge):
        forms.read(sent("a=" + "x" * forms.MAX_BYTES))


@pytest.mark.parametrize("body", ["&".join(f"f{n}=1" for n in range(60)), "a=%ff"])
def test_what_no_page_sends_is_refused(body: str) -> None:
    with pytest.raises(InvalidRequest):
        forms.read(sent(body))


def test_an_empty_field_counts_as_left_out_and_a_strange_one_is_ignored() -> None:
    values = {"email": "ana@b.example", "password": "a long walk", "name": "", "next": "/app"}
    assert forms.checked(SignUp, values) == SignUp(email="ana@b.example", password="a long walk")


def test_what_is_wrong_is_told_by_field() -> None:
    with pytest.raises(InvalidRequest) as refused:
        forms.checked(SignUp, {"email": "nobody", "password": "tiny-1"})
    assert set(forms.wrong_fields(refused.value)) == {"email", "password"}
    assert "tiny-1" not in str(refused.value.errors)


@pytest.mark.parametrize("field", ["password", "current_password", "token"])
def test_secrets_are_known_by_their_names(field: str) -> None:
    assert forms.is_secret(field)
    assert not forms.is_secret("email")


@pytest.mark.parametrize(
    ("typed", "read"),
    [("1,250.50", "1250.50"), ("1 000 000", "1000000"), ("1,000,000", "1000000"), ("0.5", "0.5")],
)
def test_the_thousands_of_a_number_may_be_grouped(typed: str, read: str) -> None:
    assert forms.number(typed) == read


@pytest.mark.parametrize("typed", ["100,50", "1,00", "12,3456", "1,000,50", ",5", "1.000,50"])
def test_any_other_comma_stays_and_is_refused(typed: str) -> None:
    """A limit of 100,50 that was read as 10050 would let a bill grow a hundredfold."""
    assert "," in forms.number(typed)
