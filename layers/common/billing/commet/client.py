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

from billing import timed_transport
from billing.commet.answers import (
    Answer,
    CreatedWebhookEndpoint,
    Customer,
    DownloadLink,
    FeatureAccess,
    Invoice,
    InvoiceSummary,
    IssuedInvoice,
    IssuedInvoiceDetail,
    Payment,
    Plan,
    PlanChange,
    PlanChangePreview,
    PortalSession,
    RecoveryLink,
    Refund,
    Subscription,
    TrackedUsage,
    Transaction,
    UsageAdjustment,
    WebhookEndpoint,
)
from billing.commet.webhook_fields import MADE_FOR
from billing.deadline import Deadline
from billing.errors import CommetRefused, CommetUnavailable, Unavailable

API_VERSION = "2026-08-27"

# The system's random numbers. Lambda environments that are restored from one snapshot would share
# the state of any other generator.
_chance = SystemRandom().random

# The form of an API key. If httpx refused a key with other characters, its error message would
# quote the key.
_KEY = re.compile(r"[!-~]{1,500}")

_MAX_ATTEMPTS = 3
_ATTEMPT_SECONDS = 8.0  # longer than Commet takes, shorter than a client of API Gateway waits
_CONNECT_SECONDS = 3.0
_MIN_SECONDS = 0.05  # with less time left, no call is started
_MAX_PAGES = 50
_MAX_ANSWER_BYTES = 10_000_000

T = TypeVar("T", bound=Answer)

# httpx logs every request with its whole URL at INFO, and Lambda would print it.
logging.getLogger("httpx").setLevel(logging.WARNING)


class ApiKey(Protocol):
    """Returns the API key. With `fresh`, reads the secret again first. Raises Unavailable."""

    def __call__(self, *, fresh: bool = False) -> str: ...


