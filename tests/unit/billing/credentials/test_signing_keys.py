"""The keys of an identity provider: one that rotates, lies or does not answer, over real HTTP."""

import gzip
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from billing.config import Misconfigured, from_env, is_https_or_loopback
from billing.credentials.signing_keys import SigningKeys
from billing.deadline import Deadline
from billing.errors import IdentityProviderUnavailable, Unauthenticated
from tests.issuer import Issuer, Key, ec_key, ed_key, issuing, rsa_key

HOUR, DAY, MINUTE = 3600.0, 86400.0, 60.0


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with issuing() as running:
        yield running


class Environment:
    """An environment of a function, whose monotonic clock may be moved."""

    def __init__(self, issuer: Issuer, url: str = "") -> None:
        self.now = 1000.0
        self.keys = SigningKeys(issuer.url, url=url, clock=lambda: self.now)

    def find(self, key: Key, *, seconds: float = 5.0, named: bool = True) -> Any:
        found: Any = self.keys.find(
            key.id if named else None, key.algorithm, Deadline.after(seconds)
        )
        return found.public_numbers()


def numbers(key: Key) -> Any:
    return key.private.public_key().public_numbers()  # type: ignore[union-attr]


class TestCaching:
    def test_nothing_is_asked_before_the_first_token(self, issuer: Issuer) -> None:
        """A snapshot of the environment has no keys."""
        Environment(issuer)
        assert issuer.asked == []

    def test_two_calls_serve_an_hour(self, issuer: Issuer) -> None:
        environment = Environment(issuer)
        for seconds in (0, 10, HOUR - 11):
            environment.now += seconds
            assert environment.find(issuer.keys[0]) == numbers(issuer.keys[0])
        assert issuer.asked == [issuer.DISCOVERY, issuer.KEYS]
        environment.now += 1
        environment.find(issuer.keys[0])
        assert issuer.asked == [issuer.DISCOVERY, issuer.KEYS] * 2

    def test_a_key_that_is_withdrawn_works_for_an_hour_at_most(self, issuer: Issuer) -> None:
        old, new = issuer.keys[0], ec_key("new")
        environment = Environment(issuer)
        environment.find(old)
        issuer.rotate(new)
        environment.now += HOUR
        with pytest.raises(Unauthenticated):
            environment.find(old)

    def test_a_provider_without_discovery(self, issuer: Issuer) -> None:
        """The operator names the address of the keys."""
        environment = Environment(issuer, f"{issuer.url}{issuer.KEYS}")
        assert environment.find(issuer.keys[0]) == numbers(issuer.keys[0])
        assert issuer.asked == [issuer.KEYS]


class TestRotation:
    def test_a_new_key_is_found_at_once(self, issuer: Issuer) -> None:
        environment = Environment(issuer)
        environment.find(issuer.keys[0])
        environment.now += MINUTE
        issuer.rotate(issuer.keys[0], ec_key("new"))
        assert environment.find(issuer.keys[1]) == numbers(issuer.keys[1])
        assert environment.find(issuer.keys[0]) == numbers(issuer.keys[0])

    def test_a_key_that_is_exchanged_under_its_id_is_found_within_the_hour(
        self, issuer: Issuer
    ) -> None:
        environment = Environment(issuer)
        environment.find(issuer.keys[0])
        issuer.rotate(ec_key())
        environment.now += HOUR
        assert environment.find(issuer.keys[0]) == numbers(issuer.keys[0])

    def test_unknown_keys_are_asked_for_once_a_minute(self, issuer: Issuer) -> None:
        """However many of them strangers name."""
        environment = Environment(issuer)
        environment.find(issuer.keys[0])
        calls = []
        for number in range(121):
            environment.now += 1
            with pytest.raises(Unauthenticated):
                environment.find(Key(issuer.keys[0].private, "ES256", f"unknown-{number}"))
            calls.append(len(issuer.asked))
        assert calls[:59] == [2] * 59
        assert calls[-1] == 2 + 2 * 2
        assert environment.find(issuer.keys[0]) == numbers(issuer.keys[0])

    def test_without_an_id_there_must_be_one_key(self, issuer: Issuer) -> None:
        issuer.rotate(ec_key(None))
        assert Environment(issuer).find(issuer.keys[0], named=False) == numbers(issuer.keys[0])
        issuer.rotate(ec_key("named"))
        assert Environment(issuer).find(issuer.keys[0], named=False) == numbers(issuer.keys[0])
        issuer.rotate(ec_key("one"), rsa_key("other"))
        with pytest.raises(Unauthenticated):
            Environment(issuer).find(issuer.keys[0], named=False)


def unusable(**changes: Any) -> Callable[[Issuer], dict[str, Any]]:
    def make(issuer: Issuer) -> dict[str, Any]:
        jwk = issuer.keys[0].public | changes
        return {name: value for name, value in jwk.items() if value is not None}

    return make


