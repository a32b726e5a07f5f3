"""Overage amounts, and money as pages show it."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standin.invoices import overage_amount
from standin.pages.view import money, quantity, rate


@pytest.mark.parametrize(
    ("units", "unit_price", "cents"),
    [
        ("30", 1000, 300),
        ("0.5", 1000, 5),
        ("0.05", 1000, 1),
        ("0.04", 1000, 0),
        ("1", 1, 0),
        ("50", 1, 1),
        ("0", 1000, 0),
    ],
)
def test_overage_amount(units: str, unit_price: int, cents: int) -> None:
    """130 GB used of 100 at $0.10 is $3.00; half a cent goes up."""
    assert overage_amount(Decimal(units), unit_price) == cents


@given(
    st.decimals(min_value=0, max_value=10**9, places=6, allow_nan=False),
    st.integers(0, 10**7),
)
def test_overage_is_within_half_a_cent(units: Decimal, unit_price: int) -> None:
    """Whatever the numbers."""
    exact = Fraction(units) * unit_price / 100
    assert abs(overage_amount(units, unit_price) - exact) <= Fraction(1, 2)


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        (2900, "usd", "$29.00"),
        (-1450, "usd", "\N{MINUS SIGN}$14.50"),
        (0, "usd", "$0.00"),
        (123456789, "eur", "€1,234,567.89"),
        (5000, "jpy", "JPY 5,000"),
        (100, "chf", "CHF 1.00"),
    ],
)
def test_money(minor: int, currency: str, text: str) -> None:
    """With its symbol, or its code where there is none."""
    assert money(minor, currency) == text


@pytest.mark.parametrize(
    ("scaled", "text"),
    [(1000, "$0.10"), (25, "$0.0025"), (10000, "$1.00"), (12345678, "$1,234.5678")],
)
def test_rate(scaled: int, text: str) -> None:
    """At least cents, more digits only where they say something."""
    assert rate(scaled, "usd") == text


@pytest.mark.parametrize(
    ("value", "text"), [("130.500", "130.5"), ("1E+3", "1,000"), ("0", "0"), ("100", "100")]
)
def test_quantity(value: str, text: str) -> None:
    """As people write numbers."""
    assert quantity(Decimal(value)) == text
