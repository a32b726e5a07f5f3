"""The tokens in links of mails."""

import re

import pytest

from billing.accounts import tokens

SECRET = "a secret of this test"


def test_a_token_names_its_id() -> None:
    """Whoever has the secret makes the token of an id, and reads the id from the token."""
    token_id = tokens.new_id()
    token = tokens.token_of(SECRET, token_id)
    assert tokens.id_of(SECRET, token) == token_id
    assert token == tokens.token_of(SECRET, token_id)
    assert re.fullmatch(r"act_[0-9a-f]{24}\.[0-9a-f]{64}", token)


def test_the_id_alone_is_no_token() -> None:
    """Who reads the database has ids, and another secret makes other tokens."""
    token_id = tokens.new_id()
    token = tokens.token_of(SECRET, token_id)
    assert tokens.id_of(SECRET, token_id) is None
    assert tokens.id_of("another secret", token) is None
    assert tokens.id_of(SECRET, tokens.token_of("another secret", token_id)) is None


@pytest.mark.parametrize("text", ["", ".", "act_", "\x00", "\ud800", "act_é.é", "x" * 10**5])
def test_other_texts(text: str) -> None:
    """Whatever else was sent is no token, and no error."""
    assert tokens.id_of(SECRET, text) is None
    assert tokens.id_of(SECRET, f"{tokens.new_id()}.{text}") is None


def test_a_changed_token() -> None:
    """One character more, less or other, and it is no token."""
    token = tokens.token_of(SECRET, tokens.new_id())
    other = "0" if token[-1] != "0" else "1"
    for changed in (token + "0", token[:-1], token[:-1] + other, f" {token}", token + "\n"):
        assert tokens.id_of(SECRET, changed) is None