KEYS_NOT_USED: dict[str, Callable[[Issuer], Any]] = {
    "for encryption": unusable(use="enc"),
    "for signing alone": unusable(use=None, key_ops=["sign"]),
    "key_ops that are no list": unusable(key_ops="verify"),
    "private": unusable(d="AQAB"),
    "of another algorithm": unusable(alg="ES384"),
    "an id that is no text": unusable(kid=["key-1"]),
    "no coordinate": unusable(y=None),
    "a coordinate that is a number": unusable(y=7),
    "not on the curve": unusable(y=unusable()(Issuer())["x"]),
    "another curve": unusable(crv="secp256k1"),
    "a password": unusable(kty="oct", k="c2VjcmV0"),
    "of no kind": unusable(kty=None),
    "of a kind that is a list": unusable(kty=["EC"]),
    "no object": lambda _: "key",
    "an RSA key of 1024 bits": lambda _: rsa_key(bits=1024).public,
    "an RSA key without a number": lambda _: rsa_key().public | {"n": ""},
    "Ed448": lambda _: ed_key().public | {"crv": "Ed448"},
}


class TestKeys:
    @pytest.mark.parametrize("name", KEYS_NOT_USED)
    def test_a_key_that_is_not_used(self, issuer: Issuer, name: str) -> None:
        """It is as if it were not there; the others are used."""
        good = ec_key("good")
        issuer.answers[issuer.KEYS] = {"keys": [KEYS_NOT_USED[name](issuer), good.public]}
        environment = Environment(issuer)
        assert environment.find(good) == numbers(good)
        for algorithm in ("ES256", "RS256", "EdDSA"):
            with pytest.raises(Unauthenticated):
                environment.keys.find("key-1", algorithm, Deadline.after(5))

    def test_an_rsa_key_that_names_no_algorithm_has_two(self, issuer: Issuer) -> None:
        pair = rsa_key()
        key = pair.public
        del key["alg"]
        issuer.answers[issuer.KEYS] = {"keys": [key]}
        environment = Environment(issuer)
        for algorithm in ("RS256", "PS256"):
            found: Any = environment.keys.find("key-1", algorithm, Deadline.after(5))
            assert found.public_numbers() == numbers(pair)
        with pytest.raises(Unauthenticated):
            environment.keys.find("key-1", "ES256", Deadline.after(5))


def answering(path: str, answer: Any) -> Callable[[Issuer], None]:
    return lambda issuer: issuer.answers.update({path: answer})


def discovering(**changes: Any) -> Callable[[Issuer], None]:
    def change(issuer: Issuer) -> None:
        good = {"issuer": issuer.url, "jwks_uri": f"{issuer.url}{issuer.KEYS}"}
        issuer.answers[issuer.DISCOVERY] = good | changes

    return change


def redirecting(path: str) -> Callable[[Issuer], None]:
    def change(issuer: Issuer) -> None:
        issuer.statuses[path] = 302
        issuer.headers["Location"] = f"{issuer.url}/elsewhere"
        issuer.answers["/elsewhere"] = {"keys": [ec_key().public]}

    return change


def compressing(issuer: Issuer) -> None:
    issuer.headers["Content-Encoding"] = "gzip"
    issuer.answers[issuer.DISCOVERY] = gzip.compress(b" " * 10**7)


