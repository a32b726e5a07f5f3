"""Test cards: which numbers pay, and how the other numbers fail."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from standin.models import Card, Customer

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

_BY_COUNTRY = """
    AR 4000003200000021, AU 4000000360000006, AT 4000000400000008, BY 4000001120000005,
    BE 4000000560000004, BR 4000007600000002, BG 4000001000000000, CA 4000001240000000,
    CL 4000001520000001, CN 4000001560000002, CO 4000001700000003, CR 4000001880000005,
    HR 4000001910000009, CY 4000001960000008, CZ 4000002030000002, DK 4000002080000001,
    EC 4000002180000000, EE 4000002330000009, FI 4000002460000001, FR 4000002500000003,
    DE 4000002760000016, GI 4000002920000005, GR 4000003000000030, HK 4000003440000004,
    HU 4000003480000005, IN 4000003560000008, IE 4000003720000005, IT 4000003800000008,
    JP 4000003920000003 3530111333300000, LV 4000004280000005, LI 4000004380000004,
    LT 4000004400000000, LU 4000004420000006, MY 4000004580000002, MT 4000004700000007,
    MX 4000004840008001 5062210000000009, NL 4000005280000002, NZ 4000005540000008,
    NO 4000005780000007, PA 4000005910000000, PY 4000006000000066, PE 4000006040000068,
    PL 4000006160000005, PT 4000006200000007, RO 4000006420000001, SA 4000006820000007,
    SG 4000007020000003, SK 4000007030000001, SI 4000007050000006, ES 4000007240000007,
    SE 4000007520000008, CH 4000007560000009, TW 4000001580000008,
    TH 4000007640000003 4000057640000008, AE 4000007840000001 5200007840000022,
    GB 4000008260000000 4000058260000005 5555558265554449, UY 4000008580000003
"""
"""Cards that pay, by the country that issued them. Two of them have no valid check digit."""

_COUNTRIES = {
    number: country
    for country, *numbers in (entry.split() for entry in _BY_COUNTRY.split(","))
    for number in numbers
}

_BRANDS = {"35": "jcb", "50": "carnet", "51": "mastercard", "52": "mastercard", "55": "mastercard"}

SAVED_BUT_DECLINED = "4000000000000341"
"""Accepted when it is saved, declined whenever it is charged later."""


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
    """The text of a card form, not checked yet."""

    card_number: str
    expiry: str
    cvc: str
    name: str = ""

    def read(self, now: datetime) -> tuple[str, Card]:
        """Returns the number, and the card to be saved. Raises CardFormError."""
        number = re.sub(r"[\s-]", "", self.card_number)
        expiry = _read_expiry(self.expiry)
        problems = {}
        if number not in _COUNTRIES and not _is_card_number(number):
            problems["card_number"] = "Check the card number."
        if expiry is None or (expiry[1], expiry[0]) < (now.year, now.month):
            problems["expiry"] = "Use a date in the future, as MM/YY."
        if not re.fullmatch(r"\d{3,4}", self.cvc.strip()):
            problems["cvc"] = "Use the 3 or 4 digits of the security code."
        if problems or expiry is None:
            raise CardFormError(problems)
        card = Card(
            brand=_BRANDS.get(number[:2], "visa"),
            last4=number[-4:],
            exp_month=expiry[0],
            exp_year=expiry[1],
            country=_COUNTRIES.get(number, "US"),
            saved_at=now,
        )
        return number, card


def accept(form: CardForm, now: datetime) -> Card:
    """The card, ready to be saved. Raises CardFormError or CardRefusedError."""
    number, card = form.read(now)
    if number == SAVED_BUT_DECLINED:
        return card.model_copy(update={"charge_failure": "card_declined"})
    failure = None if number in _COUNTRIES else _NUMBERS.get(number, "card_declined")
    if failure:
        raise CardRefusedError(failure)
    return card


def keep(customer: Customer, card: Card, *, as_default: bool = True) -> None:
    """Add a card to the customer's cards. The caller has to store the customer.

    The first card becomes the default card in any case, and so does a new copy of the default card.
    """
    was = customer.card
    as_default = as_default or was is None or was.is_same(card)
    others = [other for other in customer.cards if not other.is_same(card)]
    if as_default:
        customer.card = card
    else:
        others = [card, *(other for other in others if other is not was)]
    customer.other_cards = sorted(others, key=_saved_at, reverse=True)


def _saved_at(card: Card) -> datetime:
    return card.saved_at or datetime.min.replace(tzinfo=UTC)


def failure_message(code: str) -> str:
    """The provider's words for a decline code."""
    return _FAILURES.get(code, _FAILURES["card_declined"])


def _read_expiry(text: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"\s*(0?[1-9]|1[0-2])\s*/\s*(?:20)?(\d{2})\s*", text)
    return (int(match[1]), 2000 + int(match[2])) if match else None


def _is_card_number(number: str) -> bool:
    """Whether the number has the length and the check digit (Luhn) of a card number."""
    if not re.fullmatch(r"[0-9]{13,19}", number):
        return False
    digits = [int(d) for d in reversed(number)]
    doubled = (sum(divmod(2 * d, 10)) for d in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0
