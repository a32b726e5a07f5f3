"""The client for threads. One object serves a whole process."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from usage_billing import requests, settings
from usage_billing.answers import (
    Checked,
    CheckedOut,
    Corrected,
    Entry,
    Held,
    Invoice,
    Spending,
    Subscription,
    Taken,
    User,
)
from usage_billing.problems import BillingError, NotConcluded
from usage_billing.requests import BATCH, Quantity, Usage
from usage_billing.retries import Call, Came, Deadline, Pause, Reply, Steps, Unanswered

T = TypeVar("T")


class _Sender:
    """Does steps over HTTP."""

    def __init__(self, http: httpx.Client, seconds: float) -> None:
        self._http = http
        self._seconds = seconds

    def close(self) -> None:
        self._http.close()

    def until(self) -> Deadline:
        return Deadline(self._seconds)

    def run(self, steps: Steps[T]) -> T:
        came: Came = None
        try:
            while True:
                step = steps.send(came)
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    came = None
                else:
                    came = self._send(step)
        except StopIteration as done:
            result: T = done.value
            return result

    def _send(self, call: Call) -> Reply | Unanswered:
        try:
            answer = self._http.request(
                call.method,
                call.path,
                json=call.body,
                params=dict(call.query) or None,
                timeout=call.timeout,
            )
        except httpx.HTTPError as error:
            return Unanswered(
                f"{type(error).__name__} at {settings.origin(str(self._http.base_url))}"
            )
        return Reply(answer.status_code, answer.headers, answer.content)


class Billing:
    """The billing backend, called with a service key.

    `url` and `key` come from BILLING_URL and BILLING_KEY where they are left out. Every call is
    repeated while the backend cannot be reached or says "later" (429, 503), until `deadline`
    seconds have passed. Then the call raises Problem, or Unreachable if nothing answered.
    402 raises Refused. Safe to use from several threads.
    """

    def __init__(
        self, url: str | None = None, key: str | None = None, *, deadline: float = 30.0
    ) -> None:
        http = httpx.Client(
            base_url=settings.base_url(url), headers=settings.headers(settings.service_key(key))
        )
        self._sender = _Sender(http, deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._sender.close()

    # --- usage ------------------------------------------------------------------------------------

    def report(
        self,
        user_id: str,
        feature: str,
        quantity: Quantity = 1,
        *,
        key: str | None = None,
        occurred_at: datetime | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> Taken:
        """Reports usage. Raises Refused where the user may not use it.

        `key` names your unit of work: reported again with it, the usage is counted once. Without
        one, a key is made for this call and its retries.
        """
        usage = Usage(
            user_id, feature, quantity, key or requests.new_key(), occurred_at, properties or {}
        )
        return self._sender.run(requests.report(usage, self._sender.until()))

    def report_all(self, usage: Iterable[Usage]) -> list[Taken]:
        """Reports many events, each with a verdict of its own, in their order.

        A refused event raises nothing and stops no other. Events are sent by the thousand. If a
        request fails, the exception is raised: report all of them again, with the same keys.
        """
        events = list(usage)
        taken: list[Taken] = []
        for start in range(0, len(events), BATCH):
            batch = events[start : start + BATCH]
            taken += self._sender.run(requests.report_batch(batch, self._sender.until()))
        return taken

    def check(self, user_id: str, feature: str, quantity: Quantity = 1) -> Checked:
        """Whether a quantity may be used now, and what it would cost. Nothing is held."""
        return self._sender.run(requests.check(user_id, feature, quantity, self._sender.until()))

    def reserve(
        self,
        user_id: str,
        feature: str,
        quantity: Quantity = 1,
        *,
        key: str | None = None,
        expires_in: int = 300,
        properties: Mapping[str, str] | None = None,
    ) -> "Reservation":
        """Holds a quantity before the work. Raises Refused where it does not fit.

        >>> with billing.reserve("customer-17", "tokens", 4000, key="job-17") as held:
        ...     used = work()
        ...     held.confirm(used)

        The block releases the quantity when an exception leaves it. `expires_in` is in seconds.
        """
        usage = Usage(
            user_id, feature, quantity, key or requests.new_key(), properties=properties or {}
        )
        return Reservation(
            self._sender,
            self._sender.run(requests.reserve(usage, expires_in, self._sender.until())),
        )

    def correct(
        self,
        user_id: str,
        feature: str,
        quantity: Quantity,
        reason: str,
        *,
        key: str | None = None,
        corrects: str | None = None,
        occurred_at: datetime | None = None,
    ) -> Corrected:
        """Adds a quantity to a user's total; a negative one is taken off it.

        `corrects` is the key of the wrong entry, whose period is corrected; `occurred_at` names a
        time in that period instead.
        """
        usage = Usage(user_id, feature, quantity, key or requests.new_key(), occurred_at)
        return self._sender.run(requests.correct(usage, reason, corrects, self._sender.until()))

    def ledger(
        self,
        user_id: str | None = None,
        feature: str | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        page_size: int = 500,
    ) -> Iterator[Entry]:
        """The ledger's entries in the order of booking, booked in [since, until).

        Pages are read as they are needed. Entries that are booked meanwhile are not among them.
        """
        query = requests.ledger_query(user_id, feature, since, until, page_size)
        cursor: str | None = ""
        while cursor is not None:
            asked = query | ({"cursor": cursor} if cursor else {})
            entries, cursor = self._sender.run(requests.ledger_page(asked, self._sender.until()))
            yield from entries

    # --- routes of your own -----------------------------------------------------------------------

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The JSON object that a route of your own answers (`make function`).

        One attempt may take 30 seconds, as long as API Gateway waits. The call is repeated like all
        others: send an `idempotency_key` with what must count once.
        """
        return self._sender.run(requests.call(method, path, body, query, self._sender.until()))

    # --- users and billing ------------------------------------------------------------------------

    def register(self, user_id: str, email: str, name: str | None = None) -> User:
        """Registers a user of the product under the product's own id, or changes the user."""
        return self._sender.run(requests.register(user_id, email, name, self._sender.until()))

    def erase(self, user_id: str) -> None:
        """Erases a user. Name and address go at once."""
        self._sender.run(requests.erase(user_id, self._sender.until()))

    def dashboard(self, user_id: str) -> dict[str, Any]:
        """What the user has, has used and owes, as the API answers it."""
        return self._sender.run(requests.dashboard(user_id, self._sender.until()))

    def plans(self) -> list[dict[str, Any]]:
        """The plans on sale, as the API answers them."""
        return self._sender.run(requests.plans(self._sender.until()))

    def check_out(
        self,
        user_id: str,
        plan_code: str,
        *,
        billing_interval: str | None = None,
        success_url: str | None = None,
        confirmation: str | None = None,
    ) -> CheckedOut:
        """Starts a checkout for a user; send the user's browser to its `url`.

        For a user who has a subscription the answer shows the change of plan, and the same call
        with its `confirmation` performs the change. Raises Refused `debt_open` for a debtor.
        """
        steps = requests.check_out(
            user_id,
            plan_code,
            self._sender.until(),
            billing_interval=billing_interval,
            success_url=success_url,
            confirmation=confirmation,
        )
        return self._sender.run(steps)

    def portal(self, user_id: str, *, return_url: str | None = None) -> str:
        """The address of Commet's portal for the user, good for 30 minutes."""
        return self._sender.run(requests.portal(user_id, return_url, self._sender.until()))

    def recovery(self, user_id: str) -> str:
        """The address on which the user pays an overdue payment."""
        return self._sender.run(requests.recovery(user_id, self._sender.until()))

    def cancel(self, user_id: str, *, immediate: bool = False) -> Subscription:
        """Cancels at the end of the paid period, or at once."""
        return self._sender.run(requests.cancel(user_id, self._sender.until(), immediate=immediate))

    def keep(self, user_id: str) -> Subscription:
        """Takes back a cancellation that has not happened yet."""
        return self._sender.run(requests.keep(user_id, self._sender.until()))

    def limit_spending(self, user_id: str, limit: Quantity | None) -> Spending | None:
        """Limits what the user's overage may cost in a period, in major units. None: default."""
        return self._sender.run(requests.limit_spending(user_id, limit, self._sender.until()))

    def invoices(self, user_id: str) -> Iterator[Invoice]:
        """The user's invoices, the newest first."""
        cursor: str | None = ""
        while cursor is not None:
            asked = {"user_id": user_id} | ({"cursor": cursor} if cursor else {})
            invoices, cursor = self._sender.run(requests.invoice_page(asked, self._sender.until()))
            yield from invoices


class Reservation:
    """A quantity that is held for one unit of work. As a `with` block it never stays held.

    `held` is what the API said last.
    """

    def __init__(self, sender: _Sender, held: Held) -> None:
        self._sender = sender
        self.held = held

    def confirm(self, quantity: Quantity | None = None) -> Held:
        """Books the quantity that the work took; all of it if none is named.

        Raises Refused if more was used than is held, and more does not fit.
        """
        self.held = self._sender.run(requests.confirm(self.held.id, quantity, self._sender.until()))
        return self.held

    def release(self) -> Held:
        """Ends the reservation without booking anything."""
        self.held = self._sender.run(requests.release(self.held.id, self._sender.until()))
        return self.held

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.held.state in ("confirmed", "released"):
            return
        if error is not None:
            # The error of the block is what the caller has to see. A reservation that is not
            # released expires.
            with suppress(BillingError):
                self.release()
            return
        self.release()
        raise NotConcluded("Say what was used: confirm the reservation, or release it.")
