"""Fixtures for the tests of a product that stands on this stack.

    from local.testing import advance, events, stack, subscribe, user  # noqa: F401 - in conftest.py

    def test_a_month(user, subscribe, advance):
        subscribe(user, "usage_pro")
        user.report("storage", 130)
        advance(days=31)
        assert user.invoices()[0]["total"] == "32.00"

The whole local stack runs on free ports with temporary data, once per session. Nothing happens by
itself: schedules run when the clock is moved, so a test sees the same at each run. A fixture named
`stack_options` answers the options of `local.stack.LocalStack`, such as a catalogue.
docs/testing-your-product.md has examples.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, Protocol

import httpx
import pytest

from local.stack import LocalStack

CARD = "4242424242424242"
DECLINED_LATER = "4000000000000341"  # saved for a trial, then declined at every charge

_SECONDS = 60
_A_DELIVERY = timedelta(seconds=2)  # more than DeliveryIntervalSeconds below
# Runs of the schedules after the clock was moved: the second run finishes what the first one finds.
_RUNS = 2
_numbers = itertools.count(1)


class RefusedError(AssertionError):
    """The API refused. `code` is the problem's code, `problem` the whole answer."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = problem
        self.code = str(problem.get("code", ""))
        detail = problem.get("detail") or problem.get("title") or ""
        super().__init__(f"{status} {self.code}: {detail}".rstrip(": "))


class ProductStack:
    """The running stack, as the product's backend sees it."""

    def __init__(self, stack: LocalStack) -> None:
        self.local = stack
        self.api = stack.api
        self.service_key = stack.service_key
        self._backend = httpx.Client(
            base_url=stack.api,
            headers={"authorization": f"Bearer {stack.service_key}"},
            timeout=_SECONDS,
            trust_env=False,
        )
        inside = stack.commet.removesuffix("/api/v1")
        self._commet = httpx.Client(
            base_url=f"{inside}/_standin", timeout=2 * _SECONDS, trust_env=False
        )

    def close(self) -> None:
        self._backend.close()
        self._commet.close()

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Sends a request to the API with the service key. Returns the answer. Raises
        RefusedError.
        """
        answer = self._backend.request(method, path, json=body)
        if answer.is_error:
            raise RefusedError(answer.status_code, answer.json())
        return answer.json() if answer.content else None

    def new_user(self) -> "ProductUser":
        """Returns a registered user without a subscription."""
        number = next(_numbers)
        user_id, email = f"test-user-{number}", f"test-user-{number}@example.com"
        self.ask("PUT", f"/users/{user_id}", {"email": email})
        return ProductUser(user_id, email, self)

    def pay(self, subscription_id: str, card: str = CARD) -> None:
        """Pays a checkout like a person. Raises RefusedError for a declined card."""
        self.control("POST", "/pay", {"subscription_id": subscription_id, "card_number": card})
        self.settle()

    def decline(self, user_id: str, reason: str | None = "card_declined") -> None:
        """Makes all further charges of a user's cards fail. With None, they succeed again."""
        self.control("POST", f"/customers/{user_id}/card", {"charge_failure": reason})

    def now(self) -> datetime:
        """The time of the stack."""
        return datetime.fromisoformat(self.control("GET", "/clock")["now"])

    def advance(self, by: timedelta) -> None:
        """Moves the stack's clock. When this returns, everything that became due is done.

        Usage that was reported so far is delivered first, so that it is billed in the period in
        which it was used.
        """
        self.run_schedules()
        self.control("POST", "/clock", {"seconds": by.total_seconds()})
        self.settle()
        self.run_schedules()

    def run_schedules(self) -> None:
        """Runs the functions that AWS runs every minute, until everything that is due now is
        done.
        """
        for _ in range(_RUNS):
            self.control("POST", "/clock", {"seconds": _A_DELIVERY.total_seconds()})
            self.local.invoke("DeliverUsageFunction")
            self.local.invoke("ReconcileFunction")
            self.settle()
        self.local.invoke("SendEventsFunction")
        self.local.invoke("SendMailFunction")

    def settle(self) -> None:
        """Waits until Commet's webhooks have arrived."""
        self.control("POST", "/settle?timeout=60")

    def control(self, method: str, path: str, body: object = None) -> Any:
        """Calls the stand-in's control endpoints (standin/README.md). Raises RefusedError."""
        answer = self._commet.request(method, path, json=body)
        if answer.is_error:
            raise RefusedError(answer.status_code, answer.json().get("error") or {})
        return answer.json()


def _exact(quantity: Decimal | int | str) -> str:
    if isinstance(quantity, float):  # as the clients do
        raise TypeError(f"Send a quantity as Decimal, int or str, not float: '{quantity}'.")
    return str(quantity)


