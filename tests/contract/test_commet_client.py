"""Our client and the official SDK ask the stand-in for the same things: do they say the same?

The stand-in is our reading of Commet's contract, and so is our client; two readings by the same
people may share a mistake. The SDK is Commet's own.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import httpx
import pytest
from commet import Commet as Sdk
from commet import CommetAPIError, SubscriptionStatus

from billing.commet.answers import (
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
from billing.commet.client import API_VERSION, Commet
from billing.deadline import Deadline
from billing.errors import CommetRefused, CommetUnavailable
from standin.testing import StandIn, standin

AT = "2026-09-01T10:00:00.000Z"
HOOK = "https://api.example/webhooks/commet"
USAGE = {
    "featureCode": "storage",
    "customerId": "usr_1",
    "value": 1.5,
    "eventId": "7:usr_1:storage:1",
    "timestamp": AT,
}
TOTAL = {"customerId": "usr_1", "featureCode": "storage", "value": 130, "reason": "drift"}


@pytest.fixture(scope="module")
def running() -> Iterator[StandIn]:
    with standin() as server:
        yield server


@pytest.fixture
def server(running: StandIn) -> StandIn:
    """The stand-in, with nothing in it."""
    running.control.clear_faults()
    running.control.reset()
    return running


@pytest.fixture
def ours(server: StandIn) -> Iterator[Commet]:
    client = Commet(server.base_url, lambda *, fresh=False: server.api_key, live=False)  # noqa: ARG005
    yield client
    client._http.close()


@pytest.fixture
def sdk(server: StandIn) -> Iterator[Sdk]:
    with Sdk(server.api_key, retries=0) as client:
        client._http._client.base_url = httpx.URL(server.base_url)
        yield client


@pytest.fixture
def pending(ours: Commet) -> str:
    """`usr_1` with a subscription to be paid."""
    ours.create_customer(user_id="usr_1", email="a@b.co", name="Ana", deadline=soon())
    return subscribe(ours).id


@pytest.fixture
def paid(server: StandIn, pending: str) -> str:
    server.control.pay(pending)
    return pending


def soon() -> Deadline:
    return Deadline.after(20)


def subscribe(ours: Commet, key: str = "checkout:usr_1:1") -> Subscription:
    return ours.create_subscription(
        user_id="usr_1", plan_code="usage_pro", billing_interval="monthly",
        success_url="https://app.example/", idempotency_key=key, deadline=soon(),
    )  # fmt: skip


def register(ours: Commet, key: str = "webhook:1") -> CreatedWebhookEndpoint:
    return ours.create_webhook(
        url=HOOK, events=["subscription.activated", "invoice.created"],
        description="The billing stack.", idempotency_key=key, deadline=soon(),
    )  # fmt: skip


def known(ours: Commet) -> str:
    """Commet's own id of the customer who is there."""
    found = ours.find_customer("usr_1", soon())
    assert found is not None
    return found.id


@dataclass(frozen=True)
class Same:
    """One operation, asked for by our client and by the SDK."""

    ours: Callable[[Commet, str], Any]
    sdk: Callable[[Sdk, str], Any]
    idempotent: bool = False


