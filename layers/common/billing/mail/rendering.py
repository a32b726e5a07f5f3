"""Makes a mail from its words: subject, text and HTML with the same content."""

import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import formataddr
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

from billing.amounts import format_exact
from billing.mail.texts import WORDS

_SHELL = Path(__file__).with_name("shell.html")
_P = '<p style="margin:0 0 16px">{}</p>'
_BUTTON = (
    '<p style="margin:24px 0"><a href="{link}" style="display:inline-block;padding:12px 20px;'
    "border-radius:6px;background-color:#1d4ed8;color:#ffffff;font-weight:600;"
    'text-decoration:none">{button}</a></p>\n'
    '<p class="quiet" style="margin:0 0 16px;font-size:14px;color:#57606a">'
    'Or open this address: <a class="link" href="{link}" style="color:#1d4ed8;'
    'word-break:break-all">{link}</a></p>'
)
_AMOUNTS = frozenset({"amount", "spent", "limit"})
_UNSUBSCRIBE = "Get no more mails about thresholds"
_LAST = (
    '<p class="quiet" style="margin:0 0 16px;font-size:14px;color:#57606a">'
    '<a class="link" href="{link}" style="color:#1d4ed8">{text}</a></p>'
)
# Matches one address and nothing else: no list, no name, no comment.
_ONE_ADDRESS = re.compile(r"[!#-'*+\-/-9=?A-Z^-~.]{1,64}@([^@\s<>,;:()\[\]\\\"]{1,253})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rendered:
    subject: str
    text: str
    html: str


def link_of(app_url: str, kind: str, token: str = "") -> str | None:
    """Returns the link of a mail of this kind; None for a kind without a link.

    `token` is only for a kind whose link has one.
    """
    words = WORDS[kind]
    if words.path is None:
        return None
    page = f"{app_url.rstrip('/')}{words.path}"
    return f"{page}?token={quote(token, safe='')}" if words.has_token else page


def render(
    kind: str,
    *,
    address: str,
    product: str,
    link: str | None,
    ends_at: datetime | None = None,
    fields: Mapping[str, str] | None = None,
    unsubscribe: str | None = None,
) -> Rendered:
    """Returns the mail. Inserted values are escaped in the HTML.

    `ends_at` is when the mail's link ends. `fields` are those of the mail's row. `unsubscribe` is
    the address of the page that switches off mails of this kind.
    """
    words = WORDS[kind]
    values = {"product": product, "address": address} | _shown(fields or {})
    after = list(words.after)
    if link is not None and ends_at is not None:
        after.insert(0, f"The link works once, until {_moment(ends_at)}.")
    before, after = _filled(words.before, values), _filled(after, values)
    subject = _one_line(f"{Template(words.subject).substitute(values)} - {product}")
    plain, marked, end, marked_end = [], [], [], []
    if link is not None:
        plain.append(f"{words.button}:\n{link}")
        marked.append(_BUTTON.format(link=escape(link), button=escape(words.button)))
    if unsubscribe is not None:
        end.append(f"{_UNSUBSCRIBE}:\n{unsubscribe}")
        marked_end.append(_LAST.format(link=escape(unsubscribe), text=_UNSUBSCRIBE))
    return Rendered(
        subject,
        _text([*before, *plain, *after, product, *end]),
        _html(subject, [*_marked(before), *marked, *_marked(after), *marked_end], product),
    )


def sender_of(product: str, address: str) -> str:
    """Returns the From header: the product's name, encoded by RFC 2047, and the address."""
    return formataddr((_one_line(product), address))


def recipient_of(address: str) -> str | None:
    """Returns the address in the form that SES takes: in ASCII, the domain in punycode.

    Returns None for an address that SES cannot send to, or that a mail program could read as
    several.
    """
    found = _ONE_ADDRESS.fullmatch(address)
    if found is None:
        return None
    if address.isascii():
        return address
    import idna  # only few domains need it

    try:
        domain = idna.encode(found[1]).decode()
    except idna.IDNAError:
        return None
    return f"{address[: found.start(1)]}{domain}"


def _shown(fields: Mapping[str, str]) -> dict[str, str]:
    """Returns the fields for a reader: amounts with their currency, days without their time."""
    currency = fields.get("currency", "").upper()
    shown = dict(fields)
    for name in _AMOUNTS & fields.keys():
        shown[name] = f"{format_exact(Decimal(fields[name]), currency)} {currency}".strip()
    if "date" in fields:
        at = datetime.fromisoformat(fields["date"]).astimezone(UTC)
        shown["date"] = f"{at.day} {at:%B %Y}"
    return shown


def _filled(paragraphs: Iterable[str], values: Mapping[str, str]) -> list[str]:
    """Returns the paragraphs with the values. Leaves out a paragraph if one of its values is
    missing.
    """
    templates = (Template(each) for each in paragraphs)
    return [each.substitute(values) for each in templates if values.keys() >= _names(each)]


def _names(template: Template) -> set[str]:
    return {found["named"] for found in template.pattern.finditer(template.template)}


def _marked(paragraphs: list[str]) -> list[str]:
    return [_P.format(escape(each)) for each in paragraphs]


def _text(paragraphs: list[str]) -> str:
    wrapped = (
        "\n".join(
            textwrap.fill(line, 72, break_long_words=False, break_on_hyphens=False)
            for line in each.splitlines()
        )
        for each in paragraphs
    )
    return "\n\n".join(wrapped) + "\n"


def _html(subject: str, body: list[str], product: str) -> str:
    return Template(_SHELL.read_text(encoding="utf-8")).substitute(
        subject=escape(subject), body="\n".join(body), product=escape(product)
    )


def _moment(at: datetime) -> str:
    at = at.astimezone(UTC)
    return f"{at:%H:%M} UTC on {at.day} {at:%B %Y}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
