"""An identity provider on this machine: publishes keys, signs tokens, and does both wrongly.

Tokens are put together by hand from the primitives of `cryptography`, so that each of them may be
wrong in one place, and that no library checks its own work.
"""

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

AUDIENCE = "billing"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | bytes


def base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _number(value: int, length: int | None = None) -> str:
    return base64url(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


@dataclass(frozen=True)
class Key:
    """A key pair, its id and what it signs with."""

    private: PrivateKey
    algorithm: str
    id: str | None = "key-1"

    @property
    def public(self) -> dict[str, Any]:
        """The JWK that is published."""
        jwk: dict[str, Any] = {"use": "sig", "alg": self.algorithm}
        if self.id is not None:
            jwk["kid"] = self.id
        if isinstance(self.private, rsa.RSAPrivateKey):
            numbers = self.private.public_key().public_numbers()
            return jwk | {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            point = self.private.public_key().public_numbers()
            x, y = _number(point.x, 32), _number(point.y, 32)
            return jwk | {"kty": "EC", "crv": "P-256", "x": x, "y": y}
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            raw = self.private.public_key().public_bytes_raw()
            return jwk | {"kty": "OKP", "crv": "Ed25519", "x": base64url(raw)}
        return jwk | {"kty": "oct", "k": base64url(self.private)}

    def signature(self, content: bytes) -> bytes:
        """The signature that the key makes, by its algorithm."""
        private, sha = self.private, hashes.SHA256()
        if isinstance(private, bytes):
            mac = hmac.HMAC(private, sha)
            mac.update(content)
            return mac.finalize()
        if isinstance(private, rsa.RSAPrivateKey):
            pss = padding.PSS(padding.MGF1(sha), sha.digest_size)
            return private.sign(
                content, pss if self.algorithm == "PS256" else padding.PKCS1v15(), sha
            )
        if isinstance(private, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(private.sign(content, ec.ECDSA(sha)))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return private.sign(content)


def rsa_key(key_id: str | None = "key-1", *, algorithm: str = "RS256", bits: int = 2048) -> Key:
    return Key(rsa.generate_private_key(65537, bits), algorithm, key_id)


def ec_key(key_id: str | None = "key-1") -> Key:
    return Key(ec.generate_private_key(ec.SECP256R1()), "ES256", key_id)


def ed_key(key_id: str | None = "key-1") -> Key:
    return Key(ed25519.Ed25519PrivateKey.generate(), "EdDSA", key_id)


def compact(header: object, claims: object, key: Key | None) -> str:
    """A token. Without a key its signature is empty."""
    parts = [base64url(json.dumps(part).encode()) for part in (header, claims)]
    signed = ".".join(parts).encode()
    return f"{'.'.join(parts)}.{base64url(key.signature(signed)) if key else ''}"


@dataclass
class Issuer:
    """The provider. Each field may be changed while it runs.

    `answers` replaces what is answered at a path: a JSON value, or bytes as they are. `statuses`
    does so with the status, and `location` is where a redirect leads. `trickle_seconds` is the time
    between two bytes.
    """

    url: str = ""
    keys: list[Key] = field(default_factory=lambda: [ec_key()])
    answers: dict[str, Any] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    trickle_seconds: float = 0.0
    is_down: bool = False
    asked: list[str] = field(default_factory=list)
    now: Callable[[], float] = time.time

    DISCOVERY = "/.well-known/openid-configuration"
    KEYS = "/keys"

    def token(
        self,
        subject: str | None = "user-1",
        *,
        key: Key | None = None,
        header: dict[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """A good token, but for what is given. None leaves a claim or a header's field out."""
        signing = key or self.keys[0]
        now = int(self.now())
        good = {"iss": self.url, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + 300}
        head = {"alg": signing.algorithm, "typ": "JWT", "kid": signing.id} | (header or {})
        return compact(
            {name: value for name, value in head.items() if value is not None},
            {name: value for name, value in (good | claims).items() if value is not None},
            signing,
        )

    def rotate(self, *keys: Key) -> None:
        """Publishes these keys and no others from now on."""
        self.keys = list(keys)

    def answer(self, path: str) -> tuple[int, bytes]:
        """The status and the body for a path."""
        self.asked.append(path)
        good = {
            self.DISCOVERY: {"issuer": self.url, "jwks_uri": f"{self.url}{self.KEYS}"},
            self.KEYS: {"keys": [key.public for key in self.keys]},
        }
        found = (good | self.answers).get(path)
        if self.is_down or found is None:
            return (503 if self.is_down else 404), b"{}"
        body = found if isinstance(found, bytes) else json.dumps(found).encode()
        return self.statuses.get(path, 200), body


@contextmanager
def issuing(issuer: Issuer | None = None) -> Iterator[Issuer]:
    """An identity provider at `Issuer.url`, until the end of the block."""
    provider = issuer or Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = provider.answer(self.path)
            self.send_response(status)
            for name, value in provider.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                if not provider.trickle_seconds:
                    self.wfile.write(body)
                for each in body if provider.trickle_seconds else b"":
                    self.wfile.write(bytes([each]))
                    self.wfile.flush()
                    time.sleep(provider.trickle_seconds)
            except OSError:
                pass  # the caller has waited long enough

        def log_message(self, *_: object) -> None:
            """Not into the test's output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        provider.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield provider
        finally:
            server.shutdown()
            thread.join()