OPERATIONS = {
    "create_customer": Same(
        lambda c, _: c.create_customer(
            user_id="usr_2", email="b@b.co", name="Bo", deadline=soon()
        ),
        lambda s, _: s.customers.create(
            id="usr_2", email="b@b.co", full_name="Bo", metadata={"user": "usr_2"}
        ),
    ),
    "create_customer without a name": Same(
        lambda c, _: c.create_customer(
            user_id="usr_2", email="b@b.co", name=None, deadline=soon()
        ),
        lambda s, _: s.customers.create(
            id="usr_2", email="b@b.co", metadata={"user": "usr_2"}
        ),
    ),
    "customer": Same(
        lambda c, _: c.customer(known(c), soon()),
        lambda s, _: s.customers.get(s.customers.list(external_id="usr_1").data[0].id),
    ),
    "update_customer": Same(
        lambda c, _: c.update_customer(known(c), external_id="usr_1", deadline=soon()),
        lambda s, _: s.customers.update(
            s.customers.list(external_id="usr_1").data[0].id, external_id="usr_1"
        ),
    ),
    "update_contact": Same(
        lambda c, _: c.update_contact(
            known(c), email="new@example.com", name="Ana B", deadline=soon()
        ),
        lambda s, _: s.customers.update(
            s.customers.list(external_id="usr_1").data[0].id,
            email="new@example.com",
            full_name="Ana B",
        ),
    ),
    "find_customer": Same(
        lambda c, _: c.find_customer("usr_1", soon()),
        lambda s, _: s.customers.list(external_id="usr_1"),
    ),
    "invoices": Same(
        lambda c, sub: c.invoices(sub, soon()),
        lambda s, sub: s.invoices.list(subscription_id=sub),
    ),
    "create_payment": Same(
        lambda c, _: c.create_payment(
            user_id="usr_1", amount=500, currency="usd", description="Usage",
            success_url="https://app.example/", idempotency_key="ours", deadline=soon(),
        ),
        lambda s, _: s.payments.create(
            customer_id="usr_1", amount=500, currency="usd", description="Usage",
            success_url="https://app.example/", idempotency_key="theirs",
        ),
        idempotent=True,
    ),
    "plans": Same(lambda c, _: c.plans(soon()), lambda s, _: s.plans.list()),
    "create_subscription": Same(
        lambda c, _: subscribe(c, "ours"),
        lambda s, _: s.subscriptions.create(
            customer_id="usr_1", plan_code="usage_pro", billing_interval="monthly",
            success_url="https://app.example/", idempotency_key="theirs",
        ),
        idempotent=True,
    ),
    "create_subscription without an interval": Same(
        lambda c, _: c.create_subscription(
            user_id="usr_1", plan_code="usage_pro", billing_interval=None,
            success_url="https://app.example/", idempotency_key="ours", deadline=soon(),
        ),
        lambda s, _: s.subscriptions.create(
            customer_id="usr_1", plan_code="usage_pro", success_url="https://app.example/",
            idempotency_key="theirs",
        ),
        idempotent=True,
    ),
    "create_subscription without a trial": Same(
        lambda c, _: c.create_subscription(
            user_id="usr_1", plan_code="usage_pro", billing_interval="monthly", skip_trial=True,
            success_url="https://app.example/", idempotency_key="ours", deadline=soon(),
        ),
        lambda s, _: s.subscriptions.create(
            customer_id="usr_1", plan_code="usage_pro", billing_interval="monthly",
            skip_trial=True, success_url="https://app.example/", idempotency_key="theirs",
        ),
        idempotent=True,
    ),
    "subscription": Same(
        lambda c, sub: c.subscription(sub, soon()), lambda s, sub: s.subscriptions.get(sub)
    ),
    "list_subscriptions": Same(
        lambda c, _: c.list_subscriptions(status="pending_payment", cursor=None, deadline=soon()),
        lambda s, _: s.subscriptions.list(status=SubscriptionStatus.PENDING_PAYMENT),
    ),
    "active_subscription": Same(
        lambda c, _: c.active_subscription("usr_1", soon()),
        lambda s, _: s.subscriptions.get_active(customer_id="usr_1"),
    ),
    "feature_access": Same(
        lambda c, _: c.feature_access("usr_1", soon()),
        lambda s, _: s.feature_access.list(customer_id="usr_1"),
    ),
    "create_portal_session": Same(
        lambda c, _: c.create_portal_session(
            user_id="usr_1", return_url="https://app.example/", deadline=soon()
        ),
        lambda s, _: s.portal.get_url(customer_id="usr_1", return_url="https://app.example/"),
    ),
    "webhooks": Same(lambda c, _: c.webhooks(soon()), lambda s, _: s.webhooks.list()),
    "create_webhook": Same(
        lambda c, _: register(c, "ours"),
        lambda s, _: s.webhooks.create(
            url=HOOK, events=["subscription.activated", "invoice.created"],
            description="The billing stack.", api_version=API_VERSION, idempotency_key="theirs",
        ),
        idempotent=True,
    ),
}  # fmt: skip


