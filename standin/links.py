"""Signed addresses that contain their purpose: a payment method page, an invoice to print."""

import base64
import binascii
import hashlib
import hmac
import secrets
from datetime import timedelta
from typing import Any, Literal

from standin import wire
from standin.clock import iso, parse_iso
from standin.errors import ApiError
from standin.models import Invoice, Subscription
from standin.world import World

INVOICE_LIFETIME = timedelta(days=7)

Purpose = Literal["payment-method", "invoices"]


def payment_method_url(world: World, sub: Subscription, success_url: str | None) -> str:
    """A page on which the card can be replaced. Raises ApiError: subscription_not_active."""
    if not sub.has_access:
        raise ApiError("subscription_not_active", f"Subscription is {sub.status}")
    claims = {"subscription": sub.id, "successUrl": success_url}
    return _url(world, "payment-method", claims)


def invoice_url(world: World, invoice: Invoice) -> tuple[str, str]:
    """Returns the address of a page to print an invoice, and until when it can be opened."""
    expires_at = iso(world.now() + INVOICE_LIFETIME)
    return _url(world, "invoices", {"invoice": invoice.id, "expiresAt": expires_at}), expires_at


def read(world: World, purpose: Purpose, token: str) -> dict[str, Any] | None:
    """Returns the content of a token of ours; None for any other text and for an expired token."""
    text, _, signature = token.rpartition(".")
    if not hmac.compare_digest(_sign(world, purpose, text).encode(), signature.encode()):
        return None
    try:
        claims: dict[str, Any] = wire.loads(base64.urlsafe_b64decode(text))
    except (ValueError, binascii.Error):
        return None
    expires_at = claims.get("expiresAt")
    return None if expires_at and parse_iso(expires_at) <= world.now() else claims


def _url(world: World, purpose: Purpose, claims: dict[str, Any]) -> str:
    text = base64.urlsafe_b64encode(wire.dumps(claims)).decode()
    return f"{world.public_url}/{purpose}/{text}.{_sign(world, purpose, text)}"


def _sign(world: World, purpose: Purpose, text: str) -> str:
    key = world.store.kept("link_key") or world.store.keep("link_key", secrets.token_hex())
    return hmac.new(key.encode(), f"{purpose}/{text}".encode(), hashlib.sha256).hexdigest()
