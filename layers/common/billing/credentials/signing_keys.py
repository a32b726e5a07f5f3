"""The public keys with which an identity provider signs its tokens.

The keys are read over HTTP when the first token comes, and never before, so a snapshot of the
environment has none. They are kept as long as the environment lives, and read again when they are
an hour old. So a key that the provider withdraws works for an hour at most. While the provider does
not answer, the known keys are used for up to a day.

If a token has an unknown key, the keys are read again, because the provider may have changed its
key. This happens at most once a minute, so that strangers cannot make us call the provider with
every request.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import httpx
from aws_lambda_powertools import Logger
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from billing import metric, timed_transport
from billing.config import is_https_or_loopback
from billing.deadline import Deadline
from billing.errors import IdentityProviderUnavailable, Unauthenticated
from billing.metric import Metric

if TYPE_CHECKING:
    from jwt.algorithms import AllowedPublicKeys

    PublicKey: TypeAlias = AllowedPublicKeys

logger = Logger(child=True)

# httpx logs every request with its whole URL at INFO, and Lambda would print it.
logging.getLogger("httpx").setLevel(logging.WARNING)

# The algorithms that each kind of key may be used with. So a token cannot choose an algorithm of
# another kind than its key, and there is no algorithm with a secret that both sides share.
_RSA, _EC, _OKP = ("RS256", "PS256"), ("ES256",), ("EdDSA",)
ALGORITHMS = (*_RSA, *_EC, *_OKP)
_RSA_BITS = range(2048, 8193)  # a larger key would make each check slow

_FRESH_SECONDS = 3600.0
_LONGEST_SECONDS = 24 * 3600.0
_REREAD_SECONDS = 60.0
# If a read fails while no keys are known, the provider is not asked again for this time.
_PAUSE_SECONDS = 5.0
_READ_SECONDS = 3.0  # for both calls together

_MAX_ANSWER_BYTES = 256 * 1024
_MAX_KEYS = 100


class _Unusable(Exception):
    """The provider's answer cannot be used. The message says why, and quotes nothing of it."""


