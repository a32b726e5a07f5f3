"""Makes a mail from its words: subject, text and HTML that say the same."""

import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formataddr
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

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
# One address and nothing else: no list, no name, no comment.
_ONE_ADDRESS = re.compile(r"[!#-'*+\-/-9=?A-Z^-~.]{1,64}@([^@\s<>,;:()\[\]\\\"]{1,253})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rendered:
    subject: str
    text: str
    html: str


def link_of(app_url: str, kind: str, token: str) -> str | None:
    """The link of a mail of this kind; None for a kind that has none."""
    path = WORDS[kind].path
    return None if path is None else f"{app_url.rstrip('/')}{path}?token={quote(token, safe='')}"


def render(
    kind: str, *, address: str, product: str, link: str | None, ends_at: datetime | None
) -> Rendered:
    """The mail. `ends_at` is when its link ends. Whatever is inserted is escaped in the HTML."""
    words = WORDS[kind]
    values = {"product": product, "address": address}
    after = list(words.after)
    if link is not None and ends_at is not None:
        after.insert(0, f"The link works once, until {_moment(ends_at)}.")
    before, after = _filled(words.before, values), _filled(after, values)
    subject = _one_line(f"{words.subject} - {product}")
    plain, marked = [], []
    if link is not None:
        plain.append(f"{words.button}:\n{link}")
        marked.append(_BUTTON.format(link=escape(link), button=escape(words.button)))
    return Rendered(
        subject,
        _text([*before, *plain, *after, product]),
        _html(subject, [*_marked(before), *marked, *_marked(after)], product),
    )


def sender_of(product: str, address: str) -> str:
    """The From header: the product's name, encoded as RFC 2047 says, and the address."""
    return formataddr((_one_line(product), address))


def recipient_of(address: str) -> str | None:
    """The address as SES takes it: in ASCII, the domain in punycode.

    None for an address that SES cannot send to, or that a mail program could take for several.
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


def _filled(paragraphs: Iterable[str], values: Mapping[str, str]) -> list[str]:
    return [Template(each).substitute(values) for each in paragraphs]


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
