"""Checks the tokens (JWTs) of a product's identity provider: OpenID Connect, RFC 7519, RFC 8725.

ID tokens and access tokens are both accepted, if their audience is ours. A page may send either of
them, because both give a user access only to the user's own data.

Only the issuer that the operator configured is trusted, and only keys that this issuer publishes. A
key inside a token, or an address of keys, is never used. Times are compared with wall time, because
the provider does not use our test clock. Clocks may differ by a minute.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jwt
from aws_lambda_powertools import Logger

from billing import metric
from billing.clock import Clock, wall_clock
from billing.credentials.signing_keys import ALGORITHMS, SigningKeys
from billing.deadline import Deadline
from billing.errors import Unauthenticated
from billing.metric import Metric

logger = Logger(child=True)

MAX_TOKEN_LENGTH = 8192  # API Gateway takes 10,240 bytes of headers in all
MAX_SUBJECT = 255  # characters, as OpenID Connect has it
SKEW_SECONDS = 60

# Tokens of other types are no credentials: logout+jwt, secevent+jwt, dpop+jwt, oauth-authz-req+jwt.
_TYPES = frozenset({"jwt", "at+jwt"})
# Headers that name a key, which the maker of the token could choose, and extensions, of which we
# know none.
_REFUSED_HEADERS = frozenset({"jwk", "jku", "x5u", "crit", "b64"})


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the bearer of a token is, according to the token.

    `email` and `name` are the token's values, unchecked. `email_verified`: the provider says that
    the user has proved to have the address. `authenticated_at` is when the user last signed in at
    the provider; if the token does not say, when the token was issued.
    """

    issuer: str
    subject: str
    email: str | None
    email_verified: bool
    name: str | None
    issued_at: datetime
    authenticated_at: datetime