class TestOnTheWire:
    def last(self, server: StandIn) -> tuple[dict[str, Any], dict[str, str]]:
        """What the newest request was, and the headers that matter."""
        (entry,) = server.control.requests(limit=1)
        headers = {name.lower(): value for name, value in entry["headers"].items()}
        compared = {key: entry[key] for key in ("method", "path", "query", "body")}
        names = ("x-api-key", "commet-version", "content-type", "idempotency-key")
        return compared, {name: headers[name] for name in names if name in headers}

    @pytest.mark.parametrize("same", OPERATIONS.values(), ids=OPERATIONS)
    def test_the_sdk_says_the_same(
        self, server: StandIn, ours: Commet, sdk: Sdk, pending: str, same: Same
    ) -> None:
        """Method, path, query, body, key, version and idempotency key are equal."""
        same.ours(ours, pending)
        our_request, our_headers = self.last(server)
        same.sdk(sdk, pending)
        their_request, their_headers = self.last(server)
        assert our_request == their_request
        keys = [each.pop("idempotency-key", None) for each in (our_headers, their_headers)]
        assert keys == (["ours", "theirs"] if same.idempotent else [None, None])
        assert our_headers == their_headers

    @pytest.mark.usefixtures("paid")
    def test_usage(self, server: StandIn, ours: Commet, sdk: Sdk) -> None:
        """A stored delivery is what the SDK would have sent, its key included."""
        ours.track_usage(json.dumps(USAGE), idempotency_key="e:1", deadline=soon())
        our_request, our_headers = self.last(server)
        with pytest.raises(CommetAPIError) as caught:
            sdk.usage.track(
                feature_code="storage", customer_id="usr_1", value=1.5, timestamp=AT,
                event_id="7:usr_1:storage:1", idempotency_key="e:2",
            )  # fmt: skip
        assert caught.value.code == "duplicate"  # told by the event's id, whoever sends it
        assert self.last(server) == (our_request, our_headers | {"idempotency-key": "e:2"})

    def test_money(self, server: StandIn, ours: Commet, sdk: Sdk, paid: str) -> None:
        """Calls about one invoice, link, transaction or subscription."""
        invoice = ours.invoices(paid, soon())[0].id
        assert ours.invoice(invoice, soon()).status == "paid"
        self.same(server, lambda: sdk.invoices.get(invoice))
        link = ours.create_payment(
            user_id="usr_1", amount=500, currency="usd", description="Usage",
            success_url="https://app.example/", idempotency_key="k", deadline=soon(),
        )  # fmt: skip
        assert ours.payment(link.id, soon()).status == "pending"
        self.same(server, lambda: sdk.payments.get(link.id))
        assert ours.cancel_payment(link.id, soon()).status == "canceled"
        self.same(server, lambda: sdk.payments.cancel(link.id))
        transaction = server.control.state()["transactions"][0]["id"]
        assert ours.refund(transaction, soon()).currency == "usd"
        key = f"refund:{transaction}"
        self.same(server, lambda: sdk.transactions.refund(transaction, idempotency_key=key))
        server.control.set_card("usr_1", charge_failure="card_declined")
        server.control.advance(days=32)
        assert ours.create_recovery_link(paid, soon()).url
        self.same(server, lambda: sdk.subscriptions.create_recovery_link(paid))

    def test_plan_changes(self, server: StandIn, ours: Commet, sdk: Sdk, paid: str) -> None:
        """The price of a change, the change itself, and a change that waits."""
        plan: str = "pln_usagemax"
        interval: Literal["yearly"] = "yearly"
        shown = ours.preview_plan_change(
            paid, plan_id=plan, billing_interval=interval, deadline=soon()
        )
        assert (shown.currency, shown.current_plan_credit) == ("usd", 2900)
        self.same(
            server,
            lambda: sdk.subscriptions.preview_change(paid, plan_id=plan, billing_interval=interval),
        )
        with pytest.raises(CommetRefused) as refused:
            ours.preview_plan_change(
                paid, plan_id="pln_free", billing_interval=None, deadline=soon()
            )
        assert refused.value.commet_code == "plan_change_scheduled"
        changed = ours.change_plan(
            paid, plan_id=plan, billing_interval=interval, success_url=None,
            idempotency_key="c:1", deadline=soon(),
        )  # fmt: skip
        assert changed.outcome == "completed"
        assert changed.billing is not None
        assert changed.billing.total_charged == shown.estimated_total
        self.same(
            server,
            lambda: sdk.subscriptions.change_plan(
                paid, new_plan_id=plan, new_billing_interval=interval, idempotency_key="c:1"
            ),
        )
        booked = ours.change_plan(
            paid, plan_id="pln_free", billing_interval=None, success_url=None,
            idempotency_key="c:2", deadline=soon(),
        )  # fmt: skip
        assert (booked.outcome, booked.billing) == ("scheduled", None)
        assert booked.scheduled_for is not None

    def test_managing(self, server: StandIn, ours: Commet, sdk: Sdk, paid: str) -> None:
        """Canceling, keeping, and invoices as the customer reads them."""
        assert ours.cancel_subscription(paid, immediate=False, deadline=soon()).cancel_at_period_end
        self.same(server, lambda: sdk.subscriptions.cancel(paid, immediate=False))
        assert not ours.uncancel_subscription(paid, soon()).cancel_at_period_end
        self.same(server, lambda: sdk.subscriptions.uncancel(paid))
        [listed], cursor = ours.invoices_of_customer("usr_1", cursor=None, deadline=soon())
        self.same(server, lambda: sdk.invoices.list(customer_id="usr_1"))
        assert (listed.total, cursor) == (2900, None)
        shown = ours.issued_invoice(listed.id, soon())
        self.same(server, lambda: sdk.invoices.get(listed.id))
        assert [line.amount for line in shown.line_items] == [2900]
        assert ours.invoice_download(listed.id, soon()).url.startswith(server.public_url)
        self.same(server, lambda: sdk.invoices.get_download_url(listed.id))

    def same(self, server: StandIn, theirs: Callable[[], object]) -> None:
        """Holds that the SDK asks as we just did, whatever it is answered."""
        ours = self.last(server)
        with suppress(CommetAPIError):
            theirs()
        asked = self.last(server)
        for request, headers in (ours, asked):
            request["body"] = request["body"] or None  # we send an empty object for no body
            headers.pop("content-type", None)
        assert asked == ours

    @pytest.mark.usefixtures("paid")
    def test_a_transaction(self, server: StandIn, ours: Commet, sdk: Sdk) -> None:
        """Read as the SDK reads it; one that is not there is refused."""
        paid = server.control.state()["transactions"][0]["id"]
        assert ours.transaction(paid, soon()).status == "succeeded"
        our_request = self.last(server)
        sdk.transactions.get(paid)
        assert self.last(server) == our_request
        server.control.dispute(paid)
        assert ours.transaction(paid, soon()).status == "disputed"
        with pytest.raises(CommetRefused, match="transaction_not_found"):
            ours.transaction("txn_none", soon())
        with pytest.raises(ValueError, match="must not be empty"):
            ours.transaction("", soon())

    @pytest.mark.usefixtures("paid")
    def test_replace_usage(self, server: StandIn, ours: Commet, sdk: Sdk) -> None:
        """A stored replacement of a total is what the SDK would have sent."""
        ours.replace_usage(json.dumps(TOTAL), idempotency_key="e:1", deadline=soon())
        our_request, our_headers = self.last(server)
        sdk.usage.set(
            feature_code="storage", customer_id="usr_1", value=130, reason="drift",
            idempotency_key="e:2",
        )  # fmt: skip
        assert self.last(server) == (our_request, our_headers | {"idempotency-key": "e:2"})

    @pytest.mark.parametrize(
        "change",
        [
            {"url": f"{HOOK}/2", "events": ["invoice.created"], "is_active": False},
            {"is_active": True},
        ],
        ids=["everything", "switching it on again"],
    )
    def test_update_webhook(
        self, server: StandIn, ours: Commet, sdk: Sdk, change: dict[str, Any]
    ) -> None:
        """Only what is given is sent, and always the version we read."""
        made = register(ours)
        ours.update_webhook(made.id, **change, deadline=soon())
        our_request = self.last(server)
        sdk.webhooks.update(made.id, **change, api_version=API_VERSION)
        assert self.last(server) == our_request
        assert our_request[0]["method"] == "PATCH"

    def test_delete_webhook(self, server: StandIn, ours: Commet, sdk: Sdk) -> None:
        """The second of us finds nothing, and asks for the same."""
        made = register(ours)
        ours.delete_webhook(made.id, soon())
        our_request = self.last(server)
        with pytest.raises(CommetAPIError, match="not found"):
            sdk.webhooks.delete(made.id)
        assert self.last(server) == our_request

    def test_every_method_is_compared(self) -> None:
        """A call that is added to the client is added here."""
        methods = {name for name in vars(Commet) if not name.startswith("_")}
        compared = {name.split()[0] for name in OPERATIONS}
        assert methods == compared | {
            "track_usage",
            "replace_usage",
            "transaction",
            "invoice",
            "payment",
            "cancel_payment",
            "refund",
            "create_recovery_link",
            "preview_plan_change",
            "change_plan",
            "cancel_subscription",
            "uncancel_subscription",
            "invoices_of_customer",
            "issued_invoice",
            "invoice_download",
            "update_webhook",
            "delete_webhook",
        }


