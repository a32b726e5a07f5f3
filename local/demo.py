"""The demo: plays one customer's whole story through HTTP and prints a line for each step.

The demo signs up and pays as a person, reports usage as a product's backend, and moves Commet's
test clock. It uses only the API, Commet's hosted pages and Commet's API. The exit code says whether
every step ended as expected.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

import httpx
from rich.console import Console
from rich.markup import escape

from local.receiver import Receiver

GOOD_CARD = {"card_number": "4242 4242 4242 4242", "expiry": "12/34", "cvc": "123"}
BAD_CARD = GOOD_CARD | {"card_number": "4000 0000 0000 0002"}

T = TypeVar("T")

_POLL_SECONDS = 0.05
_LINK = re.compile(r"/verify-email\?token=(?P<token>[\w.~-]+)")


class StepFailed(Exception):
    """A step did not end as expected."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses and keys that the demo needs, as in `stack.json`."""

    api: str
    commet: str
    commet_api_key: str
    service_key: str
    # The mailbox, which receives the mail with the link that confirms an email address. If mails
    # cannot be read, `confirm` confirms the address of the user with this id in another way.
    mailbox: str | None = None
    confirm: Callable[[str], object] = lambda _: None
    # True: the stack posts events to this machine, so that the demo can receive some.
    posts_here: bool = False


def main(
    addresses: Addresses,
    console: Console | None = None,
    *,
    patience_seconds: float = 15.0,
    run_schedule: Callable[[str], None] | None = None,
) -> int:
    """Plays the story. Returns 0 if every step ended as expected, else 1.

    A step waits up to `patience_seconds` for the expected state. `run_schedule` is called with the
    name of the scheduled function that a step needs. Without `run_schedule`, the stack's schedules
    have to fire.
    """
    console = console or Console(highlight=False)
    story = Story(addresses, console, patience_seconds, run_schedule or (lambda _: None))
    began = time.monotonic()
    try:
        story.tell()
    except (StepFailed, httpx.HTTPError, LookupError, TypeError, ValueError) as error:
        console.print(f"\n[bold red]Not as expected:[/] {escape(str(error) or repr(error))}")
        return 1
    finally:
        story.close()
    took = time.monotonic() - began
    console.print(f"\n[bold green]Every step ended as expected[/], in {took:.1f} s.")
    return 0


