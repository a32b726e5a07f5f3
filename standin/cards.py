"""Test cards: which numbers pay, and how the others fail."""

import re
from dataclasses import dataclass
from datetime import datetime

from standin.models import Card

_FAILURES = {
    "card_declined": "Your card was declined.",
    "insufficient_funds": "Your card has insufficient funds.",
    "expired_card": "Your card has expired.",
    "authentication_required": "Authentication is not supported here. Try another card.",
}

_NUMBERS: dict[str, str | None] = {
    "4242424242424242": None,
    "5555555555554444": None,
    "4000000000000002": "card_declined",
    "4000000000009995": "insufficient_funds",
    "4000000000000069": "expired_card",
    "4000000000003220": "authentication_required",
    "4000002500003155": "authentication_required",
}

SAVED_BUT_DECLINED = "4000000000000341"
"""Accepted when it is given, declined whenever it is charged later."""


class CardRefusedError(Exception):
    """The card was not accepted; `code` and `message` are the provider's."""

    def __init__(self, code: str) -> None:
        super().__init__(_FAILURES[code])
        self.code = code
        self.message = _FAILURES[code]

    @property
    def failure(self) -> tuple[str, str]:
        """Code and message together."""
        return self.code, self.message


class CardFormError(Exception):
    """The form is not filled in properly: messages by field."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("; ".join(problems.values()))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class CardForm:
    """What was typed into a card form, still unchecked."""

    card_number: str
    expiry: str
    cvc: str
    name: str = ""

    def read(self, now: datetime) -> tuple[str, Card]:
        """The number, and the card as it would be saved. Raises CardFormError."""
        number = re.sub(r"[\s-]", "", self.card_number)
        expiry = _read_expiry(self.expiry)
        problems = {}
        if not re.fullmatch(r"\d{13,19}", number) or not _luhn(number):
            problems["card_number"] = "Check the card number."
        if expiry is None or (expiry[1], expiry[0]) < (now.year, now.month):
            problems["expiry"] = "Use a date in the future, as MM/YY."
        if not re.fullmatch(r"\d{3,4}", self.cvc.strip()):
            problems["cvc"] = "Use the 3 or 4 digits of the security code."
        if problems or expiry is None:
            raise CardFormError(problems)
        brand = "mastercard" if number.startswith("5") else "visa"
        return number, Card(brand=brand, last4=number[-4:], exp_month=expiry[0], exp_year=expiry[1])


def accept(form: CardForm, now: datetime) -> Card:
    """The card, ready to be saved. Raises CardFormError or CardRefusedError."""
    number, card = form.read(now)
    if number == SAVED_BUT_DECLINED:
        return card.model_copy(update={"charge_failure": "card_declined"})
    failure = _NUMBERS.get(number, "card_declined")
    if failure:
        raise CardRefusedError(failure)
    return card


def failure_message(code: str) -> str:
    """The provider's words for a decline code."""
    return _FAILURES.get(code, _FAILURES["card_declined"])


def _read_expiry(text: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"\s*(0?[1-9]|1[0-2])\s*/\s*(?:20)?(\d{2})\s*", text)
    return (int(match[1]), 2000 + int(match[2])) if match else None


def _luhn(number: str) -> bool:
    digits = [int(d) for d in reversed(number)]
    doubled = (sum(divmod(2 * d, 10)) for d in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0