class TestAnswers:
    def test_customers(self, ours: Commet) -> None:
        """The same id twice is the same customer; found by our id, and nobody else is."""
        made = ours.create_customer(user_id="usr_1", email="a@b.co", name="Ana", deadline=soon())
        again = ours.create_customer(user_id="usr_1", email="x@b.co", name=None, deadline=soon())
        assert isinstance(made, Customer)
        assert (made.external_id, again.id) == ("usr_1", made.id)
        assert ours.find_customer("usr_1", soon()) == made
        assert ours.find_customer("usr_2", soon()) is None

    def test_plans(self, ours: Commet) -> None:
        """The seed catalogue, money in minor units, unit prices in rate scale."""
        plans = {plan.code: plan for plan in ours.plans(soon())}
        pro = plans["usage_pro"]
        assert isinstance(pro, Plan)
        assert {p.billing_interval: p.price for p in pro.prices}["monthly"] == 2900
        (storage,) = (f for f in pro.features if f.code == "storage")
        assert (storage.included_amount, storage.unit_name) == (100, "GB")
        assert storage.overage is not None
        assert storage.overage.unit_price == 1000
        assert any(plan.is_free for plan in plans.values())

    def test_a_subscription(self, server: StandIn, ours: Commet, pending: str) -> None:
        """Pending with an address, then active with a period, then gone from `active`."""
        waiting = ours.subscription(pending, soon())
        assert isinstance(waiting, Subscription)
        assert (waiting.status, waiting.current_period) == ("pending_payment", None)
        assert waiting.checkout_url
        server.control.pay(pending)
        active = ours.active_subscription("usr_1", soon())
        assert active is not None
        assert (active.id, active.status, active.plan.name) == (pending, "active", "Usage Pro")
        assert active.current_period is not None
        assert active.current_period.start < active.current_period.end
        assert isinstance(active.updated_at, datetime)
        assert active.updated_at.tzinfo is not None

    def test_pages_of_subscriptions(self, ours: Commet) -> None:
        """Everybody's, page by page, each with its customer, until there is no more."""
        made = set()
        for number in range(30):
            user = f"usr_{number}"
            ours.create_customer(user_id=user, email=f"{number}@b.co", name=None, deadline=soon())
            subscription = ours.create_subscription(
                user_id=user, plan_code="free", billing_interval=None,
                success_url="https://app.example/", idempotency_key=user, deadline=soon(),
            )  # fmt: skip
            made.add((subscription.id, user))
        first, cursor = ours.list_subscriptions(status="active", cursor=None, deadline=soon())
        assert cursor is not None
        rest, end = ours.list_subscriptions(status="active", cursor=cursor, deadline=soon())
        assert end is None
        assert {(each.id, each.customer_id) for each in [*first, *rest]} == made
        assert len(first) + len(rest) == len(made)
        nobody = ours.list_subscriptions(status="paused", cursor=None, deadline=soon())
        assert nobody == ([], None)

    @pytest.mark.usefixtures("paid")
    def test_access_usage_and_portal(self, ours: Commet) -> None:
        """What may be used, using it, and where to manage it."""
        tracked = ours.track_usage(json.dumps(USAGE), idempotency_key="e:1", deadline=soon())
        assert isinstance(tracked, TrackedUsage)
        assert tracked.event_id == USAGE["eventId"]
        (access,) = (a for a in ours.feature_access("usr_1", soon()) if a.code == "storage")
        assert isinstance(access, FeatureAccess)
        assert access.consumption is not None
        assert access.consumption.units_used == Decimal("1.5")
        assert access.consumption.overage is not None
        price = access.consumption.overage.unit_price
        assert price is not None
        assert (price.amount, price.currency) == (Decimal(1000), "usd")
        portal = ours.create_portal_session(
            user_id="usr_1", return_url="https://app.example/", deadline=soon()
        )
        assert isinstance(portal, PortalSession)
        assert portal.portal_url.startswith("http")

    @pytest.mark.usefixtures("paid")
    def test_replacing_a_total(self, ours: Commet) -> None:
        """The answer has whole numbers, so 1.5 before is 2; the same key again changes nothing."""
        ours.track_usage(json.dumps(USAGE), idempotency_key="e:1", deadline=soon())
        for _ in range(2):
            done = ours.replace_usage(json.dumps(TOTAL), idempotency_key="e:2", deadline=soon())
            assert isinstance(done, UsageAdjustment)
            assert (done.previous_value, done.value) == (Decimal(2), Decimal(130))

    def test_webhook_endpoints(self, ours: Commet) -> None:
        """Made with a secret that is never shown again, changed, and gone, however often."""
        made = register(ours)
        assert isinstance(made, CreatedWebhookEndpoint)
        assert made.secret_key.get_secret_value().startswith("whsec_")
        (listed,) = ours.webhooks(soon())
        assert listed == WebhookEndpoint(
            id=made.id, url=HOOK, events=["subscription.activated", "invoice.created"],
            is_active=True, api_version=API_VERSION,
        )  # fmt: skip
        changed = ours.update_webhook(
            made.id, events=["invoice.created"], is_active=False, deadline=soon()
        )
        assert (changed.url, changed.events, changed.is_active) == (
            HOOK,
            ["invoice.created"],
            False,
        )
        ours.delete_webhook(made.id, soon())
        assert ours.webhooks(soon()) == []
        ours.delete_webhook(made.id, soon())
        with pytest.raises(CommetRefused, match="webhook_not_found"):
            ours.update_webhook(made.id, is_active=True, deadline=soon())

    def test_nobody(self, ours: Commet) -> None:
        """A customer without a subscription, and one that is not there."""
        ours.create_customer(user_id="usr_1", email="a@b.co", name=None, deadline=soon())
        assert ours.active_subscription("usr_1", soon()) is None
        with pytest.raises(CommetRefused, match="subscription_not_found"):
            ours.subscription("sub_none", soon())
        with pytest.raises(CommetRefused, match="customer_not_found"):
            ours.create_portal_session(
                user_id="usr_none", return_url="https://app.example/", deadline=soon()
            )

    @pytest.mark.usefixtures("paid")
    def test_refusals_by_code(self, ours: Commet) -> None:
        """What Commet says no to keeps its code."""
        with pytest.raises(CommetRefused, match="already_has_active_subscription"):
            subscribe(ours, "another")
        ours.track_usage(json.dumps(USAGE), idempotency_key="e:1", deadline=soon())
        with pytest.raises(CommetRefused, match="duplicate"):
            ours.track_usage(json.dumps(USAGE), idempotency_key="e:2", deadline=soon())
        body = json.dumps(USAGE | {"value": 2})
        with pytest.raises(CommetRefused, match="idempotency_key_mismatch"):
            ours.track_usage(body, idempotency_key="e:1", deadline=soon())

    def test_a_wrong_key(self, server: StandIn) -> None:
        """Refused, after it was read once more."""
        reads = []

        def key(*, fresh: bool = False) -> str:
            reads.append(fresh)
            return server.api_key if len(reads) == 4 else "ck_sandbox_wrong"

        ours = Commet(server.base_url, key, live=False)
        with pytest.raises(CommetRefused, match="unauthorized"):
            ours.plans(soon())
        assert ours.plans(soon())
        assert reads == [False, True, False, True]
        ours._http.close()

    def test_the_other_mode(self, server: StandIn) -> None:
        """A live stack refuses what a sandbox says."""
        ours = Commet(server.base_url, lambda *, fresh=False: server.api_key, live=True)  # noqa: ARG005
        with pytest.raises(CommetUnavailable):
            ours.plans(soon())
        ours._http.close()

    def test_rate_limited(self) -> None:
        """The stand-in's 429 says how long to wait, which is longer than we have."""
        with standin(rate_limit=1) as server:
            ours = Commet(server.base_url, lambda *, fresh=False: server.api_key, live=False)  # noqa: ARG005
            ours.plans(soon())
            with pytest.raises(CommetUnavailable) as caught:
                ours.plans(Deadline.after(2))
            ours._http.close()
        assert caught.value.commet_code == "rate_limited"
        assert caught.value.asked_retry_after
