"""The environment as settings: read once, checked, and never a secret among them."""

from dataclasses import FrozenInstanceError
from decimal import Decimal

import pytest

from billing.config import Misconfigured, amounts_by_currency, from_env, origin_of


class TestFromEnv:
    def test_an_empty_environment(self) -> None:
        """Everything has a default but secrets; the safe one where safety is at stake."""
        settings = from_env({})
        assert settings.commet_base_url == "https://commet.co/api/v1"
        assert (settings.commet_mode, settings.currency) == ("live", "usd")
        assert settings.database.sslmode == "verify-full"
        assert settings.allowed_origins == frozenset()
        assert settings.secrets_extension_port is None

    def test_is_frozen(self) -> None:
        """Nobody changes it on the way."""
        with pytest.raises(FrozenInstanceError):
            from_env({}).currency = "eur"  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("text", "value"), [("true", True), ("False", False), ("TRUE", True), ("", True)]
    )
    def test_flags(self, text: str, value: object) -> None:
        """true or false; empty is the default, as a template leaves it."""
        assert from_env({"PAST_DUE_HAS_ACCESS": text}).past_due_has_access is value

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("PAST_DUE_HAS_ACCESS", "yes"),
            ("DATABASE_PORT", "5432a"),
            ("SIGN_UPS_PER_HOUR", "many"),
            ("TRUSTED_PROXY_HOPS", "1.5"),
            ("COMMET_MODE", "Live"),
            ("ALLOWED_ORIGINS", "*"),
            ("ALLOWED_ORIGINS", "https://a.example,app.example.com"),
            ("HOSTED_ORIGINS", "pay.commet.co"),
            ("HOSTED_ORIGINS", "https://pay.commet.co;script-src *"),
            ("HOSTED_ORIGINS", "https://pay.commet.co 'unsafe-inline'"),
            ("PAGES", "no"),
            ("PAGES_LANGUAGE", "English"),
            ("PAGES_LANGUAGE", 'en" onload="x'),
            ("PAGES_ACCENT", "red"),
            ("PAGES_ACCENT", "#4338CA;}"),
        ],
    )
    def test_what_is_malformed_is_named(self, name: str, text: str) -> None:
        """A typo must not turn into a default."""
        with pytest.raises(ValueError, match=name):
            from_env({name: text})

    @pytest.mark.parametrize("past_due", ["true", "false"])
    def test_who_has_access(self, past_due: str) -> None:
        """Active and trialing always, past_due as the deployer says, nothing else."""
        statuses = from_env({"PAST_DUE_HAS_ACCESS": past_due}).live_statuses
        expected = {"active", "trialing"} | ({"past_due"} if past_due == "true" else set())
        assert statuses == expected

    def test_allowed_origins(self) -> None:
        """The app's own and those listed, as browsers write them."""
        settings = from_env(
            {
                "APP_URL": "https://App.example.com/billing?x=1",
                "ALLOWED_ORIGINS": "https://b.example:443/, http://localhost:3000 ,",
            }
        )
        assert settings.allowed_origins == {
            "https://app.example.com",
            "https://b.example",
            "http://localhost:3000",
        }

    def test_hosted_origins(self) -> None:
        """Commet's own unless others are listed; an empty list has none."""
        assert from_env({}).hosted_origins == {
            "https://pay.commet.co",
            "https://commet.co",
            "https://sandbox.commet.co",
        }
        listed = from_env({"HOSTED_ORIGINS": "http://127.0.0.1:3001/c/, https://Pay.example"})
        assert listed.hosted_origins == {"http://127.0.0.1:3001", "https://pay.example"}
        assert from_env({"HOSTED_ORIGINS": ""}).hosted_origins == frozenset()

    def test_how_pages_look(self) -> None:
        """English, in the pages' own colour, with nobody to ask, unless told otherwise."""
        usual = from_env({"PAGES_LANGUAGE": "", "PAGES_ACCENT": ""})
        assert (usual.pages_language, usual.pages_accent, usual.support_email) == ("en", "", "")
        told = {
            "PAGES_LANGUAGE": "de-CH",
            "PAGES_ACCENT": "#0a5c36",
            "SUPPORT_EMAIL": "h@a.example",
        }
        chosen = from_env(told)
        assert [chosen.pages_language, chosen.pages_accent, chosen.support_email] == [
            *told.values()
        ]


