"""The Commet client: the calls this project makes, each with a deadline.

It speaks Commet API version 2026-08-27. Retry rules, all within the caller's deadline:
- Network errors, 408, 5xx and 409 `idempotency_in_progress` are tried again, twice at most, after a
  pause with jitter. `Retry-After` sets the pause; if the deadline comes sooner, the call ends. 429
  is tried again only if it has a `Retry-After`.
- Deliveries of usage are tried once, because the delivery itself is sent again later.
- A write that must not happen twice carries an `Idempotency-Key`, the same on every attempt.
- After a 401 the API key is read once more, because it may have been rotated.
- Any other 4xx is a business answer and raises CommetRefused at once.
- An answer that is not JSON, lacks the expected shape or comes from the other mode (live/sandbox)
  is nonsense. It raises CommetUnavailable and never counts as success.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from random import SystemRandom
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from billing.commet import timed_transport
from billing.commet.answers import (
    Answer,
    CreatedWebhookEndpoint,
    Customer,
    FeatureAccess,
    Plan,
    PortalSession,
    Subscription,
    TrackedUsage,
    UsageAdjustment,
    WebhookEndpoint,
)
from billing.deadline import Deadline
from billing.errors import CommetRefused, CommetUnavailable, Unavailable

API_VERSION = "2026-08-27"

# The system's random numbers: Lambda environments restored from one snapshot would share the state
# of any other generator.
_chance = SystemRandom().random

# What an API key may look like. If httpx refused a key with other characters, its message would
# quote the key.
_KEY = re.compile(r"[!-~]{1,500}")

_MAX_ATTEMPTS = 3
_ATTEMPT_SECONDS = 8.0  # longer than Commet takes, shorter than a client of API Gateway waits
_CONNECT_SECONDS = 3.0
_MIN_SECONDS = 0.05  # with less than this left a call is not worth starting
_MAX_PAGES = 50
_MAX_ANSWER_BYTES = 10_000_000

T = TypeVar("T", bound=Answer)

# httpx logs every request with its whole URL at INFO, and Lambda would print it.
logging.getLogger("httpx").setLevel(logging.WARNING)


class ApiKey(Protocol):
    """Returns the API key; with `fresh`, reads the secret again first. Raises Unavailable."""

    def __call__(self, *, fresh: bool = False) -> str: ...


class Commet:
    """Calls Commet. Every method may raise CommetRefused or CommetUnavailable.

    `live`: answers must come from the live mode (True) or from the sandbox (False). `transport`,
    `sleep` and `jitter` are for tests.
    """

    def __init__(
        self,
        base_url: str,
        api_key: ApiKey,
        *,
        live: bool,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = _chance,
    ) -> None:
        self._api_key = api_key
        self._live = live
        self._sleep = sleep
        self._jitter = jitter
        self._http = httpx.Client(
            base_url=base_url.rstrip("/"),
            transport=transport or timed_transport.transport(),
            headers={"commet-version": API_VERSION, "user-agent": "commet-usage-billing/0.1"},
            follow_redirects=False,
            trust_env=False,
        )

    # --- customers -----------------------------------------------------------------------

    def create_customer(
        self, *, user_id: str, email: str, name: str | None, deadline: Deadline
    ) -> Customer:
        """Creates the customer with our id, or returns the one that exists."""
        body = {"id": user_id, "email": email} | ({"fullName": name} if name else {})
        # No idempotency key: Commet is idempotent on `id`. With a key, the same user under a
        # changed name would be refused as a mismatch.
        return self._write("/customers", body, Customer, idempotency_key=None, deadline=deadline)

    def find_customer(self, user_id: str, deadline: Deadline) -> Customer | None:
        """The customer that was created with our id; None if there is none.

        Raises ValueError for an empty id.
        """
        if not user_id:
            raise ValueError("user_id must not be empty: Commet would list all customers")
        found = self._list("/customers", {"externalId": user_id}, Customer, deadline)
        return next((c for c in found if c.external_id == user_id), None)

    # --- plans and subscriptions ----------------------------------------------------------

    def plans(self, deadline: Deadline) -> list[Plan]:
        """The public plans."""
        return self._list("/plans", {}, Plan, deadline)

    def create_subscription(
        self,
        *,
        user_id: str,
        plan_code: str,
        billing_interval: str | None,
        success_url: str,
        idempotency_key: str,
        deadline: Deadline,
    ) -> Subscription:
        """Creates a subscription, paid at its `checkout_url`; a free one is active at once."""
        body = {"customerId": user_id, "planCode": plan_code, "successUrl": success_url}
        if billing_interval:
            body["billingInterval"] = billing_interval
        return self._write(
            "/subscriptions", body, Subscription, idempotency_key=idempotency_key, deadline=deadline
        )

    def subscription(self, subscription_id: str, deadline: Deadline) -> Subscription:
        """One subscription, whatever its status."""
        path = f"/subscriptions/{quote(subscription_id, safe='')}"
        return self._parse(Subscription, self._send(_Call("GET", path), deadline))

    def list_subscriptions(
        self, *, status: str, cursor: str | None, deadline: Deadline
    ) -> tuple[list[Subscription], str | None]:
        """A page of all customers' subscriptions in this status, and the next page's cursor.

        The cursor is None on the last page. A subscription that cannot be read is left out, so that
        it does not hide the others.
        """
        query = {"status": status} | ({"cursor": cursor} if cursor else {})
        items, following = self._page("/subscriptions", query, deadline)
        readable = []
        for item in items:
            with suppress(CommetUnavailable):
                readable.append(self._parse(Subscription, item))
        return readable, following

    def active_subscription(self, user_id: str, deadline: Deadline) -> Subscription | None:
        """The subscription that Commet calls active, though it may be unpaid; None if none."""
        call = _Call("GET", "/subscriptions/active", params={"customerId": user_id})
        answer = self._send(call, deadline)
        return None if answer is None else self._parse(Subscription, answer)

    # --- access, usage, portal --------------------------------------------------------------

    def feature_access(self, user_id: str, deadline: Deadline) -> list[FeatureAccess]:
        """The customer's entitlements now, with usage totals and allowance periods."""
        return self._list("/feature-access", {"customerId": user_id}, FeatureAccess, deadline)

    def track_usage(self, body: str, *, idempotency_key: str, deadline: Deadline) -> TrackedUsage:
        """Sends a usage event. `body` is the JSON stored with the delivery, sent unchanged.

        Tried once. The caller (delivery/sending.py) tries again within the call budget, and must
        know of every attempt whether it may have had an effect.
        """
        call = _Call(
            "POST", "/usage/events", content=body, idempotency_key=idempotency_key, attempts=1
        )
        return self._parse(TrackedUsage, self._send(call, deadline))

    def replace_usage(
        self, body: str, *, idempotency_key: str, deadline: Deadline
    ) -> UsageAdjustment:
        """Replaces the total of a feature in the period that is running, in whole units.

        `body` is the JSON stored with the delivery, sent unchanged. Tried once, as `track_usage`.
        """
        call = _Call("PUT", "/usage", content=body, idempotency_key=idempotency_key, attempts=1)
        return self._parse(UsageAdjustment, self._send(call, deadline))

    def create_portal_session(
        self, *, user_id: str, return_url: str, deadline: Deadline
    ) -> PortalSession:
        """Creates a session of the customer portal."""
        # No idempotency key: an old session must not be returned again, and a spare one does no
        # harm.
        return self._write(
            "/portal/sessions",
            {"customerId": user_id, "returnUrl": return_url},
            PortalSession,
            idempotency_key=None,
            deadline=deadline,
        )

    # --- webhook endpoints --------------------------------------------------------------------

    def webhooks(self, deadline: Deadline) -> list[WebhookEndpoint]:
        """All webhook endpoints of the account, whoever registered them, without secrets."""
        return self._list("/webhooks", {}, WebhookEndpoint, deadline)

    def create_webhook(
        self,
        *,
        url: str,
        events: Sequence[str],
        description: str,
        idempotency_key: str,
        deadline: Deadline,
    ) -> CreatedWebhookEndpoint:
        """Creates a webhook endpoint, active at once. No other answer shows its secret."""
        body = {
            "url": url,
            "events": list(events),
            "description": description,
            "apiVersion": API_VERSION,
        }
        return self._write(
            "/webhooks",
            body,
            CreatedWebhookEndpoint,
            idempotency_key=idempotency_key,
            deadline=deadline,
        )

    def update_webhook(
        self,
        endpoint_id: str,
        *,
        url: str | None = None,
        events: Sequence[str] | None = None,
        is_active: bool | None = None,
        deadline: Deadline,
    ) -> WebhookEndpoint:
        """Changes what is given of a webhook endpoint; returns the endpoint.

        Always sets the API version to this client's, so that the endpoint sends the shapes it
        reads. The secret stays. Switching an endpoint on again does not send what it missed.
        """
        changes = {
            "url": url,
            "events": None if events is None else list(events),
            "isActive": is_active,
            "apiVersion": API_VERSION,
        }
        body = {name: value for name, value in changes.items() if value is not None}
        # No idempotency key: making the same change twice has the same result.
        call = _Call("PATCH", _webhook_path(endpoint_id), content=json.dumps(body))
        return self._parse(WebhookEndpoint, self._send(call, deadline))

    def delete_webhook(self, endpoint_id: str, deadline: Deadline) -> None:
        """Deletes a webhook endpoint; does nothing if there is none."""
        try:
            self._send(_Call("DELETE", _webhook_path(endpoint_id)), deadline)
        except CommetRefused as refused:
            if refused.commet_status != 404:
                raise

    # --- the wire ---------------------------------------------------------------------------

    def _write(
        self,
        path: str,
        body: Mapping[str, Any],
        shape: type[T],
        *,
        idempotency_key: str | None,
        deadline: Deadline,
    ) -> T:
        call = _Call("POST", path, content=json.dumps(body), idempotency_key=idempotency_key)
        return self._parse(shape, self._send(call, deadline))

    def _list(
        self, path: str, params: Mapping[str, str], shape: type[T], deadline: Deadline
    ) -> list[T]:
        items: list[T] = []
        query = dict(params)  # no `limit`: Commet does not document it for every list
        for _ in range(_MAX_PAGES):
            page, cursor = self._page(path, query, deadline)
            items += [self._parse(shape, item) for item in page]
            if cursor is None:
                return items
            query["cursor"] = cursor
        raise CommetUnavailable(nonsense=True)

    def _page(
        self, path: str, query: Mapping[str, str], deadline: Deadline
    ) -> tuple[list[object], str | None]:
        page = self._send(_Call("GET", path, params=dict(query)), deadline)
        if not isinstance(page, dict) or not isinstance(page.get("data"), list):
            raise CommetUnavailable(nonsense=True)
        cursor = str(page["nextCursor"]) if page.get("hasMore") and page.get("nextCursor") else None
        if cursor is not None and cursor == query.get("cursor"):
            raise CommetUnavailable(nonsense=True)  # the same page again, for ever
        return page["data"], cursor

    def _parse(self, shape: type[T], answer: object) -> T:
        if isinstance(answer, dict) and answer.get("livemode") not in (None, self._live):
            raise CommetUnavailable(nonsense=True) from RuntimeError(
                "The API key belongs to Commet's other mode (live/sandbox)."
            )
        try:
            return shape.model_validate(answer)
        except ValidationError as error:
            raise CommetUnavailable(nonsense=True) from error

    def _send(self, call: "_Call", deadline: Deadline) -> Any:
        key = self._key()
        reread = False
        attempt = 1
        while True:
            try:
                reply = self._attempt(call, key, deadline)
            except httpx.HTTPError as error:
                failure = CommetUnavailable()
                failure.__cause__ = error
            else:
                if reply.status == 401 and not reread:
                    key, reread = self._key(fresh=True), True
                    continue
                if 200 <= reply.status < 300:
                    return _json(reply)
                failure = _failure(reply)
                if reply.status == 429 and failure.asked_retry_after is None:
                    raise failure
            pause = self._pause(failure, attempt)
            if attempt >= call.attempts or pause + _MIN_SECONDS > deadline.remaining():
                raise failure
            self._sleep(pause)
            attempt += 1

    def _key(self, *, fresh: bool = False) -> str:
        """The API key. Raises CommetUnavailable if it has characters that no key has.

        The error does not contain the key.
        """
        try:
            key = self._api_key(fresh=fresh).strip()
        except Unavailable as error:
            raise CommetUnavailable from error
        if not _KEY.fullmatch(key):
            raise CommetUnavailable("The billing provider is not set up.") from None
        return key

    def _attempt(self, call: "_Call", key: str, deadline: Deadline) -> "_Reply":
        limit = deadline.within(_ATTEMPT_SECONDS)
        seconds = limit.remaining()
        if seconds < _MIN_SECONDS:
            raise CommetUnavailable
        headers = {"x-api-key": key, "content-type": "application/json"}
        if call.idempotency_key:
            headers["idempotency-key"] = call.idempotency_key
        request = self._http.build_request(
            call.method,
            call.path,
            params=call.params,
            content=None if call.content is None else call.content.encode(),
            headers=headers,
            timeout=httpx.Timeout(seconds, connect=min(_CONNECT_SECONDS, seconds)),
        )
        timed_transport.current.set(limit)
        response = self._http.send(request, stream=True)
        try:
            body = b""
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > _MAX_ANSWER_BYTES:
                    raise CommetUnavailable(nonsense=True)
        finally:
            response.close()
        return _Reply(response.status_code, response.headers, body)

    def _pause(self, failure: CommetUnavailable, attempt: int) -> float:
        if failure.asked_retry_after is not None:
            return float(failure.asked_retry_after)
        return float(0.2 * 2**attempt) * (0.5 + self._jitter() / 2)