LIES: dict[str, Callable[[Issuer], None]] = {
    "down": lambda issuer: setattr(issuer, "is_down", True),
    "another issuer": discovering(issuer="https://evil.example"),
    "no issuer": discovering(issuer=None),
    "keys without TLS": discovering(jwks_uri="http://keys.example/keys"),
    "keys in a file": discovering(jwks_uri="file:///etc/passwd"),
    "no address of keys": discovering(jwks_uri=None),
    "an address of keys that is a list": discovering(jwks_uri=["https://keys.example"]),
    "an address of keys with a login": discovering(jwks_uri="https://a:b@keys.example"),
    "nobody at the address of keys": discovering(jwks_uri="http://127.0.0.1:1/keys"),
    "an impossible address of keys": discovering(jwks_uri="https://[::1/keys"),
    "no JSON": answering(Issuer.DISCOVERY, b"<html>"),
    "no UTF-8": answering(Issuer.DISCOVERY, b"\xff\xfe\x00"),
    "brackets without end": answering(Issuer.DISCOVERY, b"[" * 200_000),
    "a list": answering(Issuer.DISCOVERY, []),
    "a huge document": answering(Issuer.DISCOVERY, b" " * (256 * 1024 + 1)),
    "a huge set of keys": answering(Issuer.KEYS, b" " * (256 * 1024 + 1)),
    "a huge answer, packed": compressing,
    "a document that is elsewhere": redirecting(Issuer.DISCOVERY),
    "keys that are elsewhere": redirecting(Issuer.KEYS),
    "no keys": answering(Issuer.KEYS, {"keys": []}),
    "keys that are no list": answering(Issuer.KEYS, {"keys": {"kid": "key-1"}}),
    "too many keys": answering(Issuer.KEYS, {"keys": [ec_key().public] * 101}),
    "passwords": answering(Issuer.KEYS, {"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}),
}


class TestLies:
    @pytest.mark.parametrize("name", LIES)
    def test_it_is_unavailable_and_not_believed(
        self, issuer: Issuer, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        LIES[name](issuer)
        with pytest.raises(IdentityProviderUnavailable) as unavailable:
            Environment(issuer).find(issuer.keys[0])
        assert unavailable.value.retry_after == 5
        (record,) = (r for r in caplog.records if r.message == "identity_provider.failed")
        assert "evil" not in str(vars(record)["reason"])
        assert "/elsewhere" not in issuer.asked

    @pytest.mark.parametrize("name", LIES)
    def test_what_was_known_goes_on(self, issuer: Issuer, name: str) -> None:
        """And an unknown key is no reason to send the person away."""
        environment = Environment(issuer)
        environment.find(issuer.keys[0])
        LIES[name](issuer)
        environment.now += HOUR
        assert environment.find(issuer.keys[0]) == numbers(issuer.keys[0])
        with pytest.raises(IdentityProviderUnavailable):
            environment.find(ec_key("new"))

    def test_a_slow_provider_costs_three_seconds_in_all(self, issuer: Issuer) -> None:
        """Each byte comes soon; the whole answer would take half a minute."""
        issuer.trickle_seconds = 0.25
        began = time.monotonic()
        with pytest.raises(IdentityProviderUnavailable):
            Environment(issuer).find(issuer.keys[0], seconds=30)
        assert 2.9 < time.monotonic() - began < 6

    def test_the_requests_own_deadline_is_kept(self, issuer: Issuer) -> None:
        issuer.trickle_seconds = 0.1
        began = time.monotonic()
        with pytest.raises(IdentityProviderUnavailable):
            Environment(issuer).find(issuer.keys[0], seconds=0.3)
        assert time.monotonic() - began < 2.5


class TestDown:
    def test_without_keys_it_is_asked_again_after_five_seconds(self, issuer: Issuer) -> None:
        """Not by every request: each would wait for the answer."""
        issuer.is_down = True
        environment = Environment(issuer)
        for _ in range(10):
            with pytest.raises(IdentityProviderUnavailable):
                environment.find(issuer.keys[0])
        assert len(issuer.asked) == 1
        issuer.is_down = False
        environment.now += 5
        assert environment.find(issuer.keys[0]) == numbers(issuer.keys[0])

    def test_known_keys_go_on_for_a_day(self, issuer: Issuer) -> None:
        environment = Environment(issuer)
        environment.find(issuer.keys[0])
        began = environment.now
        issuer.is_down = True
        asked = len(issuer.asked)
        for seconds in (HOUR, HOUR + 59, HOUR + 60, HOUR + 119, DAY - 1):
            environment.now = began + seconds
            environment.find(issuer.keys[0])
        assert len(issuer.asked) - asked == 3
        environment.now = began + DAY
        with pytest.raises(IdentityProviderUnavailable):
            environment.find(issuer.keys[0])
        issuer.is_down = False
        environment.now += MINUTE
        assert environment.find(issuer.keys[0]) == numbers(issuer.keys[0])


class TestAddresses:
    @pytest.mark.parametrize(
        "url",
        ["https://id.example", "https://id.example/pool/", "http://127.0.0.1:8200",
         "http://localhost", "http://[::1]:80/a"],
    )  # fmt: skip
    def test_addresses_that_are_taken(self, url: str) -> None:
        assert is_https_or_loopback(url)
        assert from_env({"OIDC_ISSUER": url, "OIDC_JWKS_URL": url}).oidc_issuer == url

    @pytest.mark.parametrize(
        "url",
        ["http://id.example", "http://127.0.0.1.evil.example", "http://10.0.0.1", "ftp://id.example",
         "id.example", "https://", "https://a:b@id.example", "https://id.example/?a=b",
         "https://id.example/#a", "https://id.example/a b", "https://id.example/\n",
         "http://localhost.evil.example", "http://127.0.0.1@evil.example"],
    )  # fmt: skip
    def test_addresses_that_are_not(self, url: str) -> None:
        assert not is_https_or_loopback(url)
        for name in ("OIDC_ISSUER", "OIDC_JWKS_URL"):
            with pytest.raises(Misconfigured, match=name):
                from_env({name: url})
