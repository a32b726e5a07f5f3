"""Renders pages: templates, and readable money, quantities and dates."""

from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

_SYMBOLS = {"usd": "$", "eur": "€", "gbp": "£", "brl": "R$"}
_ZERO_DECIMAL = frozenset(
    {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga"}
    | {"pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"}
)
_PER = {
    "weekly": "week",
    "monthly": "month",
    "quarterly": "quarter",
    "semiannual": "half-year",
    "yearly": "year",
    "one_time": "once",
}
_STATUS_WORDS = {"past_due": "Past due", "pending_payment": "Awaiting payment"}

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "script-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
    # A page's address opens the page, so no other site may see it. Our own site sees it: with
    # `no-referrer`, browsers would send `Origin: null` with our own forms, and guard.py could not
    # recognise them.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def money(minor: int, currency: str) -> str:
    """An amount of the minor unit, such as $29.00."""
    places = 0 if currency in _ZERO_DECIMAL else 2
    amount = Decimal(minor).scaleb(-places)
    symbol = _SYMBOLS.get(currency, f"{currency.upper()} ")
    sign = "\N{MINUS SIGN}" if minor < 0 else ""
    return f"{sign}{symbol}{abs(amount):,.{places}f}"


def rate(scaled: int, currency: str) -> str:
    """A unit price of the rate scale, such as $0.10 or $0.0025."""
    amount = Decimal(scaled).scaleb(-4)
    text = f"{amount:,.4f}".rstrip("0")
    whole, _, fraction = text.partition(".")
    return f"{_SYMBOLS.get(currency, currency.upper() + ' ')}{whole}.{fraction.ljust(2, '0')}"


def quantity(value: Decimal | int) -> str:
    """A quantity with thousands separators and no trailing zeros."""
    text = f"{Decimal(value):,.6f}".rstrip("0").rstrip(".")
    return text or "0"


def day(moment: datetime) -> str:
    """A date such as 1 September 2026."""
    return f"{moment.day} {moment:%B %Y}"


def per(interval: str | None) -> str:
    """The word after `per` for an interval."""
    return _PER.get(interval or "monthly", "month")


def status_word(status: str) -> str:
    """Returns a status in words for people."""
    return _STATUS_WORDS.get(status, status.replace("_", " ").capitalize())


_environment = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=select_autoescape(default=True, default_for_string=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters.update(
    money=money, rate=rate, quantity=quantity, day=day, per=per, status_word=status_word
)


def page(template: str, *, status: int = 200, **values: Any) -> web.Response:
    """A rendered page."""
    html = _environment.get_template(template).render(**values)
    return web.Response(text=html, status=status, content_type="text/html", headers=_HEADERS)


def see_other(url: str) -> web.Response:
    """Redirect the browser after a form."""
    return web.Response(status=303, headers=_HEADERS | {"Location": url})


def gone(title: str, message: str, *, status: int = 404) -> web.Response:
    """Returns a page that says why nothing can be done here."""
    return page("notice.html", status=status, title=title, message=message, good=False, link=None)
