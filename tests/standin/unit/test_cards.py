"""Reading card forms."""

from datetime import UTC, datetime

import pytest

from standin.cards import CardForm, CardFormError, CardRefusedError, accept

NOW = datetime(2026, 9, 15, tzinfo=UTC)


def _form(number: str = "4242 4242 4242 4242", expiry: str = "12/34", cvc: str = "123") -> CardForm:
    return CardForm(number, expiry, cvc)


@pytest.mark.parametrize(
    "number", ["4242424242424242", "4242 4242 4242 4242", "4242-4242-4242-4242"]
)
def test_a_good_card(number: str) -> None:
    """Only what may be shown is kept."""
    card = accept(_form(number), NOW)
    assert (card.brand, card.last4, card.exp_month, card.exp_year) == ("visa", "4242", 12, 2034)
    assert number not in card.model_dump_json()


@pytest.mark.parametrize("expiry", ["9/26", "09/26", "09/2026", "9 / 26"])
def test_a_card_is_good_until_the_end_of_its_month(expiry: str) -> None:
    """In whatever way the date is typed."""
    assert accept(_form(expiry=expiry), NOW).exp_month == 9


@pytest.mark.parametrize(
    ("form", "fields"),
    [
        (_form(number="4242424242424241"), {"card_number"}),
        (_form(number="42"), {"card_number"}),
        (_form(expiry="08/26"), {"expiry"}),
        (_form(expiry="13/30"), {"expiry"}),
        (_form(cvc="12"), {"cvc"}),
        (CardForm("", "", ""), {"card_number", "expiry", "cvc"}),
    ],
)
def test_problems_are_told_by_field(form: CardForm, fields: set[str]) -> None:
    """All of them at once."""
    with pytest.raises(CardFormError) as caught:
        accept(form, NOW)
    assert caught.value.problems.keys() == fields


@pytest.mark.parametrize(
    ("number", "code"),
    [
        ("4000000000000002", "card_declined"),
        ("4000000000009995", "insufficient_funds"),
        ("4000000000000069", "expired_card"),
        ("4000000000003220", "authentication_required"),
        ("4000002500003155", "authentication_required"),
        ("4111111111111111", "card_declined"),
    ],
)
def test_refused_cards(number: str, code: str) -> None:
    """A number that is no test card is declined, so that nobody types a real one twice."""
    with pytest.raises(CardRefusedError) as caught:
        accept(_form(number), NOW)
    assert caught.value.code == code


def test_a_card_that_fails_later() -> None:
    """It is saved; charges of it are declined."""
    assert accept(_form("4000000000000341"), NOW).charge_failure == "card_declined"
