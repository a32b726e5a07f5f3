"""Quantities and money are exact and are written in one way."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from iso4217 import Currency

from billing.amounts import (
    MAX_QUANTITY,
    decimals,
    format_decimal,
    format_minor_units,
    format_money,
    format_unit_price,
    is_quantity,
    minor_digits,
    overage_cost,
)

quantities = st.one_of(
    st.decimals(Decimal("0.000001"), Decimal("999999999.999999"), places=6),
    st.decimals(Decimal("0.001"), Decimal("999999999999.999"), places=3),
    st.integers(1, int(MAX_QUANTITY)).map(Decimal),
)


class TestIsQuantity:
    @pytest.mark.parametrize(
        "text",
        [
            "1",
            "0.000001",
            "999999999.999999",
            "1.0000000",
            "1e8",
            "5000000000",
            "1e14",
            "999999999999999",
            "99999999999999.9",
            "999999999999999.0000000",
        ],
    )
    def test_what_may_be_used(self, text: str) -> None:
        """Up to 15 significant digits, 6 of them decimals, however it is written."""
        assert is_quantity(Decimal(text))

    @pytest.mark.parametrize(
        "text",
        [
            *(
                "0",
                "-1",
                "0.0000001",
                "1.0000001",
                "1000000000.000001",
                "1e15",
                "999999999999999.1",
            ),
            *("NaN", "sNaN", "Infinity", "-Infinity", "1e999999", "1e-999999"),
        ],
    )
    def test_what_may_not(self, text: str) -> None:
        """Nothing, less than nothing, too much, too fine and no number at all are refused."""
        assert not is_quantity(Decimal(text))


class TestFormatDecimal:
    @pytest.mark.parametrize(
        ("text", "plain"),
        [
            *(("30", "30"), ("30.000000", "30"), ("1.50", "1.5"), ("1E+2", "100")),
            *(("0.000000", "0"), ("-0.00", "0"), ("-2.50", "-2.5"), ("1E-6", "0.000001")),
        ],
    )
    def test_plain(self, text: str, plain: str) -> None:
        """No exponent, no trailing zeros, no minus zero."""
        assert format_decimal(Decimal(text)) == plain

    @given(quantities)
    def test_keeps_the_value(self, value: Decimal) -> None:
        """Writing a quantity and reading it again changes nothing, in any notation."""
        assert Decimal(format_decimal(value)) == value
        assert format_decimal(value.normalize()) == format_decimal(value)

    @given(quantities)
    def test_survives_a_double(self, value: Decimal) -> None:
        """Commet reads numbers as doubles; any single quantity of ours passes unchanged."""
        assert Decimal(repr(float(format_decimal(value)))) == value


class TestOverageCost:
    @pytest.mark.parametrize(
        ("units", "unit_price", "currency", "cost"),
        [
            ("30", "1000", "usd", "3.00"),  # 30 GB at $0.10
            ("1", "50", "usd", "0.01"),  # half a cent is a cent
            ("1", "49", "usd", "0.00"),
            ("1.5", "1000", "usd", "0.15"),
            ("3", "5000", "jpy", "2"),  # 1.5 yen
            ("1", "12345", "kwd", "1.235"),
            *(("3", "5000", each, "2") for each in ("mga", "isk", "ugx")),
            ("0", "1000", "usd", "0.00"),
            ("999999999.999999", "999999999.999999", "usd", "99999999999999.80"),
        ],
    )
    def test_half_up_to_the_minor_unit(
        self, units: str, unit_price: str, currency: str, cost: str
    ) -> None:
        """Units times price in the rate scale, rounded once, half up, with all its decimals."""
        assert str(overage_cost(Decimal(units), Decimal(unit_price), currency)) == cost

    @given(units=quantities, unit_price=st.integers(0, 10_000_000))
    def test_never_off_by_more_than_half_a_cent(self, units: Decimal, unit_price: int) -> None:
        """Compared in whole numbers, so that no rounding of the test's own can hide."""
        cost = overage_cost(units, Decimal(unit_price), "usd")
        assert cost is not None
        exact = int(units * 10**6) * unit_price  # in 1e-10 of a dollar
        assert abs(int(cost * 100) * 10**8 - exact) <= 10**8 // 2


# Currencies whose decimals are on purpose not those of ISO 4217, each with the reason.
_ON_PURPOSE = {"MGA": "The payment provider charges whole ariary."}
_ZERO_DECIMAL = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf"  # by the provider
_ISO = {currency.code: currency.exponent for currency in Currency}


class TestDecimals:
    def test_the_list_is_there(self) -> None:
        assert len(_ISO) > 150

    @pytest.mark.parametrize("code", [c for c, digits in _ISO.items() if digits is not None])
    def test_as_in_iso_4217(self, code: str) -> None:
        """However the code is written."""
        if code not in _ON_PURPOSE:
            assert decimals(code) == decimals(code.lower()) == _ISO[code]

    def test_two_where_iso_4217_says_nothing(self) -> None:
        """Metals, funds and codes that do not exist."""
        codes = [code for code, digits in _ISO.items() if digits is None]
        assert {"XAU", "XXX"} <= {*codes}
        assert {decimals(code) for code in [*codes, "nonsense", ""]} == {2}

    def test_no_exception_is_out_of_date(self) -> None:
        """What once differed on purpose and no longer does is taken off the list."""
        same = [code for code in _ON_PURPOSE if decimals(code) == _ISO[code]]
        assert same == []


class TestMinorDigits:
    def test_as_the_payment_provider_counts(self) -> None:
        """Its zero-decimal currencies, and two that are charged whole and counted in hundredths."""
        assert {minor_digits(code) for code in _ZERO_DECIMAL.split()} == {0}
        assert {(decimals(c), minor_digits(c)) for c in ("isk", "ugx", "ISK")} == {(0, 2)}
        assert {minor_digits(code) for code in ("bhd", "jod", "kwd", "omr", "tnd")} == {3}


class TestMoney:
    @pytest.mark.parametrize(
        ("amount", "currency", "text"),
        [
            (2900, "usd", "29.00"),
            (0, "usd", "0.00"),
            (5, "USD", "0.05"),
            (2900, "jpy", "2900"),
            (2900, "mga", "2900"),
            (2900, "isk", "29"),
            (2900, "ugx", "29"),
        ],
    )
    def test_minor_units(self, amount: int, currency: str, text: str) -> None:
        """Cents become major units; a currency without cents stays as it is."""
        assert format_minor_units(amount, currency) == text

    @pytest.mark.parametrize(
        ("unit_price", "currency", "text"),
        [
            *(("1000", "usd", "0.10"), ("5", "usd", "0.0005"), ("12345", "usd", "1.2345")),
            *(("0", "usd", "0.00"), ("0.5", "usd", "0.00005"), ("10000", "jpy", "1")),
        ],
    )
    def test_unit_prices(self, unit_price: str, currency: str, text: str) -> None:
        """At least the currency's decimals, more where the price needs them, never rounded."""
        assert format_unit_price(Decimal(unit_price), currency) == text

    def test_all_decimals(self) -> None:
        """Money always shows the currency's decimals."""
        assert format_money(Decimal(3), "usd") == "3.00"
