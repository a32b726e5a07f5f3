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
WITH_TOKEN = [kind for kind, words in WORDS.items() if words.path and words.has_token]
WITHOUT = [kind for kind, words in WORDS.items() if not words.path]


FIELDS = {
    "usage_threshold": {
        "feature": "Storage",
        "percent": "80",
        "used": "4.1",
        "included": "5",
        "date": "2026-10-01T00:00:00.000000Z",
    },
    "spend_threshold": {
        "percent": "80",
        "spent": "16",
        "limit": "20",
        "currency": "usd",
        "date": "2026-10-01T00:00:00Z",
    },
    "payment_failed": {"amount": "29", "currency": "jpy"},
    "trial_ending": {"plan": "Pro", "date": "2026-10-01T00:00:00+02:00"},
}


def mail(
    kind: str, *, address: str = "ana@example.com", product: str = "Acme"
) -> rendering.Rendered:
    return rendering.render(
        kind,
        address=address,
        product=product,
        link=LINK if kind in WITH_LINK else None,
        ends_at=ENDS if kind in WITH_TOKEN else None,
        fields=FIELDS.get(kind),
    )


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

    def test_its_end_is_said_if_it_has_one(self, kind: str) -> None:
        said = "until 14:05 UTC on 1 September 2026" in words(mail(kind).text)
        assert said == (kind in WITH_TOKEN)

    def test_it_leads_to_a_page_of_the_product(self, kind: str) -> None:
        found = rendering.link_of("https://app.example/base/", kind, "act_1.a+b")
        assert found is not None
        token = r"\?token=act_1\.a%2Bb" if kind in WITH_TOKEN else ""
        assert re.fullmatch(rf"https://app\.example/base/[a-z/-]+{token}", found)


@pytest.mark.parametrize("kind", WITHOUT)
def test_a_notice_has_no_link(kind: str) -> None:
    assert rendering.link_of("https://app.example", kind, "t") is None
    assert Seen(mail(kind).html).links == []
    assert "://" not in mail(kind).text


class TestFields:
    @pytest.mark.parametrize(
        ("kind", "said"),
        [
            ("usage_threshold", "used 80 % of Storage that your plan at Acme includes."),
            ("usage_threshold", "Used in this period: 4.1. Included in your plan: 5."),
            ("usage_threshold", "begins on 1 October 2026."),
            ("spend_threshold", "the price of the plan: 16.00 USD. Your limit: 20.00 USD."),
            ("payment_failed", "Amount: 29 JPY."),
            ("trial_ending", "ends on 30 September 2026. Your plan is Pro."),
        ],
    )
    def test_they_are_shown_as_people_read_them(self, kind: str, said: str) -> None:
        assert said in words(mail(kind).text)

    @pytest.mark.parametrize("kind", FIELDS)
    def test_a_paragraph_without_its_value_is_left_out(self, kind: str) -> None:
        """A threshold that is an amount has no percentage, for instance."""
        fields = {"feature": "Storage"} if kind == "usage_threshold" else {}
        text = rendering.render(
            kind, address="ana@example.com", product="Acme", link=LINK, fields=fields
        ).text
        assert "$" not in text
        assert "%" not in text.replace(LINK, "")
        assert LINK in text

    def test_the_subject_names_the_feature(self) -> None:
        assert mail("usage_threshold").subject == "Your usage of Storage - Acme"

    def test_markup_in_a_field_is_text(self) -> None:
        fields = FIELDS["usage_threshold"] | {"feature": MARKUP}
        html = rendering.render(
            "usage_threshold", address="a@b.example", product="Acme", link=LINK, fields=fields
        ).html
        assert Seen(html).tags == Seen(mail("usage_threshold").html).tags


class TestUnsubscribe:
    OFF = "https://api.example/unsubscribe?token=usr_1.ab"

    def test_the_way_to_no_more_mails_is_in_both_parts(self) -> None:
        rendered = rendering.render(
            "usage_threshold",
            address="ana@example.com",
            product="Acme",
            link=LINK,
            fields=FIELDS["usage_threshold"],
            unsubscribe=self.OFF,
        )
        assert self.OFF in rendered.text.splitlines()
        assert Seen(rendered.html).links == [LINK, LINK, self.OFF]

    def test_mails_about_payments_and_trials_have_none(self) -> None:
        optional = {kind for kind, each in WORDS.items() if each.optional}
        assert optional == {"usage_threshold", "spend_threshold"}


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
