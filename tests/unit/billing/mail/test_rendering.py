"""A mail says the same as text and as HTML, and nothing that somebody typed is markup in it."""

import re
from datetime import UTC, datetime
from email.header import decode_header, make_header
from email.utils import parseaddr
from html.parser import HTMLParser

import pytest

from billing.mail import rendering
from billing.mail.texts import WORDS

LINK = "https://app.example/verify-email?token=act_1.ab%2Bc"
ENDS = datetime(2026, 9, 1, 14, 5, tzinfo=UTC)
MARKUP = '"><script>alert(1)</script>&'
WITH_LINK = [kind for kind, words in WORDS.items() if words.path]
WITHOUT = [kind for kind, words in WORDS.items() if not words.path]


def mail(
    kind: str, *, address: str = "ana@example.com", product: str = "Acme"
) -> rendering.Rendered:
    link = LINK if kind in WITH_LINK else None
    return rendering.render(kind, address=address, product=product, link=link, ends_at=ENDS)


class Seen(HTMLParser):
    """The text that a person sees, the tags and the links."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.links: list[str] = []
        self._hidden = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._hidden = tag in ("style", "title")
        self.links += [str(value) for name, value in attrs if name == "href"]

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - its name in HTMLParser
        self._hidden = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._hidden else data


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("kind", WORDS)
class TestRender:
    def test_both_parts_say_the_same(self, kind: str) -> None:
        rendered = mail(kind)
        said = words(Seen(rendered.html).text)
        paragraphs = [words(each) for each in rendered.text.split("\n\n")]
        assert len(paragraphs) > 2
        for each in paragraphs:
            assert each.replace(f":\n{LINK}", "").split(": http")[0] in said, each

    def test_it_names_the_product_and_the_address(self, kind: str) -> None:
        rendered = mail(kind)
        assert rendered.subject.endswith(" - Acme")
        for part in (rendered.text, Seen(rendered.html).text):
            assert "ana@example.com" in words(part)
            assert "Acme" in part

    def test_markup_in_what_is_inserted_is_text(self, kind: str) -> None:
        plain, spiked = mail(kind), mail(kind, address=f"a{MARKUP}@b.example", product=MARKUP)
        assert Seen(spiked.html).tags == Seen(plain.html).tags
        assert MARKUP in Seen(spiked.html).text
        assert MARKUP in spiked.text

    def test_a_dollar_inserts_nothing(self, kind: str) -> None:
        assert "$product@x.example" in mail(kind, address="$product@x.example").text

    def test_nothing_is_loaded_from_elsewhere(self, kind: str) -> None:
        html = mail(kind).html
        assert not set(Seen(html).tags) & {"img", "link", "script", "iframe"}
        assert "url(" not in html
        assert "@import" not in html

    def test_it_is_made_for_both_themes(self, kind: str) -> None:
        html = mail(kind).html
        assert '<meta name="color-scheme" content="light dark">' in html
        assert "@media (prefers-color-scheme: dark)" in html
        assert 'style="' in html

    def test_lines_of_text_are_short_but_for_the_link(self, kind: str) -> None:
        lines = mail(kind).text.splitlines()
        assert lines
        assert [line for line in lines if len(line) > 72 and line != LINK] == []

    def test_the_subject_is_one_line(self, kind: str) -> None:
        subject = mail(kind, product="Acme\r\nBcc: eve@example.com").subject
        assert "\n" not in subject
        assert "\r" not in subject


@pytest.mark.parametrize("kind", WITH_LINK)
class TestLink:
    def test_it_is_whole_in_both_parts(self, kind: str) -> None:
        rendered = mail(kind)
        assert LINK in rendered.text.splitlines()
        assert Seen(rendered.html).links == [LINK, LINK]

    def test_its_end_is_said(self, kind: str) -> None:
        assert "until 14:05 UTC on 1 September 2026" in words(mail(kind).text)

    def test_it_leads_to_a_page_of_the_product(self, kind: str) -> None:
        found = rendering.link_of("https://app.example/base/", kind, "act_1.a+b")
        assert found is not None
        assert re.fullmatch(r"https://app\.example/base/[a-z-]+\?token=act_1\.a%2Bb", found)


@pytest.mark.parametrize("kind", WITHOUT)
def test_a_notice_has_no_link(kind: str) -> None:
    assert rendering.link_of("https://app.example", kind, "t") is None
    assert Seen(mail(kind).html).links == []
    assert "://" not in mail(kind).text


class TestSender:
    def test_it_has_the_products_name(self) -> None:
        assert rendering.sender_of("Acme", "billing@acme.example") == "Acme <billing@acme.example>"

    @pytest.mark.parametrize(
        "product", ["Café", "Acme, Inc.", 'The "Best"', "Acme <eve@example.com>", "a\r\nBcc: e@x.y"]
    )
    def test_no_name_is_taken_for_an_address(self, product: str) -> None:
        sender = rendering.sender_of(product, "billing@acme.example")
        assert sender.isascii()
        assert "\n" not in sender
        name, address = parseaddr(sender)
        assert address == "billing@acme.example"
        assert str(make_header(decode_header(name))) == " ".join(product.split())


class TestRecipient:
    @pytest.mark.parametrize(
        ("address", "sent_to"),
        [
            ("ana@example.com", "ana@example.com"),
            ("a.n+a'x/y=z@example.com", "a.n+a'x/y=z@example.com"),
            ("ana@straße.example", "ana@xn--strae-oqa.example"),
            ("ana@bücher.example", "ana@xn--bcher-kva.example"),
        ],
    )
    def test_it_is_in_ascii(self, address: str, sent_to: str) -> None:
        assert rendering.recipient_of(address) == sent_to

    @pytest.mark.parametrize(
        "address",
        [
            "a\u00f1a@example.com", "a,b@example.com", "ana@example.com,eve@example.com",
            "Ana<ana@example.com", '"a b"@example.com', "a(b)@example.com", "a;b@example.com",
            "a:b@example.com", "a@b@example.com", "ana@exa mple.com", "ana@ex\r\nample.com",
            "ana@-ü-.example", "ana", "", "ana@\u2065.example",
        ],
    )  # fmt: skip
    def test_no_address_is_taken_for_several(self, address: str) -> None:
        assert rendering.recipient_of(address) is None
