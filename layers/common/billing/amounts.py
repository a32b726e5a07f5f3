"""Exact amounts: quantities, prices and what they come to. Decimals throughout, never floats.

Two money scales arrive from Commet: prices in the currency's minor unit (cents), and prices of
usage in the rate scale, where 10000 is 1.00 of the major unit.
"""

from decimal import ROUND_HALF_UP, Context, Decimal

MAX_QUANTITY = Decimal("999999999.999999")
RATE_SCALE = 10_000

_QUANTUM = Decimal("0.000001")
# Wide enough that no product of ours is rounded before we say so.
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
    """Whether this much may be used: above zero, at most 9 integer and 6 fraction digits."""
    # NaN compares to nothing, and the range is checked first: 1e999999 must not be written out.
    return value.is_finite() and 0 < value <= MAX_QUANTITY and value == value.quantize(_QUANTUM)


def format_decimal(value: Decimal) -> str:
    """The one plain way to write a number: "30", "1.5", "0"; no exponent, no trailing zeros."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def minor_digits(currency: str) -> int:
    """How many decimals the currency's amounts have: usd 2, jpy 0, kwd 3."""
    return _MINOR_DIGITS.get(currency.lower(), 2)


def overage_cost(units: Decimal, unit_price: Decimal | None, currency: str) -> Decimal | None:
    """What units beyond the included ones cost, in major units, rounded half up to the minor one.

    `unit_price` is in the rate scale. None where there are units and their price is not known.
    """
    if unit_price is None:
        if units:
            return None
        unit_price = Decimal(0)
    exact = _EXACT.divide(_EXACT.multiply(units, unit_price), Decimal(RATE_SCALE))
    return exact.quantize(Decimal(1).scaleb(-minor_digits(currency)), context=_EXACT)


def format_money(amount: Decimal, currency: str) -> str:
    """Major units with all the currency's decimals: "3.00"."""
    return format(amount.quantize(Decimal(1).scaleb(-minor_digits(currency)), context=_EXACT), "f")


def format_minor_units(amount: int | Decimal, currency: str) -> str:
    """Minor units, as major ones: 2900 cents is "29.00"."""
    return format_money(Decimal(amount).scaleb(-minor_digits(currency)), currency)


def format_unit_price(unit_price: Decimal, currency: str) -> str:
    """A price in the rate scale, in major units: 1000 is "0.10", 5 is "0.0005"; never rounded."""
    plain = format_decimal(_EXACT.divide(unit_price, Decimal(RATE_SCALE)))
    whole, _, fraction = plain.partition(".")
    fraction = fraction.ljust(minor_digits(currency), "0")
    return f"{whole}.{fraction}" if fraction else whole
