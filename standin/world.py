"""The parts of one running stand-in, built once and given to all other code."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from standin import sold
from standin.catalogue import Catalogue, Plan, load_catalogue
from standin.clock import Clock
from standin.errors import ApiError
from standin.faults import Faults
from standin.ids import new_id, new_secret
from standin.models import Customer, Delivery, Event, Subscription
from standin.settings import Settings
from standin.store import Store
from standin.wire import Encoded, dumps

MILLISECOND = timedelta(milliseconds=1)


class World:
    """Settings, time, records and the catalogue.

    Raises CatalogueError, SoldGoneError and sqlite3.Error if a part cannot be used.
    """

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self.settings = settings
        self.catalogue: Catalogue = load_catalogue(settings.catalogue)
        self.store = Store(settings.data)
        try:
            sold.check(self.store, self.catalogue, settings.currency)
        except BaseException:
            self.store.close()
            raise
        self.faults = Faults()
        self.clock = clock or Clock(settings.speed)
        self.public_url = settings.public_url.rstrip("/")
        self.api_key = self._settle_api_key()
        self.organization_id = self._kept_or("organization_id", lambda: str(uuid4()))
        self.on_commit: Callable[[], None] = lambda: None
        self._moment: list[tuple[Event, float]] = []
        self._order = random.Random(settings.shuffle_seed)  # noqa: S311 - order, not secrets
        self._restore_clock()
        self._last_event_at: dict[str | None, datetime] = {}
        self.longest_usage_lag = float(self.store.kept("number:longest_usage_lag") or 0)
        self._written: dict[Any, Encoded] = {}

    def _settle_api_key(self) -> str:
        if self.settings.api_key:
            return self.store.keep("api_key", self.settings.api_key)
        return self._kept_or("api_key", lambda: new_secret("ck_sandbox"))

    def _kept_or(self, name: str, make: Callable[[], str]) -> str:
        return self.store.kept(name) or self.store.keep(name, make())

    def _restore_clock(self) -> None:
        names = ("simulated", "wall", "speed", "moved")
        kept = {name: self.store.kept(f"clock:{name}") for name in names}
        if all(value is not None for value in kept.values()):
            self.clock.restore({name: value or "" for name, value in kept.items()})
        self.keep_clock()

    def keep_clock(self) -> None:
        """Store the simulated time, for the next start."""
        for name, value in self.clock.snapshot().items():
            self.store.keep(f"clock:{name}", value)

    def usage_lag(self, customer: Customer, feature_code: str) -> float:
        """Returns the simulated seconds until usage tracked now shows. The longest ever is
        remembered.
        """
        told = self.faults.for_usage({customer.id, customer.public_id}, feature_code)
        lag = told.late_seconds if told else self.settings.usage_lag
        if lag > self.longest_usage_lag:
            self.longest_usage_lag = lag
            self.store.keep("number:longest_usage_lag", repr(lag))
        return lag

    def now(self) -> datetime:
        """Simulated time."""
        return self.clock.now()

    def written_once(self, name: Any, make: Callable[[], Any]) -> Encoded:
        """Returns the JSON of something that never changes while we run, such as the plans."""
        if name not in self._written:
            self._written[name] = Encoded(dumps(make()).decode())
        return self._written[name]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Runs one transaction: the changed records, with their events and deliveries."""
        try:
            with self.store.transaction():
                yield
                something_is_due = self._write_moment()
        finally:
            self._moment.clear()
        if something_is_due:
            self.on_commit()

    def emit(
        self, name: str, customer: Customer | None, data: dict[str, Any], *, delay: float = 0.0
    ) -> None:
        """Record an event when the transaction ends. It is sent `delay` simulated seconds later."""
        event = Event(
            id=new_id("whev"),
            name=name,
            timestamp=self.now(),
            customer_id=customer.id if customer else None,
            data=data,
        )
        self._moment.append((event, delay))

    def _write_moment(self) -> bool:
        """Store the events of the transaction; returns whether the scheduler has to wake up."""
        noteworthy = False
        if self.settings.shuffle_seed is not None:
            self._order.shuffle(self._moment)
        for event, delay in self._moment:
            event.timestamp = self._event_time(event.customer_id)
            self.store.events.put(event)
            addressed = self._address(event, event.timestamp + timedelta(seconds=delay))
            # Usage is frequent and changes no deadline, so it does not wake the scheduler.
            noteworthy = noteworthy or addressed or event.name != "usage.recorded"
        return noteworthy

    def _event_time(self, customer_id: str | None) -> datetime:
        """Returns the time now, but after the customer's last event, unless a rule allows equal
        timestamps.
        """
        moment, last = self.now(), self._last_event_at.get(customer_id)
        if last and not self.faults.same_timestamp:
            moment = max(moment, last + MILLISECOND)
        self._last_event_at[customer_id] = moment
        return moment

    def _address(self, event: Event, due: datetime) -> bool:
        """Queue the event for every endpoint that wants it. Returns whether there is one."""
        addressed = False
        for endpoint in self.store.endpoints.find("is_active = 1", newest=False):
            if event.name in endpoint.events:
                self.store.deliveries.put(
                    Delivery(
                        id=new_id("whd"),
                        event_id=event.id,
                        event_name=event.name,
                        endpoint_id=endpoint.id,
                        status="pending",
                        next_at=due,
                        created_at=self.now(),
                    )
                )
                addressed = True
        return addressed

    def customer(self, key: str) -> Customer:
        """Returns the customer with that public id or caller's id. Raises customer_not_found."""
        found = self.store.customers.get(key) if key.startswith("cus_") else None
        found = found or self.store.customers.first("external_id = ?", key)
        if found is None:
            raise ApiError("customer_not_found", "Customer not found", param="customerId")
        return found

    def owner(self, sub: Subscription) -> Customer:
        """The customer a subscription belongs to."""
        found = self.store.customers.get(sub.customer_id)
        if found is None:
            raise LookupError(f"subscription {sub.id} belongs to nobody")
        return found

    def plan(self, sub: Subscription) -> Plan:
        """The plan a subscription is on."""
        found = self.catalogue.plan(sub.plan_id)
        if found is None:
            raise LookupError(f"the catalogue has lost plan {sub.plan_id}")
        return found

    def price(self, sub: Subscription) -> int:
        """Returns the price of a subscription per period, in the minor unit; 0 for free plans."""
        return next((p.price for p in self.plan(sub).prices if p.id == sub.price_id), 0)

    def current_subscription(self, customer: Customer) -> Subscription | None:
        """Returns the live subscription of a customer, or None."""
        return self.store.subscriptions.first(
            "customer_id = ? AND status IN ('trialing', 'active', 'past_due', 'paused')",
            customer.id,
        )

    def pending_subscription(self, customer: Customer) -> Subscription | None:
        """Returns the newest subscription that waits for its first payment, or None."""
        return self.store.subscriptions.first(
            "customer_id = ? AND status = 'pending_payment'", customer.id
        )

    def checkout_url(self, sub: Subscription) -> str | None:
        """Returns where this subscription can be paid; None if there is nothing to pay."""
        if sub.status != "pending_payment" or not sub.checkout_token:
            return None
        return self.checkout_page(sub)

    def checkout_page(self, sub: Subscription) -> str:
        """Returns the address of the checkout page, whatever the page shows."""
        return f"{self.public_url}/checkout/{sub.checkout_token}"
