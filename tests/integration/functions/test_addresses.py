"""One address is one account, however it is written; and no id can be taken for another's."""

import unicodedata
from uuid import uuid4

import pytest

from billing import wiring
from billing.operations import inspection
from tests.integration.functions.calling import Store, call, service_key
from tests.integration.functions.test_api import (  # noqa: F401 - one is a fixture
    PASSWORD,
    Environment,
    environment,
    signed_up,
)

pytestmark = pytest.mark.handlers

KEY = "svc_app_" + "b" * 64


@pytest.fixture(autouse=True)
def _product(
    environment: Environment,  # noqa: F811
    migrated_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A product's service key that may register users."""
    from billing.credentials.secrets import Secrets

    environment()
    secrets = Secrets(Store(migrated_url, [service_key("app", KEY, "users:manage", "read")]))
    monkeypatch.setattr(wiring, "secrets", lambda: secrets)


def spelled(first: str, second: str) -> tuple[str, str]:
    """Two spellings of one address of this test's own."""
    own = uuid4().hex[:8]
    return first.format(own), second.format(own)


SAME = {
    "NFC and NFD": ("josé{}@example.com", unicodedata.normalize("NFD", "josé{}@example.com")),
    "case": ("JOSÉ{}@Example.COM", "josé{}@example.com"),
    "case of Greek": ("ΟΔΌΣ{}@example.com", "οδόσ{}@example.com"),
    "full-width": ("\uff41\uff4e\uff41{}@example.com", "ana{}@example.com"),
    "full-width domain": ("ana{}@\uff45xample\uff0ecom", "ana{}@example.com"),
    "a domain in two forms": ("ana{}@MÜNCHEN.example", "ana{}@xn--mnchen-3ya.example"),
    "an ideographic full stop": ("ana{}@münchen\u3002example", "ana{}@münchen.example"),
}
OTHER = {
    "sharp s": ("ana{}@straße.example", "ana{}@strasse.example"),
    "an accent": ("josé{}@example.com", "jose{}@example.com"),
    "broken punycode": ("ana{}@xn--\u00fc.example", "ana{}@xn--a.example"),
}


@pytest.mark.parametrize(("first", "second"), SAME.values(), ids=SAME)
class TestOneAddress:
    def test_is_one_account(self, first: str, second: str) -> None:
        one, other = spelled(first, second)
        up = signed_up(email=one).json["user"]
        taken = call("POST", "/signup", {"email": other, "password": PASSWORD})
        assert (taken.status, taken.code) == (409, "email_taken")
        for each in (one, other):
            back = call("POST", "/login", {"email": each, "password": PASSWORD})
            assert (back.status, back.json["user"]) == (200, up)

    def test_blocks_no_user_of_a_product(self, first: str, second: str) -> None:
        """What a product says of its users is contact data, and blocks nobody in turn."""
        one, other = spelled(first, second)
        for email in (one, other):
            assert call("PUT", f"/users/{uuid4().hex}", {"email": email}, token=KEY).status == 201
        up = signed_up(email=one).json["user"]
        made = call("PUT", f"/users/{uuid4().hex}", {"email": other}, token=KEY)
        assert made.status == 201
        back = call("POST", "/login", {"email": other, "password": PASSWORD})
        assert back.json["user"] == up

    def test_is_found_by_an_operator(self, first: str, second: str) -> None:
        one, other = spelled(first, second)
        user = signed_up(email=one).json["user"]["id"]
        assert inspection.of_user(wiring.database(), other, now=wiring.now())["user"]["id"] == user


@pytest.mark.parametrize(("first", "second"), OTHER.values(), ids=OTHER)
def test_two_addresses_are_two_accounts(first: str, second: str) -> None:
    one, other = spelled(first, second)
    assert signed_up(email=one).json["user"]["id"] != signed_up(email=other).json["user"]["id"]


class TestWhatIsShown:
    @pytest.mark.parametrize(
        ("typed", "shown"),
        [
            ("Ana{}@Example.COM", "Ana{}@Example.COM"),
            (unicodedata.normalize("NFD", "José{}@example.com"), "José{}@example.com"),
            ("Ana{}@MÜNCHEN\uff0eExample", "Ana{}@münchen.example"),
        ],
    )
    def test_as_typed_in_one_form(self, typed: str, shown: str) -> None:
        typed, shown = spelled(typed, shown)
        assert signed_up(email=typed).json["user"]["email"] == shown

    @pytest.mark.parametrize(
        "invisible",
        ["\u200b", "\u00ad", "\u202e", "\ufeff", "\u2067", "\u034f", "\u3164", "\ufe0f", "\u2800"],
    )
    @pytest.mark.parametrize("form", ["an{}a@example.com", "ana@ex{}ample.com"])
    def test_invisible_characters_are_refused(self, form: str, invisible: str) -> None:
        body = {"email": form.format(invisible), "password": PASSWORD}
        answer = call("POST", "/signup", body)
        assert (answer.status, answer.json["errors"][0]["field"]) == (422, "email")

    def test_invisible_characters_in_punycode(self) -> None:
        """The label is shown as its letters, so it is read as them."""
        label = "xn--" + "ana\u200bb".encode("punycode").decode()
        answer = call("POST", "/signup", {"email": f"ana@{label}.com", "password": PASSWORD})
        assert (answer.status, answer.json["errors"][0]["field"]) == (422, "email")

    def test_a_row_without_a_key_keeps_working(self) -> None:
        """It was stored before there were keys, with its accent apart."""
        own, apart = spelled(
            "josé{}@example.com", unicodedata.normalize("NFD", "josé{}@example.com")
        )
        user = signed_up(email=own).json["user"]["id"]
        wiring.database().execute(
            "update users set email = %s, email_key = null where id = %s", [apart, user]
        )
        back = call("POST", "/login", {"email": own, "password": PASSWORD})
        assert (back.status, back.json["user"]["id"]) == (200, user)
        assert call("POST", "/signup", {"email": own, "password": PASSWORD}).code == "email_taken"


class TestReservedIds:
    @pytest.mark.parametrize("prefix", ["usr_", "cus_", "CUS_", "sub_", "pln_", "svc_", "ses_"])
    def test_a_product_cannot_take_them(self, prefix: str) -> None:
        user = f"{prefix}{uuid4().hex}"
        answer = call("PUT", f"/users/{user}", {"email": f"{uuid4().hex}@example.com"}, token=KEY)
        assert (answer.status, answer.code) == (422, "invalid_request")
        assert [(e["field"], e["code"]) for e in answer.json["errors"]] == [
            ("user_id", "reserved_prefix")
        ]
        assert wiring.database().one("select from users where id = %s", [user]) is None

    @pytest.mark.parametrize("user", ["customer_{}", "user-{}", "subaru{}", "USER_{}"])
    def test_others_are_free(self, user: str) -> None:
        user = user.format(uuid4().hex)
        answer = call("PUT", f"/users/{user}", {"email": f"{uuid4().hex}@example.com"}, token=KEY)
        assert answer.status == 201

    def test_whoever_signed_up_here_may_be_named(self) -> None:
        """Their id begins so, and the product changes nothing."""
        user = signed_up(name="Ana").json["user"]
        body = {"email": f"{uuid4().hex}@example.com"}
        answer = call("PUT", f"/users/{user['id']}", body, token=KEY)
        assert (answer.status, answer.json["user"]) == (200, user)