class Story:
    """One customer's life, from sign-up to losing access."""

    def __init__(
        self,
        addresses: Addresses,
        console: Console,
        patience_seconds: float,
        run_schedule: Callable[[str], None],
    ) -> None:
        self._console = console
        self._patience_seconds = patience_seconds
        self._run_schedule = run_schedule
        timeout = max(30.0, patience_seconds)
        self._api = httpx.Client(base_url=addresses.api, timeout=timeout, trust_env=False)
        self._backend = httpx.Client(
            base_url=addresses.api,
            timeout=timeout,
            trust_env=False,
            headers={"authorization": f"Bearer {addresses.service_key}"},
        )
        self._browser = httpx.Client(timeout=30, trust_env=False)
        self._commet = httpx.Client(
            base_url=addresses.commet.rstrip("/"),
            timeout=60,
            trust_env=False,
            headers={"x-api-key": addresses.commet_api_key},
        )
        self._login = {
            "email": f"ana-{time.time_ns()}@example.com",
            "password": "a long walk home",
        }
        self._number = 0
        self._user_id = ""
        self._receiver = Receiver().__enter__() if addresses.posts_here else None
        self._mailbox = addresses.mailbox
        self._confirm = addresses.confirm

    def close(self) -> None:
        """Closes all connections, and stops listening for events."""
        if self._receiver:
            self._receiver.close()
        for client in (self._api, self._backend, self._browser, self._commet):
            client.close()

    def tell(self) -> None:
        """Plays all steps. Raises StepFailed at the first one that fails."""
        if self._receiver:
            self._listen(self._receiver)
        self._sign_up()
        self._see_plans()
        self._use_before_paying()
        checkout_url = self._check_out()
        self._pay(checkout_url)
        self._get_access()
        if self._receiver:
            self._hear(self._receiver, "access.granted")
        self._use()
        self._see_cost()
        self._delivered()
        self._cancel()
        self._lose_access()
        self._final_bill()

    # --- the steps --------------------------------------------------------------------------

    def _listen(self, receiver: Receiver) -> None:
        with self._step("Ask for events") as say:
            body = {"url": receiver.url, "description": "make demo"}
            made = _expect(self._backend.post("/events/endpoints", json=body), 201)
            receiver.secret = made["secret"]
            say(f"{made['id']} is posted to {made['url']}")

    def _sign_up(self) -> None:
        with self._step("Sign up") as say:
            body = _expect(self._api.post("/signup", json=self._login | {"name": "Ana"}), 201)
            self._user_id = body["user"]["id"]
            self._keep_session(body)
            say(f"{self._login['email']} is {self._user_id}")
        with self._step("Confirm the address") as say:
            refused = _expect(self._api.post("/checkout", json={"plan_code": "usage_pro"}), 403)
            _is(refused["code"], "email_unverified")
            if self._mailbox:
                _expect(self._api.post("/email/verify", json={"token": self._mailed_token()}), 200)
            else:
                self._confirm(self._user_id)
            account = _expect(self._api.get("/account"), 200)["account"]
            _check(account["email_verified"], "the address is not confirmed")
            how = "by the link in the mail" if self._mailbox else "by an operator"
            say(f"{how}; before, there is no checkout")

    def _see_plans(self) -> None:
        with self._step("See the plans") as say:
            plans = {p["code"]: p for p in _expect(self._api.get("/plans"), 200)["plans"]}
            pro = plans["usage_pro"]
            price = next(p for p in pro["prices"] if p["interval"] == "monthly")
            storage = next(f for f in pro["features"] if f["code"] == "storage")
            _is(price["amount"], "29.00")
            _is(storage["included"], "100")
            say(
                f"{len(plans)} plans; {pro['name']}: ${price['amount']} a month, "
                f"{storage['included']} {storage['unit']} included, "
                f"${storage['overage']['unit_price']} for each further {storage['unit']}"
            )

    def _use_before_paying(self) -> None:
        with self._step("Use it before paying") as say:
            problem = _expect(self._report("too-early", 1), 402)
            say(f"refused: {problem['code']}")

    def _check_out(self) -> str:
        with self._step("Check out") as say:
            body = _expect(self._api.post("/checkout", json={"plan_code": "usage_pro"}), 201)
            again = _expect(self._api.post("/checkout", json={"plan_code": "usage_pro"}), 200)
            _is(again["subscription"]["id"], body["subscription"]["id"])
            say(f"{body['subscription']['id']} waits for payment; a second request changes nothing")
            return str(body["checkout_url"])

    def _pay(self, checkout_url: str) -> None:
        with self._step("Pay with a card that is declined") as say:
            page = self._browser.post(checkout_url, data=BAD_CARD)
            _is(page.status_code, 402)
            _check(not self._dashboard()["access"], "there is access without payment")
            say("the page shows it, and there is no access")
        with self._step("Pay with a good card") as say:
            page = self._browser.post(checkout_url, data=GOOD_CARD)
            _check(page.is_redirect, f"the checkout answered {page.status_code}")
            say(f"the page leads back to {page.headers['location']}")

    def _get_access(self) -> None:
        with self._step("Get access by webhook") as say:
            # If no webhook came, the dashboard asks Commet. So access alone does not prove that the
            # webhooks arrived.
            accepted = len(self._until(self._webhooks, _are_accepted))
            # Access, entitlements and the period come in several webhooks, in any order.
            board = self._until(
                self._dashboard,
                lambda board: bool(
                    board["access"] and board["usage"] and board["subscription"]["current_period"]
                ),
            )
            period = board["subscription"]["current_period"]
            say(
                f"{board['subscription']['plan']['name']} until {period['end'][:10]}; "
                f"{accepted} webhooks accepted"
            )

    def _hear(self, receiver: Receiver, type_: str) -> None:
        with self._step(f"Hear of it: {type_}") as say:
            self._run_schedule("SendEventsFunction")
            wanted = (type_, self._user_id)
            (event,) = self._until(
                lambda: [e for e in receiver.events() if (e["type"], e["subject"]) == wanted], bool
            )
            say(f"the signature is right; event {event['sequence']} of {event['subject']}")

    def _use(self) -> None:
        with self._step("Use 90 GB, then 40 GB") as say:
            _expect(self._report("upload-1", 90), 202)
            _expect(self._report("upload-2", 40), 202)
            say("accepted")
        with self._step("Report the second upload again") as say:
            repeated = _expect(self._report("upload-2", 40), 200)
            _is(repeated["duplicates"], 1)
            say("a duplicate: counted once")

    def _see_cost(self) -> None:
        with self._step("See usage and cost") as say:
            (storage,) = self._dashboard()["usage"]
            _is(storage["used"], "130")
            _is(storage["overage"]["quantity"], "30")
            _is(storage["overage"]["cost"], "3.00")
            say(_cost_line(storage))

    def _delivered(self) -> None:
        with self._step("Deliver the usage to Commet") as say:
            self._run_schedule("DeliverUsageFunction")
            used = self._until(self._units_at_commet, lambda units: units == Decimal(130))
            say(f"Commet counts {used} GB")

    def _cancel(self) -> None:
        with self._step("Cancel in the portal") as say:
            url = _expect(self._api.post("/portal", json={}), 201)["portal_url"]
            _is(self._browser.get(url).status_code, 200)
            page = self._browser.post(f"{url}/cancel", data={"when": "period_end"})
            _check(page.status_code < 400, f"the portal answered {page.status_code}")
            board = self._until(
                self._dashboard, lambda board: bool(board["subscription"]["cancel_at_period_end"])
            )
            _check(board["access"], "access ended before the period did")
            say(f"access stays until {board['subscription']['current_period']['end'][:10]}")

    def _lose_access(self) -> None:
        with self._step("A month goes by") as say:
            run = self._commet.post("/test-clock", json={"advanceDays": 32})
            _expect(run, 202)
            now = self._until(
                self._clock, lambda clock: clock["latestRun"]["status"] == "completed"
            )
            say(f"Commet's test clock says {now['now'][:10]}")
        with self._step("Sign in again") as say:
            self._keep_session(_expect(self._api.post("/login", json=self._login), 200))
            say("the old session had expired")
        with self._step("Lose access") as say:
            self._run_schedule("ReconcileFunction")
            board = self._until(self._dashboard, lambda board: not board["access"])
            problem = _expect(self._report("too-late", 1), 402)
            say(f"{board['subscription']['status']}; usage is refused: {problem['code']}")

    def _final_bill(self) -> None:
        with self._step("Read Commet's invoices") as say:
            invoices = _expect(
                self._commet.get("/invoices", params={"customerId": self._user_id}), 200
            )["data"]
            overage = Decimal(0)
            for invoice in invoices:
                detail = _expect(self._commet.get(f"/invoices/{invoice['id']}"), 200)
                overage += sum(
                    Decimal(line["amount"])
                    for line in detail["lineItems"]
                    if line["lineType"] == "feature_overage"
                )
            _is(overage, Decimal(300))
            say("130 GB used: 30 GB over, $3.00")

    def _keep_session(self, body: dict[str, Any]) -> None:
        self._api.headers["authorization"] = f"Bearer {body['session']['token']}"

    # --- requests -----------------------------------------------------------------------------

    def _report(self, key: str, quantity: int) -> httpx.Response:
        return self._backend.post(
            "/usage",
            json={
                "user_id": self._user_id,
                "feature": "storage",
                "quantity": str(quantity),
                "idempotency_key": key,
            },
        )

    def _dashboard(self) -> dict[str, Any]:
        return _expect(self._api.get("/dashboard"), 200)

    def _mailed_token(self) -> str:
        """The token of the newest link in the mailbox that confirms the address."""
        self._run_schedule("SendMailFunction")
        mails = self._until(self._mails, bool)
        link = _LINK.search(mails[0]["text"])
        if link is None:
            raise StepFailed(f"the mail has no link: {mails[0]['text']!r}")
        return link["token"]

    def _mails(self) -> list[dict[str, Any]]:
        answer = self._browser.get(
            str(self._mailbox),
            params={"to": self._login["email"]},
            headers={"accept": "application/json"},
        )
        mails: list[dict[str, Any]] = _expect(answer, 200)["mails"]
        return mails

    def _units_at_commet(self) -> Decimal:
        answer = self._commet.get("/feature-access/storage", params={"customerId": self._user_id})
        return Decimal(str(_expect(answer, 200)["consumption"]["unitsUsed"]))

    def _clock(self) -> dict[str, Any]:
        return _expect(self._commet.get("/test-clock"), 200)

    def _webhooks(self) -> list[dict[str, Any]]:
        """Returns the webhooks that the stand-in has sent about this user, with each attempt's
        answer.
        """
        origin = str(self._commet.base_url).partition("/api/")[0]
        customer = _expect(self._commet.get(f"{origin}/_standin/customers/{self._user_id}"), 200)
        events = {event["id"] for event in customer["events"]}
        answer = self._commet.get(f"{origin}/_standin/deliveries", params={"limit": 1000})
        return [d for d in _expect(answer, 200)["data"] if d["event_id"] in events]

    def _until(self, ask: Callable[[], T], is_expected: Callable[[T], bool]) -> T:
        """Calls `ask` until it returns an expected value. Raises StepFailed when the time is
        over.
        """
        deadline = time.monotonic() + self._patience_seconds
        while not is_expected(found := ask()):
            if time.monotonic() > deadline:
                raise StepFailed(f"after {self._patience_seconds:.0f} s still {found!r}")
            time.sleep(_POLL_SECONDS)
        return found

    @contextmanager
    def _step(self, title: str) -> Iterator[Callable[[str], None]]:
        self._number += 1
        said: list[str] = []
        began = time.monotonic()
        label = f"{self._number:2}  {title}"
        try:
            yield said.append
        except Exception:
            self._console.print(f"[red]✗[/] {label}")
            raise
        took = f"{(time.monotonic() - began) * 1000:.0f} ms"
        self._console.print(
            f"[green]✓[/] {label:36} {escape('; '.join(said))} [dim]({took})[/]", soft_wrap=True
        )


