"""Deadline, clock, redirects, passwords: the small parts."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from argon2 import extract_parameters
from argon2.low_level import Type

from billing.accounts import passwords
from billing.clock import test_clock as clock_at
from billing.clock import wall_clock
from billing.config import from_env
from billing.deadline import Deadline
from billing.errors import InvalidRequest, Unavailable
from billing.http.redirects import allowed_target
from tests.http_server import Response, serving


class Context:
    aws_request_id = "r"

    def __init__(self, milliseconds: int) -> None:
        self._milliseconds = milliseconds

    def get_remaining_time_in_millis(self) -> int:
        return self._milliseconds


class TestDeadline:
    def test_leaves_time_for_the_answer(self) -> None:
        """The invocation's limit, less what answering needs."""
        left = Deadline.of_invocation(Context(30_000), reserve=1).remaining()
        assert 25 < left <= 29

    def test_never_below_zero(self) -> None:
        """An invocation that is as good as over has nothing left."""
        assert Deadline.of_invocation(Context(200)).remaining() == 0

    def test_the_sooner_one(self) -> None:
        """A part of the work never gets more time than the whole."""
        assert Deadline.after(100).within(1).remaining() <= 1
        assert Deadline.after(1).within(100).remaining() <= 1


class TestClock:
    @pytest.fixture
    def url(self, request: pytest.FixtureRequest) -> Iterator[str]:
        with serving(lambda _: Response(request.param)) as url:
            yield f"{url}/"

    def test_wall(self) -> None:
        """UTC, and moving on."""
        assert wall_clock().utcoffset() == timedelta(0)
        assert wall_clock() <= wall_clock()

    @pytest.mark.parametrize("url", [b'{"now": "2026-09-01T12:00:00+02:00"}'], indirect=True)
    def test_asks(self, url: str) -> None:
        """The stand-in's time, in UTC."""
        assert clock_at(url)() == datetime(2026, 9, 1, 10, tzinfo=UTC)

    @pytest.mark.parametrize("url", [b"", b"{}", b"[]", b'{"now": "soon"}'], indirect=True)
    def test_nonsense(self, url: str) -> None:
        """No time is better than a wrong one."""
        with pytest.raises(Unavailable):
            clock_at(url)()

    def test_nobody_there(self) -> None:
        """A stand-in that is gone is a dependency that does not answer."""
        with pytest.raises(Unavailable):
            clock_at("http://127.0.0.1:1/")()


class TestAllowedTarget:
    settings = from_env(
        {"APP_URL": "https://app.example/home", "ALLOWED_ORIGINS": "http://localhost:3000"}
    )

    def test_the_apps_own(self) -> None:
        """Nothing asked for: home."""
        assert allowed_target(self.settings, None, "x") == "https://app.example/home"

    @pytest.mark.parametrize("url", ["https://app.example/a?b#c", "http://localhost:3000/"])
    def test_allowed(self, url: str) -> None:
        """Any page of an allowed origin, as it was asked for."""
        assert allowed_target(self.settings, url, "x") == url

    @pytest.mark.parametrize(
        "url",
        ["", "/relative", "//app.example", "http://app.example", "https://app.example:8443",
         "https://evil.example", "https://app.example@evil.example", "javascript:x"],
    )  # fmt: skip
    def test_refused(self, url: str) -> None:
        """Anything else would make us a stepping stone; the answer names the field only."""
        with pytest.raises(InvalidRequest) as caught:
            allowed_target(self.settings, url, "success_url")
        (error,) = caught.value.errors
        assert (error.field, error.code) == ("success_url", "origin_not_allowed")
        assert not url or url not in error.message

    def test_no_app_no_target(self) -> None:
        """Without settings, the empty origin of a bad address is not an allowed one."""
        with pytest.raises(InvalidRequest):
            allowed_target(from_env({}), "javascript:x", "x")


def hashed(password: str) -> str:
    return passwords.hash_password(password, email="ana@example.com")


class TestPasswords:
    def test_parameters(self) -> None:
        """argon2id with 19 MiB, two passes and one lane: OWASP's first choice."""
        parameters = extract_parameters(hashed("correct horse battery"))
        assert parameters.type is Type.ID
        assert (parameters.memory_cost, parameters.time_cost, parameters.parallelism) == (
            19 * 1024,
            2,
            1,
        )

    def test_nobody_costs_the_same(self) -> None:
        """An unknown email is checked against a hash that is as dear as a real one."""
        real = extract_parameters(hashed("correct horse battery"))
        assert extract_parameters(passwords._NOBODY) == real

    def test_an_unknown_user_is_verified_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Else the answer's speed tells who has an account."""
        checked = []

        class Hasher:
            def verify(self, stored: str, password: str) -> bool:
                checked.append((stored, password))
                return True

        monkeypatch.setattr(passwords, "_hasher", Hasher())
        assert passwords.verify_password(None, "guess") is False
        assert checked == [(passwords._NOBODY, "guess")]

    def test_right_and_wrong(self) -> None:
        """Any text may be a password, and only itself is right."""
        stored = hashed("pässwörd \x00 ✓")
        assert passwords.verify_password(stored, "pässwörd \x00 ✓")
        assert not passwords.verify_password(stored, "pässwörd \x00")

    @pytest.mark.parametrize("stored", ["", "plain", "$argon2id$v=19$broken"])
    def test_a_broken_hash_opens_nothing(self, stored: str) -> None:
        """Nor does it end in an error."""
        assert not passwords.verify_password(stored, "plain")

    @pytest.mark.parametrize("password", ["password1", "PassWord1", "iloveyou", "qwertyuiop"])
    def test_common_ones(self, password: str) -> None:
        """Refused in any case, without being repeated."""
        with pytest.raises(InvalidRequest) as caught:
            hashed(password)
        assert caught.value.errors[0].code == "too_common"
        assert password not in str(caught.value.errors)

    def test_salted(self) -> None:
        """The same password twice is two hashes."""
        assert hashed("correct horse") != hashed("correct horse")
