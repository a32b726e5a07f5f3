"""Tokens of an identity provider: each rule has a token that breaks it, and it alone."""

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest

from billing.credentials.identity_tokens import (
    MAX_SUBJECT,
    MAX_TOKEN_LENGTH,
    SKEW_SECONDS,
    IdentityTokens,
)
from billing.credentials.signing_keys import ALGORITHMS, SigningKeys
from billing.deadline import Deadline
from billing.errors import Unauthenticated
from tests.issuer import AUDIENCE, Issuer, Key, compact, ec_key, ed_key, issuing, rsa_key

NOW = 1_790_000_000  # the same in every worker: it is in the names of tests
RSA = rsa_key("rsa")
PUBLIC_TEXT = json.dumps(RSA.public).encode()

Make = Callable[[Issuer], str]


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    """An issuer with a key of every kind."""
    pss = Key(rsa_key().private, "PS256", "pss")
    with issuing(Issuer(keys=[ec_key("ec"), RSA, pss, ed_key("ed")], now=lambda: NOW)) as running:
        yield running


@cache
def keys_of(url: str) -> SigningKeys:
    return SigningKeys(url)


def checker(issuer: Issuer, **changes: Any) -> IdentityTokens:
    wanted: dict[str, Any] = {
        "issuer": issuer.url,
        "audiences": frozenset({AUDIENCE}),
        "email_claim": "email",
        "name_claim": "name",
        "clock": lambda: datetime.fromtimestamp(NOW, UTC),
    }
    return IdentityTokens(keys_of(issuer.url), **wanted | changes)


def verify(issuer: Issuer, token: str, **changes: Any) -> Any:
    return checker(issuer, **changes).verify(token, Deadline.after(5))


class TestGood:
    @pytest.mark.parametrize("number", range(4))
    def test_each_kind_of_key_signs(self, issuer: Issuer, number: int) -> None:
        key = issuer.keys[number]
        assert key.algorithm in ALGORITHMS
        assert verify(issuer, issuer.token("ana", key=key)).subject == "ana"

    def test_it_says_who_the_bearer_is(self, issuer: Issuer) -> None:
        token = issuer.token(
            "auth0|1", email="ana@example.com", email_verified=True, name="Ana", iat=NOW - 50,
            auth_time=NOW - 90,
        )  # fmt: skip
        found = verify(issuer, token)
        assert (found.issuer, found.subject) == (issuer.url, "auth0|1")
        assert (found.email, found.email_verified, found.name) == ("ana@example.com", True, "Ana")
        assert found.issued_at == datetime.fromtimestamp(NOW - 50, UTC)
        assert found.authenticated_at == datetime.fromtimestamp(NOW - 90, UTC)

    @pytest.mark.parametrize(
        "claims",
        [
            {"exp": NOW - SKEW_SECONDS + 1, "iat": NOW - 300},
            {"nbf": NOW + SKEW_SECONDS},
            {"iat": NOW + SKEW_SECONDS},
            {"aud": [AUDIENCE]},
            {"aud": [AUDIENCE, "other"], "azp": AUDIENCE},
            {"aud": AUDIENCE, "azp": "https://app.example.com"},
            {"aud": None, "client_id": AUDIENCE, "token_use": "access"},
            {"token_use": "id"},
            {"sub": "s" * MAX_SUBJECT},
            {"iat": NOW + 0.5},
        ],
        ids=str,
    )
    def test_what_is_just_right(self, issuer: Issuer, claims: dict[str, Any]) -> None:
        verify(issuer, issuer.token(subject=claims.pop("sub", "ana"), **claims))

    def test_the_issuers_own_addresses_are_no_other_audience(self, issuer: Issuer) -> None:
        """As Auth0's /userinfo is, where a page asks for the scope openid too."""
        audiences = [AUDIENCE, f"{issuer.url}/userinfo"]
        verify(issuer, issuer.token(aud=audiences, azp="client of the page"))

    @pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt", None])
    def test_types(self, issuer: Issuer, kind: str | None) -> None:
        verify(issuer, issuer.token(header={"typ": kind}))

    def test_the_key_in_the_header_is_not_looked_at(self, issuer: Issuer) -> None:
        """Some providers send the certificate of their key along."""
        verify(issuer, issuer.token(header={"x5c": ["certificate"], "x5t": "thumbprint"}))

    def test_claims_go_by_the_names_that_the_operator_gave(self, issuer: Issuer) -> None:
        """That `email` is verified says nothing about another claim's address."""
        claims: dict[str, Any] = {"https://x.example/mail": "a@example.com", "nick": "A"}
        token = issuer.token(**claims, email_verified=True)
        names = {"email_claim": "https://x.example/mail", "name_claim": "nick"}
        found = verify(issuer, token, **names)
        assert (found.email, found.email_verified, found.name) == ("a@example.com", False, "A")
        token = issuer.token(**claims | {"https://x.example/mail_verified": True})
        assert verify(issuer, token, **names).email_verified

    @pytest.mark.parametrize("value", ["true", 1, "yes", [True], {}])
    def test_only_true_is_verified(self, issuer: Issuer, value: object) -> None:
        found = verify(issuer, issuer.token(email="ana@example.com", email_verified=value))
        assert found.email_verified is False

    @pytest.mark.parametrize("value", [7, ["ana@example.com"], {"a": 1}, "", True])
    def test_an_address_that_is_no_text_is_none(self, issuer: Issuer, value: object) -> None:
        assert verify(issuer, issuer.token(email=value, name=value)).email is None

    def test_nobody_signs_in_after_the_token_was_made(self, issuer: Issuer) -> None:
        """A time in the future would count as a recent sign-in for ever."""
        found = verify(issuer, issuer.token(iat=NOW - 100, auth_time=NOW + 10**6))
        assert found.authenticated_at == datetime.fromtimestamp(NOW - 100, UTC)