def _cost_line(usage: dict[str, Any]) -> str:
    overage = usage["overage"]
    return (
        f"{usage['used']} {usage['unit']} used: {overage['quantity']} {usage['unit']} over, "
        f"${overage['cost']}"
    )


def _are_accepted(webhooks: list[dict[str, Any]]) -> bool:
    """Returns whether there are webhooks, and all were delivered. Raises StepFailed for a
    refused one.
    """
    for each in webhooks:
        refused = [a["status"] for a in each["attempts"] if a["status"] in {400, 401, 403, 413}]
        if refused:
            raise StepFailed(f"the webhook {each['event_name']} was refused: {refused}")
    return bool(webhooks) and all(each["status"] == "delivered" for each in webhooks)


def _expect(answer: httpx.Response, status: int) -> dict[str, Any]:
    if answer.status_code != status:
        raise StepFailed(
            f"{answer.request.method} {answer.request.url.path} answered {answer.status_code}, "
            f"not {status}: {answer.text[:500]}"
        )
    body: dict[str, Any] = answer.json()
    return body


def _check(condition: bool, otherwise: str) -> None:  # noqa: FBT001 - a condition is a boolean
    if not condition:
        raise StepFailed(otherwise)


def _is(found: object, expected: object) -> None:
    if found != expected:
        raise StepFailed(f"found {found!r}, not {expected!r}")