class _Refused(Exception):
    """The token is not valid. `reason` is for the log, and the message is for the caller."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class IdentityTokens:
    """Checks the tokens of one issuer.

    The token's audience must be one of `audiences`. `email_claim` and `name_claim` name the claims
    with the user's address and name. The claim `<email_claim>_verified` says whether the address
    was proven.
    """

    def __init__(
        self,
        keys: SigningKeys,
        *,
        issuer: str,
        audiences: frozenset[str],
        email_claim: str,
        name_claim: str,
        clock: Clock = wall_clock,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audiences = audiences
        self._email_claim = email_claim
        self._name_claim = name_claim
        self._clock = clock

    def verify(self, token: str, deadline: Deadline) -> Identity:
        """Returns who the bearer is, according to the token.

        Raises Unauthenticated for a token that is not valid, and IdentityProviderUnavailable if the
        token's key is not known and the provider does not answer.
        """
        try:
            header = _header(token)
            key = self._keys.find(header.get("kid"), header["alg"], deadline)
            return self._identity(self._claims(token, header["alg"], key))
        except _Refused as refused:
            reason, error = refused.reason, Unauthenticated(str(refused))
        except Unauthenticated as unknown_key:
            reason, error = "unknown_key", unknown_key
        metric.count(Metric.TOKENS_REFUSED, service="api")
        logger.info("token.refused", extra={"reason": reason})
        raise error

    def _claims(self, token: str, algorithm: str, key: Any) -> dict[str, Any]:
        """Returns the claims of a token, if the key signed it."""
        try:
            # PyJWT would compare times with its own clock, so they are compared below. The audience
            # is compared below too, because some access tokens have it in another claim.
            options: jwt.types.Options = {
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "verify_aud": False,
                "enforce_minimum_key_length": True,
                "require": ["iss", "sub", "exp", "iat"],
            }
            claims: dict[str, Any] = jwt.decode(
                token, key, algorithms=[algorithm], issuer=self._issuer, options=options
            )
        except jwt.InvalidSignatureError:
            raise _Refused("signature", "The token's signature is not valid.") from None
        except jwt.InvalidIssuerError:
            raise _Refused("issuer", "The token is from another issuer.") from None
        except jwt.MissingRequiredClaimError as error:
            raise _Refused("claim", f"The token has no claim {error.claim}.") from None
        except (jwt.PyJWTError, ValueError, TypeError):
            raise _Refused("malformed", "The token is malformed.") from None
        return claims

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        issued_at = self._check_times(claims)
        self._check_audience(claims)
        if "events" in claims:  # a logout token has it, which is sent to clients and not to users
            raise _Refused("type", "The token is no access token and no ID token.")
        subject = claims["sub"]
        if not 1 <= len(subject) <= MAX_SUBJECT or not subject.isprintable():
            raise _Refused("subject", "The token's subject is not valid.")
        return Identity(
            issuer=self._issuer,
            subject=subject,
            email=_text(claims.get(self._email_claim)),
            email_verified=claims.get(f"{self._email_claim}_verified") is True,
            name=_text(claims.get(self._name_claim)),
            issued_at=datetime.fromtimestamp(issued_at, UTC),
            authenticated_at=datetime.fromtimestamp(self._signed_in_at(claims, issued_at), UTC),
        )

    def _check_times(self, claims: Mapping[str, Any]) -> float:
        """Refuses a token before or after its time. Returns when the token was issued."""
        now = self._clock().timestamp()
        issued_at, expires_at = _time(claims, "iat"), _time(claims, "exp")
        if expires_at <= now - SKEW_SECONDS:
            raise _Refused("expired", "The token has expired.")
        not_before = _time(claims, "nbf") if "nbf" in claims else issued_at
        if max(not_before, issued_at) > now + SKEW_SECONDS:
            raise _Refused("not_yet_valid", "The token is not valid yet.")
        if issued_at > expires_at:
            raise _Refused("malformed", "The token expires before it was issued.")
        return issued_at

    def _signed_in_at(self, claims: Mapping[str, Any], issued_at: float) -> float:
        """Returns when the user signed in, which cannot be after the token was issued."""
        return min(_time(claims, "auth_time"), issued_at) if "auth_time" in claims else issued_at

    def _check_audience(self, claims: Mapping[str, Any]) -> None:
        """Refuses a token that was made for somebody else.

        Cognito's access tokens have `client_id` instead of `aud`. If a token has several audiences,
        another one of them could send it to us. So the client to which the token was issued (`azp`)
        must be ours too, unless the other audiences are the issuer's own addresses.
        """
        use = claims.get("token_use")
        if use not in (None, "id", "access"):
            raise _Refused("type", "The token is no access token and no ID token.")
        named = claims.get("aud")
        if named is None and use == "access":
            named = claims.get("client_id")
        audiences = [named] if isinstance(named, str) else named
        if not isinstance(audiences, list) or not all(isinstance(a, str) for a in audiences):
            raise _Refused("audience", "The token names no audience.")
        if self._audiences.isdisjoint(audiences):
            raise _Refused("audience", "The token is made for another audience.")
        own = f"{self._issuer.rstrip('/')}/"
        others = [a for a in audiences if a not in self._audiences and not a.startswith(own)]
        if others and _text(claims.get("azp")) not in self._audiences:
            raise _Refused("azp", "The token has other audiences too, and is another client's.")


def _header(token: str) -> dict[str, Any]:
    """Returns the header of a token. It is not trusted until the signature is checked."""
    if len(token) > MAX_TOKEN_LENGTH:
        raise _Refused("size", f"The token is longer than {MAX_TOKEN_LENGTH} characters.")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError):
        raise _Refused("malformed", "The token is malformed.") from None
    if header.keys() & _REFUSED_HEADERS:
        raise _Refused("header", "The token's header has a parameter that is not accepted.")
    if header.get("alg") not in ALGORITHMS:
        raise _Refused("algorithm", f"The token's algorithm is none of {', '.join(ALGORITHMS)}.")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
        raise _Refused("type", "The token is no access token and no ID token.")
    return header


def _time(claims: Mapping[str, Any], name: str) -> float:
    """Returns a time as seconds since 1970."""
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 10**11:
        raise _Refused("malformed", f"The token's claim {name} is no time.")
    return float(value)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