def forged(header: dict[str, Any] | None = None, **claims: Any) -> Make:
    return lambda issuer: issuer.token(header=header, **claims)


def signed_by(make: Callable[[], Key], **header: Any) -> Make:
    return lambda issuer: issuer.token(key=make(), header=header)


def tampered(issuer: Issuer) -> str:
    """The claims of one token under the signature of another."""
    one, other = issuer.token("ana").split("."), issuer.token("ben").split(".")
    return ".".join([one[0], other[1], one[2]])


def unsigned(algorithm: str) -> Make:
    def make(issuer: Issuer) -> str:
        _, claims, _ = issuer.token().split(".")
        read = json.loads(base64.urlsafe_b64decode(claims + "=="))
        return compact({"alg": algorithm, "typ": "JWT", "kid": "ec"}, read, None)

    return make


BAD: dict[str, tuple[str, Make]] = {
    # the header
    "no algorithm": ("algorithm", unsigned("none")),
    "no algorithm, in capitals": ("algorithm", unsigned("NONE")),
    "the public key as a password": (
        "algorithm",
        signed_by(lambda: Key(PUBLIC_TEXT, "HS256", "rsa")),
    ),
    "an algorithm that is not allowed": ("algorithm", forged({"alg": "ES384"})),
    "an algorithm that is no text": ("algorithm", forged({"alg": ["ES256"]})),
    "no algorithm named": ("algorithm", forged({"alg": None})),
    "a key of another kind than the algorithm": ("unknown_key", forged({"kid": "rsa"})),
    "a key for another algorithm": ("unknown_key", forged({"kid": "pss"})),
    "the key in the token": ("header", forged({"jwk": ec_key().public})),
    "the address of the key in the token": ("header", forged({"jku": "https://evil.example"})),
    "the address of a certificate in it": ("header", forged({"x5u": "https://evil.example"})),
    "an extension": ("malformed", forged({"crit": ["exp"], "exp": 1})),
    "no extension, but said so": ("malformed", forged({"crit": []})),
    "a payload that is not encoded": ("malformed", forged({"crit": ["b64"], "b64": False})),
    "an extension that PyJWT knows": ("header", forged({"crit": ["b64"], "b64": True})),
    "a logout token": ("type", forged({"typ": "logout+jwt"})),
    "a proof of a key": ("type", forged({"typ": "dpop+jwt"})),
    "a type that is no text": ("type", forged({"typ": 7})),
    "a key's id that is no text": ("malformed", forged({"kid": 7})),
    "no key's id among several keys": ("unknown_key", forged({"kid": None})),
    "a key that is not published": ("unknown_key", signed_by(lambda: ec_key("other"))),
    # the signature
    "another key under a known id": ("signature", signed_by(lambda: ec_key("ec"))),
    "claims of another token": ("signature", tampered),
    "no signature": ("signature", unsigned("ES256")),
    "half a signature": ("signature", lambda issuer: issuer.token()[:-42]),
    # the times
    "expired": ("expired", forged(exp=NOW - SKEW_SECONDS, iat=NOW - 300)),
    "no end": ("claim", forged(exp=None)),
    "an end that is text": ("malformed", forged(exp=str(NOW + 300))),
    "an end that is true": ("malformed", forged(exp=True)),
    "an end that is no number": ("malformed", forged(exp=float("nan"))),
    "an end beyond all time": ("malformed", forged(exp=float("inf"))),
    "an end before 1970": ("malformed", forged(exp=-1)),
    "an end before its beginning": ("malformed", forged(iat=NOW, exp=NOW - 1)),
    "not yet": ("not_yet_valid", forged(nbf=NOW + SKEW_SECONDS + 1)),
    "a beginning that is text": ("malformed", forged(nbf="0")),
    "issued in the future": ("not_yet_valid", forged(iat=NOW + SKEW_SECONDS + 1)),
    "not said when it was issued": ("claim", forged(iat=None)),
    "a sign-in that is text": ("malformed", forged(auth_time="0")),
    # who and for whom
    "no issuer": ("claim", forged(iss=None)),
    "another issuer": ("issuer", forged(iss="https://evil.example")),
    "an issuer with a slash more": ("issuer", lambda issuer: issuer.token(iss=f"{issuer.url}/")),
    "several issuers": ("issuer", lambda issuer: issuer.token(iss=[issuer.url])),
    "no audience": ("audience", forged(aud=None)),
    "an empty audience": ("audience", forged(aud="")),
    "an empty list of audiences": ("audience", forged(aud=[])),
    "another audience": ("audience", forged(aud="other")),
    "an audience that begins so": ("audience", forged(aud=f"{AUDIENCE}2")),
    "audiences that are no texts": ("audience", forged(aud=[AUDIENCE, 7])),
    "an audience that is an object": ("audience", forged(aud={AUDIENCE: True})),
    "several audiences and no client": ("azp", forged(aud=[AUDIENCE, "other"])),
    "several audiences, another client's": ("azp", forged(aud=[AUDIENCE, "other"], azp="other")),
    "several audiences, a list of clients": (
        "azp",
        forged(aud=[AUDIENCE, "other"], azp=[AUDIENCE]),
    ),
    "Cognito: another client": (
        "audience",
        forged(aud=None, client_id="other", token_use="access"),
    ),
    "a client in an ID token": ("audience", forged(aud=None, client_id=AUDIENCE, token_use="id")),
    "a client, and no use": ("audience", forged(aud=None, client_id=AUDIENCE)),
    "a client beside another audience": (
        "audience",
        forged(aud="other", client_id=AUDIENCE, token_use="access"),
    ),
    "another use": ("type", forged(token_use="refresh")),
    "a logout token without its type": ("type", forged(events={})),
    "no subject": ("claim", forged(subject=None)),
    "an empty subject": ("subject", forged(subject="")),
    "a long subject": ("subject", forged(subject="s" * (MAX_SUBJECT + 1))),
    "a subject with a control character": ("subject", forged(subject="an\x00a")),
    "a subject with a line break": ("subject", forged(subject="ana\n")),
    "a subject with an invisible character": ("subject", forged(subject="ana\u200b")),
    "half a surrogate pair": ("subject", forged(subject="ana\ud800")),
    "a subject that is a number": ("malformed", forged(sub=7)),
    # its form
    "two parts": ("malformed", lambda issuer: issuer.token().rpartition(".")[0]),
    "four parts": ("malformed", lambda issuer: f"{issuer.token()}.x"),
    "no base64": ("malformed", lambda issuer: f"!{issuer.token()}"),
    "not ASCII": ("malformed", lambda issuer: f"{issuer.token()}é"),
    "half a pair": ("malformed", lambda issuer: f"{issuer.token()}\ud800"),
    "a header that is a list": ("malformed", lambda i: compact([], {}, i.keys[0])),
    "claims that are a list": (
        "malformed",
        lambda i: compact({"alg": "ES256", "kid": "ec"}, [], i.keys[0]),
    ),
    "too long": ("size", forged(email="a" * MAX_TOKEN_LENGTH)),
    "brackets without end": (
        "malformed",
        lambda _: base64.urlsafe_b64encode(b"[" * 3000).decode() + ".e30.e30",
    ),
}  # fmt: skip


