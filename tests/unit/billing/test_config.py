"""The environment as settings: read once, checked, and never a secret among them."""

from dataclasses import FrozenInstanceError

import pytest

from billing.config import from_env, origin_of


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