class TestOriginOf:
    @pytest.mark.parametrize(
        ("url", "origin"),
        [
            ("https://a.example", "https://a.example"),
            ("HTTPS://A.Example/path?q#f", "https://a.example"),
            ("https://a.example:443", "https://a.example"),
            ("http://a.example:80/", "http://a.example"),
            ("http://a.example:443", "http://a.example:443"),
            ("https://a.example:8443/x", "https://a.example:8443"),
            ("http://[::1]:3000/x", "http://[::1]:3000"),
            ("https://[2001:DB8::1]/", "https://[2001:db8::1]"),
            ("http://127.0.0.1:1", "http://127.0.0.1:1"),
            ("https://a.example?next=https://b.example", "https://a.example"),
            ("https://a.example#@b.example", "https://a.example"),
        ],
    )
    def test_http(self, url: str, origin: str) -> None:
        """Scheme, host and port, default ports left out."""
        assert origin_of(url) == origin

    @pytest.mark.parametrize(
        "url",
        [
            "", "null", "a.example", "//a.example", "/path", "javascript:alert(1)", "file:///etc",
            "ftp://a.example", "https:", "https://", "https:a.example", "https:/a.example",
            "https://user@a.example", "https://user:pw@a.example", "https://@a.example",
            "https://:pw@a.example", "https://a.example@b.example", "https://a.example:port",
            "https://a.example:99999", "https://[::1", "https://a.example\\@b.example",
            "data:text/html,x",
        ],
    )  # fmt: skip
    def test_anything_else(self, url: str) -> None:
        """No origin: never equal to one that is allowed."""
        assert origin_of(url) == ""

    @pytest.mark.parametrize(
        "url",
        [
            "https://a.example.evil.example", "https://evil.example/https://a.example",
            "https://a.example\\.evil.example", "https://evil.example?https://a.example",
            "http://a.example", "https://a.example.", "https://a\u3002example",
        ],
    )  # fmt: skip
    def test_lookalikes(self, url: str) -> None:
        """What a browser would take somewhere else is not the allowed origin."""
        assert origin_of(url) != "https://a.example"


class TestAmountsByCurrency:
    DEFAULT = "usd=5,eur=5,gbp=5"

    @pytest.mark.parametrize(
        ("text", "amounts"),
        [
            ("", {"usd": Decimal(5), "eur": Decimal(5), "gbp": Decimal(5)}),
            ("usd=7.50", {"usd": Decimal("7.50"), "eur": Decimal(5), "gbp": Decimal(5)}),
            (" EUR = none , jpy=700,", {
                "usd": Decimal(5), "eur": None, "gbp": Decimal(5), "jpy": Decimal(700),
            }),
            ("kwd=0.125", {
                "usd": Decimal(5), "eur": Decimal(5), "gbp": Decimal(5), "kwd": Decimal("0.125"),
            }),
        ],
    )  # fmt: skip
    def test_what_is_written_replaces_the_default(
        self, text: str, amounts: dict[str, Decimal | None]
    ) -> None:
        """A currency that is not written keeps its default; `none` is None."""
        assert amounts_by_currency({"FLOOR": text}, "FLOOR", self.DEFAULT) == amounts

    @pytest.mark.parametrize(
        "text",
        [
            "5", "none", "usd", "usd=", "usd=-1", "usd=0", "usd=0.00", "usd=1.005", "usd=1e3",
            "usd=NaN", "usd=five", "jpy=0.5", "kwd=0.1255", "dollar=5", "=5", "usd=5,USD=6",
            "usd=5;eur=5", "usd=5=6", "usd=1000000000000000",
        ],
    )  # fmt: skip
    def test_a_malformed_list_is_named(self, text: str) -> None:
        """A typo in an amount of money must not turn into a default."""
        with pytest.raises(Misconfigured, match="FLOOR"):
            amounts_by_currency({"FLOOR": text}, "FLOOR", self.DEFAULT)

    def test_the_billing_currency_needs_an_amount(self) -> None:
        """Only the currencies of the default may be left out; for others somebody decides."""
        yen = {"BILLING_CURRENCY": "JPY"}
        with pytest.raises(Misconfigured, match="FLOOR"):
            amounts_by_currency(yen | {"FLOOR": "usd=7"}, "FLOOR", self.DEFAULT)
        for text, amount in (("jpy=700", Decimal(700)), ("jpy=none", None)):
            found = amounts_by_currency(yen | {"FLOOR": text}, "FLOOR", self.DEFAULT)
            assert found["jpy"] == amount

    def test_a_function_that_does_not_need_the_list(self) -> None:
        """It is not handed the variable, and starts all the same."""
        assert "jpy" not in amounts_by_currency({"BILLING_CURRENCY": "jpy"}, "FLOOR", self.DEFAULT)
