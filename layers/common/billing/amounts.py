"""Exact arithmetic with quantities and prices. All numbers are Decimals, never floats.

Commet sends money in two scales. Prices of plans are in the currency's minor unit (cents). Prices
of usage are in the rate scale, where 10000 is 1.00 of the major unit.

The payment provider decides how many decimals an amount has: those of ISO 4217, except that ariary
(mga) are charged whole. It counts krónur (isk) and Ugandan shillings (ugx) in hundredths, although
it charges them whole: 500 are 5 krónur (docs.stripe.com/currencies, "Special cases").
"""

from decimal import ROUND_HALF_UP, Context, Decimal

# A quantity has at most this many significant digits, which every double keeps. MAX_QUANTITY is the
# largest quantity, and the largest total.
MAX_DIGITS = 15
MAX_DECIMALS = 6
MAX_QUANTITY = Decimal(10**MAX_DIGITS - 1)
RATE_SCALE = 10_000

_QUANTUM = Decimal(1).scaleb(-MAX_DECIMALS)
_SIGNIFICANT = Context(prec=MAX_DIGITS)
# With this many digits, no product of a quantity and a price is rounded before we round it.
_EXACT = Context(prec=60, rounding=ROUND_HALF_UP)

# Decimals of the currencies that do not have two.
_DECIMALS = {
    currency: digits
    for digits, currencies in {
        0: "bif clp djf gnf isk jpy kmf krw mga pyg rwf ugx uyi vnd vuv xaf xof xpf",
        3: "bhd iqd jod kwd lyd omr tnd",
        4: "clf uyw",
    }.items()
    for currency in currencies.split()
}
_WHOLE_IN_HUNDREDTHS = frozenset({"isk", "ugx"})


def is_quantity(value: Decimal) -> bool:
    """Returns whether the value is above zero, with at most 15 significant digits and 6
    decimals.
    """
    # is_finite comes first, because comparing a NaN raises. The range is checked before `quantize`,
    # which would write out all digits of 1e999999.
    return (
        value.is_finite()
        and 0 < value <= MAX_QUANTITY
        and value == value.quantize(_QUANTUM)
        and value == _SIGNIFICANT.plus(value)
    )


def format_decimal(value: Decimal) -> str:
    """Returns the number without exponent and trailing zeros: "30", "1.5", "0"."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def decimals(currency: str) -> int:
    """Returns how many decimals a charged amount has: usd 2, jpy 0, kwd 3."""
    return _DECIMALS.get(currency.lower(), 2)


def minor_digits(currency: str) -> int:
    """Returns how many digits of an amount in minor units are decimals: like `decimals`; isk
    and ugx 2.
    """
    return 2 if currency.lower() in _WHOLE_IN_HUNDREDTHS else decimals(currency)


def exact_cost(units: Decimal, unit_price: Decimal | None) -> Decimal | None:
    """Returns the cost of `units` beyond the included quantity, in major units, not rounded.

    `unit_price` is in the rate scale. Returns None if there are units and `unit_price` is None.
    """
    if unit_price is None:
        return None if units else Decimal(0)
    return _EXACT.divide(_EXACT.multiply(units, unit_price), Decimal(RATE_SCALE))


def overage_cost(units: Decimal, unit_price: Decimal | None, currency: str) -> Decimal | None:
    """Returns `exact_cost`, rounded half up to an amount that can be charged in the currency."""
    exact = exact_cost(units, unit_price)
    if exact is None:
        return None
    return exact.quantize(Decimal(1).scaleb(-decimals(currency)), context=_EXACT)


def format_money(amount: Decimal, currency: str) -> str:
    """Returns an amount in major units as text, with all decimals of the currency: "3.00"."""
    return format(amount.quantize(Decimal(1).scaleb(-decimals(currency)), context=_EXACT), "f")


def of_minor_units(amount: int | Decimal, currency: str) -> Decimal:
    """Converts minor to major units: 2900 cents are 29.00. Rounds to six decimals."""
    exact = Decimal(amount).scaleb(-minor_digits(currency), context=_EXACT)
    return exact.quantize(_QUANTUM, context=_EXACT)


def format_minor_units(amount: int | Decimal, currency: str) -> str:
    """Returns an amount in minor units as text in major units: 2900 cents are "29.00"."""
    return format_money(Decimal(amount).scaleb(-minor_digits(currency)), currency)


def format_exact(amount: Decimal, currency: str) -> str:
    """Returns an amount in major units as text, not rounded, with at least the currency's
    decimals.
    """
    plain = format_decimal(amount)
    whole, _, fraction = plain.partition(".")
    fraction = fraction.ljust(decimals(currency), "0")
    return f"{whole}.{fraction}" if fraction else whole


def format_unit_price(unit_price: Decimal, currency: str) -> str:
    """Returns a price in the rate scale as text in major units, not rounded: 1000 is "0.10"."""
    return format_exact(_EXACT.divide(unit_price, Decimal(RATE_SCALE)), currency)