class SigningKeys:
    """The keys of one issuer.

    `url` is the address of the keys; if empty, the issuer's discovery document names it. `clock`
    is a monotonic clock, in seconds.
    """

    def __init__(
        self, issuer: str, *, url: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._issuer = issuer
        self._url = url
        self._clock = clock
        self._http = httpx.Client(
            transport=timed_transport.transport(), trust_env=False, follow_redirects=False
        )
        self._keys: dict[tuple[str | None, str], PublicKey] = {}
        self._count = 0
        self._read_at: float | None = None  # when the keys were last read
        self._tried_at: float | None = None  # when reading them was last tried
        self._has_failed = False

    def find(self, key_id: str | None, algorithm: str, deadline: Deadline) -> "PublicKey":
        """Returns the key with this id, for this algorithm.

        A token may leave out the id if the provider has only one key. Raises Unauthenticated if the
        provider has no such key, and IdentityProviderUnavailable if the provider does not answer.
        """
        if not self._is_younger_than(_FRESH_SECONDS):
            self._read(deadline, pause=_PAUSE_SECONDS if not self._keys else _REREAD_SECONDS)
        if not self._is_younger_than(_LONGEST_SECONDS):
            raise IdentityProviderUnavailable
        found = self._known(key_id, algorithm)
        if found is None:
            self._read(deadline, pause=_REREAD_SECONDS)
            found = self._known(key_id, algorithm)
        if found is not None:
            return found
        if self._has_failed:
            raise IdentityProviderUnavailable
        raise Unauthenticated("The token is not signed with a key of the identity provider.")

    def _known(self, key_id: str | None, algorithm: str) -> "PublicKey | None":
        if key_id is not None:
            return self._keys.get((key_id, algorithm))
        if self._count != 1:
            return None
        return next((key for (_, each), key in self._keys.items() if each == algorithm), None)

    def _is_younger_than(self, seconds: float) -> bool:
        return self._read_at is not None and self._clock() - self._read_at < seconds

    def _read(self, deadline: Deadline, *, pause: float) -> None:
        """Reads the keys, unless reading was tried less than `pause` seconds ago."""
        now = self._clock()
        if self._tried_at is not None and now - self._tried_at < pause:
            return
        self._tried_at = now
        try:
            keys = self._asked(deadline.within(_READ_SECONDS))
        except _Unusable as error:
            self._has_failed = True
            metric.count(Metric.IDENTITY_PROVIDER_FAILED, service="api")
            logger.warning("identity_provider.failed", extra={"reason": str(error)})
            return
        self._has_failed = False
        self._read_at = now
        self._count = len(keys)
        self._keys = {(key_id, each): key for key_id, usable, key in keys for each in usable}

    def _asked(self, deadline: Deadline) -> "list[tuple[str | None, tuple[str, ...], PublicKey]]":
        url = self._url
        if not url:
            address = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
            document = _get(self._http, address, deadline)
            if document.get("issuer") != self._issuer:
                raise _Unusable("the discovery document is another issuer's")
            url = str(document.get("jwks_uri"))
        if not is_https_or_loopback(url):
            raise _Unusable("the address of the keys is not https")
        listed = _get(self._http, url, deadline).get("keys")
        if not isinstance(listed, list) or len(listed) > _MAX_KEYS:
            raise _Unusable("the answer is no list of keys")
        keys = list(filter(None, map(_key, listed)))
        if not keys:
            raise _Unusable("no key can be used")
        return keys


def _get(http: httpx.Client, url: str, deadline: Deadline) -> Mapping[str, Any]:
    """Returns the JSON object at this address. Follows no redirect. Raises _Unusable."""
    timed_transport.current.set(deadline)
    # No compression, so that a small answer cannot become a huge one.
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    body = b""
    try:
        with http.stream("GET", url, headers=headers, timeout=_READ_SECONDS) as answer:
            if answer.status_code != 200:
                raise _Unusable(f"HTTP {answer.status_code}")
            for chunk in answer.iter_raw():
                body += chunk
                if len(body) > _MAX_ANSWER_BYTES:
                    raise _Unusable("the answer is too large")
        found = json.loads(body)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _Unusable(type(error).__name__) from None
    except (ValueError, RecursionError):
        raise _Unusable("the answer is not JSON") from None
    if not isinstance(found, dict):
        raise _Unusable("the answer is no JSON object")
    return found


def _key(entry: object) -> "tuple[str | None, tuple[str, ...], PublicKey] | None":
    """Returns a key's id, the algorithms it may be used with, and the key; None if it is
    unusable.
    """
    if not isinstance(entry, dict) or "d" in entry or entry.get("use", "sig") != "sig":
        return None
    if "verify" not in _texts(entry.get("key_ops", ["verify"])):
        return None
    key_id = entry.get("kid")
    if key_id is not None and not isinstance(key_id, str):
        return None
    try:
        algorithms, key = _parsed(entry)
    except (PyJWTError, ValueError, TypeError, KeyError):
        return None
    usable = tuple(each for each in algorithms if entry.get("alg", each) == each)
    return (key_id, usable, key) if usable else None


def _texts(value: object) -> Iterable[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _parsed(entry: Mapping[str, Any]) -> "tuple[tuple[str, ...], PublicKey]":
    """Returns the algorithms of the key's kind, and the key. Raises ValueError, or an error of
    PyJWT.
    """
    kind, curve = entry.get("kty"), entry.get("crv")
    text = json.dumps(entry)
    if kind == "RSA":
        key: Any = RSAAlgorithm.from_jwk(text)
        if key.key_size in _RSA_BITS:
            return _RSA, key
    elif (kind, curve) == ("EC", "P-256"):
        return _EC, ECAlgorithm.from_jwk(text)  # type: ignore[return-value]  # "d" is refused above
    elif (kind, curve) == ("OKP", "Ed25519"):
        return _OKP, OKPAlgorithm.from_jwk(text)  # type: ignore[return-value]
    raise ValueError("This key is too short, or of a kind that is not used.")
