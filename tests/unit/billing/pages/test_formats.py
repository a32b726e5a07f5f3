"""Numbers, money and times as a person reads them."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.amounts import MAX_QUANTITY, decimals, format_money
from billing.pages import formats

NOW = datetime(2026, 11, 20, 14, 5, tzinfo=UTC)
NO_BREAK = "\N{NO-BREAK SPACE}"

currencies = st.sampled_from(["usd", "eur", "jpy", "bhd", "clf", "chf", "isk", "brl"])
sums = st.decimals(Decimal(-(10**15)), Decimal(10**15), places=6)
prices = st.decimals(Decimal(0), Decimal(10**6), places=8)
quantities = st.one_of(
    st.decimals(Decimal("-999999999.999999"), Decimal("999999999.999999"), places=6),
    st.integers(-int(MAX_QUANTITY), int(MAX_QUANTITY)).map(Decimal),
)


def read(text: str) -> Decimal:
    """The number in a text: its digits, its point and its sign."""
    number = "".join(c for c in text if c.isdigit() or c == ".")
    return Decimal(number) * (-1 if text.startswith("\N{MINUS SIGN}") else 1)


class TestMoney:
    @pytest.mark.parametrize(
        ("amount", "currency", "text"),
        [
            *(("1234.5", "usd", "$1,234.50"), ("0", "usd", "$0.00"), ("29", "EUR", "€29.00")),
            *(("1234567", "jpy", "¥1,234,567"), ("1.5", "bhd", f"BHD{NO_BREAK}1.500")),
            *(("12", "chf", f"CHF{NO_BREAK}12.00"), ("9.9", "brl", "R$9.90")),
            *(("-3.5", "usd", "\N{MINUS SIGN}$3.50"), ("-300", "jpy", "\N{MINUS SIGN}¥300")),
            *(("0.005", "usd", "$0.01"), ("-0.001", "usd", "$0.00")),
            ("-12", "chf", f"\N{MINUS SIGN}CHF{NO_BREAK}12.00"),
        ],
    )
    def test_as_people_write_it(self, amount: str, currency: str, text: str) -> None:
        """An amount has the currency's decimals, and its sign stands before the symbol."""
        assert formats.money(amount, currency) == text

    @given(sums, currencies)
    def test_read_back(self, amount: Decimal, currency: str) -> None:
        """Whoever reads the text has the amount that is charged, to the last digit."""
        text = formats.money(amount, currency)
        assert read(text) == Decimal(format_money(amount, currency))
        assert len(text.partition(".")[2]) == decimals(currency)


class TestPrice:
    @pytest.mark.parametrize(
        ("amount", "text"), [("29.00", "$29"), ("1290", "$1,290"), ("29.50", "$29.50")]
    )
    def test_no_cents_are_cut_off(self, amount: str, text: str) -> None:
        """Decimals are left out only where all of them are zeros."""
        assert formats.price(amount, "usd") == text


class TestUnitPrice:
    @pytest.mark.parametrize(
        ("amount", "currency", "text"),
        [
            *(("0.0004", "usd", "$0.0004"), ("0.1", "usd", "$0.10"), ("0.00250", "usd", "$0.0025")),
            *(("2", "jpy", "¥2"), ("0.5", "jpy", "¥0.5"), ("1200", "usd", "$1,200.00")),
        ],
    )
    def test_at_least_the_decimals_of_the_currency(
        self, amount: str, currency: str, text: str
    ) -> None:
        """A price of one unit has as many decimals as it needs, and the currency's at least."""
        assert formats.unit_price(amount, currency) == text

    @given(prices, currencies)
    def test_never_rounded(self, amount: Decimal, currency: str) -> None:
        """Whoever reads the text has the exact price."""
        assert read(formats.unit_price(amount, currency)) == amount


class TestMoneyRange:
    @pytest.mark.parametrize(
        ("low", "high", "text"),
        [
            *(("72.40", "128.10", "$72 to $129"), ("0.20", "0.40", "$0 to $1")),
            *(("1999.99", "2000", "$1,999 to $2,000"), ("3.15", "3.15", "$3.15")),
        ],
    )
    def test_rounded_outwards(self, low: str, high: str, text: str) -> None:
        """A range of whole dollars contains the range; what is certain is one amount."""
        assert formats.money_range(low, high, "usd") == text.replace(" to ", formats.RANGE)

    def test_a_limit_is_not_rounded(self) -> None:
        """A limit of $99.50 reads as the limit, not as more."""
        for limit, text in (("99.50", "$99.50"), ("100.00", "$100")):
            shown = formats.money_range("72.4", limit, "usd", capped=True)
            assert shown == f"$72{formats.RANGE}{text}"