class TestBad:
    @pytest.fixture(autouse=True)
    def _hears_everything(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")

    @pytest.mark.parametrize("name", BAD)
    def test_it_is_refused(
        self,
        issuer: Issuer,
        name: str,
        caplog: pytest.LogCaptureFixture,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """For its own reason, which is logged; the token is not."""
        reason, make = BAD[name]
        token = make(issuer)
        with pytest.raises(Unauthenticated) as refused:
            verify(issuer, token)
        logged = [vars(record) for record in caplog.records]
        refusals = [each for each in logged if each["message"] == "token.refused"]
        assert [each["reason"] for each in refusals] == [reason]
        printed = capsys.readouterr().out
        assert json.loads(printed)["TokensRefused"] == [1.0]
        parts = [part for part in token.split(".") if len(part) > 3]
        assert parts
        assert not [part for part in parts if part in f"{logged}{printed}{refused}"]

    def test_the_same_token_is_good_without_the_fault(self, issuer: Issuer) -> None:
        verify(issuer, issuer.token())

    def test_no_audience_of_ours_lets_nobody_in(self, issuer: Issuer) -> None:
        with pytest.raises(Unauthenticated):
            verify(issuer, issuer.token(), audiences=frozenset())
        with pytest.raises(Unauthenticated):
            verify(issuer, issuer.token(aud=""), audiences=frozenset())
