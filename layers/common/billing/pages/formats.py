"""Numbers, money and times for readers.

All words and signs are at the top, for translators of the pages. Numbers are Decimals, or decimal
strings of the API's answers. Days and times are UTC. Spaces inside a number or a day are no-break
spaces, so that no line ends there.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal

from billing import amounts

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
SHORT_MONTHS = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
INTERVALS = {
    "weekly": "a week",
    "monthly": "a month",
    "quarterly": "every three months",
    "semiannual": "every six months",
    "yearly": "a year",
    "one_time": "once",
}
# As English texts write them (CLDR). Other currencies are written with their code.
SYMBOLS = {
    "aud": "A$",
    "brl": "R$",
    "cad": "CA$",
    "cny": "CN¥",
    "eur": "€",
    "gbp": "£",
    "hkd": "HK$",
    "ils": "₪",
    "inr": "₹",
    "jpy": "¥",
    "krw": "₩",
    "mxn": "MX$",
    "nzd": "NZ$",
    "php": "₱",
    "twd": "NT$",
    "usd": "$",
    "vnd": "₫",
}
# The endings of a unit inside the name of its feature: "call" in "API calls".
PLURALS = ("", "s", "es")
THOUSANDS = ("", "k", "M", "B", "T")
AND = " and "
MINUS = "\N{MINUS SIGN}"
NO_BREAK = "\N{NO-BREAK SPACE}"
RANGE = " \N{EN DASH} "

_SHORT = Context(prec=3, rounding=ROUND_HALF_UP)
_EXACT = Context(prec=60, rounding=ROUND_HALF_UP)
_QUANTUM = Decimal(1).scaleb(-amounts.MAX_DECIMALS)

Number = Decimal | str


def money(amount: Number, currency: str) -> str:
    """An amount in major units, with all decimals of the currency: "$1,234.50"."""
    return _with_symbol(amounts.format_money(Decimal(amount), currency), currency)


def price(amount: Number, currency: str) -> str:
    """Formats like `money`, without decimals if all of them are zeros: "$29", "$29.50"."""
    value = Decimal(amount)
    return _whole(value, currency) if value == _integral(value) else money(value, currency)


def unit_price(amount: Number, currency: str) -> str:
    """A price in major units, not rounded, with the currency's decimals at least: "$0.0004"."""
    return _with_symbol(amounts.format_exact(Decimal(amount), currency), currency)


def money_range(low: Number, high: Number, currency: str, *, capped: bool = False) -> str:
    """Formats two amounts in whole units of the currency, the range rounded outwards.

    If both are equal, formats one amount like `money`. `capped`: `high` is a limit, and a limit is
    not rounded.
    """
    least, most = Decimal(low), Decimal(high)
    if least == most:
        return money(least, currency)
    upper = price(most, currency) if capped else _whole(_integral(most, ROUND_CEILING), currency)
    return _whole(_integral(least, ROUND_FLOOR), currency) + RANGE + upper


def quantity(value: Number) -> str:
    """A quantity with its thousands grouped and at most six decimals: "1,284,903.25"."""
    rounded = Decimal(value).quantize(_QUANTUM, context=_EXACT)
    return _signed(amounts.format_decimal(rounded))


def unit_beside(unit: str | None, name: str) -> str:
    """Returns the unit for a quantity beside the feature's name: "GB" beside "Storage".

    Returns "" if the name contains the unit: 10,000 of "API calls" are not "10,000 call API calls".
    """
    plain = (unit or "").casefold()
    said = {plain + ending for ending in PLURALS}
    return "" if said & set(name.casefold().split()) else unit or ""


def short_quantity(value: Number) -> str:
    """A quantity with three significant digits at most, for labels: "1.2M", "35k", "131"."""
    rounded = _SHORT.plus(Decimal(value))
    power = max(0, min(rounded.adjusted() // 3, len(THOUSANDS) - 1)) if rounded else 0
    return _signed(amounts.format_decimal(rounded.scaleb(-3 * power))) + THOUSANDS[power]


def short_range(low: Number, high: Number) -> str:
    """Two short quantities, or one where both read the same."""
    lower, upper = short_quantity(low), short_quantity(high)
    return lower if lower == upper else lower + RANGE + upper


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: "API calls, E-mails and Storage"."""
    *others, last = names or [""]
    return f"{', '.join(others)}{AND}{last}" if others else last


def day(value: date, now: date) -> str:
    """Formats the day in UTC: "20 November", with the year if `now` is in another year."""
    return _day(value, now, MONTHS)


def short_day(value: date, now: date) -> str:
    """As `day`, with a short month: "20 Nov"."""
    return _day(value, now, SHORT_MONTHS)


def moment(value: datetime, now: datetime) -> str:
    """The day and the time in UTC: "20 November, 14:05 UTC"."""
    return f"{day(value, now)}, {value.astimezone(UTC):%H:%M}{NO_BREAK}UTC"


def interval(code: str) -> str:
    """How often a price is charged, to stand behind the price: "a month". Else the code itself."""
    return INTERVALS.get(code, code.replace("_", " "))


def day_of(value: date) -> date:
    """The day of a moment, in UTC; a day itself."""
    return value.astimezone(UTC).date() if isinstance(value, datetime) else value


def _day(value: date, now: date, months: tuple[str, ...]) -> str:
    found = day_of(value)
    text = f"{found.day}{NO_BREAK}{months[found.month - 1]}"
    return text if found.year == day_of(now).year else f"{text}{NO_BREAK}{found.year}"


def _integral(value: Decimal, rounding: str = ROUND_HALF_UP) -> Decimal:
    return value.to_integral_value(rounding=rounding)


def _whole(value: Decimal, currency: str) -> str:
    return _with_symbol(amounts.format_decimal(value), currency)


def _with_symbol(plain: str, currency: str) -> str:
    code = currency.lower()
    before = SYMBOLS.get(code, code.upper() + NO_BREAK)
    return _signed(plain, before)


def _signed(plain: str, before: str = "") -> str:
    """The plain number, grouped, with its sign in front of `before`. Minus zero has no sign."""
    number = Decimal(plain)
    whole, point, decimals = plain.removeprefix("-").partition(".")
    sign = MINUS if number < 0 else ""
    return f"{sign}{before}{int(whole):,}{point}{decimals}"