class Commet:
    """Calls Commet. Every method may raise CommetRefused or CommetUnavailable.

    `live`: answers must come from the live mode (True) or from the sandbox (False). `transport`,
    `sleep` and `jitter` are for tests. `sent` is the number of HTTP requests so far, retries
    included.
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
        self.sent = 0
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
        """Creates the customer with our id, or returns the existing one.

        Commet may return somebody else's customer that has the same address, and give it our id.
        `Customer.is_ours` is true only for a customer that this method created.
        """
        body: dict[str, object] = {"id": user_id, "email": email, "metadata": {MADE_FOR: user_id}}
        if name:
            body["fullName"] = name
        # No idempotency key, because Commet is idempotent on `id`. With a key, Commet would refuse
        # the same user with a changed name as a mismatch.
        return self._write("/customers", body, Customer, idempotency_key=None, deadline=deadline)

    def customer(self, customer_id: str, deadline: Deadline) -> Customer:
        """Returns the customer with this id of Commet's. Raises ValueError for an empty id."""
        call = Call("GET", _path("customers", customer_id))
        return self._parse(Customer, self._send(call, deadline))

    def update_customer(
        self, customer_id: str, *, external_id: str | None, deadline: Deadline
    ) -> Customer:
        """Gives a customer this id of ours, or none. `customer_id` is Commet's own id."""
        # No idempotency key: making the same change twice has the same result.
        body = json.dumps({"externalId": external_id})
        call = Call("PATCH", _path("customers", customer_id), content=body)
        return self._parse(Customer, self._send(call, deadline))

    def update_contact(
        self, customer_id: str, *, email: str, name: str | None, deadline: Deadline
    ) -> Customer:
        """Gives a customer this address, and this name unless it is None.

        `customer_id` is Commet's own id. Raises CommetRefused `duplicate` if another customer has
        the address and Commet allows each address only once.
        """
        # No idempotency key: making the same change twice has the same result.
        body = {"email": email} | ({"fullName": name} if name else {})
        call = Call("PATCH", _path("customers", customer_id), content=json.dumps(body))
        return self._parse(Customer, self._send(call, deadline))

    def find_customer(self, user_id: str, deadline: Deadline) -> Customer | None:
        """Returns the customer with our id; None if there is none.

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
        skip_trial: bool = False,
    ) -> Subscription:
        """Creates a subscription, to be paid at its `checkout_url`. A free one is active at once.

        `skip_trial`: it has no trial, even if the plan has one.
        """
        body: dict[str, object] = {
            "customerId": user_id,
            "planCode": plan_code,
            "successUrl": success_url,
        }
        if skip_trial:
            body["skipTrial"] = True
        if billing_interval:
            body["billingInterval"] = billing_interval
        return self._write(
            "/subscriptions", body, Subscription, idempotency_key=idempotency_key, deadline=deadline
        )

    def subscription(self, subscription_id: str, deadline: Deadline) -> Subscription:
        """Returns one subscription, whatever its status."""
        path = f"/subscriptions/{quote(subscription_id, safe='')}"
        return self._parse(Subscription, self._send(Call("GET", path), deadline))

    def list_subscriptions(
        self, *, status: str, cursor: str | None, deadline: Deadline
    ) -> tuple[list[Subscription], str | None]:
        """Returns a page of all customers' subscriptions in this status, and the next page's
        cursor.

        The cursor is None on the last page. A subscription that cannot be read is left out, so that
        the others can still be read.
        """
        query = {"status": status} | ({"cursor": cursor} if cursor else {})
        items, following = self._page("/subscriptions", query, deadline)
        readable = []
        for item in items:
            with suppress(CommetUnavailable):
                readable.append(self._parse(Subscription, item))
        return readable, following

    def active_subscription(self, user_id: str, deadline: Deadline) -> Subscription | None:
        """Returns the subscription that Commet calls active; it may be unpaid. None if there is
        none.
        """
        call = Call("GET", "/subscriptions/active", params={"customerId": user_id})
        answer = self._send(call, deadline)
        return None if answer is None else self._parse(Subscription, answer)

    def preview_plan_change(
        self,
        subscription_id: str,
        *,
        plan_id: str,
        billing_interval: str | None,
        deadline: Deadline,
    ) -> PlanChangePreview:
        """Returns what changing the plan now would cost.

        Raises CommetRefused `plan_change_scheduled` for a change that waits for the period's end.
        """
        body = {"planId": plan_id}
        if billing_interval:
            body["billingInterval"] = billing_interval
        path = f"{_path('subscriptions', subscription_id)}/preview-change"
        # No idempotency key: nothing is written, and an old preview must not be returned again.
        return self._write(path, body, PlanChangePreview, idempotency_key=None, deadline=deadline)

    def change_plan(
        self,
        subscription_id: str,
        *,
        plan_id: str,
        billing_interval: str | None,
        success_url: str | None,
        idempotency_key: str | None,
        deadline: Deadline,
    ) -> PlanChange:
        """Changes the plan now, books the change, or begins the checkout that the change needs.

        A call without an idempotency key is only for a change that a checkout completes: if it is
        repeated, Commet answers with the newest link.
        """
        body = {"newPlanId": plan_id}
        if billing_interval:
            body["newBillingInterval"] = billing_interval
        if success_url:
            body["successUrl"] = success_url
        path = f"{_path('subscriptions', subscription_id)}/change-plan"
        return self._write(
            path, body, PlanChange, idempotency_key=idempotency_key, deadline=deadline
        )

    def cancel_subscription(
        self, subscription_id: str, *, immediate: bool, deadline: Deadline
    ) -> Subscription:
        """Cancels now or at the end of the period. Commet cancels a free or unpaid one at once."""
        path = f"{_path('subscriptions', subscription_id)}/cancel"
        body = {"immediate": immediate}
        # No idempotency key: canceling twice has the same result.
        return self._write(path, body, Subscription, idempotency_key=None, deadline=deadline)

    def uncancel_subscription(self, subscription_id: str, deadline: Deadline) -> Subscription:
        """Undoes a scheduled cancellation."""
        path = f"{_path('subscriptions', subscription_id)}/uncancel"
        return self._write(path, {}, Subscription, idempotency_key=None, deadline=deadline)

    # --- access, usage, portal --------------------------------------------------------------

    def feature_access(self, user_id: str, deadline: Deadline) -> list[FeatureAccess]:
        """Returns the customer's entitlements now, with usage totals and allowance periods."""
        return self._list("/feature-access", {"customerId": user_id}, FeatureAccess, deadline)

    def track_usage(self, body: str, *, idempotency_key: str, deadline: Deadline) -> TrackedUsage:
        """Sends a usage event. `body` is the JSON that is stored with the delivery, unchanged.

        The call is tried once. The caller (delivery/sending.py) tries again within the call budget,
        because it must know of every attempt whether it may have had an effect.
        """
        call = Call(
            "POST", "/usage/events", content=body, idempotency_key=idempotency_key, attempts=1
        )
        return self._parse(TrackedUsage, self._send(call, deadline))

    def replace_usage(
        self, body: str, *, idempotency_key: str, deadline: Deadline
    ) -> UsageAdjustment:
        """Replaces the total of a feature in the period that is running, in whole units.

        `body` is the JSON that is stored with the delivery, unchanged. Tried once, like
        `track_usage`.
        """
        call = Call("PUT", "/usage", content=body, idempotency_key=idempotency_key, attempts=1)
        return self._parse(UsageAdjustment, self._send(call, deadline))

    def create_portal_session(
        self, *, user_id: str, return_url: str, deadline: Deadline
    ) -> PortalSession:
        """Creates a session of the customer portal."""
        # No idempotency key, because an old session must not be returned again, and an additional
        # session does no harm.
        return self._write(
            "/portal/sessions",
            {"customerId": user_id, "returnUrl": return_url},
            PortalSession,
            idempotency_key=None,
            deadline=deadline,
        )

    # --- invoices and payments ---------------------------------------------------------------

    def transaction(self, transaction_id: str, deadline: Deadline) -> Transaction:
        """One attempt to take money. Raises ValueError for an empty id."""
        path = _path("transactions", transaction_id)
        return self._parse(Transaction, self._send(Call("GET", path), deadline))

    def invoices(self, subscription_id: str, deadline: Deadline) -> list[InvoiceSummary]:
        """The invoices of a subscription, without their lines.

        Raises ValueError for an empty id.
        """
        if not subscription_id:
            raise ValueError("subscription_id must not be empty: Commet would list all invoices")
        query = {"subscriptionId": subscription_id}
        return self._list("/invoices", query, InvoiceSummary, deadline)

    def invoice(self, invoice_id: str, deadline: Deadline) -> Invoice:
        """One invoice with its lines."""
        return self._parse(
            Invoice, self._send(Call("GET", _path("invoices", invoice_id)), deadline)
        )

    def invoices_of_customer(
        self, user_id: str, *, cursor: str | None, deadline: Deadline
    ) -> tuple[list[IssuedInvoice], str | None]:
        """A page of a customer's invoices, newest first, and the cursor of the next page.

        Raises ValueError for an empty id.
        """
        if not user_id:
            raise ValueError("user_id must not be empty: Commet would list all invoices")
        query = {"customerId": user_id} | ({"cursor": cursor} if cursor else {})
        items, following = self._page("/invoices", query, deadline)
        return [self._parse(IssuedInvoice, item) for item in items], following

    def issued_invoice(self, invoice_id: str, deadline: Deadline) -> IssuedInvoiceDetail:
        """One invoice with its lines, as it is shown to the customer."""
        path = _path("invoices", invoice_id)
        return self._parse(IssuedInvoiceDetail, self._send(Call("GET", path), deadline))

    def invoice_download(self, invoice_id: str, deadline: Deadline) -> DownloadLink:
        """Returns the address of an invoice's PDF, which is valid for a week."""
        path = f"{_path('invoices', invoice_id)}/download-links"
        return self._write(path, {}, DownloadLink, idempotency_key=None, deadline=deadline)

    def create_payment(
        self,
        *,
        user_id: str,
        amount: int,
        currency: str,
        description: str,
        success_url: str,
        idempotency_key: str,
        deadline: Deadline,
    ) -> Payment:
        """Creates a payment link for `amount` minor units, to which Commet adds tax."""
        body = {
            "customerId": user_id,
            "amount": amount,
            "currency": currency,
            "description": description,
            "successUrl": success_url,
        }
        return self._write(
            "/payments", body, Payment, idempotency_key=idempotency_key, deadline=deadline
        )

    def payment(self, payment_id: str, deadline: Deadline) -> Payment:
        """One payment link or charge."""
        return self._parse(
            Payment, self._send(Call("GET", _path("payments", payment_id)), deadline)
        )

    def cancel_payment(self, payment_id: str, deadline: Deadline) -> Payment:
        """Cancels a payment link. A link that is canceled already remains so.

        Raises CommetRefused `payment_not_cancelable` if somebody has tried to pay the link.
        """
        path = f"{_path('payments', payment_id)}/cancel"
        return self._write(path, {}, Payment, idempotency_key=None, deadline=deadline)

    def create_recovery_link(self, subscription_id: str, deadline: Deadline) -> RecoveryLink:
        """Returns the page on which the open invoice of a past due subscription is paid."""
        path = f"{_path('subscriptions', subscription_id)}/recovery-links"
        # No idempotency key, because a dead link must not be returned again.
        return self._write(path, {}, RecoveryLink, idempotency_key=None, deadline=deadline)

    def refund(self, transaction_id: str, deadline: Deadline) -> Refund:
        """Refunds a whole transaction. The refund is final only with the webhook
        `payment.refunded`.
        """
        path = f"{_path('transactions', transaction_id)}/refund"
        key = f"refund:{transaction_id}"
        return self._write(path, {}, Refund, idempotency_key=key, deadline=deadline)

    # --- webhook endpoints --------------------------------------------------------------------

    def webhooks(self, deadline: Deadline) -> list[WebhookEndpoint]:
        """Returns all webhook endpoints of the account, whoever registered them, without
        secrets.
        """
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
        """Creates a webhook endpoint, which is active at once. Only this answer contains its
        secret.
        """
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
        """Changes the given fields of a webhook endpoint. Returns the endpoint.

        Always sets the API version to this client's version, so that webhooks have the fields that
        we read. The secret does not change. If a disabled endpoint becomes active again, Commet
        does not send the webhooks that it missed.
        """
        changes = {
            "url": url,
            "events": None if events is None else list(events),
            "isActive": is_active,
            "apiVersion": API_VERSION,
        }
        body = {name: value for name, value in changes.items() if value is not None}
        # No idempotency key: making the same change twice has the same result.
        call = Call("PATCH", _path("webhooks", endpoint_id), content=json.dumps(body))
        return self._parse(WebhookEndpoint, self._send(call, deadline))

    def delete_webhook(self, endpoint_id: str, deadline: Deadline) -> None:
        """Deletes a webhook endpoint; does nothing if there is none."""
        try:
            self._send(Call("DELETE", _path("webhooks", endpoint_id)), deadline)
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
        call = Call("POST", path, content=json.dumps(body), idempotency_key=idempotency_key)
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
        page = self._send(Call("GET", path, params=dict(query)), deadline)
        if not isinstance(page, dict) or not isinstance(page.get("data"), list):
            raise CommetUnavailable(nonsense=True)
        cursor = str(page["nextCursor"]) if page.get("hasMore") and page.get("nextCursor") else None
        if cursor is not None and cursor == query.get("cursor"):
            raise CommetUnavailable(nonsense=True)  # the same page again, which would never end
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

    def _send(self, call: "Call", deadline: Deadline) -> Any:
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
        """Returns the API key. Raises CommetUnavailable if it has characters that no key has.

        The error does not contain the key.
        """
        try:
            key = self._api_key(fresh=fresh).strip()
        except Unavailable as error:
            raise CommetUnavailable from error
        if not _KEY.fullmatch(key):
            raise CommetUnavailable("The billing provider is not set up.") from None
        return key

    def _attempt(self, call: "Call", key: str, deadline: Deadline) -> "Reply":
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
        self.sent += 1
        response = self._http.send(request, stream=True)
        try:
            body = b""
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > _MAX_ANSWER_BYTES:
                    raise CommetUnavailable(nonsense=True)
        finally:
            response.close()
        return Reply(response.status_code, response.headers, body)

    def _pause(self, failure: CommetUnavailable, attempt: int) -> float:
        if failure.asked_retry_after is not None:
            return float(failure.asked_retry_after)
        return float(0.2 * 2**attempt) * (0.5 + self._jitter() / 2)