class TestQuantity:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            *(("1284903.250000", "1,284,903.25"), ("1000000", "1,000,000"), ("0", "0")),
            *(("0.000001", "0.000001"), ("0.0000015", "0.000002"), ("-0.0000001", "0")),
            *(("999999999999999", "999,999,999,999,999"), ("-3", "\N{MINUS SIGN}3")),
        ],
    )
    def test_grouped(self, value: str, text: str) -> None:
        """Thousands are grouped, and there are six decimals at most."""
        assert formats.quantity(value) == text

    @given(quantities)
    def test_no_digit_is_lost(self, value: Decimal) -> None:
        """Whoever reads the text has the quantity."""
        assert read(formats.quantity(value)) == value


class TestShortQuantity:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            *(("1200000", "1.2M"), ("35000", "35k"), ("1084321", "1.08M"), ("722299", "722k")),
            *(("131.5", "132"), ("0.0123456", "0.0123"), ("0", "0"), ("999", "999")),
            *(
                ("999.6", "1k"),
                ("999999", "1M"),
                ("2500000000", "2.5B"),
                ("-35000", "\N{MINUS SIGN}35k"),
            ),
            *(("999999999999999", "1,000T"), ("4e12", "4T"), ("1000000", "1M")),
        ],
    )
    def test_three_digits(self, value: str, text: str) -> None:
        """A label has three digits at most and the letter of its thousands."""
        assert formats.short_quantity(value) == text

    @given(quantities)
    def test_near_the_quantity(self, value: Decimal) -> None:
        """What the label says is within half a per cent of the quantity."""
        text = formats.short_quantity(value)
        power = 3 * formats.THOUSANDS.index(text[-1] if text[-1].isalpha() else "")
        assert abs(read(text).scaleb(power) - value) <= abs(value) / 200

    def test_range(self) -> None:
        """Two labels that read the same are one."""
        assert formats.short_range("1084000", "1360000") == f"1.08M{formats.RANGE}1.36M"
        assert formats.short_range("1084000", "1084001") == "1.08M"


class TestTimes:
    def test_day(self) -> None:
        """The year stands there only if it is another one."""
        assert formats.day(date(2026, 11, 20), NOW) == f"20{NO_BREAK}November"
        assert formats.day(date(2027, 1, 1), NOW) == f"1{NO_BREAK}January{NO_BREAK}2027"

    def test_short_day(self) -> None:
        """Labels have short months."""
        assert formats.short_day(date(2026, 11, 20), NOW) == f"20{NO_BREAK}Nov"

    def test_moment_is_utc_and_says_so(self) -> None:
        """A time of another zone is shown in UTC, with its UTC day."""
        at = datetime(2026, 11, 21, 1, 35, tzinfo=timezone(timedelta(hours=5, minutes=30)))
        assert formats.moment(at, NOW) == f"20{NO_BREAK}November, 20:05{NO_BREAK}UTC"

    def test_the_year_of_now_is_of_utc(self) -> None:
        """Shortly after midnight in Asia it may still be last year in UTC."""
        now = datetime(2027, 1, 1, 3, tzinfo=timezone(timedelta(hours=9)))
        assert formats.day(now, now) == f"31{NO_BREAK}December"

    @given(st.dates(date(2020, 1, 1), date(2030, 12, 31)))
    def test_each_month_has_its_names(self, value: date) -> None:
        """The names are those of the calendar, long and short."""
        number, month = formats.day(value, NOW).split(NO_BREAK)[:2]
        assert (number, month) == (str(value.day), f"{value:%B}")
        assert formats.short_day(value, NOW).split(NO_BREAK)[1] == f"{value:%b}"


class TestInterval:
    @pytest.mark.parametrize(
        ("code", "text"),
        [
            *(("monthly", "a month"), ("yearly", "a year"), ("quarterly", "every three months")),
            *(("one_time", "once"), ("every_two_weeks", "every two weeks")),
        ],
    )
    def test_behind_a_price(self, code: str, text: str) -> None:
        """An interval that is not known yet is shown by its code."""
        assert formats.interval(code) == text


@pytest.mark.parametrize(
    ("unit", "name", "beside"),
    [
        ("call", "API calls", ""),
        ("e-mail", "E-mails", ""),
        ("GB", "Storage", "GB"),
        ("s", "Storage", "s"),
        ("search", "Searches", ""),
        (None, "Storage", ""),
    ],
)
def test_a_unit_is_not_said_twice(unit: str | None, name: str, beside: str) -> None:
    """A name that has the unit needs no other: "10,000 API calls"."""
    assert formats.unit_beside(unit, name) == beside
