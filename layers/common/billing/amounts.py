"""Exact arithmetic with quantities and prices. All numbers are Decimals, never floats.

Commet sends money in two scales. Prices of plans are in the currency's minor unit (cents). Prices
of usage are in the rate scale, where 10000 is 1.00 of the major unit.
"""

from decimal import ROUND_HALF_UP, Context, Decimal

MAX_QUANTITY = Decimal("999999999.999999")
RATE_SCALE = 10_000

_QUANTUM = Decimal("0.000001")
# So many digits that no product of a quantity and a price is rounded before we round it.
_EXACT = Context(prec=60, rounding=ROUND_HALF_UP)

# Decimals of the currencies that do not have two, by ISO 4217.
_MINOR_DIGITS = {
    currency: digits
    for digits, currencies in {
        0: "bif clp djf gnf isk jpy kmf krw pyg rwf ugx uyi vnd vuv xaf xof xpf",
        3: "bhd iqd jod kwd lyd omr tnd",
        4: "clf uyw",
    }.items()
    for currency in currencies.split()
}


def is_quantity(value: Decimal) -> bool:
    """Whether the value is above zero and has at most 9 integer and 6 fraction digits."""
    # is_finite comes first, because comparing a NaN raises. The range is checked before `quantize`,
    # which would write out all digits of 1e999999.
    return value.is_finite() and 0 < value <= MAX_QUANTITY and value == value.quantize(_QUANTUM)


def format_decimal(value: Decimal) -> str:
    """The number without exponent and trailing zeros: "30", "1.5", "0"."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def minor_digits(currency: str) -> int:
    """How many decimals the currency's amounts have: usd 2, jpy 0, kwd 3."""
    return _MINOR_DIGITS.get(currency.lower(), 2)


def overage_cost(units: Decimal, unit_price: Decimal | None, currency: str) -> Decimal | None:
    """The cost of `units` beyond the included quantity, in major units of the currency.

    The cost is rounded half up to the minor unit. `unit_price` is in the rate scale. Returns None
    where there are units and `unit_price` is None.
    """
    if unit_price is None:
        if units:
            return None
        unit_price = Decimal(0)
    exact = _EXACT.divide(_EXACT.multiply(units, unit_price), Decimal(RATE_SCALE))
    return exact.quantize(Decimal(1).scaleb(-minor_digits(currency)), context=_EXACT)


def format_money(amount: Decimal, currency: str) -> str:
    """An amount in major units, with all decimals of the currency: "3.00"."""
    return format(amount.quantize(Decimal(1).scaleb(-minor_digits(currency)), context=_EXACT), "f")


def format_minor_units(amount: int | Decimal, currency: str) -> str:
    """An amount in minor units, written in major units: 2900 cents is "29.00"."""
    return format_money(Decimal(amount).scaleb(-minor_digits(currency)), currency)


def format_unit_price(unit_price: Decimal, currency: str) -> str:
    """A price in the rate scale, written in major units and not rounded: 1000 is "0.10"."""
    plain = format_decimal(_EXACT.divide(unit_price, Decimal(RATE_SCALE)))
    whole, _, fraction = plain.partition(".")
    fraction = fraction.ljust(minor_digits(currency), "0")
    return f"{whole}.{fraction}" if fraction else whole