def _path(of: str, object_id: str) -> str:
    if not object_id:
        raise ValueError("The id must not be empty: the path would address the list")
    return f"/{of}/{quote(object_id, safe='')}"


@dataclass(frozen=True, slots=True)
class Call:
    method: str
    path: str
    params: Mapping[str, str] | None = None
    content: str | None = None
    idempotency_key: str | None = None
    attempts: int = _MAX_ATTEMPTS


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def request_id(self) -> str | None:
        return self.headers.get("x-request-id")


def _json(reply: Reply) -> Any:
    try:
        return json.loads(reply.body, parse_float=_decimal)
    except (ValueError, RecursionError) as error:
        raise CommetUnavailable(nonsense=True, request_id=reply.request_id) from error


def _decimal(text: str) -> Decimal:
    # Converting a number with a huge exponent to an integer takes minutes.
    if len(text) > 100 or re.search(r"[eE][+-]?\d{3,}", text):
        raise ValueError("number out of range")
    return Decimal(text)


def _failure(reply: Reply) -> CommetUnavailable:
    """Returns the error for an answer that is not a success, if trying again may help.

    Otherwise raises CommetRefused for a business answer, or CommetUnavailable for nonsense.
    """
    status = reply.status
    request_id = reply.request_id
    code = _error_code(reply)
    if status in (408, 429) or status >= 500 or code == "idempotency_in_progress":
        return CommetUnavailable(
            retry_after=_retry_after(reply), commet_code=code, request_id=request_id
        )
    if code is None:  # not an error of Commet's API, but a redirect or a proxy's page
        raise CommetUnavailable(nonsense=True, request_id=request_id)
    raise CommetRefused(code, commet_status=status, request_id=request_id)


def _error_code(reply: Reply) -> str | None:
    try:
        body = json.loads(reply.body)
        error = body.get("error", body)
        code = error.get("code")
    except (ValueError, AttributeError, RecursionError):
        return None
    return code if isinstance(code, str) else None


def _retry_after(reply: Reply) -> int | None:
    text = reply.headers.get("retry-after", "")
    # Accepts whole seconds of nine digits at most. A date, zero or nonsense counts as none.
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) and int(text) > 0 else None