@dataclass(frozen=True)
class ProductUser:
    """A user of the product, registered under the product's own id."""

    id: str
    email: str
    stack: ProductStack

    def report(
        self, feature: str, quantity: Decimal | int | str, *, key: str | None = None
    ) -> Literal["accepted", "duplicate"]:
        """Reports usage. Raises RefusedError, for instance with the code `limit_reached`."""
        event = {
            "user_id": self.id,
            "feature": feature,
            "quantity": _exact(quantity),
            "idempotency_key": key or f"test-{next(_numbers)}",
        }
        [result] = self.stack.ask("POST", "/usage", event)["results"]
        status: Literal["accepted", "duplicate"] = result["status"]
        return status

    def may_use(self, feature: str, quantity: Decimal | int | str = 1) -> bool:
        """Returns whether the user could use this quantity now."""
        asked = {"user_id": self.id, "feature": feature, "quantity": _exact(quantity)}
        try:
            return bool(self.stack.ask("POST", "/usage/check", asked)["allowed"])
        except RefusedError as refused:
            if refused.status in {402, 403}:
                return False
            raise

    def dashboard(self) -> dict[str, Any]:
        """Returns all that the user sees about plan, usage and cost."""
        found: dict[str, Any] = self.stack.ask("GET", f"/users/{self.id}/dashboard")
        return found

    def events(self, *types: str) -> list[dict[str, Any]]:
        """Returns the events about the user, in order: all events, or those of some types.

        Each is a CloudEvent in the form in which your endpoint gets it (docs/events.md).
        """
        path = f"/events?user_id={self.id}&limit=1000"
        if types:
            path += f"&types={','.join(types)}"
        found: list[dict[str, Any]] = self.stack.ask("GET", path)["events"]
        return found

    @property
    def has_access(self) -> bool:
        return bool(self.dashboard()["access"])

    def used(self, feature: str) -> Decimal:
        """Returns how much of a feature is used in the running period."""
        [found] = [each for each in self.dashboard()["usage"] if each["feature"] == feature]
        return Decimal(found["used"])

    def invoices(self) -> list[dict[str, Any]]:
        """The user's invoices, newest first, with their lines."""
        listed = self.stack.ask("GET", f"/invoices?user_id={self.id}")["invoices"]
        path = "/invoices/{}?user_id={}"
        return [self.stack.ask("GET", path.format(each["id"], self.id)) for each in listed]


class Subscribe(Protocol):
    """The type of the fixture `subscribe`."""

    def __call__(
        self, user: ProductUser, plan: str, *, interval: str | None = None, card: str = CARD
    ) -> dict[str, Any]:
        """Takes a user through checkout and payment. Returns the dashboard."""


class Advance(Protocol):
    """The type of the fixture `advance`."""

    def __call__(self, *, days: float = 0, hours: float = 0, to: datetime | None = None) -> None:
        """Moves the clock, and does everything that becomes due."""


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[ProductStack]:
    """The running stack, one for all tests. `stack_options` has options for LocalStack."""
    try:
        options: dict[str, Any] = dict(request.getfixturevalue("stack_options"))
    except pytest.FixtureLookupError:
        options = {}
    parameters = {"DeliveryIntervalSeconds": "1"} | options.pop("parameters", {})
    fixed = {"fast": True, "schedule_minute_seconds": None}
    with LocalStack(**(fixed | options), parameters=parameters) as running:
        product = ProductStack(running)
        try:
            yield product
        finally:
            product.close()


@pytest.fixture
def user(stack: ProductStack) -> ProductUser:
    """A new user without a subscription. `stack.new_user()` makes more."""
    return stack.new_user()


@pytest.fixture
def subscribe(stack: ProductStack) -> Subscribe:
    """`subscribe(user, "usage_pro")` buys a plan. With a trial, it begins the trial."""

    def to(
        user: ProductUser, plan: str, *, interval: str | None = None, card: str = CARD
    ) -> dict[str, Any]:
        wish = {"user_id": user.id, "plan_code": plan}
        if interval:
            wish["billing_interval"] = interval
        made = stack.ask("POST", "/checkout", wish)
        if made["checkout_url"]:
            stack.pay(made["subscription"]["id"], card)
        stack.settle()
        board = user.dashboard()
        assert board["access"], board  # noqa: S101 - of a test
        return board

    return to


class Events(Protocol):
    """The type of the fixture `events`."""

    def __call__(self, user: ProductUser, *types: str) -> list[dict[str, Any]]:
        """The events of a user, in order: all, or those of some types."""


@pytest.fixture
def events(stack: ProductStack) -> Events:
    """`events(user, "access.granted")` reads the events about a user.

    The schedules run first, because they emit events about what became true by time.
    """

    def of(user: ProductUser, *types: str) -> list[dict[str, Any]]:
        stack.run_schedules()
        return user.events(*types)

    return of


@pytest.fixture
def advance(stack: ProductStack) -> Advance:
    """`advance(days=31)` moves the clock, and does everything that becomes due."""

    def by(*, days: float = 0, hours: float = 0, to: datetime | None = None) -> None:
        stack.advance(to - stack.now() if to else timedelta(days=days, hours=hours))

    return by