def _webhook_path(endpoint_id: str) -> str:
    if not endpoint_id:
        raise ValueError("endpoint_id must not be empty: the path would address the list")
    return f"/webhooks/{quote(endpoint_id, safe='')}"


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    path: str
    params: Mapping[str, str] | None = None
    content: str | None = None
    idempotency_key: str | None = None
    attempts: int = _MAX_ATTEMPTS


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def request_id(self) -> str | None:
        return self.headers.get("x-request-id")


def _json(reply: _Reply) -> Any:
    try:
        return json.loads(reply.body, parse_float=_decimal)
    except (ValueError, RecursionError) as error:
        raise CommetUnavailable(nonsense=True, request_id=reply.request_id) from error


def _decimal(text: str) -> Decimal:
    # A number with a huge exponent takes minutes to convert to an integer.
    if len(text) > 100 or re.search(r"[eE][+-]?\d{3,}", text):
        raise ValueError("number out of range")
    return Decimal(text)


def _failure(reply: _Reply) -> CommetUnavailable:
    """The error for an answer that is not a success, if trying again may help.

    Otherwise raises: CommetRefused for a business answer, CommetUnavailable for nonsense.
    """
    status = reply.status
    request_id = reply.request_id
    code = _error_code(reply)
    if status in (408, 429) or status >= 500 or code == "idempotency_in_progress":
        return CommetUnavailable(
            retry_after=_retry_after(reply), commet_code=code, request_id=request_id
        )
    if code is None:  # not an error of Commet's: a redirect, or a proxy's page
        raise CommetUnavailable(nonsense=True, request_id=request_id)
    raise CommetRefused(code, commet_status=status, request_id=request_id)


def _error_code(reply: _Reply) -> str | None:
    try:
        body = json.loads(reply.body)
        error = body.get("error", body)
        code = error.get("code")
    except (ValueError, AttributeError, RecursionError):
        return None
    return code if isinstance(code, str) else None


def _retry_after(reply: _Reply) -> int | None:
    text = reply.headers.get("retry-after", "")
    # A whole number of seconds, of nine digits at most. A date, zero or nonsense counts as none.
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) and int(text) > 0 else None
