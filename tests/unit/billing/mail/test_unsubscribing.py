"""The token of a mail switches off mails of its own user, and of nobody else."""

from urllib.parse import parse_qs, urlsplit

import pytest

from billing.accounts import tokens
from billing.mail import unsubscribing

SECRET = "the app secret"
TOKEN = unsubscribing.token_of(SECRET, "usr_1a2b")


def test_a_token_names_its_user() -> None:
    assert unsubscribing.user_of(SECRET, TOKEN) == "usr_1a2b"


@pytest.mark.parametrize(
    "token",
    [
        *(
            "",
            ".",
            "usr_1a2b",
            "usr_1a2b.",
            TOKEN[:-1],
            TOKEN + "0",
            TOKEN.upper(),
            TOKEN + "\u00e9",
        ),
        TOKEN.replace("usr_1a2b", "usr_9z9z"),
        unsubscribing.token_of("another secret", "usr_1a2b"),
        unsubscribing.token_of(SECRET, "customer-17"),
    ],
)
def test_any_other_text_names_nobody(token: str) -> None:
    assert unsubscribing.user_of(SECRET, token) is None


def test_it_opens_nothing_else() -> None:
    """The tokens of other links have a key of their own."""
    token_id = tokens.new_id()
    assert tokens.id_of(SECRET, unsubscribing.token_of(SECRET, token_id)) is None
    assert unsubscribing.user_of(SECRET, tokens.token_of(SECRET, "usr_1a2b")) is None


def test_the_address_has_the_whole_token() -> None:
    parts = urlsplit(unsubscribing.url_of("https://api.example/", SECRET, "usr_1a2b"))
    assert (parts.netloc, parts.path) == ("api.example", "/unsubscribe")
    assert parse_qs(parts.query) == {"token": [TOKEN]}
